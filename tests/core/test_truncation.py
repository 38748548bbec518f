"""The backward ends at the lowest active block, and inputs that train now and then do not change that in between."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from entprog.config.load import ConfigWarning, read_config
from entprog.core.blocks import discover_blocks
from entprog.core.freeze import Freezer, param_groups
from entprog.core.truncation import input_parameters
from entprog.core.types import Workload
from entprog.nets.dit import SIZES, VideoDiT
from entprog.plugins import load
from entprog.profiling.meter import Meter
from entprog.train.run import train
from loops import DRAWS, ORDER, Rig
from recipes import problems
from tiny import lines, small_dit, synthetic_data, tiny_config
from toy import toy_task

SUFFIX = ("blocks.2", "temporal.1", "blocks.3")


def run(model: VideoDiT, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 2, 16, 8, 8, generator=generator)
    reference = torch.randn(2, 16, 8, 8, generator=generator)
    return model(x, torch.rand(2, generator=generator), reference, torch.rand(2, 2, 3, 32, 32, generator=generator))


def graphs(model: VideoDiT) -> set[tuple[str, str]]:
    """(block, role) of the calls that a backward would run through."""
    seen = set()
    hooks = []
    for block in discover_blocks(model):

        def note(module: Any, args: Any, output: torch.Tensor, name: str = block.name) -> None:
            if output.requires_grad:
                seen.add((name, model.entprog_role({})))

        hooks.append(block.module.register_forward_hook(note))
    run(model).sum().backward()
    for hook in hooks:
        hook.remove()
    return seen


def test_inputs_are_what_is_read_before_the_last_block() -> None:
    model = small_dit(pose="blocks")
    found = input_parameters(model, discover_blocks(model), lambda: run(model))
    assert {name.split(".")[0] for name in found} == {"patch_embed", "tau_embed", "pose_embed"}
    assert all("forward" not in vars(block.module) for block in discover_blocks(model))
    task = toy_task()
    blocks = discover_blocks(task.model, "blocks.*")
    found = input_parameters(task.model, blocks, lambda: task.predict(DRAWS[0]))
    assert {name.split(".")[0] for name in found} == {"embed", "inlet"}


@pytest.mark.parametrize("reference", ["siamese", "separate"])
def test_no_block_below_the_lowest_active_one_has_a_graph(reference: str) -> None:
    model = small_dit(reference=reference, pose="blocks")
    blocks = discover_blocks(model)
    inputs = input_parameters(model, blocks, lambda: run(model))
    freezer = Freezer(model, blocks, torch.optim.SGD(param_groups(model, blocks, lr=1.0)), inputs=inputs)
    freezer.train_only(SUFFIX, inputs=False)
    seen = graphs(model)
    assert {name for name, role in seen if role == "denoising"} == set(SUFFIX)
    # The last spatial block has no reference call, and nothing below blocks.2 has a graph in that pass either.
    assert {name for name, role in seen if role == "reference"} == ({"blocks.2"} if reference == "siamese" else set())
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert {"head.weight", "head_modulation.weight", "blocks.2.pose.weight"} <= trained
    assert trained == {name for name, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    freezer.train_only(SUFFIX)
    assert {name for name, role in graphs(model) if role == "denoising"} == {
        name for name in blocks.names if not name.startswith("reference_blocks.")
    }


def test_gradients_are_those_of_a_backward_through_everything() -> None:
    whole, cut = small_dit(pose="blocks"), small_dit(pose="blocks")
    blocks = discover_blocks(cut)
    inputs = input_parameters(cut, blocks, lambda: run(cut))
    Freezer(cut, blocks, torch.optim.SGD(cut.parameters(), lr=1.0), inputs=inputs).train_only(SUFFIX, inputs=False)
    run(whole).square().mean().backward()
    with Meter(cut) as meter:
        run(cut).square().mean().backward()
    expected = dict(whole.named_parameters())
    for name, parameter in cut.named_parameters():
        assert parameter.grad is None or torch.equal(parameter.grad, expected[name].grad), name
    whole.zero_grad()
    with Meter(whole) as full:
        run(whole).square().mean().backward()
    assert meter.flops < 0.75 * full.flops and meter.peak < full.peak


class TestEveryNthStep:
    @pytest.fixture
    def rig(self) -> Rig:
        return self.built(3)

    def built(self, every: int, **more: Any) -> Rig:
        task = toy_task()
        inputs = input_parameters(task.model, discover_blocks(task.model, "blocks.*"), lambda: task.predict(DRAWS[0]))
        return Rig(schedule=load("schedule", "fixed", m=(1.0,)), total=9, inputs_every=every, inputs=inputs, **more)

    def test_workloads_are_a_function_of_the_step(self, rig: Rig) -> None:
        active = (ORDER.names[0],)
        expected = [Workload(active, None, i % 3 == 0) for i in range(9)]
        assert [rig.method.plan(i).workload for i in range(9)] == expected
        assert [rig.method.plan(i).workload for i in reversed(range(9))] == expected[::-1]
        never = self.built(0)
        assert not any(never.method.plan(i).workload.inputs for i in range(9))

    def test_inputs_move_and_take_optimizer_steps_only_then(self, rig: Rig) -> None:
        embed = rig.task.model.get_parameter("embed.weight")
        outlet = rig.task.model.get_parameter("outlet.weight")
        for i in range(9):
            before, head = embed.detach().clone(), outlet.detach().clone()
            rig.run(i, i + 1)
            assert torch.equal(embed, before) == (i % 3 != 0) and not torch.equal(outlet, head)
        assert float(rig.optimizer.state[embed]["step"]) == 3
        assert float(rig.optimizer.state[outlet]["step"]) == 9
        never = self.built(0)
        before = never.task.model.get_parameter("embed.weight").detach().clone()
        never.run()
        embed = never.task.model.get_parameter("embed.weight")
        assert torch.equal(embed, before) and embed not in never.optimizer.state

    def test_states_of_inputs_stay_whatever_becomes_of_those_of_blocks(self) -> None:
        kept, dropped = self.built(3), self.built(3, states="drop")
        kept.run()
        dropped.run()
        assert kept.losses == dropped.losses

    def test_every_step_is_what_it_was(self) -> None:
        every, plain = self.built(1), self.built(1)
        plain.method.freezer.train_only(ORDER.names[:1])
        every.run()
        plain.plain_steps(0, 9)
        assert every.losses == plain.losses

    def test_a_negative_number_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"inputs_every = -1: give 0"):
            self.built(-1)
        assert problems(None, [("freeze.inputs_every", "-1")]) == ["--freeze.inputs_every = -1: must be at least 0"]
        with pytest.warns(ConfigWarning, match=r"inputs_every = 4: no effect, as freeze.outside = false"):
            read_config(None, [("freeze.inputs_every", "4"), ("freeze.outside", "false")])


@pytest.fixture(scope="module")
def small() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "nano", {"depth": 4, "width": 32, "heads": 2})
        yield


def test_a_run_counts_both_kinds_of_steps_and_resumes_between_them(small: None, tmp_path: Path) -> None:
    data = synthetic_data(tmp_path / "data", sizes=(16,))

    def config(name: str, **more: Any) -> Any:
        return tiny_config(
            tmp_path / name, data, phases__subject__steps=0, phases__video__steps=0, phases__pose__steps=6,
            schedule__name="fixed", schedule__options__m=[1], ranking__score="order", ranking__options__order="last",
            model__pose="blocks", freeze__inputs_every=3, train__checkpoints_total_limit=0, **more,
        )  # fmt: skip

    whole = train(config("whole", train__checkpointing_steps=1))
    rows = lines(whole / "log.jsonl")
    inputs = rows[0]["trainable_params"] - rows[1]["trainable_params"]
    assert inputs > 0 and [row["trainable_params"] == rows[0]["trainable_params"] for row in rows] == [
        True, False, False, True, False, False,
    ]  # fmt: skip
    assert rows[0]["flops"] > 1.2 * rows[1]["flops"] and rows[1]["flops"] == rows[2]["flops"] == rows[4]["flops"]
    assert rows[0]["flops"] == rows[3]["flops"] and rows[0]["bytes_peak"] > rows[1]["bytes_peak"]
    for step in (2, 3):
        run = tmp_path / f"again-{step}"
        shutil.copytree(whole, run, ignore=shutil.ignore_patterns("final", "totals.json"))
        train(config(f"again-{step}"), resume_from_checkpoint=f"checkpoint-{step}")
        again = lines(run / "log.jsonl")
        assert [(r["loss"], r["flops"], r["grad_norm"]) for r in again] == [
            (r["loss"], r["flops"], r["grad_norm"]) for r in rows
        ]
        totals = [json.loads((path / "totals.json").read_text()) for path in (whole, run)]
        assert totals[0]["holdout_loss"] == totals[1]["holdout_loss"] and totals[0]["flops"] == totals[1]["flops"]
