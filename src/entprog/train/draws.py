"""The draws of a phase that never change: probe and holdout."""

import json
from pathlib import Path

from entprog.config.schema import RankingConfig
from entprog.core.types import Draw
from entprog.files import save_tensors, write_atomically


def draw_size(ranking: RankingConfig, batch: int) -> int:
    """Samples of a draw that blocks are scored on, at most: a step's, and enough for the conditions compared.

    At most 8.
    """
    compared = int(ranking.options.get("conditions", 4)) if ranking.options.get("sigma") == "conditions" else 1
    return min(8, max(compared, batch))


def save_draws(folder: Path, probe: list[Draw], holdout: list[Draw]) -> None:
    """Write the fixed draws, so that the same losses can be read again later."""
    tensors = {}
    for kind, draws in (("probe", probe), ("holdout", holdout)):
        for k, draw in enumerate(draws):
            values = {**draw.tensors(), "x": draw.x.half(), "target": draw.target.half()}
            tensors.update({f"{kind}.{k}.{name}": v.contiguous().cpu() for name, v in values.items()})
    save_tensors(tensors, folder / "draws.safetensors")
    about = {"probe": [d.size for d in probe], "holdout": [d.size for d in holdout]}
    write_atomically(folder / "draws.json", json.dumps(about) + "\n")
