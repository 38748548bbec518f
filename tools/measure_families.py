"""What every family of pretrained models shows, recorded, and the table of docs/models.md.

python tools/measure_families.py             every tiny pipeline of tests/tiny_pipelines, at full length (20 steps)
python tools/measure_families.py NAME...     these only; the lines of the others stay
python tools/measure_families.py --table     only the table, from the record

The record is benchmarks/results/pretrained-families.jsonl, a line a pipeline. Half an hour on one core.
"""

import io
import json
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import pretrained_runs as claims  # noqa: E402
from entprog.files import write_atomically  # noqa: E402
from entprog.plan.planning import plan  # noqa: E402
from entprog.tasks.pretrained.families import families, family_of  # noqa: E402
from entprog.tasks.pretrained.families.base import Family  # noqa: E402
from entprog.tasks.pretrained.folder import read_configs  # noqa: E402
from entprog.train.log import describe_run  # noqa: E402
from tiny_pipelines import pipelines  # noqa: E402

RECORD = ROOT / "benchmarks" / "results" / "pretrained-families.jsonl"
PAGE = ROOT / "docs" / "models.md"
BEGIN, END = "<!-- families -->", "<!-- /families -->"
STEPS = 20
POSES, REFERENCES = ("blocks", "input", "native"), ("native", "frame")


def main(words: Sequence[str]) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    if "--table" not in words:
        for name in words or pipelines():
            with TemporaryDirectory() as folder, claims.short_texts():
                row = measured(name, Path(folder))
            print(json.dumps(row), flush=True)
            rows = {row["variant"]: row for row in recorded()} | {name: row}
            ordered = [rows[variant] for variant in pipelines() if variant in rows]
            write_atomically(RECORD, "".join(json.dumps(row) + "\n" for row in ordered))
    page = PAGE.read_text(encoding="utf-8")
    write_atomically(PAGE, filled(page, recorded()))


def recorded() -> list[dict[str, Any]]:
    """The lines of the record."""
    return [json.loads(line) for line in RECORD.read_text(encoding="utf-8").splitlines()] if RECORD.is_file() else []


def measured(name: str, folder: Path) -> dict[str, Any]:
    """All claims of a tiny pipeline."""
    variant = claims.Variant.make(name, folder)
    configs = read_configs(variant.model)
    task = claims.task_of(variant, model__dtype="float32")
    found: dict[str, Any] = {
        "variant": name, "network": configs.network["_class_name"], "family": type(family_of(configs)).__name__,
        "poses": [pose for pose in POSES if works(variant, model__pose=pose)],
        "references": [reference for reference in REFERENCES if works(variant, model__reference=reference)],
        "x0_error": claims.x0_error(task, variant),
        "new_adapters_change_nothing": claims.adapters_change_nothing(task, variant),
        "skip_error": claims.skip_error(task, variant),
        "prefix_cache": claims.prefix_is_exact(task, variant),
    }  # fmt: skip
    third, full = (claims.step_cost(task, variant, share) for share in (1 / 3, 1))
    found |= {
        "flops_of_last_third": round(third.flops / full.flops, 4), "flops": full.flops,
        "peak_of_last_third": round(third.peak / full.peak, 4), "peak": full.peak, "steps": STEPS,
        "frozen_exact": claims.frozen_stays(variant, folder / "frozen", steps=STEPS),
        "resume_exact": claims.resumes(variant, folder / "resumed", steps=STEPS),
        "plans": planned(variant), "samples": sampled(variant),
    }  # fmt: skip
    about = describe_run(claims.recipe(variant, folder), torch.device("cpu"), "python tools/measure_families.py")
    return found | {key: about[key] for key in ("command", "commit", "versions", "device", "capability", "threads")}


def works(variant: claims.Variant, **changes: Any) -> bool:
    """Whether a step trains with these settings; False where the family refuses them."""
    if changes.get("model__pose") == "input":
        changes |= {"freeze__inputs_every": 1}
    if changes.get("model__pose") == "native":
        changes |= {"model__reference": "native"}
    try:
        task = claims.task_of(variant, **changes)
    except ValueError:
        return False
    task.loss(claims.draw_of(task, variant)).backward()
    return True


def planned(variant: claims.Variant) -> bool:
    """Whether `entprog plan` gives every stage a peak."""
    try:
        with redirect_stdout(io.StringIO()):
            found = plan(claims.recipe(variant, Path("unused")), device="cpu", order="suffix")
    except (ValueError, RuntimeError):  # a network that can't run on fake tensors
        return False
    return all(row.peak > 0 for phase in found.phases for row in phase.rows)


def sampled(variant: claims.Variant) -> bool:
    """Whether the task generates a clip of the size of a held-out one, with guidance."""
    task = claims.task_of(variant)
    task.model.requires_grad_(False)
    clip = next(task.held_out(replace(task.config.evaluate, clips=1)))[0]
    given = {name: value[None] for name, value in clip.conditions.items()}
    shown = task.generate(given, task.config.sample, [clip.key])
    return shown.shape[1] == len(clip.truth) and bool(shown.float().isfinite().all())


def table(rows: Sequence[Mapping[str, Any]], known: Mapping[str, type[Family]]) -> list[str]:
    """The support table: a row for each class of networks, the worst figures of its pipelines.

    Raises:
        ValueError: the record has a class without a line, or of no family.
    """
    by_network: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_network.setdefault(row["network"], []).append(row)
    if missing := sorted(known.keys() ^ by_network.keys()):
        raise ValueError(f"{RECORD.name}: {', '.join(missing)}: measure it with tools/measure_families.py VARIANT")
    found = [
        "| model (class of diffusers) | tested as | train / plan / sample | pose | reference | prefix cache | FLOPs of "
        "the last third | its peak | resume exact |",
        "|---|---|---|---|---|---|---:|---:|---|",
    ]
    for network, lines in sorted(by_network.items(), key=lambda pair: known[pair[0]].__module__):
        cells = [
            f"{known[network].__name__} (`{network}`)", ", ".join(line["variant"] for line in lines),
            " / ".join(_all(lines, key) for key in ("frozen_exact", "plans", "samples")),
            _any(lines, "poses", POSES), _any(lines, "references", REFERENCES), _all(lines, "prefix_cache"),
            f"{max(line['flops_of_last_third'] for line in lines):.2f}",
            f"{max(line['peak_of_last_third'] for line in lines):.2f}", _all(lines, "resume_exact"),
        ]  # fmt: skip
        found.append(f"| {' | '.join(cells)} |")
    return found


def _all(lines: Sequence[Mapping[str, Any]], key: str) -> str:
    return "yes" if all(line[key] for line in lines) else "no"


def _any(lines: Sequence[Mapping[str, Any]], key: str, order: Sequence[str]) -> str:
    """Values that a pipeline has; one that not all have is marked."""
    in_all: Callable[[str], bool] = lambda value: all(value in line[key] for line in lines)  # noqa: E731
    return ", ".join(
        value if in_all(value) else f"{value} (some)" for value in order if any(value in line[key] for line in lines)
    )


def filled(page: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """The page with the table as the record gives it."""
    lines = "\n".join([BEGIN, *table(rows, families()), END])
    return re.sub(f"{BEGIN}\n.*?{END}", lambda found: lines, page, flags=re.DOTALL)


if __name__ == "__main__":
    main(sys.argv[1:])
