"""Which blocks a phase may train, and the draws that never change: probe and holdout."""

import json
from dataclasses import replace
from pathlib import Path

from entprog.config.schema import Config, PhaseConfig
from entprog.core.blocks import Blocks, discover_blocks
from entprog.core.types import Draw, Shape
from entprog.data.clips import Clips
from entprog.data.shards import save_tensors, write_atomically
from entprog.tasks.human_video.task import FAMILIES, HumanVideo


def phase_blocks(task: HumanVideo, config: Config, settings: PhaseConfig) -> Blocks:
    """The model's blocks that a phase may train."""
    every = discover_blocks(task.model, list(config.ranking.pattern) or None)
    chosen = [block for block in every if FAMILIES[settings.blocks](block.name)]
    if not chosen:
        raise ValueError(
            f"phases: blocks = {settings.blocks!r} leaves none of {len(every)} blocks; check ranking.pattern"
        )
    return Blocks(chosen, role=every.role)


def fixed_draws(task: HumanVideo, clips: Clips, shape: Shape, samples: int, seed: int, *, most: int = 0) -> list[Draw]:
    """`samples` samples in as few draws of up to `most` as will do, without condition dropout.

    `most` is a training step's batch if 0, but at most 8: reading draws takes no more than training.
    Their sizes differ by at most one, so that the mean over draws is all but the mean over samples. A pure
    function of its arguments.
    """
    count = -(-samples // (most or min(8, shape.batch)))
    ends = [samples * (k + 1) // count for k in range(count)]
    draws = []
    for first, end in zip([0, *ends], ends, strict=False):
        small = replace(shape, batch=end - first)
        draws.append(task.draw(clips.batch(first, small), small, seed, dropout=0.0))
    return draws


def save_draws(folder: Path, probe: list[Draw], holdout: list[Draw]) -> None:
    """Write the fixed draws, so that anyone can read the same losses again."""
    tensors = {}
    for kind, draws in (("probe", probe), ("holdout", holdout)):
        for k, draw in enumerate(draws):
            values = {"x": draw.x.half(), "tau": draw.tau, "eps": draw.eps.half(), **draw.condition}
            tensors.update({f"{kind}.{k}.{name}": v.contiguous().cpu() for name, v in values.items()})
    save_tensors(tensors, folder / "draws.safetensors")
    about = {"probe": [d.size for d in probe], "holdout": [d.size for d in holdout]}
    write_atomically(folder / "draws.json", json.dumps(about) + "\n")
