"""What the lines of benchmarks/results/real-clips.jsonl say: tables for docs/benchmarks.md, and the picture."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.tables.analysis import MISSING, Table

RECORD = Path(__file__).parent.parent / "results" / "real-clips.jsonl"
PICTURE = Path(__file__).parents[2] / "docs" / "images" / "real-clips.gif"
NAMES = {
    "copy": "copy of the reference", "untrained": "untrained base", "full": "full, AdamW", "full-muon": "full, Muon",
    "lora": "LoRA 16, every block", "entprog": "preset `entprog`",
}  # fmt: skip
MAIN = ("full", "lora", "entprog")
BANDS = ("0-.2", ".2-.4", ".4-.6", ".6-.8", ".8-1")
METRICS = {
    "l1": "L1", "ssim": "SSIM", "psnr": "PSNR", "pck": "PCK@0.2", "arms": "PCK, elbows and wrists",
    "arms_next": "PCK, the same with another clip's poses",
}  # fmt: skip
DIGITS = {"l1": 4, "psnr": 2}
MIB = 2**20
Row = Mapping[str, Any]


def records() -> list[dict[str, Any]]:
    """All lines of the record."""
    lines = RECORD.read_text(encoding="utf-8").splitlines() if RECORD.is_file() else []
    return [json.loads(line) for line in lines]


def by_arm(rows: Sequence[Row]) -> dict[str, dict[tuple[str, int], Row]]:
    """Arm -> (fold, seed) -> its line, in the tables' order; copies of the reference are an arm of one seed.

    Folds of a seed that not all of `MAIN` have are left out, so that means are over the same clips. Among the metrics
    are those of elbows and wrists only, from lines of their own.
    """
    found: dict[str, dict[tuple[str, int], Row]] = {name: {} for name in NAMES}
    for row in rows:
        if row["kind"] == "run":
            found[row["arm"]][row["fold"], row["seed"]] = row
            if "copy" in row:
                found["copy"][row["fold"], row["seed"]] = row["copy"]
    for row in rows:
        if row["kind"] == "arms":
            line = found[row["arm"]].get((row["fold"], row["seed"]))
            if line is not None:
                line["metrics"]["arms"], line["metrics"]["arms_next"] = row["pck"]["own"], row["pck"]["next"]
    whole = set.intersection(*(set(found[name]) for name in MAIN))
    kept = {name: {key: line for key, line in lines.items() if key in whole} for name, lines in found.items()}
    return {name: lines for name, lines in kept.items() if lines}


def tables() -> dict[str, Table]:
    """The study's tables by title; none without runs."""
    arms = by_arm(records())
    made = [_levels(arms), _differences(arms), _costs(arms), _rates(records())] if "full" in arms else []
    return {table.title: table for table in made}


def _levels(arms: Mapping[str, Mapping[Any, Row]]) -> Table:
    rows = []
    for name, lines in arms.items():
        bands = [line["bands"] for line in lines.values() if "bands" in line]
        losses = [_spread([each[band] for each in bands], 4) for band in range(5)]
        values = [
            _spread([line["metrics"][key] for line in lines.values() if key in line["metrics"]], DIGITS.get(key, 3))
            for key in METRICS
        ]
        rows.append((NAMES[name], str(len(lines)), *losses, *values))
    columns = ("arm", "runs", *(f"loss, τ {band}" for band in BANDS), *METRICS.values())
    return Table("quality", columns, tuple(rows))


def _differences(arms: Mapping[str, Mapping[Any, Row]]) -> Table:
    rows = []
    for name, lines in arms.items():
        pairs = {key: (line, arms["full"][key]) for key, line in lines.items() if key in arms["full"]}
        if name in ("full", "copy") or not pairs:
            continue
        bands = [
            _difference(
                {key: _percent(own["bands"][band], full["bands"][band]) for key, (own, full) in pairs.items()}, 1
            )
            for band in range(5)
        ]
        metrics = []
        for metric, digits in (("l1", 4), ("ssim", 4), ("psnr", 2), ("pck", 3)):
            minus = {key: own["metrics"][metric] - full["metrics"][metric] for key, (own, full) in pairs.items()}
            metrics.append(_difference(minus, digits))
        rows.append((NAMES[name], str(len(pairs)), *bands, *metrics))
    columns = ("arm minus full", "pairs", *(f"loss, τ {band}, %" for band in BANDS), "L1", "SSIM", "PSNR", "PCK@0.2")
    return Table("differences", columns, tuple(rows))


def _percent(own: float, other: float) -> float:
    return 100 * (own / other - 1)


def _costs(arms: Mapping[str, Mapping[Any, Row]]) -> Table:
    rows = []
    for name, lines in arms.items():
        paired = [key for key in lines if key in arms["full"] and "flops" in lines[key]]
        if not paired:
            continue
        flops = [lines[key]["flops"] / arms["full"][key]["flops"] for key in paired]
        seconds = [lines[key]["core_seconds"] / arms["full"][key]["core_seconds"] for key in paired]
        peak = max(lines[key]["bytes_peak"] for key in paired)
        rows.append((
            NAMES[name], f"{fmean(lines[key]['flops'] for key in paired) / 1e12:.2f}", f"{fmean(flops):.2f}",
            f"{peak / MIB:.0f} MiB", f"{peak / max(row['bytes_peak'] for row in arms['full'].values()):.2f}",
            _spread([lines[key]["core_seconds"] for key in paired], 0), _spread(seconds, 2),
        ))  # fmt: skip
    columns = ("arm", "TFLOP", "of full's", "peak, metered", "of full's", "CPU s of training", "of full's")
    return Table("costs", columns, tuple(rows))


def _rates(rows: Sequence[Row]) -> Table:
    tuned: dict[str, dict[float, Row]] = {}
    for row in rows:
        if row["kind"] == "tune":
            tuned.setdefault(row["arm"], {})[row["learning_rate"]] = row
    used = {row["arm"]: row["learning_rate"] for row in rows if row["kind"] == "run" and "learning_rate" in row}
    cells = []
    for arm in (name for name in NAMES if name in tuned):
        for rate, row in sorted(tuned[arm].items()):
            chosen = "yes" if used.get(arm) == rate else ""
            bands = [f"{value:.4f}" for value in row["bands"]]
            cells.append((NAMES[arm], f"{rate:g}", f"{row['loss']:.4f}", *bands, chosen))
    return Table("rates", ("arm", "rate", "loss", *(f"τ {band}" for band in BANDS), "chosen"), tuple(cells))


def _spread(values: Sequence[float], digits: int) -> str:
    if not values:
        return MISSING
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{fmean(values):.{digits}f}{spread}"


def _difference(values: Mapping[tuple[str, int], float], digits: int) -> str:
    """Mean, and the larger standard error: over folds (means over seeds) or over seeds (means over folds)."""
    errors = []
    for place in (0, 1):
        groups: dict[Any, list[float]] = {}
        for key, value in values.items():
            groups.setdefault(key[place], []).append(value)
        means = [fmean(group) for group in groups.values()]
        if len(means) > 1:
            errors.append(stdev(means) / len(means) ** 0.5)
    error = f" ± {max(errors):.{digits}f}" if errors else ""
    return f"{fmean(values.values()):+.{digits}f}{error}"


def picture(
    root: Path, runs: Mapping[str, Path], clips: Mapping[str, str], *, tile: int = 96, fps: float = 6.0
) -> None:
    """A row for each clip and a column for each run: the moving picture of docs/.

    Args:
        runs: column title -> pattern of run folders below `root`, "{fold}" in it; the truth comes first.
        clips: fold -> name of the clip that is shown of it.
    """
    rows = []
    for fold, clip in clips.items():
        stored = {title: np.load(root / str(path).format(fold=fold) / "clips.npz") for title, path in runs.items()}
        first = next(iter(stored.values()))
        columns = [first[f"{clip}/truth"], *(each[f"{clip}/generated"] for each in stored.values())]
        rows.append([np.stack([_enlarged(frame, tile) for frame in column]) for column in columns])
    head = _heading(["truth", *runs], tile)
    frames = [
        Image.fromarray(np.concatenate([head, *(np.concatenate([c[i] for c in row], 1) for row in rows)], 0))
        for i in range(min(len(column) for row in rows for column in row))
    ]
    palette = Image.fromarray(np.concatenate([np.asarray(f) for f in frames], 0)).quantize(
        160, dither=Image.Dither.NONE
    )
    shown = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    shown[0].save(PICTURE, save_all=True, append_images=shown[1:], duration=round(1000 / fps), loop=0, optimize=True)


def _enlarged(frame: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(frame).resize((side, side), Image.Resampling.BICUBIC))


def _heading(titles: Sequence[str], tile: int, height: int = 14) -> np.ndarray:
    image = Image.new("RGB", (tile * len(titles), height), "white")
    draw = ImageDraw.Draw(image)
    for place, title in enumerate(titles):
        draw.text((place * tile + 3, 1), title, fill="black")
    return np.asarray(image)
