"""One meter: bytes of live storages by category, and FLOPs by pass and block, of what runs inside it."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn, optim

from entprog.core.blocks import Block
from entprog.profiling.ledger import CATEGORIES, Ledger, Piece, tensors
from entprog.profiling.operations import FORMULAS, Flops, operation_flops
from entprog.profiling.repeats import Repeats
from entprog.profiling.states import expected_state_bytes
from entprog.profiling.watching import EveryOperation, first_to_see_gradients, watch_resizing

__all__ = ["CATEGORIES", "Flops", "Meter", "StepCost", "expected_state_bytes"]

ADD = torch.ops.aten.add

CUDA_GRANULARITY = 512
"""torch's CUDA allocator allocates multiples of this many bytes."""


@dataclass(frozen=True, slots=True)
class StepCost:
    """What one optimizer step costs.

    `flops` counts matrix products, convolutions and attention, recomputed ones too; `peak` is the largest sum of
    live bytes during the step, `by_category` its parts, one for each of `CATEGORIES`.
    """

    flops: int
    peak: int
    by_category: dict[str, int] = field(default_factory=dict)


class Meter:
    """Counts while it is entered; read the results afterwards. Numerics do not change.

    Works on real tensors and, entered inside FakeTensorMode, on fake ones, with the same numbers; with FSDP2 it counts
    what this rank holds. A storage counts once however many views it has, from the operation that makes (or first
    reads) it until it is freed, and again when it is resized. Memory that a kernel allocates and frees inside one
    operation is not seen, nor is that of other device types than the model's first parameter.

    Categories, exact in their sum:

    - weights: parameters and buffers of the model, and `held`.
    - gradients: what `.grad` of a parameter holds, from the moment it is computed.
    - optimizer: the optimizer's states. States that a step makes inside count from the start, so the first step
      of a workload measures like any later one; where no step runs inside, the states that parameters with a gradient
      will need are added as far as they can be computed (`expected_state_bytes`).
    - activations: what a forward pass made or read and kept for the backward pass: live when the backward begins,
      or, recomputed under checkpointing, when the backward continues. Inputs, outputs and autocast's copies of
      weights are among them.
    - temporaries: everything else: freed before the backward, made by the backward (gradients of activations), by
      clipping or by the optimizer's step.

    FLOPs of the backward pass belong to the block whose forward made the autograd node that runs (found by sequence
    numbers); what runs in a backward pass while gradients are recorded is recomputation.

    Args:
        model: its parameters are the weights; None counts FLOPs only.
        optimizer: whose states count, or several of them.
        blocks: FLOPs are counted for each of these blocks; what runs outside them counts for "".
        held: further tensors that are always live, such as EMA weights.
        repeated: blocks whose calls without gradient are metered once for each form (profiling/repeats.py): faster,
            with the same figures. Needs a model. Not for compiled blocks, which would then run compiled.
        granularity: every storage is rounded up to a multiple of this many bytes; by default 512 where the model
            is on a CUDA device, as torch's allocator does, else 1.
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        optimizer: optim.Optimizer | Iterable[optim.Optimizer] | None = None,
        *,
        blocks: Iterable[Block] = (),
        held: Iterable[Tensor] = (),
        repeated: Iterable[Block] = (),
        granularity: int | None = None,
    ) -> None:
        self.model = model
        self.optimizers = [optimizer] if isinstance(optimizer, optim.Optimizer) else list(optimizer or ())
        self.blocks = tuple(blocks)
        self._held, self._repeated = tuple(held), tuple(repeated)
        self._repeats: Repeats | None = None
        device = _device_type(model)
        self._ledger = Ledger(device, granularity or (CUDA_GRANULARITY if device == "cuda" else 1))
        self._counts: dict[str, list[int]] = {}
        self._running: list[tuple[str, int]] = []
        self._spans: list[tuple[int, int, str]] = []
        self._graded: set[int] = set()
        self._stepped: set[int] = set()
        self._before_step: dict[Piece, int] | None = None
        self._entered = ExitStack()

    @property
    def flops(self) -> int:
        """FLOPs of everything inside."""
        return self.by_pass.total

    @property
    def by_pass(self) -> Flops:
        """FLOPs by forward, backward and recomputation."""
        return sum(self.by_block.values(), Flops())

    @property
    def by_block(self) -> dict[str, Flops]:
        """FLOPs of each block that ran, all its calls together, and of "" for everything outside."""
        return {name: Flops(*counts) for name, counts in self._counts.items()}

    @property
    def peak(self) -> int:
        """The largest sum of live bytes."""
        return self._ledger.peak

    @property
    def at_peak(self) -> dict[str, int]:
        """Live bytes by category at the peak; nothing without a model."""
        return self._ledger.at_peak() if self.model is not None else {}

    @property
    def live(self) -> dict[str, int]:
        """Live bytes by category now."""
        return self._ledger.live()

    def cost(self) -> StepCost:
        """What was counted so far."""
        return StepCost(self.flops, self.peak, self.at_peak)

    def __enter__(self) -> "Meter":
        with ExitStack() as stack:
            for block in self.blocks:
                enter = block.module.register_forward_pre_hook(partial(self._enter_block, block.name))
                # Checkpointing leaves a recomputed block by an exception once it has all that it needs.
                leave = block.module.register_forward_hook(self._leave_block, always_call=True)
                stack.callback(enter.remove)
                stack.callback(leave.remove)
            if self.model is not None:
                self._count_existing(self.model)
                for parameter in self.model.parameters():
                    if parameter.requires_grad:
                        stack.callback(first_to_see_gradients(parameter, self._label_gradient).remove)
                for optimizer in self._stepping():
                    stack.callback(optimizer.register_step_pre_hook(self._begin_step).remove)
                    stack.callback(optimizer.register_step_post_hook(self._end_step).remove)
                stack.callback(watch_resizing(self._ledger.resized))
            mode = EveryOperation(self.see)
            if self._repeated and self.model is not None:
                self._repeats = Repeats(mode, self._ledger, self._counts)
                for block in self._repeated:
                    stack.enter_context(self._repeats.of(block.module))
            stack.enter_context(mode)
            self._entered = stack.pop_all()
        return self

    def __exit__(self, *details: Any) -> None:
        self._entered.__exit__(*details)
        self._label_gradients()
        for optimizer in self.optimizers:
            if id(optimizer) not in self._stepped:
                self._stepped.add(id(optimizer))
                self._expect_states(optimizer)

    def see(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Count an operation that has just run."""
        in_backward = torch._C._current_graph_task_id() != -1
        recomputing = in_backward and (torch.is_grad_enabled() or bool(self._running))
        if operation in FORMULAS:
            counts = self._counts.setdefault(self._block_now(in_backward and not recomputing), [0, 0, 0])
            place = 0 if not in_backward else 2 if recomputing else 1
            counts[place] += operation_flops(operation, args, kwargs, out)
        if self.model is None:
            return
        ledger, forward = self._ledger, not in_backward or recomputing
        if self._repeats is not None:
            self._repeats.before(operation, args, kwargs)
        if not forward:
            ledger.settle()
        ledger.add_all(args, pending=forward)
        if kwargs:
            ledger.add_all(kwargs.values(), pending=forward)
        ledger.add_all((out,), pending=forward)
        if self._repeats is not None:
            self._repeats.after(operation, args, out)
        if not forward and operation is ADD and _same_shape(*args):
            ledger.join(out, *args)  # gradients of a weight that was used twice
        ledger.mark()

    def _block_now(self, backward: bool) -> str:
        if not backward:
            return self._running[-1][0] if self._running else ""
        node = torch._C._current_autograd_node()
        if node is None:
            return ""
        number = node._sequence_nr()
        place = bisect_right(self._spans, number, key=lambda span: span[0]) - 1
        return self._spans[place][2] if place >= 0 and number < self._spans[place][1] else ""

    def _enter_block(self, name: str, *call: Any) -> None:
        self._running.append((name, torch.autograd._get_sequence_nr()))

    def _leave_block(self, *call: Any) -> None:
        name, first = self._running.pop()
        # Nodes of a recomputation are discarded: the backward runs over those of the first forward.
        if torch._C._current_graph_task_id() == -1:
            self._spans.append((first, torch.autograd._get_sequence_nr(), name))

    def _count_existing(self, model: nn.Module) -> None:
        """Count the tensors that exist before the first operation."""
        for tensor in (*model.parameters(), *model.buffers(), *self._held):
            self._ledger.add(tensor, "weights")
        self._label_gradients()
        for optimizer in self.optimizers:
            self._label_states(optimizer)
        self._ledger.mark()

    def _stepping(self) -> Iterator[optim.Optimizer]:
        """The optimizers; for one that steps in the backward pass, the optimizer inside."""
        for optimizer in self.optimizers:
            yield optimizer
            if isinstance(inside := getattr(optimizer, "inside", None), optim.Optimizer):
                yield inside

    def _begin_step(self, optimizer: optim.Optimizer, *call: Any) -> None:
        """If the step is about to make states, note the peak before it separately: the states belong to it, too."""
        self._label_gradients()
        if next(self._lacking_states(optimizer), None) is not None:
            self._before_step = self._ledger.held_at_peak()
            self._ledger.peak = 0

    def _end_step(self, optimizer: optim.Optimizer, *call: Any) -> None:
        self._stepped.add(id(optimizer))
        made = self._label_states(optimizer)
        if self._before_step is not None:
            before = {**self._before_step, **{piece: piece.size for piece in made}}
            self._before_step = None
            if sum(before.values()) >= self._ledger.peak:
                self._ledger.set_peak(before)

    def _expect_states(self, optimizer: optim.Optimizer) -> None:
        """Add the states that the optimizer's first step will make for the parameters that have a gradient."""
        sizes = [
            self._ledger.rounded(size)
            for group, parameter in self._lacking_states(optimizer)
            for size in expected_state_bytes(optimizer, group, parameter)
        ]
        expected = {Piece(size, "optimizer"): size for size in sizes}
        self._ledger.set_peak({**self._ledger.held_at_peak(), **expected})

    def _lacking_states(self, optimizer: optim.Optimizer) -> Iterator[tuple[dict[str, Any], Tensor]]:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if id(parameter) in self._graded and not optimizer.state.get(parameter):
                    yield group, parameter

    def _label_states(self, optimizer: optim.Optimizer) -> list[Piece]:
        """Categorise the storages of the states, and return those that had no category."""
        members = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        states = [optimizer.state[parameter] for parameter in members if parameter in optimizer.state]
        return [piece for tensor in tensors(states) for piece in self._ledger.label(tensor, "optimizer")]

    def _label_gradients(self) -> None:
        if self.model is not None:
            for parameter in self.model.parameters():
                self._label_gradient(parameter)

    def _label_gradient(self, parameter: Tensor) -> None:
        if parameter.grad is not None:
            self._graded.add(id(parameter))
            self._ledger.label(parameter.grad, "gradients")


def _same_shape(first: Any, second: Any, *rest: Any) -> bool:
    return isinstance(first, Tensor) and isinstance(second, Tensor) and first.shape == second.shape


def _device_type(model: nn.Module | None) -> str:
    first = next(model.parameters(), None) if model is not None else None
    return "cpu" if first is None else first.device.type
