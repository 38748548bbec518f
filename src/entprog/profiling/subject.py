"""What a plan simulates: a network by its repeating units, and what a step of it depends on."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from entprog.core.types import Shape


@dataclass(frozen=True, slots=True)
class Case:
    """Everything but the active blocks that a step's bytes and operations depend on.

    Attributes:
        shape: of one micro-batch.
        pose: whether the model sees poses.
        temporal_off: whether temporal blocks are left out.
        outside: whether parameters outside the blocks train.
        inputs: whether those of them train that stand before the blocks.
        checkpointing: whether activations are recomputed.
        precision: "no", "bf16" or "fp16", of the forward pass.
        fused: attention as on a GPU, by the fused kernel at every length, and layer norms in float32 under autocast.
        low_rank: rank of adapters that train in place of the own weights of some blocks; 0 for none.
        spared: modules of such blocks that train in full (`method_options.full`).
        new_rest: whether new blocks without adapters rest throughout, so that they are left out.
        storage: how weights of frozen blocks' linear layers are held, as `freeze.storage` names it.
        references: different references whose frozen states are known from earlier steps, at most; 0: the whole
            reference pass is run at each step.
        echo: whether what the frozen blocks below the lowest active one make of the batch is known from before.
        averaged: whether averaged weights are kept.
        accumulation: micro-batches of a step.
        in_backward: whether the optimizer steps in the backward pass and frees each gradient there.
        widened: whether trained weights have the type that training gives them; False while blocks are ranked, which
            happens with all weights as they rest.
    """

    shape: Shape
    pose: bool = True
    temporal_off: bool = False
    outside: bool = True
    inputs: bool = True
    checkpointing: bool = False
    precision: str = "no"
    fused: bool = False
    low_rank: int = 0
    spared: tuple[str, ...] = ()
    new_rest: bool = False
    storage: str = "full"
    references: int = 0
    echo: bool = False
    averaged: bool = False
    accumulation: int = 1
    in_backward: bool = False
    widened: bool = True


class Subject(Protocol):
    """A network by its units: `units[i]` names the blocks of unit i in the whole network, `kinds[i]` its build."""

    name: str
    units: tuple[tuple[str, ...], ...]
    kinds: tuple[str, ...]
    heads: tuple[str, ...]
    """Beginnings of the names of parameters that stand behind all blocks."""
    routed: frozenset[str]
    """Blocks that see a share of the tokens only, where the shape says so."""

    def build(self, places: Sequence[int]) -> tuple[nn.Module, list[tuple[str, ...]]]:
        """The network of only these units of the whole (indices, ascending), and the names its blocks have then."""
        ...

    def step(self, model: nn.Module, case: Case) -> Callable[[], Callable[[], Tensor]]:
        """A step in two calls: the first allocates its inputs, the second runs the forward pass and gives the loss."""
        ...

    def check(self, shape: Shape) -> None:
        """Refuse a shape that the network does not take, as training does.

        Raises:
            ValueError: naming the key and the nearest values that it takes.
        """
        ...

    def frames(self, shape: Shape, limit: int) -> list[int]:
        """Numbers of frames up to `limit` that the network takes at this shape's resolution."""
        ...

    def resolutions(self, shape: Shape, limit: int) -> list[Shape]:
        """This shape at every resolution that the network takes, the shorter side up to `limit`, rising."""
        ...

    def new_modules(self) -> tuple[str, ...]:
        """Patterns of untrained modules inside blocks, as `Task.new_modules`."""
        ...

    def family(self, name: str) -> tuple[str, ...]:
        """Blocks of the whole network that a phase with `blocks = name` may train, in their order."""
        ...

    def references(self, drawn: int) -> int:
        """Different references among so many samples of the training data, at most; 0 where there is no reference."""
        ...

    def new_rests(self) -> bool:
        """Whether some blocks are new, so that they are the identity as long as they do not train."""
        ...

    def leave_out(self, model: nn.Module, names: Collection[str]) -> None:
        """Run `model` without those of the blocks `names` (as `build` names them) that are the identity."""
        ...

    def reference_bytes(self, case: Case, trained: Collection[str]) -> int:
        """Bytes of the states that are known of one reference where these blocks train."""
        ...

    def hidden_bytes(self, case: Case) -> int:
        """Bytes of the hidden states of a micro-batch at one place of the network."""
        ...
