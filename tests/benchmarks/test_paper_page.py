"""docs/paper.md: losses and differences there are those of the records that it names."""

import math
import re
from pathlib import Path
from statistics import fmean, stdev

from benchmarks.runner.results_file import read_records
from benchmarks.runner.run_record import Record
from benchmarks.tables.comparison import BANDS, band_loss, loss_of

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
ARMS = ("paper", "paper-linear", "paper-random", "full")
STEPS = {"subject": 40, "pose": 70, "video": 70}
"""Half of the recipe's."""


def records(suite: str) -> dict[str, Record]:
    return read_records(ROOT / "benchmarks" / "results" / f"{suite}.jsonl")


def short(loss: float) -> str:
    return f"{loss:.4f}".removeprefix("0")


def rows(start: str, end: str) -> list[list[str]]:
    table = PAGE.split(start)[1].split(end)[0]
    return [[cell.strip() for cell in line.strip("| ").split("|")] for line in table.strip().splitlines()[2:]]


def test_losses_are_those_of_the_addresses() -> None:
    """Each cell: the mean of three finished runs of that arm, seeds 0, 1 and 2."""
    table = rows("On record here", "Numbers behind the losses")
    lines = [row for row in table if any(re.search(r"[0-9a-f]{16}", cell) for cell in row)]
    suites = {1: ("nano",), 2: ("nano-muon-steps", "nano-muon")}
    for column, names in suites.items():
        known = {address: record for name in names for address, record in records(name).items()}
        for arm, row in zip(ARMS, lines, strict=True):
            loss, *addresses = re.findall(r"\.\d{4}|[0-9a-f]{16}", row[column])
            runs = [known[address] for address in addresses]
            assert [(run["arm"], run["kind"], run["seed"]) for run in runs] == [
                (arm, "final", seed) for seed in range(3)
            ]
            assert short(fmean(map(loss_of, runs))) == loss
            assert column == 1 or all(run["steps"] == STEPS for run in runs)


def test_orders_are_those_of_the_records() -> None:
    """Mean loss, and the difference to the suffix in the mean and in each band, with its standard error over seeds."""
    finals: dict[str, list[Record]] = {}
    for record in sorted(records("nano-orders").values(), key=lambda record: record["seed"]):
        if record["kind"] == "final":
            finals.setdefault(record["arm"], []).append(record)
    readings = [loss_of, *map(band_loss, range(BANDS))]
    for row in rows("<!-- orders -->", "<!-- end -->"):
        arm = re.findall(r"`(.+)`", row[0])[0]
        assert row[1] == short(fmean(map(loss_of, finals[arm])))
        if arm == "order-last":
            continue
        found = []
        for reading in readings:
            pairs = zip(finals[arm], finals["order-last"], strict=True)
            differences = [1e4 * (reading(run) - reading(other)) for run, other in pairs]
            mean, error = round(fmean(differences)), round(stdev(differences) / math.sqrt(len(differences)))
            found.append(f"{mean:+d} ± {error}" if mean else f"0 ± {error}")
        assert row[2:] == found, arm
