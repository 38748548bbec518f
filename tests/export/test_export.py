"""`entprog export`: a trained tiny model as files of other tools, which then compute what the trained network does."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import entprog
from comfy_rules import applied, hunyuan_state
from entprog.cli.app import main
from entprog.export import export
from entprog.export.lora import best_factors
from entprog.export.original_names import original_tensors
from entprog.tasks.pretrained.saving import ADAPTERS, DELTA
from entprog.tasks.pretrained.stored import StoredTensors, base_hash, write_network
from entprog.train.run import train
from pretrained_runs import Variant, recipe, task_of
from tiny_pipelines import saved

NAMES = {
    "wan-2.1-t2v": "WanTransformer3DModel",
    "wan-2.2-i2v": "WanTransformer3DModel",
    "hunyuan-video": "HunyuanVideoTransformer3DModel",
    "ltx-video": "LTXVideoTransformer3DModel",
}
Runs = Callable[..., Path]


@pytest.fixture(scope="module")
def run_of(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Runs of 8 steps, made once."""
    root, made = tmp_path_factory.mktemp("runs"), {}

    def run(name: str, **changes: Any) -> Path:
        key = (name, json.dumps(changes, sort_keys=True))
        if key not in made:
            variant = Variant.make(name, root)
            made[key] = train(recipe(variant, root / f"{name}-{len(made)}", **changes))
        return made[key]

    return run


LORA: dict[str, Any] = {
    "method": "lora", "method_options": {"rank": 4, "alpha": 8}, "model__pose": "none", "model__dtype": "float32",
    "phases__video__outside": False,
}  # fmt: skip


def network_of(folder: Path, cls: str) -> nn.Module:
    network = getattr(diffusers, cls).from_pretrained(folder / "transformer")
    return network.eval()  # type: ignore[no-any-return]


def stored(folder: Path) -> dict[str, Tensor]:
    return dict(StoredTensors(folder / "transformer"))


def calls(network: nn.Module) -> list[dict[str, Any]]:
    """Arguments for a Wan network of the tiny kind."""
    random = torch.Generator().manual_seed(1)
    channels = network.config.in_channels
    return [{
        "hidden_states": torch.randn(1, channels, 2, 4, 4, generator=random), "timestep": torch.tensor([500.0]),
        "encoder_hidden_states": torch.randn(1, 6, 32, generator=random), "return_dict": False,
    }]  # fmt: skip


@torch.no_grad()
def predicted(network: nn.Module) -> Tensor:
    return torch.cat([network(**call)[0] for call in calls(network)])


def test_diffusers_folder_samples(run_of: Runs, tmp_path: Path) -> None:
    run, out = run_of("wan-2.1-t2v"), tmp_path / "out"
    (line,) = export(run, out, "diffusers")
    assert str(out) in line and json.loads((out / "export.json").read_text())["as"] == "diffusers"
    weights = "transformer/diffusion_pytorch_model.safetensors"
    assert (out / weights).stat().st_ino == (run / "final" / weights).stat().st_ino
    assert (out / "entprog_adapters.safetensors").is_file() and not (out / "delta.safetensors").exists()
    pipeline = DiffusionPipeline.from_pretrained(out)
    pipeline.set_progress_bar_config(disable=True)
    frames = pipeline(
        "a person", height=32, width=32, num_frames=5, num_inference_steps=2, output_type="pt", max_sequence_length=16
    ).frames
    assert frames.shape[:2] == (1, 5) and bool(torch.isfinite(frames).all())
    export(run, out, "diffusers", copy=True)  # replaces the first
    assert (out / weights).stat().st_ino != (run / "final" / weights).stat().st_ino


@pytest.mark.parametrize("name", ["wan-2.1-t2v", "wan-2.2-i2v"])
def test_delta_and_base_make_the_trained_folder(run_of: Runs, tmp_path: Path, name: str) -> None:
    run = run_of(name)
    export(run, tmp_path / "delta", "delta")
    again = entprog.apply_delta(saved(name), tmp_path / "delta", tmp_path / "again")
    for file in sorted(path for path in (run / "final").rglob("*") if path.is_file()):
        place = file.relative_to(run / "final")
        if place.suffix != ".safetensors" or len(place.parts) > 1:
            assert (again / place).read_bytes() == file.read_bytes(), place
    with safe_open(tmp_path / "delta" / "delta.safetensors", "pt") as opened:
        about = opened.metadata()
    assert about["base_hash"] == base_hash(saved(name) / "transformer") and about["component"] == "transformer"
    assert sorted(json.loads(about["ranking"])["1-video"]) == [f"blocks.{i}" for i in range(6)]
    first, second = json.loads(about["stages"])
    assert (len(first["active"]), len(second["active"]), second["step"]) == (2, 4, 4)
    inside = {name for name in load_file(tmp_path / "delta" / "delta.safetensors") if name.startswith("blocks.")}
    assert {".".join(name.split(".")[:2]) for name in inside} == {*first["active"], *second["active"]}


@pytest.mark.parametrize("name", NAMES)
def test_comfy_file_on_original_weights_gives_the_trained_weights(run_of: Runs, tmp_path: Path, name: str) -> None:
    run, cls = run_of(name, phases__video__outside=True, freeze__inputs_every=1), NAMES[name]
    lines = export(run, tmp_path / "out", "comfy")
    assert any("no pose adapters" in line for line in lines)
    base, trained = (original_tensors(cls, stored(folder)) for folder in (saved(name), run / "final"))
    if cls.startswith("Hunyuan"):
        base, trained = hunyuan_state(base), hunyuan_state(trained)
    patched, unused = applied(base, load_file(tmp_path / "out" / "comfyui.safetensors"), hunyuan="Hunyuan" in cls)
    assert all(".scale.diff" in key for key in unused)  # the older name of norms
    assert any(not torch.equal(trained[key], base[key]) for key in trained)
    for key, tensor in trained.items():
        torch.testing.assert_close(patched[key], tensor, rtol=0, atol=1e-6)
        assert torch.equal(tensor, base[key]) == torch.equal(patched[key], base[key])


def test_comfy_file_in_bf16(run_of: Runs, tmp_path: Path) -> None:
    export(run_of("wan-2.1-t2v"), tmp_path / "out", "comfy", dtype="bf16")
    found = load_file(tmp_path / "out" / "comfyui.safetensors")
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}


@pytest.mark.parametrize("name", ["wan-2.1-t2v", "hunyuan-video"])
def test_lora_for_comfy(run_of: Runs, tmp_path: Path, name: str) -> None:
    """Factors under the original names; those of fused queries, keys and values side by side."""
    run, cls = run_of(name, **LORA), NAMES[name]
    export(run, tmp_path / "out", "comfy")
    found = load_file(tmp_path / "out" / "comfyui.safetensors")
    assert {key.rsplit(".", 2 if "weight" in key else 1)[1] for key in found} == {"lora_down", "lora_up", "alpha"}
    base, trained = (original_tensors(cls, stored(folder)) for folder in (saved(name), run / "final"))
    if cls.startswith("Hunyuan"):
        base, trained = hunyuan_state(base), hunyuan_state(trained)
    patched, unused = applied(base, found, hunyuan="Hunyuan" in cls)
    assert not unused
    for key, tensor in trained.items():
        torch.testing.assert_close(patched[key], tensor, rtol=0, atol=1e-6)


def test_lora_predicts_what_the_trained_network_does(run_of: Runs, tmp_path: Path) -> None:
    run = run_of("wan-2.1-t2v", **LORA)
    expected = predicted(network_of(run / "final", "WanTransformer3DModel"))
    export(run, tmp_path / "lora", "lora")
    export(run, tmp_path / "comfy", "comfy")
    for folder, file in (("lora", "pytorch_lora_weights.safetensors"), ("comfy", "comfyui.safetensors")):
        pipeline = DiffusionPipeline.from_pretrained(saved("wan-2.1-t2v"))
        before = predicted(pipeline.transformer)
        pipeline.load_lora_weights(tmp_path / folder, weight_name=file)
        after = predicted(pipeline.transformer)
        assert float((before - expected).abs().max()) > 1e-3
        assert float((after - expected).abs().max()) < 1e-6


def test_lora_of_a_base_that_was_rounded_to_load_it(run_of: Runs, tmp_path: Path) -> None:
    """model.dtype = "bf16" of a float32 base: the rounding is no part of what moved."""
    run = run_of("wan-2.1-t2v", **LORA | {"model__dtype": "bf16"})
    assert all(name.endswith(".weight") for name in load_file(run / "final" / "delta.safetensors"))
    export(run, tmp_path / "lora", "lora")
    factors = load_file(run / "1-video" / "lora.safetensors")
    found = load_file(tmp_path / "lora" / "pytorch_lora_weights.safetensors")
    assert found.keys() == {f"transformer.{key}" for key in factors}
    assert all(torch.equal(found[f"transformer.{key}"], tensor) for key, tensor in factors.items())


def test_lora_of_a_mixed_run_and_of_a_full_one(run_of: Runs, tmp_path: Path) -> None:
    full = run_of("wan-2.1-t2v")
    with pytest.raises(ValueError, match="weights in full; export --as comfy or --as delta, or give --rank"):
        export(full, tmp_path / "out", "lora")
    mixed = run_of("wan-2.1-t2v", method="mixed", model__pose="none")
    with pytest.raises(ValueError, match="moved beside the adapters"):
        export(mixed, tmp_path / "out", "lora")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))
    notes = export(full, tmp_path / "out", "lora", rank=48)
    error = float(notes[1].partition("relative error ")[2].partition(" ")[0])
    assert 0 < error < 1 and "left out" in notes[1]  # biases, tables and norms
    found = load_file(tmp_path / "out" / "pytorch_lora_weights.safetensors")
    base, trained = stored(saved("wan-2.1-t2v")), stored(full / "final")
    for key in [key for key in found if "lora_A" in key]:
        name = key.removeprefix("transformer.").replace("lora_A.", "")
        change = found[key.replace("lora_A", "lora_B")] @ found[key]
        torch.testing.assert_close(base[name] + change, trained[name], rtol=0, atol=1e-5)  # of full rank: exact
    pipeline = DiffusionPipeline.from_pretrained(saved("wan-2.1-t2v"))
    pipeline.load_lora_weights(tmp_path / "out")


@pytest.mark.parametrize("shape", [(40, 30), (1100, 1030)])
def test_best_factors(shape: tuple[int, int]) -> None:
    """Eckart and Young: the error is that of the singular values left out."""
    random = torch.Generator().manual_seed(0)
    matrix = torch.randn(shape[0], 12, generator=random) @ torch.randn(12, shape[1], generator=random)
    values = torch.linalg.svdvals(matrix)
    a, b = best_factors(matrix, 8)
    error = float((matrix - b @ a).norm())
    assert error == pytest.approx(float(values[8:].norm()), rel=1e-3)
    assert a.shape == (8, shape[1]) and b.shape == (shape[0], 8)


def test_files_of_an_earlier_run_are_not_the_base_s(tmp_path: Path) -> None:
    base = Path(shutil.copytree(saved("wan-2.1-t2v"), tmp_path / "base"))
    (base / "entprog_adapters.safetensors").write_bytes(b"of an earlier run")
    (base / "transformer" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"a variant that is not read")
    task = task_of(Variant.make("wan-2.1-t2v", tmp_path), model__pose="none", model__pretrained=str(base))
    task.save(tmp_path / "final")
    assert {path.name for path in (tmp_path / "final").iterdir() if path.is_file()} == {
        "delta.safetensors", "model_index.json",
    }  # fmt: skip
    assert not load_file(tmp_path / "final" / "delta.safetensors")
    found = stored(tmp_path / "final")
    assert all(torch.equal(found[name], tensor) for name, tensor in StoredTensors(base / "transformer").items())


def test_shards_above_a_size(tmp_path: Path) -> None:
    base = saved("wan-2.1-t2v") / "transformer"
    changed = {"proj_out.bias": torch.ones(64)}
    write_network(base, tmp_path / "transformer", changed, shard_bytes=2 * 10**5)
    files = sorted(file.name for file in (tmp_path / "transformer").glob("*.safetensors"))
    assert len(files) > 1 and files[0] == f"diffusion_pytorch_model-00001-of-{len(files):05d}.safetensors"
    state = network_of(tmp_path, "WanTransformer3DModel").state_dict()
    for name, tensor in StoredTensors(base).items():
        assert torch.equal(state[name], changed.get(name, tensor))


# Bad input


def failed(capsys: pytest.CaptureFixture[str], *argv: Any) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(["export", *(str(word) for word in argv)])
    (line,) = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2
    return line


@pytest.fixture
def copied(run_of: Runs, tmp_path: Path) -> Path:
    """A run of its own, that a test may damage."""
    return Path(shutil.copytree(run_of("wan-2.1-t2v"), tmp_path / "run"))


def rewritten(path: Path, change: Callable[[dict[str, Tensor], dict[str, str]], None]) -> None:
    tensors = load_file(path)
    with safe_open(path, "pt") as opened:
        about = opened.metadata()
    change(tensors, about)
    save_file(tensors, path, about)


def test_a_place_that_holds_something_else(copied: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    for out in (tmp_path / "mine", copied / "final", tmp_path / "mine" / "letter.txt"):
        assert "exists and is no export" in failed(capsys, copied, out, "--as", "diffusers")
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear" and (copied / "final" / "vae").is_dir()


def test_a_run_that_is_not_finished_or_of_another_task(
    copied: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (copied / "final" / "delta.safetensors").unlink()
    assert "not finished" in failed(capsys, copied, tmp_path / "out", "--as", "comfy")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.toml").write_text('output_dir = "other"\n')
    assert "'human_video'" in failed(capsys, tmp_path / "other", tmp_path / "out", "--as", "comfy")
    assert not (tmp_path / "out").exists()


def test_nan_in_the_weights(copied: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rewritten(copied / "final" / "delta.safetensors", lambda t, _: next(iter(t.values())).fill_(float("nan")))
    assert "NaN" in failed(capsys, copied, tmp_path / "out", "--as", "diffusers")


def test_adapters_of_another_base(copied: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rewritten(copied / "final" / "entprog_adapters.safetensors", lambda _, about: about.update(base_hash="f" * 64))
    assert "another base (hash ffffffffffff)" in failed(capsys, copied, tmp_path / "out", "--as", "delta")


def test_a_base_that_is_gone_or_changed(copied: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    base = Path(shutil.copytree(saved("wan-2.1-t2v"), tmp_path / "base"))
    recipe = (copied / "config.toml").read_text().replace(str(saved("wan-2.1-t2v")), str(base))
    (copied / "config.toml").write_text(recipe)
    rewritten(base / "transformer" / "diffusion_pytorch_model.safetensors", lambda t, _: t["proj_out.bias"].add_(1))
    assert "changed since run" in failed(capsys, copied, tmp_path / "out", "--as", "comfy")
    export(copied, tmp_path / "delta", "delta")
    with pytest.raises(ValueError, match=r"weights have the hash \w+, but the delta belongs to"):
        entprog.apply_delta(base, tmp_path / "delta", tmp_path / "out")
    shutil.rmtree(base)
    assert "no such folder" in failed(capsys, copied, tmp_path / "out", "--as", "comfy")
    export(copied, tmp_path / "whole", "diffusers")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))


def test_a_family_that_comfy_does_not_know(copied: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = copied / "final" / "transformer" / "config.json"
    path.write_text(path.read_text().replace("WanTransformer3DModel", "CogVideoXTransformer3DModel"))
    line = failed(capsys, copied, tmp_path / "out", "--as", "comfy")
    assert "CogVideoXTransformer3DModel" in line and "--as diffusers" in line


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--as", "comfi"], "did you mean comfy?"),
        (["--as", "zip"], "choose diffusers, delta, comfy, lora"),
        (["--as", "diffusers", "--dtype", "bf16"], "only with --as comfy and lora"),
        (["--as", "comfy", "--dtype", "int8"], "choose float32, bf16, fp16"),
        (["--as", "comfy", "--rank", "3"], "only with --as lora"),
        (["--as", "lora", "--rank", "0"], "at least 1"),
    ],
)
def test_wrong_options(capsys: pytest.CaptureFixture[str], options: list[str], words: str) -> None:
    assert words in failed(capsys, "nowhere", "out", *options)


def test_averaged_weights_that_a_run_does_not_have(run_of: Runs, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--weights ema: .* set train.ema_decay, or choose model"):
        export(run_of("wan-2.1-t2v"), tmp_path / "out", "delta", weights="ema")
    with pytest.raises(ValueError, match="--weights 'best': choose auto, model, ema"):
        export(run_of("wan-2.1-t2v"), tmp_path / "out", "delta", weights="best")


@pytest.mark.parametrize("changes", [{}, {"method": "lora", "method_options": {"rank": 4}}], ids=["full", "lora"])
def test_averaged_weights_are_exported_where_the_run_kept_them(
    run_of: Runs, tmp_path: Path, changes: dict[str, Any]
) -> None:
    run = run_of("wan-2.1-t2v", train__ema_decay=0.5, **changes)
    averaged, delta = load_file(str(run / "final" / "ema.safetensors")), load_file(str(run / "final" / DELTA))
    said = export(run, tmp_path / "whole", "diffusers")
    assert "EMA weights" in said[-1]
    assert all(
        torch.equal(tensor, averaged[name]) for name, tensor in stored(tmp_path / "whole").items() if name in delta
    )
    assert any(not torch.equal(delta[name], averaged[name]) for name in delta)
    adapters = load_file(str(tmp_path / "whole" / ADAPTERS))
    assert adapters and all(torch.equal(tensor, averaged[name]) for name, tensor in adapters.items())
    export(run, tmp_path / "delta", "delta", weights="ema")
    entprog.apply_delta(saved("wan-2.1-t2v"), tmp_path / "delta", tmp_path / "again")
    assert_equal(stored(tmp_path / "again"), stored(tmp_path / "whole"))
    with pytest.raises(ValueError, match="--weights model"):
        export(run, tmp_path / "lora", "lora")
    assert "EMA" not in "".join(export(run, tmp_path / "last", "diffusers", weights="model"))
    assert_equal(stored(tmp_path / "last"), stored(run / "final"))


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
