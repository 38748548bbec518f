"""Fit the shipped PCA patch codec on rendered people: python tools/fit_codec.py [OUT].

384 frames at 64 px and 96 at 128 px of both domains, each also with its colour channels permuted, so that the
components do not favour the renderer's palette. Deterministic; about 20 s on one core.
"""

import sys
from itertools import permutations
from pathlib import Path

import numpy as np
import torch

from entprog.codecs.pca import PatchCodec
from entprog.synthetic import render_clip

OUT = Path(__file__).parents[1] / "src" / "entprog" / "assets" / "codec.safetensors"


def frames(size: int, clips: int) -> np.ndarray:
    """Frames [clips * 4, size, size, 3] of both domains, seeds far from any data set's."""
    shown = [
        render_clip(900_000 + i, 900_000 + i, 900_000 + i, frames=4, size=size, domain=domain).frames
        for i in range(clips)
        for domain in ("source", "target")
    ]
    return np.concatenate(shown)


def main() -> None:
    small = torch.from_numpy(frames(64, 48))
    large = torch.from_numpy(frames(128, 12))
    tiles = large.unfold(1, 64, 64).unfold(2, 64, 64).permute(0, 1, 2, 4, 5, 3).reshape(-1, 64, 64, 3)
    data = torch.cat([small, tiles])
    data = torch.cat([data[..., list(order)] for order in permutations(range(3))])
    codec = PatchCodec.fit(data)
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else OUT
    codec.save(out)
    latents = codec.encode(small)
    error = (codec.decode(latents).permute(0, 2, 3, 1) - small.float() / 255).pow(2).mean((1, 2, 3))
    print(f"{out.name}: hash {codec.hash}, {-10 * error.log10().mean():.1f} dB at 64 px")
    deviations = [round(float(v), 2) for v in latents.std((0, 2, 3))]
    print("channel deviations", deviations, "largest", round(float(latents.abs().max()), 1))


if __name__ == "__main__":
    main()
