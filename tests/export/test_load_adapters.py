"""`entprog.load_adapters`: pose adapters of a run on a bare network of diffusers, as the documentation shows it."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import WanPipeline, WanTransformer3DModel
from safetensors.torch import load_file, save_file

import entprog
from entprog.files import save_weights
from entprog.tasks.pretrained import saving
from entprog.tasks.pretrained.folder import ModelFolder
from entprog.tasks.pretrained.task import PretrainedTask
from pretrained_runs import Variant, draw_of, task_of
from tiny_pipelines import saved

SPAN = re.DOTALL | re.MULTILINE
DOCS = Path(__file__).parents[2] / "docs"


def trained(name: str, folder: Path, **changes: Any) -> tuple[Variant, PretrainedTask]:
    """A task whose adapters and output layer moved, saved to folder/final."""
    variant = Variant.make(name, folder)
    task = task_of(variant, model__dtype="float32", **changes)
    assert task.adapters is not None
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in task.adapters.tensors().values():
            tensor.normal_(std=0.1, generator=random)
        with task.adapters.off():
            list(task.model.parameters())[-1].add_(0.01)
    saving.save(task, folder / "final")
    return variant, task


def loaded(folder: Path, component: str = "transformer") -> tuple[Any, Any]:
    network = ModelFolder.open(str(folder), component=component).network()
    return network, entprog.load_adapters(network, folder / "entprog_adapters.safetensors")


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("wan-2.1-t2v", {}),
        ("wan-2.2-i2v", {"model__reference": "frame"}),
        ("svd", {}),
    ],
)
@torch.no_grad()
def test_the_loaded_network_predicts_what_the_task_does(tmp_path: Path, name: str, changes: dict[str, Any]) -> None:
    variant, task = trained(name, tmp_path, **changes)
    draw = draw_of(task, variant)
    expected = task.predict(draw)
    network, adapters = loaded(tmp_path / "final", task.folder.configs.component)
    batch = task.samples("train", variant.frames, 0).batch(0, _shape(variant))
    adapters.show(batch.tensors["pose"], *variant.sides)
    assert torch.equal(adapters.side.pose, _side(task.model))
    task.adapters, task.model = None, network
    assert torch.equal(_called(task, draw), expected)
    adapters.hide()
    with adapters.off():
        assert not any("pose_adapter" in key for key in network.state_dict())


def _shape(variant: Variant) -> Any:
    from entprog.core.types import Shape

    return Shape.of(variant.sides, variant.frames, 2)


def _side(network: Any) -> Any:
    from entprog.tasks.pretrained.adapters import side_of

    side = side_of(network)
    assert side is not None
    return side.pose


def _called(task: PretrainedTask, draw: Any) -> Any:
    """The prediction with what the adapters were shown before."""
    task._show = lambda *_: None  # type: ignore[method-assign]
    return task.predict(draw)


@torch.no_grad()
def test_control_latents_at_the_entrance(tmp_path: Path) -> None:
    variant, task = trained("wan-2.1-t2v", tmp_path, model__pose="input", freeze__inputs_every=1)
    draw = draw_of(task, variant)
    expected = task.predict(draw)
    network, adapters = loaded(tmp_path / "final")
    adapters.show_control(draw.condition["control"])
    with pytest.raises(ValueError, match=r'model.pose = "input"; call show_control'):
        adapters.show(np.zeros((1, 5, 18, 3)), 32, 32)
    task.adapters, task.model = None, network
    assert torch.equal(_called(task, draw), expected)


def test_the_documentation_s_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variant, task = trained("wan-2.1-t2v", tmp_path / "runs" / "mine")
    poses = task.samples("train", variant.frames, 0).batch(0, _shape(variant)).tensors["pose"]
    np.save(tmp_path / "dance.npy", poses[0].numpy())
    monkeypatch.chdir(tmp_path)
    blocks = [code for page in DOCS.glob("*.md") for code in re.findall(r"^```py\n(.*?)^```", page.read_text(), SPAN)]
    (example,) = [code for code in blocks if "entprog.load_adapters" in code]
    names: dict[str, Any] = {}
    exec(example, names)
    assert names["frames"].shape == (1, 5, 32, 32, 3)
    pipeline: WanPipeline = names["pipeline"]

    def generated() -> Any:
        return pipeline(
            "a person", height=32, width=32, num_frames=5, num_inference_steps=2, output_type="latent",
            generator=torch.Generator().manual_seed(0), max_sequence_length=16,
        ).frames  # fmt: skip

    posed = generated()
    names["adapters"].hide()
    plain = generated()
    with names["adapters"].off():
        assert torch.equal(generated(), plain)
    assert float((posed - plain).abs().max()) > 1e-3


def test_networks_that_do_not_fit(tmp_path: Path) -> None:
    trained("wan-2.1-t2v", tmp_path)
    file = tmp_path / "final" / "entprog_adapters.safetensors"
    config = dict(WanTransformer3DModel.load_config(saved("wan-2.1-t2v") / "transformer"))
    small = WanTransformer3DModel.from_config({**config, "num_layers": 2})
    with pytest.raises(ValueError, match=r"no free module blocks\.2; load them on that model"):
        entprog.load_adapters(small, file)
    narrow = WanTransformer3DModel.from_config({**config, "num_attention_heads": 1})
    with pytest.raises(ValueError, match=r"tokens of another width \(24, not 48\)"):
        entprog.load_adapters(narrow, file)
    fitting = WanTransformer3DModel.from_config(config)
    fitting.blocks[1].forward = fitting.blocks[1].forward  # as offloading does
    with pytest.raises(ValueError, match=r"blocks\.1; .* before any offloading"):
        entprog.load_adapters(fitting, file)
    del fitting.blocks[1].forward
    entprog.load_adapters(fitting, file)
    with pytest.raises(ValueError, match="has pose adapters already"):
        entprog.load_adapters(fitting, file)


def test_files_that_are_no_adapters(tmp_path: Path) -> None:
    network = WanTransformer3DModel.from_pretrained(saved("wan-2.1-t2v") / "transformer")
    (tmp_path / "a.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="can't be read as safetensors"):
        entprog.load_adapters(network, tmp_path / "a.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match="no pose in its metadata"):
        entprog.load_adapters(network, tmp_path / "b.safetensors")
    trained("wan-2.1-t2v", tmp_path)
    file = tmp_path / "final" / "entprog_adapters.safetensors"
    tensors = load_file(file)
    tensors.pop("blocks.3.pose_adapter.proj.bias")
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        save_weights(tensors, tmp_path / "c.safetensors", opened.metadata())
    before = network.state_dict().keys()
    with pytest.raises(ValueError, match=r"c\.safetensors: pose adapters: these are of another model"):
        entprog.load_adapters(network, tmp_path / "c.safetensors")
    assert network.state_dict().keys() == before
