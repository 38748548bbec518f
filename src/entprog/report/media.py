"""Sample clips as data URIs, so that the page needs no other file."""

import base64
import math
from collections.abc import Sequence
from html import escape

from entprog.report.collect import Run, Samples
from entprog.report.curves import colour

VIDEOS_A_RUN = 8
EARLIER = 3
LARGEST = 4 * 2**20
TYPES = {".mp4": "video/mp4", ".gif": "image/gif"}
TILES = ("reference", "pose", "generated", "truth")


def clips(runs: Sequence[Run]) -> str:
    """The last samples of every run, clips of one name side by side, then one clip as training went on.

    Several runs share one row a clip: reference and pose once, what each run generated, and the truth once.
    """
    last = [run.samples[-1] if run.samples else None for run in runs]
    names = _names(last)
    if not names:
        return ""
    body = []
    for name in names:
        having = [(i, samples) for i, samples in enumerate(last) if samples and name in samples.clips]
        if len(runs) > 1:
            shown = "".join(
                _tiles(runs[i], i, samples, name, bool(place), place + 1 < len(having))
                for place, (i, samples) in enumerate(having)
            )
            shown = f'<div class="scroll"><div class="beside">{shown}</div></div>'
        else:
            shown = "".join(_figure(runs[i], i, samples, name, _where(samples)) for i, samples in having)
            shown = f'<div class="pair">{shown}</div>'
        body.append(f'<div class="clip"><h3>{escape(name)}</h3>{shown}</div>')
    if len(runs) == 1:
        body = [f'<div class="pair">{"".join(body)}</div>']
    earlier = ""
    for i, run in enumerate(runs):
        before = [samples for samples in _spread(run.samples[:-1]) if names[0] in samples.clips]
        if before:
            shown = "".join(_figure(run, i, samples, names[0], _where(samples)) for samples in before)
            earlier += f'<div class="strip">{shown}</div>'
    if earlier:
        title = f"<h3>{escape(names[0])}, earlier in training</h3>"
        body.append(f'<div class="clip">{title}<div class="pair">{earlier}</div></div>')
    most = max(len(samples.clips) for samples in last if samples)
    left = f'<p class="note">{most - len(names)} more clips lie in samples/.</p>' if most > len(names) else ""
    return "".join(body) + left


def _names(last: Sequence[Samples | None]) -> list[str]:
    """Up to five clips, those that all runs have first."""
    counts: dict[str, int] = {}
    for samples in last:
        for name in samples.clips if samples else ():
            counts[name] = counts.get(name, 0) + 1
    return sorted(counts, key=lambda name: (-counts[name], name))[: VIDEOS_A_RUN - EARLIER]


def _spread(samples: Sequence[Samples]) -> list[Samples]:
    """At most three of the earlier samples, evenly spread, the first and the last among them."""
    if len(samples) <= EARLIER:
        return list(samples)
    return [samples[round(i * (len(samples) - 1) / (EARLIER - 1))] for i in range(EARLIER)]


def _where(samples: Samples) -> str:
    return f"{samples.phase}, step {samples.step:.0f}" if math.isfinite(samples.step) else samples.phase


def _tiles(run: Run, index: int, samples: Samples, name: str, before: bool, after: bool) -> str:
    """A run's part of a row: reference and pose where no run stands `before` it, the truth where none comes `after`."""
    first, end = (2 if before else 0), (3 if after else 4)
    count = end - first
    at = 100 * first / (len(TILES) - count) if count < len(TILES) else 0
    dot = f'<i class="run-dot" style="--c:{colour(index)}"></i>'
    words = [f"{dot}<b>{escape(run.label)}</b>" if tile == "generated" else tile for tile in TILES[first:end]]
    heads = "".join(f"<span>{word}</span>" for word in words)
    return (
        f'<figure style="--tiles:{count};--at:{at:.2f}%"><figcaption>{heads}</figcaption>'
        f"{_moving(run, samples, name, _where(samples))}</figure>"
    )


def _figure(run: Run, index: int, samples: Samples, name: str, where: str) -> str:
    tiles = "".join(f"<span>{tile}</span>" for tile in TILES)
    return (
        f'<figure><figcaption><i class="run-dot" style="--c:{colour(index)}"></i><b>{escape(run.label)}</b> '
        f"<small>{escape(where)}</small></figcaption>{_moving(run, samples, name, where)}"
        f'<div class="tiles">{tiles}</div></figure>'
    )


def _moving(run: Run, samples: Samples, name: str, where: str) -> str:
    """The clip itself, inside the page."""
    files = samples.clips[name]
    suffix = ".mp4" if ".mp4" in files else ".gif"
    label = f"Clip {name}, run {run.label}, {where}: {', '.join(TILES)}"
    if files[suffix].stat().st_size > LARGEST:
        return f'<p class="note">{escape(files[suffix].name)} is too large to be embedded.</p>'
    data = base64.b64encode(files[suffix].read_bytes()).decode("ascii")
    address = f"data:{TYPES[suffix]};base64,{data}"
    if suffix == ".mp4":
        return f'<video autoplay loop muted playsinline aria-label="{escape(label)}" src="{address}"></video>'
    return f'<img alt="{escape(label)}" src="{address}">'
