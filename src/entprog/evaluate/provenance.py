"""What an evaluation says of itself: the protocol, the table, and the row of the papers' tables."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from entprog import plugins
from entprog.codecs.base import Codec
from entprog.config.schema import Config
from entprog.evaluate.measure import BEYOND_PERSON, GeneratedClip, Notes
from entprog.evaluate.protocols import DEFAULT, EvaluationProtocol

__all__ = ["POOLING", "generation", "paper_row", "protocol", "table"]

POOLING = {
    "background_l1": f"L1 over pixels farther than {BEYOND_PERSON} of the side from the box of the visible keypoints",
    "identity": "share of clips nearer (L1) to their own truth than to the truth of the next clip of another subject",
}


def protocol(
    config: Config,
    codec: Codec | None,
    *,
    clips: int,
    weights: str,
    named: EvaluationProtocol = DEFAULT,
    notes: Notes | None = None,
) -> dict[str, Any]:
    """How the numbers were made: which frames, sizes, rounding, pooling, sampler, steps, guidance, seed, weights.

    A text for each key, but for a value of a metric a table: its pooling, its network with checksum, its counts, or the
    reason for which it was skipped.
    """
    notes = notes or Notes()
    said: dict[str, Any] = {
        "protocol": named.name,
        "clips": f"the first {clips} held out, in index order",
        "frames": f"the first {config.evaluate.frames} of each",
        "resolution": config.evaluate.resolution,
        "compared": compared(named),
        "truth": f"decoded {codec.name} latents, pixels in 0..1" if codec else "pixels in 0..1",
        "scheduler": config.sample.scheduler,
        "num_inference_steps": config.sample.num_inference_steps,
        "guidance_scale": config.sample.guidance_scale,
        **({"guided_by": config.sample.guided_by} if config.sample.guided_by else {}),
        "seed": config.sample.seed,
        "weights": weights,
    }
    if changed := named.changed(config):
        said["changed"] = changed
    if named.notes:
        said["notes"] = [*named.notes, *_size(config, named), *_test_set(config, named)]
    for name in config.evaluate.metrics:
        pooling = getattr(plugins.find("metric", name), "pooling", "as the plugin defines it")
        pooled = pooling if isinstance(pooling, Mapping) else {name: pooling}
        for value, text in pooled.items():
            reason = notes.skipped.get(value) or notes.skipped.get(name)
            more = {"skipped": reason} if reason else notes.details.get(value, {})
            said[value] = {"pooling": text, **more}
    return said | {name: {"pooling": pooling} for name, pooling in POOLING.items()}


def compared(named: EvaluationProtocol) -> str:
    """At which size frames are compared, and how they come to it."""
    size = "at the size of generation"
    if named.sides is not None:
        size = f"at {named.sides[0]}x{named.sides[1]}, resized by bicubic interpolation with antialiasing where others"
    return f"{size}; {'rounded to 8 bits, as PNG files hold them' if named.rounded else 'not rounded'}"


def generation(clips: Sequence[GeneratedClip]) -> dict[str, Any]:
    """What the model was shown and what is judged, counted over the clips."""
    references = Counter(clip.shown or "as the task gives it" for clip in clips)
    judged = Counter(len(clip.truth) - len(clip.unjudged) for clip in clips)
    rates = sorted({clip.fps for clip in clips})
    return {
        "reference": "; ".join(f"{text} ({count})" for text, count in references.most_common()),
        "judged": "; ".join(f"{count} frames (of {n} clips)" for count, n in sorted(judged.items()))
        + (", without those that the reference shows" if any(clip.unjudged for clip in clips) else ""),
        "fps": rates[0] if len(rates) == 1 else rates,
    }


def _size(config: Config, named: EvaluationProtocol) -> list[str]:
    """Whether frames are enlarged or reduced before they are compared."""
    if named.sides in (None, config.evaluate.sides):
        return []
    (height, width), (own_height, own_width) = named.sides or (0, 0), config.evaluate.sides
    return [f"frames are generated at {own_height}x{own_width} and compared at {height}x{width}"]


def _test_set(config: Config, named: EvaluationProtocol) -> list[str]:
    """Whether the run's data are what the protocol is about."""
    if not named.layout:
        return []
    about = Path(config.data.path) / "prepare.json" if config.data.path else None
    found = json.loads(about.read_text(encoding="utf-8")).get("layout") if about and about.is_file() else None
    if found == named.layout:
        return []
    return [
        f"the run's data were not prepared with --layout {named.layout}: the clips are others than the papers', and "
        "values do not compare with theirs"
    ]


def paper_row(named: EvaluationProtocol, values: Mapping[str, float], notes: Notes) -> dict[str, float | str]:
    """The row of the papers' table by column; a column without a value says "skipped: reason"."""
    row: dict[str, float | str] = {}
    for column, name in named.row.items():
        reason = notes.skipped.get(name) or notes.skipped.get(named.name) or "its metric is left out"
        row[column] = values.get(name, f"skipped: {reason}")
    return row


def table(result: Mapping[str, Any]) -> str:
    """The metrics and their baselines as text, with the row of papers, the protocol and each metric's pooling below."""
    lines = {"generated": result["metrics"], **result["baselines"]}
    names = list(dict.fromkeys(name for values in lines.values() for name in values))
    head = " " * 16 + "".join(f"{name:>15}" for name in names)
    body = [
        f"{title.replace('_', ' '):<16}" + "".join(f"{_number(values.get(name)):>15}" for name in names)
        for title, values in lines.items()
    ]
    body += [f"{name}: skipped: {reason}" for name, reason in result.get("skipped", {}).items()]
    if row := result.get("row"):
        cells = [(column, "-" if isinstance(value, str) else f"{value:.4g}") for column, value in row.items()]
        body += ["", "As in papers:   " + "".join(f"{column:>11}" for column, _ in cells)]
        body.append(" " * 16 + "".join(f"{value:>11}" for _, value in cells))
    parts = result["protocol"]
    plain = [
        f"{key.replace('_', ' ')}: {value}" for key, value in parts.items() if not isinstance(value, Mapping | list)
    ]
    listed = [f"  {key}: {line}" for key, value in parts.items() if isinstance(value, list) for line in value]
    pooled = [
        f"  {name}: {_said(value)}"
        for name, value in parts.items()
        if isinstance(value, Mapping) and "skipped" not in value
    ]
    return "\n".join([head, *body, "Protocol: " + "; ".join(plain), *listed, *pooled])


def _said(value: Mapping[str, Any]) -> str:
    return "; ".join([str(value["pooling"]), *(f"{key}: {text}" for key, text in value.items() if key != "pooling")])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
