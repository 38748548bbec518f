"""Which band of the held-out loss says what the pictures will be: rank correlations over the runs on record.

python -m benchmarks.studies.loss_to_watch

For real-clips.jsonl and three studies of in-pictures.jsonl: Spearman's correlation, over trained runs, of the
mean loss, of each of its five noise bands and of two weightings of them with L1, PSNR and SSIM of generated pictures;
1: the run of lower loss always has the better pictures. Real clips are compared inside a fold, creatures inside a
seed, then averaged.
"""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from entprog.core.bands import mean_log

RESULTS = Path("benchmarks") / "results"
METRICS = {"l1": 1, "psnr": -1, "ssim": -1}
"""Metric -> 1 where less is better."""
WATCHED: dict[str, Callable[[dict[str, Any]], float]] = {
    "mean": lambda row: row["loss"],
    **{name: lambda row, k=k: row["bands"][k] for k, name in enumerate(("0-.2", ".2-.4", ".4-.6", ".6-.8", ".8-1"))},  # type: ignore[misc]
    "log mean": lambda row: mean_log(row["bands"]),
    "log, .6 up": lambda row: mean_log(row["bands"][3:]),
}


def ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 0; equal values share their mean rank."""
    return [sum(other < own for other in values) + (sum(other == own for other in values) - 1) / 2 for own in values]


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Correlation of the ranks, -1..1."""
    x, y = ranks(a), ranks(b)
    middle = (len(x) - 1) / 2
    spread = math.sqrt(sum((v - middle) ** 2 for v in x) * sum((v - middle) ** 2 for v in y))
    return sum((u - middle) * (v - middle) for u, v in zip(x, y, strict=True)) / spread


def correlations(groups: Iterable[Sequence[dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """Metric -> what is watched -> mean correlation over groups of comparable runs."""
    groups = list(groups)
    return {
        metric: {
            name: fmean(
                spearman([value(row) for row in rows], [sign * metric_of(row, metric) for row in rows])
                for rows in groups
            )
            for name, value in WATCHED.items()
        }
        for metric, sign in METRICS.items()
    }


def metric_of(row: dict[str, Any], name: str) -> float:
    """A metric of a run's pictures, over all of them."""
    found = row["metrics"][name] if "metrics" in row else row[name]
    return fmean(found) if isinstance(found, list) else float(found)


def trained(record: str, study: str | None = None) -> list[dict[str, Any]]:
    """The trained runs of a record, or of a study in it."""
    path = RESULTS / f"{record}.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
    own = [row for row in rows if row["kind"] == "run" and row["arm"] not in ("untrained", "copy")]
    return [row for row in own if study is None or row["study"] == study]


def grouped(rows: Sequence[dict[str, Any]], key: str) -> list[list[dict[str, Any]]]:
    """The runs of each value of a key."""
    return [[row for row in rows if row[key] == value] for value in sorted({row[key] for row in rows})]


def main() -> None:
    clips = trained("in-pictures", "bands_in_pictures")
    records = (
        ("real clips", grouped(trained("real-clips"), "fold")),
        ("bands in pictures", [clips] if len(clips) > 2 else []),
        ("creatures in pictures", grouped(trained("in-pictures", "creatures_in_pictures"), "seed")),
        ("creatures at length", grouped(trained("in-pictures", "creatures_at_length"), "seed")),
    )
    print("| record | pictures by | " + " | ".join(WATCHED) + " |\n" + "|---" * (len(WATCHED) + 2) + "|")
    for name, groups in records:
        for metric, found in correlations(groups).items() if groups else ():
            print(
                f"| {name} (n = {sum(map(len, groups))}) | {metric} | "
                + " | ".join(f"{v:.2f}" for v in found.values())
                + " |"
            )


if __name__ == "__main__":
    main()
