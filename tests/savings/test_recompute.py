"""Checkpointing and compiling block by block: the same numbers, at the places where they pay."""

import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.backends.registry import register_backend

from entprog.core.blocks import Blocks, discover_blocks
from entprog.core.skip import Skipper
from entprog.core.types import Ranking
from entprog.integrations.custom_loop import attach
from entprog.profiling.meter import Meter
from entprog.savings.compiled import compiled, missing_compiler
from entprog.savings.recompute import recomputed
from loops import DRAWS
from tiny import small_dit
from toy import ToyTask, siamese_role, toy_draws, toy_task

VARIANTS = ["plain", "tuple", "siamese"]


def built(variant: str, active: int = 2) -> tuple[ToyTask, Blocks]:
    """Four blocks with dropout inside, of which the last `active` train, and beside them the outlet."""
    task = toy_task(variant=variant)
    blocks = discover_blocks(task.model, "blocks.*", role=siamese_role if variant == "siamese" else None)
    task.model.requires_grad_(False)
    task.model.get_submodule("outlet").requires_grad_(True)
    for place, block in enumerate(blocks):
        block.module.requires_grad_(place >= len(blocks) - active)
        for module in list(block.module.modules()):
            if isinstance(module, nn.Sequential):
                module.append(nn.Dropout(0.3))
    return task, blocks


def gradients(task: ToyTask) -> dict[str, Tensor]:
    torch.manual_seed(3)
    task.model.zero_grad(set_to_none=True)
    task.loss(DRAWS[0]).backward()
    return {name: p.grad for name, p in task.model.named_parameters() if p.grad is not None}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def called_again(blocks: Blocks, run: Callable[[], Any]) -> Counter[str]:
    """How often the inside of each block runs within the backward."""
    counts: Counter[str] = Counter()
    hooks = []
    for block in blocks:
        inner = next(m for m in block.module.modules() if isinstance(m, nn.Linear))

        def note(module: Any, args: Any, name: str = block.name) -> None:
            counts[name] += torch._C._current_graph_task_id() != -1

        hooks.append(inner.register_forward_pre_hook(note))
    run()
    for hook in hooks:
        hook.remove()
    return +counts


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_are_those_without_bit_for_bit(variant: str) -> None:
    task, blocks = built(variant)
    plain = gradients(task)
    with recomputed(blocks):
        assert same(gradients(task), plain)
        with Skipper(blocks) as skipper, skipper.skip("blocks.1"):
            skipped = gradients(task)
    assert all("forward" not in vars(block.module) for block in blocks)
    with Skipper(blocks) as skipper, skipper.skip("blocks.1"):
        assert same(gradients(task), skipped) and not same(plain, skipped)


@pytest.mark.parametrize("variant", VARIANTS)
def test_only_blocks_that_leave_a_graph_run_again(variant: str) -> None:
    task, blocks = built(variant)
    assert not called_again(blocks, lambda: gradients(task))
    with recomputed(blocks):
        counts = called_again(blocks, lambda: gradients(task))
        # The reference call of the last block serves nobody, so no backward comes to it.
        twice = 2 if variant == "siamese" else 1
        assert counts == {"blocks.2": twice, "blocks.3": 1}
        with torch.no_grad():
            assert not task.loss(DRAWS[0]).requires_grad


def test_memory_is_less_and_work_more() -> None:
    task, blocks = built("plain", active=4)
    draw = toy_draws(1, size=64, tokens=16)[0]
    with Meter(task.model) as plain:
        task.loss(draw).backward()
    task.model.zero_grad(set_to_none=True)
    with recomputed(blocks), Meter(task.model) as less:
        task.loss(draw).backward()
    assert less.peak < plain.peak and less.flops > plain.flops


def test_the_backward_may_come_after_the_context() -> None:
    task, blocks = built("plain")
    plain = gradients(task)
    task.model.zero_grad(set_to_none=True)
    torch.manual_seed(3)
    with recomputed(blocks):
        loss = task.loss(DRAWS[0])
    loss.backward()
    assert same({name: p.grad for name, p in task.model.named_parameters() if p.grad is not None}, plain)


def test_our_model_recomputes_from_the_lowest_active_block_on() -> None:
    model = small_dit(pose="blocks")
    model.requires_grad_(False)
    for name in ("blocks.2", "temporal.1", "head"):
        model.get_submodule(name).requires_grad_(True)
    generator = torch.Generator().manual_seed(0)
    x, tau = torch.randn(2, 2, 16, 8, 8, generator=generator), torch.rand(2, generator=generator)
    reference, pose = torch.randn(2, 16, 8, 8, generator=generator), torch.rand(2, 2, 3, 32, 32, generator=generator)
    blocks = discover_blocks(model)

    def run() -> dict[str, Tensor]:
        model.zero_grad(set_to_none=True)
        model(x, tau, reference, pose).square().mean().backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    plain = run()
    # A denoising call projects its own tokens and the reference's; blocks.3 has no reference call of its own.
    counts = {"blocks.2": 1 + 2, "blocks.3": 2, "temporal.1": 1}
    model.gradient_checkpointing = True
    assert same(run(), plain)
    assert called_again(blocks, run) == counts
    model.gradient_checkpointing = False
    with recomputed(blocks):
        assert same(run(), plain)
        assert called_again(blocks, run) == counts


def test_a_foreign_loop_has_it_too() -> None:
    task, _ = built("plain")
    optimizer = torch.optim.SGD(task.model.parameters(), lr=0.1)
    names = tuple(f"blocks.{i}" for i in range(4))
    method = attach(
        task.model, optimizer, steps=2, predict=task.predict, probe=DRAWS[:1], blocks="blocks.*",
        ranking=Ranking(names[::-1]), schedule_options={"stages": 2}, gradient_checkpointing=True, inputs_every=0,
    )  # fmt: skip
    blocks = discover_blocks(task.model, "blocks.*")
    with method.step(0) as info:
        counts = called_again(blocks, lambda: gradients(task))
    assert info.active == names[2:] and set(counts) == set(names[2:])


class TestCompiled:
    def test_graphs_are_counted_and_shared_between_blocks(self) -> None:
        task, blocks = built("plain")
        for block in blocks:
            block.module.eval()
        plain = gradients(task)
        with compiled(blocks, backend="eager") as state, recomputed(blocks):
            assert same(gradients(task), plain)
            # Frozen without a graph, the lowest active block, and an active one above it.
            first = state.graphs
            assert 1 <= first <= 3
            gradients(task)
            assert state.graphs == first and not state.failed
            with Meter(task.model) as inside:
                gradients(task)
        with recomputed(blocks), Meter(task.model) as outside:
            gradients(task)
        assert inside.flops == outside.flops and state.graphs == first
        assert all("forward" not in vars(block.module) for block in blocks)
        torch._dynamo.reset()

    def test_beyond_the_limit_blocks_run_uncompiled(self) -> None:
        task, blocks = built("plain", active=4)
        for block in blocks:
            block.module.eval()
        with compiled(blocks, backend="eager", limit=1) as state, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            task.loss(DRAWS[0])
            for size in (3, 4, 5):
                blocks[0].module(torch.randn(1, size, 16), torch.randn(1, 16))
            assert state.graphs == 1
        torch._dynamo.reset()

    def test_without_a_compiler_one_warning(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "")
        monkeypatch.delenv("CXX", raising=False)
        task, blocks = built("plain")
        plain = gradients(task)
        message = r"uncompiled: no C\+\+ compiler found; install g\+\+"
        with pytest.warns(UserWarning, match=message) as caught, compiled(blocks) as state:
            assert same(gradients(task), plain)
        assert len(caught) == 1 and state.failed and not state.graphs

    def test_a_compiler_that_fails_is_told_once(self) -> None:
        task, blocks = built("plain")
        for block in blocks:
            block.module.eval()
        plain = gradients(task)

        def broken(graph: Any, inputs: Any) -> Any:
            raise OSError("no space for kernels")

        register_backend(broken, name="broken")
        message = "uncompiled: .*no space for kernels"
        with pytest.warns(UserWarning, match=message) as caught, compiled(blocks, backend="broken") as state:
            assert same(gradients(task), plain)
        assert len(caught) == 1 and "no space" in state.failed
        torch._dynamo.reset()

    @pytest.mark.slow
    @pytest.mark.skipif(bool(missing_compiler(torch.device("cpu"))), reason="no C++ compiler")
    def test_the_real_compiler_stays_close(self) -> None:
        task, blocks = built("plain")
        for block in blocks:
            block.module.eval()
        plain = gradients(task)
        with compiled(blocks) as state:
            fast = gradients(task)
        assert state.graphs and not state.failed and fast.keys() == plain.keys()
        for name in plain:
            torch.testing.assert_close(fast[name], plain[name], rtol=1e-4, atol=1e-6)
        torch._dynamo.reset()
