"""Building blocks of the diffusion transformer: attention, modulation, position codes.

Shape legend: B samples, F frames, N tokens of a frame, M reference tokens, D width.
"""

import math

import torch
import torch.nn.functional as functional
from torch import Tensor, nn


def sinusoids(positions: Tensor, width: int, longest: float = 10000.0) -> Tensor:
    """Sine and cosine codes of `positions` [...]; returns [..., width] (width even)."""
    half = width // 2
    rates = torch.exp(-math.log(longest) * torch.arange(half, device=positions.device) / half)
    angles = positions.float()[..., None] * rates
    return torch.cat([angles.sin(), angles.cos()], -1)


def grid_codes(height: int, width: int, dim: int, span: float, device: torch.device) -> Tensor:
    """Two-dimensional position codes [height * width, dim].

    Token centres are spread over the same `span` whatever the grid, so a model trained on a 4x4 grid has the
    same codes for the same position in the picture on an 8x8 grid.
    """
    y = (torch.arange(height, device=device) + 0.5) / height * span
    x = (torch.arange(width, device=device) + 0.5) / width * span
    rows = sinusoids(y, dim // 2)[:, None].expand(height, width, -1)
    columns = sinusoids(x, dim // 2)[None].expand(height, width, -1)
    return torch.cat([rows, columns], -1).reshape(height * width, dim)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LayerNorm without parameters, then scale and shift (adaptive layer norm)."""
    return functional.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift


WRITTEN_OUT = 512
"""Largest number of keys whose attention is written out on a CPU; `entprog plan` sets 0 to simulate a GPU."""


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of q [G, heads, N, d] over k and v [G, heads, M, d].

    On a CPU the fused kernel's backward costs several times the matrix products at short lengths, so those are
    written out there; everywhere else the fused kernel runs.
    """
    if q.device.type == "cpu" and k.shape[2] <= WRITTEN_OUT:
        weights = torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, -1)
        return weights.to(v.dtype) @ v
    return functional.scaled_dot_product_attention(q, k, v)


class Mlp(nn.Module):
    """Two linear layers with a GELU between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(functional.gelu(self.up(x), approximate="tanh"))


class TauEmbedding(nn.Module):
    """Diffusion time tau in 0..1, shape [B], to a vector [B, D]."""

    def __init__(self, width: int, frequencies: int = 256) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.mlp = nn.Sequential(nn.Linear(frequencies, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, tau: Tensor) -> Tensor:
        codes = sinusoids(tau.float() * 1000, self.frequencies)
        return self.mlp(codes.to(next(self.mlp.parameters()).dtype))


class SpatialBlock(nn.Module):
    """Self-attention within a frame and to the tokens of the reference image, then an MLP.

    The same weights serve the reference pass (`reference=None`) and the denoising pass. In the latter the keys and
    values of the reference hidden states at this depth are appended to those of the frame (the Siamese
    reference of Ent-Prog). Every residual branch ends in a gate that starts at zero, so a new block is the
    identity. With `pose_width`, a zero-initialised linear adapter adds pose features at the block's entrance.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float = 4.0, pose_width: int = 0) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = Mlp(width, int(width * mlp_ratio))
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        self.pose: nn.Linear | None = None
        if pose_width:
            self.pose = nn.Linear(pose_width, width)
            nn.init.zeros_(self.pose.weight)
            nn.init.zeros_(self.pose.bias)

    def forward(
        self,
        x: Tensor,
        c: Tensor,
        reference: Tensor | None = None,
        reference_c: Tensor | None = None,
        pose: Tensor | None = None,
    ) -> Tensor:
        """Transform x [B, F, N, D] under the condition vector c [B, D].

        `reference` [B, M, D] are the reference's hidden states at this depth and `reference_c` [B, D] its condition
        vector (tau = 0); `pose` [B, F, N, P] are pose features for the block's own adapter.
        """
        samples, frames, tokens, width = x.shape
        if self.pose is not None and pose is not None:
            x = x + self.pose(pose)
        shift, scale, gate, shift2, scale2, gate2 = self.modulation(c)[:, None, None].chunk(6, -1)
        q, k, v = self._project(modulate(x, shift, scale).flatten(0, 1))
        if reference is not None and reference_c is not None:
            first, second = self.modulation(reference_c)[:, None, : 2 * width].chunk(2, -1)
            normed = modulate(reference, first, second)
            _, key, value = self._project(normed)
            if frames > 1:
                key, value = (t.repeat_interleave(frames, 0) for t in (key, value))
            k, v = torch.cat([k, key], 2), torch.cat([v, value], 2)
        mixed = attend(q, k, v)
        mixed = mixed.transpose(1, 2).reshape(samples, frames, tokens, width)
        x = x + gate * self.out(mixed)
        return x + gate2 * self.mlp(modulate(x, shift2, scale2))

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [G, N, D] to queries, keys and values [G, heads, N, D / heads]."""
        groups, tokens, width = x.shape
        q, k, v = self.qkv(x).view(groups, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        return q, k, v


class TemporalBlock(nn.Module):
    """Self-attention along the frames at each position, then an MLP; the identity when new."""

    def __init__(self, width: int, heads: int, mlp_ratio: float = 2.0) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = Mlp(width, int(width * mlp_ratio))
        self.modulation = nn.Linear(width, 4 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def is_identity(self) -> bool:
        """Whether both gates are zero whatever c is, as when new."""
        gates = [p[p.shape[0] // 2 :] for p in self.modulation.parameters()]
        return not any(bool(gate.any()) for gate in gates)

    def forward(self, x: Tensor, c: Tensor, places: Tensor) -> Tensor:
        """Transform x [B, F, N, D] under c [B, D]; `places` [F, D] are the codes of the frames' positions."""
        samples, frames, tokens, width = x.shape
        shift, scale, gate, gate2 = self.modulation(c)[:, None, None].chunk(4, -1)
        h = modulate(x, shift, scale) + places[None, :, None]
        parts = self.qkv(h).view(samples, frames, tokens, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(3, 0, 2, 4, 1, 5).flatten(1, 2)
        mixed = attend(q, k, v)
        mixed = mixed.view(samples, tokens, self.heads, frames, -1).permute(0, 3, 1, 2, 4)
        x = x + gate * self.out(mixed.reshape(samples, frames, tokens, width))
        return x + gate2 * self.mlp(functional.layer_norm(x, (width,)))
