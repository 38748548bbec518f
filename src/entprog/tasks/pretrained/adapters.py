"""Pose adapters inside a pretrained network: zero-initialised, so that a new one changes nothing.

Shape legend: B samples, F pixel frames, T token frames, N tokens of a frame, D width, g pixel frames of a token frame.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from entprog.core.blocks import Blocks
from entprog.data.posemap import draw_pose
from entprog.nets.conditioning import POSE_WIDTH, pose_features

__all__ = ["PoseAdapters", "Side", "pose_maps", "pose_tokens", "shown", "side_of"]

PIXELS = 8
"""Pixels of a pose map for each side of a token."""


def pose_maps(keypoints: np.ndarray, grid: tuple[int, int]) -> Tensor:
    """Pose maps uint8 [..., 3, 8 rows, 8 columns] of keypoints [..., 18, 3], x and y in 0..1 of width and height."""
    rows, columns = grid
    side = max(grid)
    scaled = np.array(keypoints, np.float32)
    scaled[..., 0] *= columns / side
    scaled[..., 1] *= rows / side
    maps = draw_pose(scaled, PIXELS * side)[..., : PIXELS * rows, : PIXELS * columns, :]
    return torch.from_numpy(np.ascontiguousarray(maps)).movedim(-1, -3)


def pose_tokens(maps: Tensor, frames: int, group: int, grid: tuple[int, int]) -> Tensor:
    """What is under each token: [B, frames * N, group * 192] of maps [B, F, 3, H, W] in 0..1.

    A token frame stands for `group` pixel frames. The first pixel frame is repeated in front, as causal VAEs encode it
    by itself.
    """
    features = pose_features(maps, grid)
    missing = frames * group - features.shape[1]
    features = torch.cat([features[:, :1].expand(-1, missing, -1, -1), features], 1) if missing > 0 else features
    samples, _, places, depth = features.shape
    grouped = features[:, : frames * group].view(samples, frames, group, places, depth).transpose(2, 3)
    return grouped.reshape(samples, frames * places, group * depth)


def shown(maps: Tensor, frames: int, front: int, group: int, grid: tuple[int, int]) -> Tensor:
    """`pose_tokens` for `frames` token frames, of which the first `front` are blank: those in front of the clip."""
    tokens = pose_tokens(maps, frames - front, group, grid)
    blank = tokens.new_zeros(len(tokens), front * grid[0] * grid[1], tokens.shape[-1])
    return torch.cat([blank, tokens], 1)


class Side:
    """What adapters read beside the network's own arguments, set before each call of the network.

    It stays set until the next call, as recomputation reads it in the backward. A copy of the network has an empty one
    of its own.
    """

    pose: Tensor | None = None
    control: Tensor | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "Side":
        return memo.setdefault(id(self), Side())  # type: ignore[no-any-return]


class PoseAdapter(nn.Module):
    """A zero-initialised linear map of the pose features under each token, added to the tokens of a block."""

    def __init__(self, side: Side, depth: int, width: int, like: Tensor) -> None:
        super().__init__()
        self.side = side
        self.proj = nn.Linear(depth, width, device=like.device, dtype=torch.float32)
        nn.init.zeros_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def forward(self, hidden_states: Tensor) -> Tensor:
        pose = self.side.pose
        if pose is None:
            return hidden_states
        if hidden_states.shape[1] < pose.shape[1]:  # each frame is a sample of its own
            pose = pose.reshape(-1, hidden_states.shape[1], pose.shape[-1])
        repeats = hidden_states.shape[0] // pose.shape[0]  # classifier-free guidance runs both in one batch
        added = self.proj(pose.to(self.proj.weight.dtype).repeat(repeats, 1, 1))
        return hidden_states + added.to(hidden_states.dtype)


def with_adapter(kind: type[nn.Module]) -> type[nn.Module]:
    """A block's class that adds its pose adapter to the tokens that come in.

    One class for all blocks of a class: discovery and sharding recognise stacks by it.
    """
    return _with_adapter(kind)  # type: ignore[arg-type]


@cache
def _with_adapter(kind: type[Any]) -> type[nn.Module]:

    class Posed(kind):  # type: ignore[misc, valid-type]
        @wraps(kind.forward)
        def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            return super().forward(self.pose_adapter(hidden_states), *args, **kwargs)

    Posed.__name__ = Posed.__qualname__ = kind.__name__
    return Posed


class Control(nn.Module):
    """A zero-initialised copy of the module that embeds the latents, for control latents; its output is added.

    Args:
        channels: of the control latents in the layout of the module's input (`Family.control`).
    """

    def __init__(self, side: Side, entrance: nn.Module, channels: int) -> None:
        super().__init__()
        self.side = side
        like = entrance.weight
        if isinstance(entrance, nn.Linear):
            self.proj: nn.Module = nn.Linear(channels, entrance.out_features, device=like.device)
        else:
            settings = {name: getattr(entrance, name) for name in ("kernel_size", "stride", "padding")}
            self.proj = type(entrance)(channels, entrance.out_channels, device=like.device, **settings)
        for parameter in self.proj.parameters():
            nn.init.zeros_(parameter)

    def forward(self, embedded: Tensor) -> Tensor:
        if self.side.control is None:
            return embedded
        control = self.side.control
        added = self.proj(control.to(next(self.proj.parameters()).dtype)).to(embedded.dtype)
        return embedded + added.repeat(embedded.shape[0] // added.shape[0], *[1] * (added.dim() - 1))


@cache
def with_control(kind: type[Any]) -> type[nn.Module]:
    """The class of an embedding that adds what its `control` makes of the control latents."""

    class Controlled(kind):  # type: ignore[misc, valid-type]
        @wraps(kind.forward)
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return self.control(super().forward(*args, **kwargs))

    Controlled.__name__ = Controlled.__qualname__ = kind.__name__
    return Controlled


def side_of(network: nn.Module) -> Side | None:
    """The side that the adapters of a network read; None without adapters."""
    for module in network.modules():
        side = getattr(module, "side", None)
        if isinstance(side, Side):
            return side
    return None


class PoseAdapters:
    """The adapters of a network: puts them on, takes them off for a while, and names their tensors.

    Args:
        hosts: the modules that get one, by name: the module with its class and the attribute of the adapter.
    """

    def __init__(self, side: Side, hosts: Mapping[str, tuple[nn.Module, type[nn.Module], str]]) -> None:
        self.side, self.hosts = side, dict(hosts)

    @classmethod
    def at_blocks(
        cls, blocks: Blocks, depth: int, width: int, build: Callable[[Side, nn.Module], nn.Module] | None = None,
        posed: Callable[[type[nn.Module]], type[nn.Module]] = with_adapter,
    ) -> Self:  # fmt: skip
        """An adapter in each of these blocks, whose tokens are of this width; `depth`: numbers under a token."""
        side, hosts = Side(), {}
        for block in blocks:
            kind, module = type(block.module), block.module
            like = next(block.parameters())
            module.pose_adapter = build(side, module) if build else PoseAdapter(side, depth, width, like)
            module.__class__ = posed(kind)
            hosts[block.name] = (module, kind, "pose_adapter")
        return cls(side, hosts)

    @classmethod
    def at_entrance(cls, network: nn.Module, entrance: str, channels: int) -> Self:
        """One adapter for control latents at the module that embeds the latents; `channels`: see `Control`."""
        side, module = Side(), network.get_submodule(entrance)
        kind = type(module)
        module.control = Control(side, module, channels)
        module.__class__ = with_control(kind)  # type: ignore[arg-type]
        return cls(side, {entrance: (module, kind, "control")})

    @contextmanager
    def off(self) -> Iterator[None]:
        """The bare network, as diffusers knows it."""
        worn = []
        for module, kind, name in self.hosts.values():
            worn.append((module, type(module), name, module._modules.pop(name)))
            module.__class__ = kind
        try:
            yield
        finally:
            for module, kind, name, adapter in worn:
                module.__class__ = kind
                setattr(module, name, adapter)

    def remove(self) -> None:
        """Take them off for good."""
        for module, kind, name in self.hosts.values():
            del module._modules[name]
            module.__class__ = kind

    def tensors(self) -> dict[str, Tensor]:
        """The adapters' parameters by their full name in the network."""
        found = {}
        for host, (module, _, name) in self.hosts.items():
            for key, parameter in getattr(module, name).named_parameters():
                found[f"{host}.{name}.{key}"] = parameter.detach()
        return found

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Fill the adapters.

        Raises:
            ValueError: a tensor is missing, of another shape, or of no adapter of this network.
        """
        own = self.tensors()
        wrong = sorted(own.keys() ^ tensors.keys()) or [n for n in own if own[n].shape != tensors[n].shape]
        if wrong:
            raise ValueError(
                f"pose adapters: these are of another model ({wrong[0]} and {len(wrong) - 1} more do not fit); "
                "give the network that they were trained on"
            )
        for name, tensor in own.items():
            tensor.copy_(tensors[name])


def adapter_depth(group: int) -> int:
    """Pose features under a token that stands for `group` pixel frames."""
    return group * POSE_WIDTH
