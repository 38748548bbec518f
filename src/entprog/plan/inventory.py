"""What the blocks of a network consist of, by shape: all of it, its linear layers, and adapters beside these."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from math import prod
from typing import NamedTuple

from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from entprog.profiling.subject import Subject
from entprog.savings._mixed_layers import MixedLinear
from entprog.savings.frozen_storage import BLOCK
from entprog.savings.weight_precision import trained_sizes


class Tensors(NamedTuple):
    """A kind of parameter: its shape, and the bytes of one value."""

    shape: tuple[int, ...]
    size: int

    @property
    def values(self) -> int:
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.values * self.size


Parts = Counter[Tensors]


class Inventory:
    """Every parameter of a network, counted once without allocating any of it.

    Attributes:
        outside: parameters in no block: "inputs" stand before the blocks, "heads" behind them.
        buffers: bytes of all buffers, such as tables of positions.
        trained_size: bytes of a value that rests -> bytes while it trains, where they differ.
    """

    def __init__(self, subject: Subject) -> None:
        self._members: dict[str, dict[str, Tensors]] = {}
        self._modules: dict[str, list[str]] = {}
        self._linear: dict[str, list[str]] = {}
        with FakeTensorMode():
            model, names = subject.build(range(len(subject.units)))
            self.trained_size = trained_sizes(model)
            self.buffers = sum(buffer.nbytes for buffer in model.buffers())
            inside: set[int] = set()
            for name in (name for unit in names for name in unit):
                block = model.get_submodule(name)
                self._members[name] = {path: _described(p) for path, p in block.named_parameters()}
                self._modules[name] = [path for path, _ in block.named_modules()]
                self._linear[name] = [
                    path for path, each in block.named_modules() if type(each) in (nn.Linear, MixedLinear)
                ]
                inside |= {id(p) for p in block.parameters()}
            left = [(path, _described(p)) for path, p in model.named_parameters() if id(p) not in inside]
        heads = subject.heads
        self.outside = {
            "inputs": Counter(kind for path, kind in left if not path.startswith(heads)),
            "heads": Counter(kind for path, kind in left if path.startswith(heads)),
        }

    @property
    def blocks(self) -> list[str]:
        """Names of all blocks of the whole network."""
        return list(self._members)

    def whole(self, name: str) -> Parts:
        """All parameters of a block."""
        return Counter(self._members[name].values())

    def everything(self) -> Parts:
        """All parameters of the network."""
        return total([*map(self.whole, self._members), *self.outside.values()])

    def spared(self, name: str, patterns: Iterable[str]) -> tuple[str, ...]:
        """Modules of a block that match one of `patterns` (`*`: one dotted part); "" is the block itself."""
        wanted = [pattern.split(".") for pattern in patterns]
        paths = self._modules[name]
        return tuple(p for p in paths if any(matches(f"{name}.{p}".strip(".").split("."), w) for w in wanted))

    def beside_adapters(self, name: str, spared: Sequence[str]) -> Parts:
        """What of a block trains in full beside adapters: the parameters of the spared modules."""
        return Counter(kind for path, kind in self._members[name].items() if _inside(path, spared))

    def adapters(self, name: str, rank: int, spared: Sequence[str]) -> Parts:
        """Low-rank adapters of all linear layers of a block but those in spared modules, in float32."""
        found: Parts = Counter()
        for kind in self._weights(name, spared):
            outputs, inputs = kind.shape
            found.update([Tensors((rank, inputs), 4), Tensors((outputs, rank), 4)])
        return found

    def held(self, name: str, spared: Sequence[str]) -> Parts:
        """Weights of the linear layers of a block that frozen storage takes: all but those in spared modules."""
        return Counter(self._weights(name, spared))

    def _weights(self, name: str, spared: Sequence[str]) -> list[Tensors]:
        members = self._members[name]
        return [members[f"{path}.weight".strip(".")] for path in self._linear[name] if not _inside(path, spared)]


def packed_bytes(parts: Parts, kind: str) -> int:
    """Bytes on the device of linear layers' weights held as `freeze.storage = kind`.

    Each holds codes and a float32 scale for `BLOCK` values, and one value in the weight's place. "offload" has
    room for two of the largest.
    """
    placeholders = sum(each.size * count for each, count in parts.items())
    if kind == "offload":
        return placeholders + 2 * max((each.bytes for each in parts), default=0)
    if kind == "bf16":
        return placeholders + 2 * counted(parts)
    width = BLOCK if kind == "int8" else BLOCK // 2
    return placeholders + sum(-(-each.values // BLOCK) * (width + 4) * count for each, count in parts.items())


def total(parts: Iterable[Parts]) -> Parts:
    """All of them together."""
    found: Parts = Counter()
    for part in parts:
        found.update(part)
    return found


def counted(parts: Parts) -> int:
    """Values in all."""
    return sum(kind.values * times for kind, times in parts.items())


def weighed(parts: Parts) -> int:
    """Bytes in all."""
    return sum(kind.bytes * times for kind, times in parts.items())


def matches(parts: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether a dotted name is as the pattern says, `*` for any one part."""
    return len(parts) == len(wanted) and all(w in ("*", p) for w, p in zip(wanted, parts, strict=True))


def _inside(path: str, spared: Collection[str]) -> bool:
    return any(not other or f"{path}.".startswith(f"{other}.") for other in spared)


def _described(parameter: nn.Parameter) -> Tensors:
    return Tensors(tuple(parameter.shape), parameter.element_size())
