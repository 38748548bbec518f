"""`attach(..., prefix_cache=N)`: frozen blocks below the lowest active one are not run on a batch that comes again."""

import warnings
import weakref
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.utils._pytree import tree_leaves

from entprog.core.blocks import Blocks
from entprog.core.sharded import is_sharded
from entprog.core.skip import PLAIN
from entprog.core.swap import swapped_forward
from entprog.integrations.prefix_calls import Kept, Pass, State, in_backward, nbytes, random_state

__all__ = ["KnownBatches", "check_can_skip"]

LEAVE_OUT = "leave prefix_cache out"


def check_can_skip(model: nn.Module, keep: int, probe: Sequence[Any]) -> None:
    """What rules a prefix cache out before anything is run.

    Raises:
        ValueError: a negative size, no probe, sharded or compiled modules.
    """
    if keep < 0:
        raise ValueError(f"prefix_cache = {keep}: give the count of batches to keep, or 0 for none")
    if not keep:
        return
    if not probe:
        raise ValueError("prefix_cache: needs a draw to see whether the model is a single stack; give probe")
    if any(is_sharded(p) for p in model.parameters()):
        raise ValueError(
            f"prefix_cache = {keep}: under fully_shard every process must run every block; {LEAVE_OUT}, or use "
            "DistributedDataParallel"
        )
    if any(m._compiled_call_impl is not None or hasattr(m, "_orig_mod") for m in model.modules()):
        raise ValueError(f"prefix_cache = {keep}: compiled code can't leave out blocks; {LEAVE_OUT}, or don't compile")


class KnownBatches:
    """Outputs of the block below the lowest active one, for batches that come again.

    On a batch of a new key the model runs in full, and the output of the last frozen block is kept as it is, on its
    device. On a known key that block returns what was kept and those below it are not run: they return tensors of NaN
    of the shapes that they had, so that a use of their outputs is seen in the loss. Blocks from the lowest active one
    on run as ever, gradient checkpointing included.

    The model runs in full, and nothing is kept, where anything below the lowest active block requires a gradient
    (parameters of blocks, `inputs`, tensors that the model is called with), where random numbers are drawn there, or
    where a buffer changes (batch norm in train mode). All is dropped when the lowest active block, a frozen parameter,
    a buffer, a module's mode or autocast changes. Not noticed: frozen weights that are written through `.data`.

    Args:
        model: its own call is what counts, within `batch`.
        blocks: in the order of execution.
        inputs: parameters outside of blocks that the model reads before its last block has ended.
        inputs_train: whether some of `inputs` train in some steps, for a summary.
        keep: batches that are kept at most; the oldest is dropped first.

    Attributes:
        nbytes: the most that one batch of the probe's size takes.
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: Blocks,
        optimizer: optim.Optimizer,
        *,
        inputs: Sequence[nn.Parameter],
        inputs_train: bool,
        keep: int,
    ) -> None:
        self.model, self.blocks, self.keep, self.inputs_train = model, blocks, keep, inputs_train
        self.nbytes = 0
        self._inputs = tuple(inputs)
        self._kept: dict[Hashable, list[Kept]] = {}
        self._state: State | None = None
        self._key: Hashable = None
        self._calls = 0  # of the model, within `batch`
        self._pass: Pass | None = None
        self._warned: set[str] = set()
        self._hook = optimizer.register_step_post_hook(self._note_step)

    def __len__(self) -> int:
        """How many batches are kept."""
        return len(self._kept)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @contextmanager
    def batch(self, key: Hashable) -> Iterator[None]:
        """Around forward and backward on one batch; see `Method.batch`."""
        if key is None or not self.keep:
            yield
            return
        if self._key is not None:
            raise ValueError(f"batch({key!r}): inside batch({self._key!r}); end that one first")
        self._key, self._calls = key, 0
        try:
            with self._watched(self._opened):
                yield
        finally:
            self._key = None
        if not self._calls:
            self._warn(
                "the attached model was not called inside method.batch(...), or ran as compiled code: steps run in full"
            )

    def clear(self) -> None:
        """Drop every batch."""
        self._kept.clear()
        self._state = None

    def remove(self) -> None:
        """Drop every batch and keep none from now on."""
        self.clear()
        self.keep = 0
        self._hook.remove()

    def remover(self) -> Callable[[], None]:
        """`remove`, as a function that does not keep the model alive."""
        known = weakref.ref(self)

        def remove() -> None:
            if (found := known()) is not None:
                found.remove()

        return remove

    @torch.no_grad()
    def check(self, predict: Callable[[], Tensor]) -> None:
        """Predict once in full and once from each block on; all predictions must be equal bit for bit.

        Raises:
            ValueError: they are not, or blocks are not called once each and in order.
        """
        passes: list[Pass] = []

        def predicted(place: int, answers: list[Any]) -> Tensor:
            """The prediction with the blocks below `place` answered; `answers` gets one more."""
            passes.clear()

            def opened(leaves: list[Any]) -> Pass:
                passes.append(Pass(place, place + 1, answers, total))
                return passes[-1]

            with self._watched(opened):
                return predict().clone()

        total = len(self.blocks)
        answers: list[Any] = []
        plain = predicted(0, answers)
        if len(passes) != 1:
            times = f"{len(passes)} times" if passes else "never"
            raise ValueError(f"prefix_cache: predict calls the attached model {times} instead of once; {LEAVE_OUT}")
        if passes[0].broken or passes[0].count != total:
            raise ValueError(
                f"prefix_cache: the model calls its {total} blocks {passes[0].count} times or out of order, so it is "
                f"no single stack; {LEAVE_OUT}"
            )
        if not plain.isfinite().all():
            raise ValueError(f"prefix_cache: the prediction for probe[0] is not finite; mend it, or {LEAVE_OUT}")
        for place in range(1, total + 1):
            self.nbytes = max(self.nbytes, nbytes(answers[-1]))
            name = self.blocks.names[place - 1]
            for leaf in tree_leaves(answers[-1]):
                if not isinstance(leaf, (Tensor, *PLAIN)):
                    raise ValueError(
                        f"prefix_cache: block {name!r} returns a {type(leaf).__name__}, which can't be kept; "
                        f"{LEAVE_OUT}"
                    )
            try:
                same = torch.equal(predicted(place, answers), plain)
            except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
                raise ValueError(self._no_stack(name)) from error
            if not same:
                raise ValueError(self._no_stack(name))

    def _no_stack(self, name: str) -> str:
        return (
            f"prefix_cache: with the output of block {name!r} given and the blocks below it not run, the prediction is "
            f"another: the model reads more of them than that (long skip connections), so it is no single stack; "
            f"{LEAVE_OUT}"
        )

    @contextmanager
    def _watched(self, opened: Callable[[list[Any]], "Pass | None"]) -> Iterator[None]:
        """Inside, `opened` is asked at each call of the model, with the leaves of its arguments, what its blocks do."""

        def begin(module: nn.Module, args: Any, kwargs: Any) -> None:
            if not torch.compiler.is_compiling() and not in_backward():
                self._pass = None
                self._pass = opened(tree_leaves((args, kwargs)))

        def end(module: nn.Module, args: Any, output: Any) -> None:
            if not torch.compiler.is_compiling() and not in_backward():
                done, self._pass = self._pass, None
                if done is not None:
                    done.ended()

        with ExitStack() as stack:
            stack.callback(self.model.register_forward_pre_hook(begin, with_kwargs=True).remove)
            stack.callback(self.model.register_forward_hook(end).remove)
            for place, block in enumerate(self.blocks):
                stack.enter_context(swapped_forward(block.module, self._forward(place, block.module.forward)))
            try:
                yield
            finally:
                self._pass = None

    def _forward(self, place: int, original: Callable[..., Any]) -> Callable[..., Any]:
        """The forward that replaces that of a block within `batch`."""
        answered = 0

        def forward(*args: Any, **kwargs: Any) -> Any:
            nonlocal answered
            if torch.compiler.is_compiling():
                return original(*args, **kwargs)
            if in_backward():
                if answered:
                    raise ValueError(
                        f"prefix_cache: checkpointing runs block {self.blocks.names[place]!r}, which was not run, "
                        "again in a backward; checkpoint single blocks, as attach(gradient_checkpointing=True) does"
                    )
                return original(*args, **kwargs)
            if self._pass is None:
                return original(*args, **kwargs)
            answered += self._pass.entrance > place
            return self._pass.call(place, lambda: original(*args, **kwargs))

        return forward

    def _opened(self, leaves: list[Any]) -> "Pass | None":
        """What blocks do in a call of the model on the present batch."""
        number, self._calls = self._calls, self._calls + 1
        entrance = self._entrance()
        grown = any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in leaves)
        if not entrance or grown or torch.is_inference_mode_enabled():
            return None
        if self._state is None or not self._state.holds(self.model, self.blocks, entrance):
            self.clear()
            self._state = State.of(self.model, self.blocks, entrance)
        key, state = self._key, self._state
        kept = self._kept.get(key, [])
        if number < len(kept):
            if not kept[number].fits(leaves):
                raise ValueError(
                    f"batch({key!r}): the model is called with other inputs than the first time; give a key only to "
                    "batches with the same samples, noise, noise levels and conditions"
                )
            return Pass(entrance, entrance, kept[number].answers, len(self.blocks))
        given = [leaf.detach().clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]

        def complete(recorded: Pass) -> None:
            if recorded.broken or self._state is not state or number != len(self._kept.get(key, [])):
                return
            self._kept.setdefault(key, []).append(Kept(given, recorded.answers))
            while len(self._kept) > self.keep:
                del self._kept[next(iter(self._kept))]

        before = random_state(self.device)

        def reached(recorded: Pass) -> None:
            """The last frozen block has ended."""
            if before != random_state(self.device):
                recorded.broken = True
                self._warn(
                    "random numbers are drawn in or before the frozen blocks (dropout in train mode), so a batch "
                    "is never the same again: steps run in full; call .eval() on these modules"
                )
            elif not state.holds(self.model, self.blocks, entrance):
                recorded.broken = True
                self._warn(
                    "a buffer or a mode changes in or before the frozen blocks (batch norm in train mode), so a batch "
                    "is never the same again: steps run in full; call .eval() on these modules"
                )

        return Pass(0, entrance, [], len(self.blocks), reached, complete)

    def _entrance(self) -> int:
        """The place of the lowest block that trains; 0 where an input-side parameter does."""
        if any(p.requires_grad for p in self._inputs):
            return 0
        training = (k for k, block in enumerate(self.blocks) if any(p.requires_grad for p in block.parameters()))
        return next(training, len(self.blocks))

    def _note_step(self, *step: Any) -> None:
        """What an optimizer has trained is no longer as it was, whether or not its kernels say so."""
        if self._state is not None and self._entrance() < self._state.entrance:
            self.clear()

    def _warn(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(f"prefix_cache: {message}", stacklevel=2)
