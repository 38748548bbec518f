"""`entprog plan` of pretrained models: equal to the metered step of tiny folders; its recipes fit and train."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch._subclasses.fake_tensor import FakeTensorMode

from entprog.config.load import read_config
from entprog.config.schema import Config
from entprog.core.blocks import discover_blocks
from entprog.core.freeze import param_groups
from entprog.core.types import Shape
from entprog.plan.estimate import Planner
from entprog.plan.simulator import Step
from entprog.profiling.hardware import find_device
from entprog.profiling.meter import Meter
from entprog.profiling.subject import Case
from entprog.savings.in_backward import build_optimizer
from entprog.savings.weight_precision import weight_storage
from entprog.tasks.pretrained.families import family_of
from entprog.tasks.pretrained.folder import planned_configs, shipped_models
from entprog.tasks.pretrained.plan_subject import PretrainedSubject
from entprog.tasks.pretrained.sizes import compression
from entprog.tasks.pretrained.task import PretrainedTask
from entprog.train.run import train
from pretrained_runs import Variant, draw_of, recipe, task_of

FAMILIES = ("wan-2.1-i2v", "cogvideox-5b-i2v", "svd", "hunyuan-video")
MODES = ("last third", "full", "lora")
SLOW = {("svd", "full"), ("svd", "lora"), ("hunyuan-video", "full"), ("hunyuan-video", "lora")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plan")


def told(config: Config, share: float, mode: str, **case: Any) -> Step:
    """The planned step that trains the last `share` of the blocks."""
    planner = Planner(config, find_device("cpu"))
    settings = config.phases["video"]
    names = planner.subject.family("all")
    active = names[len(names) - max(1, round(share * len(names))) :]
    own = replace(planner.case(settings), inputs=share == 1, **case)
    if mode == "lora":
        return planner.step(replace(own, low_rank=4, spared=planner.subject.new_modules()), (), adapted=active)
    return planner.step(own, active)


def metered(task: PretrainedTask, variant: Variant, share: float, mode: str, samples: int = 2) -> Meter:
    """The same step, run."""
    model, blocks = task.model, task.blocks(task.config.phases["video"])
    active = set(blocks.names[len(blocks) - max(1, round(share * len(blocks))) :])
    owner = {id(p): block.name for block in blocks for p in block.parameters()}
    for name, parameter in model.named_parameters():
        block = owner.get(id(parameter))
        outside = share == 1 or name.startswith(task.family.head)
        parameter.requires_grad_(outside if block is None else block in active)
    if mode == "lora":
        from entprog.methods.lora import Lora

        method = Lora(rank=4, m=len(active)).for_phase(5, task.new_modules())
        groups = method.groups(model, blocks, lr=1e-3, seed=0)
    else:
        groups = param_groups(model, blocks, lr=1e-3)
    optimizer = build_optimizer(task.config.train, groups)
    if storage := weight_storage(model, discover_blocks(model), task.config.freeze.storage):
        storage.follow()
    for _ in range(2):
        draw = draw_of(task, variant, samples)
        with Meter(model, optimizer) as meter:
            task.loss(draw).backward()
            optimizer.step()
            optimizer.zero_grad()
    return meter


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        pytest.param(name, mode, marks=pytest.mark.slow if (name, mode) in SLOW else ())
        for name in FAMILIES
        for mode in MODES
    ],
)
def test_flops_and_bytes_are_those_of_the_step_that_runs(folder: Path, name: str, mode: str) -> None:
    variant, share = Variant.make(name, folder), 1.0 if mode == "full" else 0.34
    step = told(recipe(variant, folder / "run", phases__video__outside=True), share, mode)
    meter = metered(task_of(variant), variant, share, mode)
    assert step.flops == meter.flops
    assert step.peak == pytest.approx(meter.peak, rel=0.01)


@pytest.mark.parametrize("change", [{"dtype": "bf16"}, {"dtype": "bf16", "weights": "bf16"}, {"storage": "int8"}])
def test_weights_count_as_training_holds_them(folder: Path, change: dict[str, str]) -> None:
    variant = Variant.make("wan-2.1-t2v", folder)
    table = {"freeze__storage" if key == "storage" else f"model__{key}": value for key, value in change.items()}
    table = {"model__dtype": "float32", **table, "train__mixed_precision": "bf16", "phases__video__outside": True}
    step = told(recipe(variant, folder / "run", **table), 0.34, "last third", precision="bf16")
    meter = metered(task_of(variant, **table), variant, 0.34, "last third")
    assert step.flops == meter.flops and step.by_category["weights"] == meter.at_peak["weights"]
    assert step.by_category["optimizer"] == meter.at_peak["optimizer"]
    assert step.peak == pytest.approx(meter.peak, rel=0.01)


@pytest.mark.parametrize("name", ["wan-2.1-t2v", "cogvideox-5b-i2v", "hunyuan-video"])
def test_an_echoed_step_begins_at_the_lowest_active_block(folder: Path, name: str) -> None:
    variant = Variant.make(name, folder)
    config = recipe(variant, folder / "run", model__dtype="float32")
    step = told(config, 0.34, "last third", echo=True)
    task = task_of(variant, model__dtype="float32")
    metered(task, variant, 0.34, "last third")  # sets what trains
    known = task.prefix(draw_of(task, variant))
    assert known.hidden is not None
    shape = Shape.of(variant.sides, variant.frames, 2)
    planner = Planner(config, find_device("cpu"))
    assert planner.subject.hidden_bytes(planner.case(config.phases["video"])) == known.hidden.nbytes
    assert task.hidden_bytes(shape) == known.hidden.nbytes
    with Meter(task.model) as meter:
        task.loss(known).backward()
    assert step.flops == meter.flops < told(config, 0.34, "last third").flops


VARIANTS = [
    "wan-2.1-i2v", "wan-2.2-ti2v-5b", "wan-vace", "wan-animate", "ltx-video-i2v", "hunyuan-video-1.5-i2v", "sd3",
    "flux", "dit", "pixart", "latte", "unet-motion", "unet-2d", "cogvideox-1.5-i2v",
]  # fmt: skip


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS])
def test_every_family_is_planned_on_the_tensors_that_training_draws(folder: Path, name: str) -> None:
    variant = Variant.make(name, folder)
    config = recipe(variant, folder / "run", phases__video__outside=True)
    subject = PretrainedSubject(config)
    real = draw_of(task_of(variant), variant)
    with FakeTensorMode():
        fake = subject._draw(Case(Shape.of(variant.sides, variant.frames, 2)))
    seen = {key: (tuple(value.shape), value.dtype) for key, value in fake.tensors().items()}
    assert seen == {key: (tuple(value.shape), value.dtype) for key, value in real.tensors().items()}
    step = told(config, 0.34, "last third")
    assert step.flops == metered(task_of(variant), variant, 0.34, "last third").flops


RECIPES = Path(__file__).parents[2] / "recipes"
TINY = {
    "wan-1.3b-24gb": "wan-2.1-t2v", "wan-14b-80gb": "wan-2.1-t2v", "cogvideox-5b-24gb": "cogvideox-5b-i2v",
    "svd-24gb": "svd",
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name.startswith("wan-1.3b") else pytest.mark.slow) for name in TINY]
)
def test_training_runs_the_recipes(folder: Path, name: str) -> None:
    variant = Variant.make(TINY[name], folder)
    small = {
        "output_dir": folder / name, "data.path": variant.data, "model.pretrained": variant.model,
        "phases.video.resolution": variant.size, "phases.video.frames": variant.frames, "phases.video.steps": 4,
        "evaluate.resolution": variant.size, "evaluate.frames": variant.frames, "evaluate.clips": 0,
        "train.holdout_clips": 2, "train.threads": 1, "ranking.samples": 2,
    }  # fmt: skip
    blocks = '["transformer_blocks.*"]' if name.startswith("cog") else "[]"
    overrides = [*((key, str(value)) for key, value in small.items()), ("ranking.pattern", blocks)]
    run = train(read_config(RECIPES / f"{name}.toml", overrides))
    assert load_file(str(run / "final" / "delta.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_the_recipes_fit_their_cards(name: str) -> None:
    planner = Planner(
        read_config(RECIPES / f"{name}.toml", planned=True), find_device("a100" if "80gb" in name else "4090")
    )
    (phase,) = planner.phases()
    assert all(row.fits for row in phase.rows if row.kind == "stage")
    assert phase.ranking is not None and phase.ranking <= planner.hardware.usable
    assert not next(row for row in phase.rows if row.kind == "full").fits or name in ("wan-1.3b-24gb", "svd-24gb")


def test_every_shipped_configuration_belongs_to_a_known_family() -> None:
    for name in shipped_models():
        configs, source = planned_configs(name)
        assert "comes with entprog" in source or "cache" in source
        family = family_of(configs)
        assert compression(configs.codec).frames == family.frames_factor
        family.objective()


@pytest.mark.parametrize(("change", "said"), [
    ({"text_dim": None}, "transformer/config.json"),
    ({"_class_name": "WanVACETransformer3DModel", "vace_layers": [0, 50]}, "transformer/config.json"),
])  # fmt: skip
def test_a_plan_names_the_file_that_does_not_fit(folder: Path, change: dict[str, Any], said: str) -> None:
    variant = Variant.make("wan-2.1-t2v", folder)
    model = folder / f"edited-{len(said)}-{next(iter(change))}"
    shutil.copytree(variant.model, model)
    file = model / "transformer" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ValueError, match=re.escape(said)):
        config = recipe(variant, folder / "run")
        PretrainedSubject(replace(config, model=replace(config.model, pretrained=str(model))))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model.pretrained": "nobody/nothing-like-this", "model.revision": ""}, "model.pretrained"),
        ({"model.pose": "native"}, "has no pose path of its own"),
        ({"model.reference": "native"}, "has no inputs for an image"),
        ({"phases.video.frames": "80"}, "choose 77 or 81"),
        ({"phases.video.resolution": "470x832"}, "choose 464x832"),
        ({"ranking.pattern": '["blocks.*", "bloks.*"]'}, "'bloks.*' matches none"),
        ({"schedule.options.m": "[50]"}, "50"),
        ({"model.timestep_sampling": "logit_normal", "model.pretrained": "THUDM/CogVideoX-5b"}, "only for flow models"),
        ({"sample.guided_by": "reference"}, 'sample.guided_by = "reference": this model gets no reference'),
    ],
)
def test_what_training_refuses_a_plan_refuses(changes: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        config = read_config(RECIPES / "wan-1.3b-24gb.toml", changes, planned=True)
        planner = Planner(config, find_device("4090"))
        settings = config.phases["video"]
        planner.subject.check(Shape.of(settings.sides, settings.frames, 1))
        list(planner.phases())
