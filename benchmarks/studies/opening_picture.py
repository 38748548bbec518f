"""Quality by time of one picture study, with generated images of each point beside it, as one picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.studies.pictures_page import Key, Rows, runs_of, standard_error, value
from benchmarks.tables.scatter import COLOURS
from entprog.report.charts import ticks

TILE, COLUMNS, GAP, LABEL = 80, 6, 6, 330
LEFT, PLOT, TOP, BOTTOM = 100, 720, 90, 90
INK, PALE, GREY = "#222222", "#e6e6e6", "#666666"


def opening(
    records: Rows, baseline: Key, points: Sequence[Key], folder: Path, out: Path, titles: Mapping[Key, str], title: str
) -> None:
    """Draw it.

    Horizontal: CPU seconds of a run over those of the baseline, paired by seed. Vertical: PSNR over the untrained base,
    with the standard error of the gap to the baseline, paired by seed. Beside: generated images of the first seed,
    which `folder` has as NAME.npy.

    Args:
        points: (arm, cost), each with a row of images below truth, reference and untrained base.
    """
    rows = [("truth", "truth", ""), ("reference", "reference", ""), ("untrained", "before training", "")]
    placed = []
    for k, key in enumerate(points):
        time, peak, gain, error = _figures(records, baseline, key)
        colour = COLOURS[k % len(COLOURS)]
        placed.append((time, gain, error, colour))
        about = f"{titles[key]}\n{time:.2f} of the time, {peak:.2f} of the memory"
        rows.append((f"{key[0]}-{key[1]:g}", about, colour))
    rows = [row for row in rows if (folder / f"{row[0]}.npy").is_file()]
    left = LEFT + PLOT + 60
    size = left + LABEL + COLUMNS * (TILE + GAP) + 20, max(TOP + BOTTOM + 420, TOP + len(rows) * (TILE + GAP) + 20)
    whole = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(whole)
    draw.text((24, 18), title, INK, ImageFont.load_default(26))
    draw.text(
        (24, 54),
        "PSNR over the untrained base, dB (± standard error of the gap to full fine-tuning)",
        GREY,
        ImageFont.load_default(17),
    )
    _plot(draw, placed, size[1])
    for i, (name, label, colour) in enumerate(rows):
        top = TOP + i * (TILE + GAP)
        if colour:
            draw.ellipse((left, top + 30, left + 18, top + 48), colour)
        draw.multiline_text((left + 30, top + 20), label, INK, ImageFont.load_default(16), spacing=4)
        images = np.load(folder / f"{name}.npy")
        for j, image in enumerate(images[:: len(images) // COLUMNS][:COLUMNS]):
            tile = Image.fromarray(image).resize((TILE, TILE), Image.Resampling.LANCZOS)
            whole.paste(tile, (left + LABEL + j * (TILE + GAP), top))
    whole.save(out, quality=90, optimize=True)


def _figures(records: Rows, baseline: Key, key: Key) -> tuple[float, float, float, float]:
    """Time and peak memory over the baseline's, the gain in dB, and the standard error of its gap to the baseline's.

    The gain is the baseline's plus the gap, so that a point of fewer seeds lies where it would among the others.
    """
    found = runs_of(records)
    base, untrained = ({row["seed"]: row for row in found[which]} for which in (baseline, ("untrained", 0)))
    mine = [row for row in found[key] if row["seed"] in base]
    gains = [value(row, "psnr") - value(untrained[seed], "psnr") for seed, row in base.items()]
    gaps = [value(row, "psnr") - value(base[row["seed"]], "psnr") for row in mine]
    time, peak = (fmean(row[name] / base[row["seed"]][name] for row in mine) for name in ("core_seconds", "bytes_peak"))
    return time, peak, fmean(gains) + fmean(gaps), standard_error(gaps) or 0.0


def _plot(draw: ImageDraw.ImageDraw, placed: Sequence[tuple[float, float, float, str]], height: int) -> None:
    font = ImageFont.load_default(16)
    x_high = 1.08 * max(time for time, *_ in placed)
    lows, highs = [gain - error for _, gain, error, _ in placed], [gain + error for _, gain, error, _ in placed]
    y_low, y_high = min(0.0, *lows), 1.08 * max(highs)  # from zero, the untrained base, so that gaps look as they are
    bottom = height - BOTTOM

    def at(x: float, y: float) -> tuple[float, float]:
        return LEFT + PLOT * x / x_high, bottom - (bottom - TOP) * (y - y_low) / (y_high - y_low)

    for tick in ticks(y_low, y_high):
        _, y = at(0, tick)
        draw.line((LEFT, y, LEFT + PLOT, y), PALE, 2)
        draw.text((LEFT - 12, y), f"{tick:.4g}", GREY, font, anchor="rm")
    for tick in ticks(0, x_high):
        x, _ = at(tick, y_low)
        draw.text((x, bottom + 12), f"{tick:g}", GREY, font, anchor="mt")
    draw.text((LEFT + PLOT / 2, bottom + 44), "CPU time over that of full fine-tuning", INK, font, anchor="mt")
    for time, gain, error, colour in placed:
        x, y = at(time, gain)
        draw.line((x, at(time, gain - error)[1], x, at(time, gain + error)[1]), colour, 3)
        draw.ellipse((x - 9, y - 9, x + 9, y + 9), colour)
