"""Which blocks first? Orders and schedules at equal cost, from a base that knows its conditions, judged by pictures.

python -m benchmarks.studies.orders_in_pictures costs|tune|runs|one|table|picture

The setting is that of creatures_at_length.py: the shipped base, which knows reference and pose, learns creatures from
single frames. Input-side parameters rest, so that a backward ends at the lowest block that trains; poses enter at every
block, too, by new adapters that train with their block. 600 steps of full fine-tuning are the unit of cost, and every
arm has half of it, scoring and searches inside.

Orders, each training the four blocks of twelve that come first: the suffix, CEI, CEI reversed, CEI of the samples above
.6, the gradient's L1 and its signal to noise, three random orders. Schedules by CEI: equal shares ("linear") with the
order of the start and with a new one at each stage, and the published adaptive one, whose searches have eight readings
a candidate over samples spread over all noise levels; the latter with a random order, too. These and the first are the
two ablations of the paper's Table 5. Full fine-tuning beside them.

Budget, fixed before: 1.2 core-hours, one thread a run.
"""

import sys
from typing import Any

from benchmarks.studies.in_pictures import BLOCKS, PictureStudy

FIRST_FOUR = {"name": "fixed", "options": {"m": [4]}}
LINEAR = {"name": "linear", "options": {"stages": 3}}
ADAPTIVE = {"name": "adaptive", "options": {"stages": 2, "width": 3, "search_steps": 24, "estimator": "supernet"}}
READINGS = {"train": {"holdout_clips": 6}}
CEI = {"score": "cei"}
GRADIENT = {"score": "gradient"}


def progressive(schedule: dict[str, Any], score: dict[str, Any], **more: Any) -> dict[str, Any]:
    """An arm: blocks by a score, as many as a schedule says."""
    ranking = {"samples": 16, **score, **more}
    return {
        "method": "progressive", "ranking": ranking, "schedule": schedule, "freeze": {"inputs_every": 0}, **BLOCKS,
    }  # fmt: skip


def random_order(seed: int) -> dict[str, Any]:
    """A control."""
    return {"score": "order", "options": {"order": "random", "seed": seed}}


STUDY = PictureStudy(
    name="orders_in_pictures",
    data={"domain": "creatures"},
    people=True,
    steps=600,
    arms={
        "full": {"method": "full", **BLOCKS},
        "suffix": progressive(FIRST_FOUR, {"score": "order", "options": {"order": "last"}}),
        "cei": progressive(FIRST_FOUR, CEI),
        "cei-reversed": progressive(FIRST_FOUR, {"score": "order", "options": {"order": "reverse", "of": "cei"}}),
        "cei-high": progressive(FIRST_FOUR, CEI, options={"tau_min": 0.6}, samples=40),
        "gradient": progressive(FIRST_FOUR, GRADIENT),
        "snr": progressive(FIRST_FOUR, GRADIENT, options={"norm": "snr"}),
        "random-0": progressive(FIRST_FOUR, random_order(0)),
        "random-1": progressive(FIRST_FOUR, random_order(1)),
        "random-2": progressive(FIRST_FOUR, random_order(2)),
        "linear": progressive(LINEAR, CEI),
        "linear-again": progressive(LINEAR, CEI, again=True),
        "adaptive": progressive(ADAPTIVE, CEI) | READINGS,
        "adaptive-random": progressive(ADAPTIVE, random_order(0)) | READINGS,
    },
    final=(
        ("suffix", 0.5), ("cei", 0.5), ("cei-reversed", 0.5), ("gradient", 0.5), ("snr", 0.5), ("random-0", 0.5),
        ("random-1", 0.5), ("full", 0.5), ("adaptive", 0.5), ("linear", 0.5), ("cei-high", 0.5),
        ("adaptive-random", 0.5), ("random-2", 0.5), ("linear-again", 0.5),
    ),
    first=8,
    shown=("truth", "untrained", "full-0.5", "suffix-0.5", "cei-0.5", "cei-reversed-0.5", "gradient-0.5"),
    cost_steps={"adaptive": 120, "adaptive-random": 120},
    rates=(3e-4, 1e-3),
    rate_from={
        "cei-high": "cei", "random-0": "cei", "random-1": "cei", "random-2": "cei", "linear-again": "linear",
        "cei-reversed": "cei", "gradient": "cei", "snr": "cei", "adaptive": "linear", "adaptive-random": "linear",
    },
)  # fmt: skip

if __name__ == "__main__":
    STUDY.main(sys.argv[1:])
