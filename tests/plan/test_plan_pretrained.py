"""`entprog plan` of pretrained models: equal to the metered step of tiny folders, and to the whole network's."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import optim

from entprog.config.schema import Config
from entprog.core.blocks import discover_blocks
from entprog.core.freeze import param_groups
from entprog.plan.estimate import Planner
from entprog.plan.simulator import Step
from entprog.profiling.hardware import find_device
from entprog.profiling.meter import Meter
from entprog.savings.weight_precision import weight_storage
from entprog.tasks.pretrained.task import PretrainedTask
from pretrained_runs import Variant, draw_of, recipe, task_of

FAMILIES = ("wan-2.1-i2v", "cogvideox-5b-i2v", "svd", "hunyuan-video")
MODES = ("last third", "full", "lora")


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
    optimizer = optim.AdamW(groups, fused=True)
    if storage := weight_storage(model, discover_blocks(model), task.config.freeze.storage):
        storage.follow()
    for _ in range(2):
        draw = draw_of(task, variant, samples)
        with Meter(model, optimizer) as meter:
            task.loss(draw).backward()
            optimizer.step()
            optimizer.zero_grad()
    return meter


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", FAMILIES)
def test_flops_and_bytes_are_those_of_the_step_that_runs(folder: Path, name: str, mode: str) -> None:
    variant, share = Variant.make(name, folder), 1.0 if mode == "full" else 0.34
    step = told(recipe(variant, folder / "run", phases__video__outside=True), share, mode)
    meter = metered(task_of(variant), variant, share, mode)
    print(name, mode, step.flops, meter.flops, step.peak, meter.peak, step.by_category, meter.at_peak)
    assert step.flops == meter.flops
    assert step.peak == pytest.approx(meter.peak, rel=0.01)
