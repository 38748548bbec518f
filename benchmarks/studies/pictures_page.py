"""Tables and the picture of a study that is judged by pictures."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.tables.analysis import Table

BANDS = ("τ 0-.2", ".2-.4", ".4-.6", ".6-.8", ".8-1")
METRICS: dict[str, tuple[str, int, int]] = {
    "l1": ("L1", 4, -1), "psnr": ("PSNR", 2, 1), "ssim": ("SSIM", 4, 1), "pose_pck": ("PCK", 3, 1),
}  # fmt: skip
"""Metric -> its heading, digits, and 1 where more is better."""

Rows = list[dict[str, Any]]
Key = tuple[str, float]


def runs_of(records: Iterable[Mapping[str, Any]]) -> dict[Key, Rows]:
    """(arm, cost) -> its runs, in the order of the record."""
    found: dict[Key, Rows] = {}
    for row in records:
        if row["kind"] == "run":
            found.setdefault((row["arm"], row["cost"]), []).append(dict(row))
    return found


def table(records: Rows, final: Sequence[Key], steps: int) -> Table:
    """Per arm and cost: what a run took, its loss by band, and the metrics; mean and deviation over seeds."""
    unit = {row["arm"]: row["flops"] for row in records if row["kind"] == "cost"}["full"] * steps
    known = [("copy", 0), ("untrained", 0), *sorted(final, key=lambda each: (-each[1], final.index(each)))]
    body = []
    for key, group in sorted(runs_of(records).items(), key=lambda item: known.index(item[0])):
        spent = "flops" in group[0]
        body.append((
            key[0], f"{fmean(row['flops'] for row in group) / unit:.2f}" if spent else "0",
            _over(group, "core_seconds", 0), f"{max(row['bytes_peak'] for row in group) / 2**20:.0f}" if spent else "-",
            _over(group, "loss", 4), *(_band(group, k) for k in range(5)),
            *(_over(group, name, digits) for name, (_, digits, _) in METRICS.items()),
            _over(group, "shuffled_pck", 3), str(len(group)),
        ))  # fmt: skip
    head = ("arm", "FLOPs", "core-s", "peak MiB", "loss", *BANDS, *(name for name, _, _ in METRICS.values()),
            "PCK, shuffled poses", "n")  # fmt: skip
    return Table("Arms", head, tuple(body))


def against(records: Rows, baseline: Key) -> Table:
    """Each arm minus the baseline, paired by seed, ± standard error, and what it takes of the baseline's cost.

    "level": in no metric of the pictures worse by more than two standard errors, and `better` likewise.
    """
    found = runs_of(records)
    base = {row["seed"]: row for row in found[baseline]}
    body = []
    for key, group in found.items():
        pairs = [(row, base[row["seed"]]) for row in group if row["seed"] in base and "flops" in row]
        if key == baseline or not pairs:
            continue
        cells, worse = [], []
        for name, (title, digits, sign) in METRICS.items():
            gaps = [value(mine, name) - value(other, name) for mine, other in pairs]
            error = standard_error(gaps)
            cells.append(f"{fmean(gaps):+.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}"))
            if error is not None and sign * fmean(gaps) < -2 * error:
                worse.append(title)
        bands = [fmean(100 * (mine["bands"][k] / other["bands"][k] - 1) for mine, other in pairs) for k in range(5)]
        ratios = [fmean(mine[name] / other[name] for mine, other in pairs)
                  for name in ("core_seconds", "flops", "bytes_peak")]  # fmt: skip
        verdict = ("worse in " + ", ".join(worse) if worse else "level") if len(pairs) > 1 else "one seed"
        body.append((
            f"{key[0]}, {key[1]:g}", *(f"{ratio:.2f}" for ratio in ratios), *cells, *(f"{band:+.1f}" for band in bands),
            verdict, str(len(pairs)),
        ))  # fmt: skip
    head = ("arm, cost", "time", "FLOPs", "peak", *(name for name, _, _ in METRICS.values()),
            *(f"{band}, %" for band in BANDS), "pictures", "pairs")  # fmt: skip
    return Table(f"Against {baseline[0]} at {baseline[1]:g}", head, tuple(body))


def in_short(records: Rows, baseline: Key, titles: Mapping[Key, str]) -> Table:
    """What an arm takes of the baseline's FLOPs, time and peak, and its pictures and losses minus the baseline's.

    Paired by seed, ± standard error. Time: CPU seconds of whole runs.
    """
    found = runs_of(records)
    base = {row["seed"]: row for row in found.get(baseline, [])}
    body = []
    for key, title in titles.items():
        pairs = [(row, base[row["seed"]]) for row in found.get(key, []) if row["seed"] in base]
        if not pairs:
            continue
        ratios = [fmean(mine[name] / other[name] for mine, other in pairs)
                  for name in ("flops", "core_seconds", "bytes_peak")]  # fmt: skip
        cells = []
        for name in ("psnr", "l1", "ssim"):
            gaps, digits = [value(mine, name) - value(other, name) for mine, other in pairs], METRICS[name][1]
            error = standard_error(gaps)
            cells.append(_short(fmean(gaps), f"+.{digits}f") + (f" ± {_short(error, f'.{digits}f')}" if error else ""))
        losses = [fmean(100 * (mine["loss"] / other["loss"] - 1) for mine, other in pairs)]
        losses += [fmean(100 * (mine["bands"][k] / other["bands"][k] - 1) for mine, other in pairs) for k in range(5)]
        shown = cells if key != baseline else ["0"] * 3
        body.append((title, *(_short(ratio, ".2f") for ratio in ratios), *shown, *(f"{loss:+.1f}" for loss in losses),
                     str(len(pairs))))  # fmt: skip
    head = ("training", "FLOPs", "time", "peak", "PSNR, dB", "L1", "SSIM", "mean loss, %",
            *(f"{band}, %" for band in BANDS), "n")  # fmt: skip
    return Table("in short", head, tuple(body))


def gate(records: Rows, baseline: Key) -> list[str]:
    """Whether the baseline is ahead of the untrained base and of the copy by three seed deviations in L1 and SSIM.

    Paired: what is compared, and what deviates, is the lead in each seed, on the same images. A study whose seeds share
    their images has one untrained base and one copy.
    """
    found, said = runs_of(records), []
    for other in ("untrained", "copy"):
        theirs = {row["seed"]: row for row in found[other, 0]}
        for name in ("l1", "ssim"):
            leads = [
                METRICS[name][2] * (value(row, name) - value(theirs.get(row["seed"], found[other, 0][0]), name))
                for row in found[baseline]
            ]
            spread = stdev(leads) if len(leads) > 1 else float("nan")
            passed = "passed" if fmean(leads) > 3 * spread else "NOT passed"
            said.append(
                f"gate against {other}, {METRICS[name][0]}: ahead by {fmean(leads):.4f}, seed deviation {spread:.4f}: "
                f"{passed}"
            )
    return said


def value(row: Mapping[str, Any], name: str) -> float:
    """A metric of a run, over all its pictures."""
    found = row[name]
    return fmean(found) if isinstance(found, list) else float(found)


def standard_error(values: Sequence[float]) -> float | None:
    """Of a mean; None of one value."""
    return stdev(values) / len(values) ** 0.5 if len(values) > 1 else None


def sheet(files: Sequence[Path], out: Path, columns: int = 8) -> None:
    """Images [N, H, W, 3] of each file in a row, at twice their size."""
    shown = [np.load(file) for file in files if file.is_file()]
    shown = [images[:: len(images) // columns][:columns] for images in shown]
    whole = np.concatenate([np.concatenate(list(images), 1) for images in shown], 0)
    big = Image.fromarray(whole).resize((whole.shape[1] * 2, whole.shape[0] * 2), Image.Resampling.LANCZOS)
    big.save(out, optimize=True)


def _short(number: float, form: str) -> str:
    """Without the zero in front of the point."""
    return format(number, form).replace("0.", ".", 1) if abs(number) < 1 else format(number, form)


def _over(group: Rows, key: str, digits: int) -> str:
    values = [value(row, key) for row in group if key in row]
    if not values:
        return "-"
    return f"{fmean(values):.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


def _band(group: Rows, k: int) -> str:
    return f"{fmean(row['bands'][k] for row in group):.4f}" if "bands" in group[0] else "-"
