"""Rendered creatures once more, until one sees them: 1000 steps of full fine-tuning are the unit of cost.

python -m benchmarks.studies.creatures_at_length costs|tune|runs|one|table|picture|opening

As creatures_in_pictures.py, whose 300 steps draw no creature yet. Each arm draws 60 % of its steps at noise levels over
.6 ("high"). Full fine-tuning by AdamW and by Muon; LoRA of rank 16 in every block by AdamW and by Muon, with pose
adapters in the blocks that train in full; "small" is the latter with frozen weights in bf16 and micro-batches of two
samples, and "full-small" full fine-tuning with such micro-batches and 8-bit states: what each takes at least without
computing anything twice. "bands": by Muon the last third of the blocks below .6, all of them above; "bands-lean" with
recomputed activations. "adaptive": that choice by measured searches, whose cost is inside the total.

After the first seed two arms were added, as bands was ahead of full fine-tuning at half of its cost: bands at .35, and
bands-lean at .45, about as many steps; "small", whose numbers were those of LoRA by Muon, was left at one seed.

Budget, fixed before: 2.6 core-hours, one thread a run.
"""

import sys
from pathlib import Path

from benchmarks.studies.in_pictures import BLOCKS, HIGH, LORA, MUON, PictureStudy
from benchmarks.studies.opening_picture import opening
from benchmarks.studies.pictures_page import Key, in_short
from benchmarks.tables.analysis import Table

MICRO = {
    "phases": {"pose": {"batch": 2}},
    "train": {"gradient_accumulation_steps": 4},
}
EIGHT_BITS = {**MICRO, "train": {**MICRO["train"], "optimizer": "adamw8bit"}}
SMALL = {**MICRO, "train": {**MICRO["train"], **MUON["train"]}, "freeze": {"storage": "bf16"}}

STUDY = PictureStudy(
    name="creatures_at_length",
    data={"domain": "creatures"},
    people=True,
    steps=1000,
    arms={
        "full": {"method": "full"},
        "full-high": {"method": "full", "method_options": HIGH},
        "full-muon-high": {"method": "full", "method_options": HIGH, **MUON},
        "full-small": {"method": "full", "method_options": HIGH, **EIGHT_BITS},
        "lora-high": {"method": "lora", "method_options": {"rank": 16, **HIGH}},
        "lora-muon-high": {"method": "lora", "method_options": LORA, **MUON, **BLOCKS},
        "small": {"method": "lora", "method_options": LORA, **SMALL, **BLOCKS},
        "bands-muon-high": {"method": "bands", "method_options": {"m": [4, 0], **HIGH}, **MUON},
        "bands-lean": {
            "method": "bands", "method_options": {"m": [4, 0], **HIGH}, **MUON,
            "phases": {"pose": {"gradient_checkpointing": True}},
        },
        "adaptive": {"method": "adaptive_bands", "method_options": {"depths": [4, 8, 0], "m": [4, 0], **HIGH}, **MUON},
    },
    final=(
        ("full-high", 1.0), ("full-muon-high", 1.0), ("bands-muon-high", 0.5), ("full-high", 0.5),
        ("lora-muon-high", 0.5), ("bands-muon-high", 0.35), ("bands-lean", 0.45), ("small", 0.5), ("adaptive", 0.5),
        ("lora-high", 0.5), ("full-small", 1.0),
    ),
    first=7,
    shown=(
        "truth", "reference", "untrained", "full-high-1", "full-muon-high-1", "full-high-0.5", "lora-muon-high-0.5",
        "bands-muon-high-0.5", "bands-muon-high-0.35",
    ),
    rates=(1e-4, 3e-4, 1e-3),
    rate_from={
        "full": "full-high", "full-small": "full-high", "small": "lora-muon-high", "adaptive": "bands-muon-high",
        "bands-lean": "bands-muon-high",
    },
)  # fmt: skip

BASELINE = "full-high", 1.0
TITLES: dict[Key, str] = {
    ("full-high", 1.0): "full, AdamW",
    ("full-muon-high", 1.0): "full, Muon",
    ("full-high", 0.5): "full, AdamW, half",
    ("lora-muon-high", 0.5): "LoRA on all blocks, half",
    ("small", 0.5): "LoRA, micro-batches, half",
    ("bands-muon-high", 0.5): "bands, half",
    ("bands-muon-high", 0.35): "bands, a third",
    ("bands-lean", 0.45): "bands, a third, recomputed",
}
"""What docs/benchmarks.md opens with."""


def tables() -> dict[str, Table]:
    """The study's table by its title; none without runs."""
    table = in_short(STUDY.records(), BASELINE, TITLES)
    return {table.title: table} if table.rows else {}


if __name__ == "__main__":
    if sys.argv[1:] == ["opening"]:
        out = Path("docs") / "images" / "opening.jpg"
        opening(STUDY.records(), BASELINE, list(TITLES), STUDY.root, out, TITLES, "Creatures: quality by time")
    else:
        STUDY.main(sys.argv[1:])
