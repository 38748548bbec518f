"""Weights of frozen linear layers in fewer bytes, or off the device, with the originals kept exactly.

A layer whose weight trains is not changed. The weight of a frozen layer is replaced by bfloat16 values, int8 or NF4
codes (or a copy in host memory); each forward, and each backward that passes through, decodes the weight for
the time of one product. Activations do not grow: no weight is kept for the backward.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from statistics import NormalDist
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from entprog.core.blocks import Block
from entprog.savings._mixed_layers import MixedLinear

__all__ = ["BLOCK", "FrozenStorage", "Kind", "computed_in", "decode", "encode", "fresh_tables", "on_host", "original",
           "stored"]  # fmt: skip

Kind = Literal["bf16", "int8", "nf4", "offload"]
KINDS = ("bf16", "int8", "nf4", "offload")
BLOCK = 64
"""Values that share one scale."""

BUFFERS = ("frozen_codes", "frozen_scales")
"""Buffers that a layer holds instead of its weight; they are not part of its state."""


def original(parameter: Tensor) -> Tensor:
    """The original weight of a parameter whose weight is stored; for any other the parameter itself.

    On a CUDA device the originals are in host memory.
    """
    kept: Tensor | None = getattr(parameter, "_entprog_original", None)
    return parameter if kept is None else kept


class FrozenStorage:
    """Follows which linear layers are frozen, and stores their weights as `kind`.

    "bf16" changes nothing where products run in bfloat16, as under autocast, which rounds the weight to the same
    values. "int8" and "nf4" change what the network computes (see `encode` for how much); "offload" does not: the
    weight stays in host memory (pinned for a CUDA device) and is copied for each use, the next one ahead of time
    on a separate stream. A parameter whose weight is stored reads as NaN of the right shape, so a use that bypasses
    the layer is noticed at once. `original` and `whole` give the original weights, bit for bit.

    Args:
        blocks: the model's; only linear layers inside these are stored.
    """

    def __init__(self, blocks: Iterable[Block], kind: Kind) -> None:
        if kind not in KINDS:
            raise ValueError(f"freeze.storage = {kind!r}: choose from full, {', '.join(KINDS)}")
        self.kind = kind
        self._layers = [
            (f"{block.name}.{name}" if name else block.name, module)
            for block in blocks
            for name, module in block.module.named_modules()
            if type(module) in (nn.Linear, MixedLinear) and ".lora_" not in name
        ]
        self._held: dict[str, _Held] = {}
        self._fetcher = _Fetcher()
        self._is_whole = False

    @property
    def held(self) -> tuple[str, ...]:
        """Names of the layers whose weights are stored, in the order of the blocks."""
        return tuple(name for name, _ in self._layers if name in self._held)

    @property
    def layers(self) -> tuple[nn.Module, ...]:
        """The layers whose weights are stored."""
        return tuple(held.layer for held in self._held.values())

    def follow(self) -> None:
        """Store the weights of layers that do not train, and restore those of layers that do; call at each change."""
        before = self.held
        for name, layer in self._layers:
            if any(p.requires_grad for p in layer.parameters(recurse=False)):
                if name in self._held:
                    self._held.pop(name).restore()
            elif name not in self._held:
                self._held[name] = _Held(name, layer, self.kind, self._fetcher)
        if self.held != before:
            self._fetcher.order([self._held[name] for name in self.held])

    def refuse_trained(self) -> None:
        """Raise ValueError where a stored layer was set to train without going through the Freezer."""
        for held in self._held.values():
            held.refuse_trained()

    @contextmanager
    def whole(self) -> Iterator[None]:
        """The network with its original weights: for scores, holdout readings, EMA. Nothing may train inside."""
        held = [] if self._is_whole else list(self._held.values())
        was, self._is_whole = self._is_whole, True
        for each in held:
            each.restore()
        try:
            yield
        finally:
            self._is_whole = was
            for each in held:
                each.take()

    def release(self) -> None:
        """Restore every weight."""
        for held in self._held.values():
            held.restore()
        self._held = {}


class _Held:
    """One layer without its weight."""

    def __init__(self, name: str, layer: nn.Linear, kind: Kind, fetcher: "_Fetcher") -> None:
        self.name, self.layer, self.kind, self.fetcher = name, layer, kind, fetcher
        weight = original(layer.weight).detach()  # one that is rounded on the device is stored by its original
        self.shape, self.dtype, self.device = weight.shape, weight.dtype, layer.weight.device
        self.original = on_host(weight)
        if kind == "nf4":
            _pairs(self.device)  # made here, so that a metered step leaves no new tensors
        self.packed = () if kind == "offload" else encode(weight.to(self.device), kind)
        self.take()

    def take(self) -> None:
        """Replace the layer's weight by the stored one."""
        weight = self.layer.weight
        weight._entprog_original = self.original  # type: ignore[attr-defined]
        weight.data = torch.full((1, 1), torch.nan, dtype=self.dtype, device=self.device).expand(self.shape)
        self.layer.__dict__["forward"] = partial(_forward, self)
        for name, tensor in zip(BUFFERS, self.packed, strict=False):  # where meters look for bytes
            self.layer.register_buffer(name, tensor, persistent=False)

    def restore(self) -> None:
        """Restore the layer."""
        del self.layer.__dict__["forward"]
        for name, _ in zip(BUFFERS, self.packed, strict=False):
            delattr(self.layer, name)
        weight = self.layer.weight
        weight.data = self.original.to(self.device)
        del weight._entprog_original  # type: ignore[attr-defined]

    def weight(self, dtype: torch.dtype, *, backward: bool) -> Tensor:
        """The weight on its device, [out, in], for one use; in `dtype` where it is decoded."""
        if self.kind != "offload":
            return decode(self.packed, self.kind, self.shape, dtype)
        if self.device.type == "cpu":
            return self.original
        return self.fetcher.fetch(self, backward=backward)

    def used(self) -> None:
        """To be called after the use of what `weight` returned."""
        if self.kind == "offload" and self.device.type != "cpu":
            self.fetcher.used(self)

    def refuse_trained(self) -> None:
        parameters = [self.layer.weight] if self.layer.bias is None else [self.layer.weight, self.layer.bias]
        if any(p.requires_grad for p in parameters):
            raise ValueError(
                f"layer {self.name!r} is set to train, but its weight is stored as {self.kind!r}: use the Freezer's "
                'train_only, which restores the original first, or set freeze.storage = "full"'
            )


def stored(layer: nn.Module) -> _Held | None:
    """What holds a layer's weight in its place, ready for one use; None where the layer has it.

    Raises:
        ValueError: the layer was set to train without going through the Freezer.
    """
    forward = layer.__dict__.get("forward")
    if not isinstance(forward, partial) or forward.func is not _forward:
        return None
    held: _Held = forward.args[0]
    held.refuse_trained()
    return held


def _forward(held: _Held, x: Tensor) -> Tensor:
    """A linear layer's forward with a weight that exists only here."""
    held.refuse_trained()
    out: Tensor = _Linear.apply(x, held.layer.bias, held)  # type: ignore[no-untyped-call]
    return out


class _Linear(torch.autograd.Function):
    """y = x W^T + b; dL/dx = dL/dy W, with W decoded in each direction; W and b get no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, held: _Held) -> Tensor:
        ctx.held, ctx.dtype = held, x.dtype
        if bias is not None and not torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.promote_types(x.dtype, bias.dtype))
        dtype = computed_in(x)
        out = functional.linear(x, held.weight(dtype, backward=False).to(dtype), bias)
        held.used()
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None]:
        if not ctx.needs_input_grad[0]:
            return None, None, None
        weight = ctx.held.weight(gradient.dtype, backward=True).to(gradient.dtype)
        through = (gradient @ weight).to(ctx.dtype)
        ctx.held.used()
        return through, None, None


def computed_in(x: Tensor) -> torch.dtype:
    """The dtype in which a product with x runs: that of autocast, else that of x."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


@dataclass
class _Slot:
    """Device memory for one weight: what it holds, and the events of its arrival and of its last use."""

    buffer: Tensor
    place: int = -1
    arrived: Any = None
    used: Any = None


class _Fetcher:
    """Copies weights from pinned memory to a CUDA device, the next one while the present one is in use.

    Two slots of the largest weight's size alternate; events on both streams keep a copy from overwriting one in use.
    """

    def __init__(self) -> None:
        self.layers: list[_Held] = []
        self.places: dict[int, int] = {}
        self.slots: list[_Slot] = []
        self.stream: Any = None

    def order(self, layers: list[_Held]) -> None:
        """Layers in the order in which the forward meets them."""
        if self.stream is not None:
            self.stream.synchronize()
        self.layers, self.places, self.slots = layers, {id(held): k for k, held in enumerate(layers)}, []

    def fetch(self, held: _Held, *, backward: bool) -> Tensor:
        """The weight on the device, to be used once on the current stream, followed by a call of `used`."""
        place = self.places[id(held)]
        slot = self._slot(place) or self._send(place, avoid=-1)
        following = place - 1 if backward else place + 1
        if 0 <= following < len(self.layers) and self._slot(following) is None:
            self._send(following, avoid=place)
        torch.cuda.current_stream(held.device).wait_event(slot.arrived)
        return slot.buffer[: held.shape.numel()].view(held.shape)

    def used(self, held: _Held) -> None:
        """The use of a weight is queued on the current stream: later copies may overwrite it after that."""
        slot = self._slot(self.places[id(held)])
        if slot is not None:
            slot.used.record(torch.cuda.current_stream(held.device))

    def _slot(self, place: int) -> _Slot | None:
        return next((slot for slot in self.slots if slot.place == place), None)

    def _send(self, place: int, *, avoid: int) -> _Slot:
        held = self.layers[place]
        if self.stream is None:
            self.stream = torch.cuda.Stream(held.device)  # type: ignore[no-untyped-call]
        if not self.slots:
            most = max(each.shape.numel() for each in self.layers)
            self.slots = [
                _Slot(
                    torch.empty(most, dtype=held.dtype, device=held.device),
                    arrived=torch.cuda.Event(),  # type: ignore[no-untyped-call]
                    used=torch.cuda.Event(),  # type: ignore[no-untyped-call]
                )
                for _ in range(2)
            ]
            self.stream.wait_stream(torch.cuda.current_stream(held.device))
        slot = next(slot for slot in self.slots if slot.place != avoid)
        slot.place = place
        with torch.cuda.stream(self.stream):
            self.stream.wait_event(slot.used)
            slot.buffer[: held.shape.numel()].copy_(held.original.flatten(), non_blocking=True)
            slot.arrived.record(self.stream)
        return slot


@torch.no_grad()
def encode(weight: Tensor, kind: str) -> tuple[Tensor, ...]:
    """Codes and scales of a weight: each `BLOCK` values in a row are divided by their largest magnitude.

    "bf16": the weight in bfloat16, without scales; off by at most 1/256 of each value. "int8": codes
    round(127 w / s), one byte a value; off by at most s / 254. "nf4": the nearest of 16 quantiles of a normal
    distribution (arXiv 2305.14314, appendix E), two values a byte. Scales are float32. For normal weights the root
    mean square error is about 0.6 % (int8) and 9 % (NF4) of the weights' own.

    Returns:
        codes [ceil(n / BLOCK) * BLOCK] int8, or half as many uint8, and scales [ceil(n / BLOCK)]; of "bf16" the weight.
    """
    if kind == "bf16":
        return (weight.detach().to(torch.bfloat16),)
    flat = weight.detach().float().flatten()
    rows = functional.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    scales = rows.abs().amax(1)
    relative = rows / scales.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
    if kind == "int8":
        return (relative * 127).round().to(torch.int8).flatten(), scales
    levels = torch.tensor(normal_levels(), device=weight.device)
    places = torch.bucketize(relative, (levels[1:] + levels[:-1]) / 2).to(torch.uint8).view(-1, 2)
    return places[:, 0] << 4 | places[:, 1], scales


@torch.no_grad()
def decode(packed: tuple[Tensor, ...], kind: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """The weight [out, in] that `encode` packed, up to the rounding of its codes."""
    if kind == "bf16":
        return packed[0].to(dtype)
    codes, scales = packed
    if kind == "int8":
        rows = codes.float().view(-1, BLOCK).mul_((scales / 127)[:, None])
    else:
        rows = _pairs(codes.device)[codes.int()].view(-1, BLOCK) * scales[:, None]
    return rows.to(dtype).flatten()[: shape.numel()].view(shape)


@cache
def normal_levels() -> tuple[float, ...]:
    """The 16 values of NF4: 8 quantiles of a normal distribution above zero, 7 below, and zero, scaled to -1..1."""
    end = 0.9677083  # half of a sixteenth, averaged over both sides, is beyond the outermost levels
    normal = NormalDist()
    above = [normal.inv_cdf(end + (0.5 - end) * k / 8) for k in range(8)]
    below = [-normal.inv_cdf(end + (0.5 - end) * k / 7) for k in range(7)]
    return tuple(sorted(value / above[0] for value in (*above, 0.0, *below)))


@contextmanager
def fresh_tables() -> Iterator[None]:
    """Inside, tables are new, and they are dropped at the end: tables of fake tensors must not be used later."""
    _pairs.cache_clear()
    try:
        yield
    finally:
        _pairs.cache_clear()


@cache
def _pairs(device: torch.device) -> Tensor:
    """The two values behind each byte, [256, 2]."""
    levels = torch.tensor(normal_levels(), device=device)
    return torch.stack([levels.repeat_interleave(16), levels.repeat(16)], 1)


def on_host(weight: Tensor) -> Tensor:
    """The weight in host memory; on a CPU itself."""
    if weight.device.type == "cpu":
        return weight
    return torch.empty(weight.shape, dtype=weight.dtype, pin_memory=True).copy_(weight)
