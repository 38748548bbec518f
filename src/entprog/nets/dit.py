"""The latent video diffusion transformer with a Siamese reference and a pose adapter.

Shape legend: B samples, F frames, C latent channels, H W latent height and width, N tokens of a frame, D width.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from entprog.nets.conditioning import POSE_WIDTH, PoseEmbedding, pose_features
from entprog.nets.layers import SpatialBlock, TauEmbedding, TemporalBlock, grid_codes, modulate, sinusoids
from entprog.nets.routing import put_tokens, take_tokens


@dataclass(frozen=True, slots=True)
class DiTConfig:
    """Everything that fixes the weights' shapes.

    Attributes:
        depth: spatial blocks.
        width: D, a multiple of 4 and of `heads`.
        temporal_every: a temporal block follows every n-th spatial block; 0 for none (an image model).
        reference: "siamese" runs the same weights on the reference image; "separate" a second stack of spatial
            blocks (the comparison of the paper's Table I); "none" no reference.
        pose: "input" one linear adapter at the input (published); "blocks" zero-initialised adapters at every
            block, beside the one at the input; "none".
        span: side of the position grid that token centres are spread over, at any resolution.
    """

    depth: int = 12
    width: int = 160
    heads: int = 5
    patch: int = 2
    channels: int = 16
    temporal_every: int = 2
    reference: Literal["siamese", "separate", "none"] = "siamese"
    pose: Literal["input", "blocks", "none"] = "input"
    span: float = 8.0

    def __post_init__(self) -> None:
        for name, choices in (
            ("reference", ("siamese", "separate", "none")),
            ("pose", ("input", "blocks", "none")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"model.{name} = {getattr(self, name)!r}: choose one of {', '.join(choices)}")
        if self.width % self.heads or self.width % 4:
            raise ValueError(f"model.width = {self.width}: must be a multiple of 4 and of heads = {self.heads}")


SIZES: dict[str, dict[str, int]] = {
    "nano": {"depth": 12, "width": 160, "heads": 5},
    "s": {"depth": 12, "width": 384, "heads": 6},
    "b": {"depth": 12, "width": 768, "heads": 12},
    "xl": {"depth": 28, "width": 1152, "heads": 16},
}


class VideoDiT(nn.Module):
    """Predicts the noise in a latent clip from a reference image and pose maps."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.gradient_checkpointing = False
        self.reference_gradient = True
        self.temporal_off = False
        self.idle: frozenset[int] = frozenset()
        self._in_reference = False
        self.patch_embed = nn.Linear(config.channels * config.patch**2, width)
        self.tau_embed = TauEmbedding(width)
        self.pose_embed = PoseEmbedding(width) if config.pose != "none" else None
        pose_width = POSE_WIDTH if config.pose == "blocks" else 0
        self.blocks = nn.ModuleList(
            SpatialBlock(width, config.heads, pose_width=pose_width) for _ in range(config.depth)
        )
        self.temporal = nn.ModuleList(
            TemporalBlock(width, config.heads)
            for _ in range(config.depth // config.temporal_every if config.temporal_every else 0)
        )
        self.reference_blocks = nn.ModuleList(
            SpatialBlock(width, config.heads) for _ in range(config.depth - 1 if config.reference == "separate" else 0)
        )
        self.head_modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, config.channels * config.patch**2)
        for layer in (self.head_modulation, self.head):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def entprog_blocks(self) -> list[str]:
        """Block names in the order of execution: each temporal block right after its spatial one."""
        names = [f"reference_blocks.{i}" for i in range(len(self.reference_blocks))]
        for i in range(len(self.blocks)):
            names.append(f"blocks.{i}")
            if self._temporal_after(i) is not None:
                names.append(f"temporal.{self._temporal_after(i)}")
        return names

    entprog_forwards = ("reference_states",)
    """Methods besides `forward` that compute with weights outside of blocks: FSDP2 gathers these there, too."""

    def entprog_role(self, arguments: dict[str, Any]) -> str:
        """Which pass a running block call belongs to: the reference's own or the denoising one."""
        return "reference" if self._in_reference else "denoising"

    def _temporal_after(self, i: int) -> int | None:
        every = self.config.temporal_every
        return (
            (i + 1) // every - 1 if every and (i + 1) % every == 0 and (i + 1) // every <= len(self.temporal) else None
        )

    def forward(
        self,
        x: Tensor,
        tau: Tensor,
        reference: Tensor | None = None,
        pose: Tensor | None = None,
        reference_states: Sequence[Tensor] | None = None,
        places: Tensor | None = None,
        entered: tuple[int, Tensor] | None = None,
        until: int | None = None,
    ) -> Tensor:
        """Predict the noise.

        Args:
            x: noised latents [B, F, C, H, W]; H and W multiples of the patch.
            tau: diffusion time in 0..1, [B].
            reference: clean latents of the reference image [B, C, H, W]; zeros for a dropped condition.
            pose: pose maps in 0..1, [B, F, 3, S, S]; zeros for a dropped condition; None for no pose at all.
            reference_states: the output of the method of that name for `reference`, which is then not read. They do
                not depend on x, tau or pose: a sampler computes them once for all its steps.
            places: [B, K] integers, all different in a row: the tokens of each frame that the middle blocks see
                (`routed_span`); the others bypass these blocks. In training only; None for all of them.
            entered: an entrance and the hidden states [B, F, N, D] there, as a call with `until` returned them for the
                same arguments: nothing below is run. Not with `places`.
            until: the entrance to stop at. Entrance 2i is that of spatial block i, 2i + 1 that of the temporal block
                after it; `lowest_active` returns the one below which nothing trains.

        Returns:
            eps_hat [B, F, C, H, W] in float32, or with `until` hidden states [B, F, N, D]. Temporal blocks run when
            F > 1, except those that `idle` names.
        """
        frames, grid = x.shape[1], self._grid(x)
        start, h = entered if entered is not None else (0, self._embed(x))
        end = 2 * len(self.blocks) if until is None else until
        inner = None
        if pose is not None and self.pose_embed is not None:
            features = pose_features(pose.to(h.dtype), grid)
            h = h + self.pose_embed(features) if entered is None else h
            inner = features if self.config.pose == "blocks" else None
        c = nn.functional.silu(self.tau_embed(tau))
        states: Sequence[Tensor | None] = [None] * len(self.blocks)
        clean_c = None
        if reference is not None and reference_states is None:
            reference_states = self._reference_states(reference)
        if reference_states:
            clean_c = self._clean(x)
            states = reference_states
        times = sinusoids(torch.arange(frames, device=x.device), self.config.width).to(h.dtype)
        first, behind = self.routed_span() if places is not None else (-1, -1)
        whole, inner_whole = h, inner
        for i, block in enumerate(self.blocks):
            if places is not None and i == first:
                whole, h = h, take_tokens(h, places)
                inner = take_tokens(inner, places) if inner is not None else None
            if start <= 2 * i < end:
                h = self._run(block, h, c, states[i], clean_c, inner)
            follower = self._temporal_after(i) if start <= 2 * i + 1 < end else None
            if follower is not None and frames > 1 and not self.temporal_off and follower not in self.idle:
                h = self._run(self.temporal[follower], h, c, times)
            if places is not None and i == behind - 1:
                h, inner = put_tokens(whole, h, places), inner_whole
        if until is not None:
            return h
        shift, scale = self.head_modulation(c)[:, None, None].chunk(2, -1)
        return self._unpatch(self.head(modulate(h, shift, scale)).float(), grid)

    def lowest_active(self) -> int:
        """The entrance below which nothing trains, as `forward` counts them; 0 where an embedding trains, too."""

        def trains(*modules: nn.Module | None) -> bool:
            return any(p.requires_grad for module in modules if module is not None for p in module.parameters())

        if trains(self.patch_embed, self.tau_embed, self.pose_embed, self.reference_blocks):
            return 0
        for i, block in enumerate(self.blocks):
            if trains(block):
                return 2 * i
            follower = self._temporal_after(i)
            if follower is not None and trains(self.temporal[follower]):
                return 2 * i + 1
        return 2 * len(self.blocks)

    def idle_temporal(self) -> frozenset[int]:
        """Indices of the temporal blocks that do not train and are the identity: `idle` may skip them, exactly."""
        return frozenset(
            i
            for i, block in enumerate(self.temporal)
            if isinstance(block, TemporalBlock)
            and not any(p.requires_grad for p in block.parameters())
            and block.is_identity()
        )

    def routed_span(self) -> tuple[int, int]:
        """Index of the first spatial block that routed tokens bypass, and of the one after the last.

        The first two and the last two see every token; one of each in a network of fewer than eight.

        Raises:
            ValueError: too few blocks to route around.
        """
        depth = len(self.blocks)
        if depth < 3:
            raise ValueError(f"tokens: a network of {depth} spatial blocks has no middle; leave tokens at 1")
        edge = 2 if depth >= 8 else 1
        return edge, depth - edge

    def reference_stack(self) -> list[nn.Module]:
        """The blocks that the reference pass runs through; the i-th gives the state at entrance i + 1."""
        stack = self.reference_blocks if self.config.reference == "separate" else self.blocks
        return [] if self.config.reference == "none" else list(stack)[: len(self.blocks) - 1]

    def reference_states(
        self, reference: Tensor, known: Sequence[Tensor] = (), until: int | None = None
    ) -> list[Tensor]:
        """Hidden states [B, M, D] of clean references [B, C, H, W] at the entrance of each spatial block.

        `known` are the first of them, as an earlier call returned them: only the following are computed. `until` is
        the last entrance needed.
        """
        return self._reference_states(reference, known, until)

    def _reference_states(
        self, reference: Tensor, known: Sequence[Tensor] = (), until: int | None = None
    ) -> list[Tensor]:
        if self.config.reference == "none":
            return []
        clean_c = self._clean(reference)
        self._in_reference = True
        try:
            with torch.set_grad_enabled(torch.is_grad_enabled() and self.reference_gradient):
                h = known[-1][:, None] if known else self._embed(reference[:, None])
                states = [*known] or [h[:, 0]]
                for block in self.reference_stack()[len(states) - 1 : until]:
                    h = self._run(block, h, clean_c)
                    states.append(h[:, 0])
        finally:
            self._in_reference = False
        return states

    def _clean(self, like: Tensor) -> Tensor:
        """Condition vectors [B, D] of tau = 0, one for each sample of `like`."""
        zeros = torch.zeros(like.shape[0], dtype=torch.float32, device=like.device)
        return nn.functional.silu(self.tau_embed(zeros))

    def _run(self, block: nn.Module, *arguments: Tensor | None) -> Tensor:
        run: Callable[..., Tensor] = block
        if self.gradient_checkpointing and torch.is_grad_enabled():
            # Below the lowest active block there is no graph, so recomputation would save nothing.
            tensors = (*(t for t in arguments if t is not None), *block.parameters())
            if any(tensor.requires_grad for tensor in tensors):
                return checkpoint(run, *arguments, use_reentrant=False)
        return run(*arguments)

    def _grid(self, x: Tensor) -> tuple[int, int]:
        """Rows and columns of tokens of latents [B, F, C, H, W]."""
        height, width, p = *x.shape[-2:], self.config.patch
        if height % p or width % p:
            raise ValueError(f"latent size {height}x{width}: must be a multiple of the patch, {p}")
        return height // p, width // p

    def _embed(self, x: Tensor) -> Tensor:
        """Latents [B, F, C, H, W] to tokens [B, F, N, D] with their position codes."""
        samples, frames, channels = x.shape[:3]
        p, (rows, columns) = self.config.patch, self._grid(x)
        patches = x.view(samples, frames, channels, rows, p, columns, p).permute(0, 1, 3, 5, 2, 4, 6)
        h = self.patch_embed(patches.reshape(samples, frames, rows * columns, -1))
        return h + grid_codes(rows, columns, self.config.width, self.config.span, x.device).to(h.dtype)

    def _unpatch(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        samples, frames = tokens.shape[:2]
        p, channels = self.config.patch, self.config.channels
        x = tokens.view(samples, frames, *grid, channels, p, p).permute(0, 1, 4, 2, 5, 3, 6)
        return x.reshape(samples, frames, channels, grid[0] * p, grid[1] * p)


def build_dit(size: str = "nano", **overrides: Any) -> VideoDiT:
    """A model of one of the named `SIZES`, with any field of `DiTConfig` overridden."""
    if size not in SIZES:
        raise ValueError(f"model.size = {size!r}: choose one of {', '.join(SIZES)}")
    return VideoDiT(DiTConfig(**{**SIZES[size], **overrides}))


def config_dict(config: DiTConfig) -> dict[str, Any]:
    """The configuration as plain values, as stored with the weights."""
    return asdict(config)
