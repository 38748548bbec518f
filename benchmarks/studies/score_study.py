"""What the scores measure, and whether it is what training needs:
python -m benchmarks.studies.score_study [--phase pose].

On the main comparison's setting (the suite nano: its people, its starting weights), for the blocks of one phase:
    samples    CEI of 1024 samples in groups of 8: its distribution, and how many samples its order needs
    times      CEI by tau, a fifth of the range at a time
    forms      CEI with other entropies, another sigma, other passes skipped
    scores     every score on the same 64 samples: values, FLOPs, seconds
    gains      each block trained alone: the fall of the holdout loss at the best of three rates
    sets       the top quarter of each score's blocks trained, and the bottom quarter, with what stands outside blocks
    drift      scores at times of a full run: how far the order moves
A record a part is added to benchmarks/results/score-study.jsonl; parts that are there are not measured again. From all
records of the phase it prints the tables of docs/benchmarks.md and draws docs/images/scores-PHASE-*.svg.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, optim

from benchmarks.runner.start_weights import base_weights, started_from
from benchmarks.runner.suite_file import read_suite
from benchmarks.tables.scatter import Series, chart
from entprog import plugins
from entprog.core.blocks import discover_blocks
from entprog.core.freeze import Freezer, param_groups
from entprog.core.statistics import mean_and_error
from entprog.core.types import Draw, Scores, Shape
from entprog.data.clips import Clips
from entprog.data.source import open_data
from entprog.profiling.meter import Meter
from entprog.tasks.base import fixed_draws, phase_blocks
from entprog.tasks.finished_run import build_task
from entprog.train.log import describe_run

OUT = Path(__file__).parent.parent / "results" / "score-study.jsonl"
IMAGES = Path(__file__).parents[2] / "docs" / "images"

SCORES: dict[str, tuple[str, dict[str, Any]]] = {
    "cei": ("cei", {}),
    "cei, both passes": ("cei", {"skip": "both"}),
    "skip loss": ("skip_loss", {}),
    "gradient l1": ("gradient", {"norm": "l1"}),
    "gradient l2": ("gradient", {"norm": "l2"}),
    "fisher": ("gradient", {"norm": "fisher"}),
    "gradient snr": ("gradient", {"norm": "snr"}),
    "influence": ("influence", {}),
    "first": ("order", {"order": "first"}),
    "last": ("order", {"order": "last"}),
    "random 0": ("order", {"order": "random", "seed": 0}),
    "random 1": ("order", {"order": "random", "seed": 1}),
    "random 2": ("order", {"order": "random", "seed": 2}),
}

FORMS: dict[str, dict[str, Any]] = {
    "gaussian": {},
    "histogram": {"entropy": "histogram"},
    "knn": {"entropy": "knn"},
    "sigma over conditions": {"sigma": "conditions", "conditions": 8},
    "reference pass": {"skip": "reference"},
    "both passes": {"skip": "both"},
}


class Study:
    """The phase's model, blocks and draws; `restart` puts the starting weights back."""

    def __init__(self, settings: argparse.Namespace) -> None:
        suite = read_suite(settings.suite)
        self.config = suite.config(suite.settings.reference)
        self.config = started_from(self.config, base_weights(suite, settings.runs / suite.name))
        self.phase = self.config.phases[settings.phase]
        if settings.phase not in suite.steps:
            raise SystemExit(f"--phase {settings.phase}: {settings.suite} has {', '.join(suite.steps)}")
        self.shards, self.task = open_data(self.config.data), build_task(self.config)
        self.task.pose, self.task.model.temporal_off = self.phase.pose, self.phase.blocks == "spatial"
        self.blocks = phase_blocks(self.task, self.config, self.phase)
        self.shape = Shape(self.phase.resolution, self.phase.frames, self.phase.batch)
        clips = Clips(self.shards, "train", seed=0, frames=self.phase.frames)
        self.draws = fixed_draws(self.task, clips, self.shape, settings.samples, 500, most=8)
        self.first = {name: value.clone() for name, value in self.task.model.state_dict().items()}
        owned = {id(p) for block in discover_blocks(self.task.model) for p in block.parameters()}
        inside = {id(p) for block in self.blocks for p in block.parameters()}
        for parameter in self.task.model.parameters():  # as entprog train does
            parameter.requires_grad_(id(parameter) in inside or (self.phase.outside and id(parameter) not in owned))

    def restart(self) -> None:
        self.task.model.load_state_dict(self.first)

    def score(self, kind: str, options: dict[str, Any], draws: Sequence[Draw]) -> Scores:
        """On the model as it is."""
        found: Scores = plugins.load("score", kind, **options).score(self.task, self.blocks, draws)
        return found

    @torch.no_grad()
    def losses(self, samples: int = 64) -> Tensor:
        """One loss for each held-out sample."""
        held = Clips(self.shards, "holdout", seed=0, frames=self.phase.frames)
        draws = fixed_draws(self.task, held, self.shape, samples, 700, most=8)
        return torch.cat([self.task.losses(draw).float() for draw in draws])

    def train(
        self, active: Collection[str], steps: int, rate: float, *, seed: int, outside: bool,
        each: Callable[[int], None] = lambda step: None,
    ) -> None:  # fmt: skip
        """AdamW with cosine decay on the blocks `active`; calls `each` before every step and at the end."""
        optimizer = optim.AdamW(param_groups(self.task.model, self.blocks, lr=rate), weight_decay=1e-2)
        decay = optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        clips = Clips(self.shards, "train", seed=seed, frames=self.phase.frames)
        freezer = Freezer(self.task.model, self.blocks, optimizer, states="drop", outside=outside)
        freezer.train_only(active)
        trained = [p for p in self.task.model.parameters() if p.requires_grad]
        for step in range(steps):
            each(step)
            draw = self.task.draw(clips.batch(step * self.shape.batch, self.shape), self.shape, seed)
            self.task.loss(draw).backward()
            torch.nn.utils.clip_grad_norm_(trained, self.config.train.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            decay.step()
        each(steps)
        freezer.release()


def samples(study: Study, settings: argparse.Namespace) -> dict[str, Any]:
    groups = [study.score("cei", {}, [draw]).values for draw in study.draws]
    names = list(study.blocks.names)
    table = torch.tensor([[group[name] for name in names] for group in groups], dtype=torch.double)
    whole = table.mean(0)
    agreement: dict[str, list[float]] = {}
    count = 1
    while count <= len(groups) // 2:
        found = [rank_correlation(part.mean(0), whole) for part in table.split(count) if len(part) == count]
        agreement[str(count * 8)] = sorted(found)
        count *= 2
    share = whole.abs().sort(descending=True).values
    return {
        "values": dict(zip(names, whole.tolist(), strict=True)),
        "stderr": dict(zip(names, (table.std(0) / len(groups) ** 0.5).tolist(), strict=True)),
        "groups": {name: table[:, k].tolist() for k, name in enumerate(names)},
        "share_of_top_3": float(share[:3].sum() / share.sum()),
        "negative": int((whole < 0).sum()),
        "rank_correlation_with_all": agreement,
    }


def times(study: Study, settings: argparse.Namespace) -> dict[str, Any]:
    few = study.draws[: max(1, len(study.draws) // 4)]
    found = {}
    for low in (0.0, 0.2, 0.4, 0.6, 0.8):
        scores = study.score("cei", {"tau_min": low, "tau_max": round(low + 0.2, 1)}, few)
        found[f"{low:g}"] = {"values": dict(scores.values), "stderr": dict(scores.stderr), "samples": scores.samples}
    return {"by_tau": found}


def forms(study: Study, settings: argparse.Namespace) -> dict[str, Any]:
    few = study.draws[:8]
    return {"values": {name: dict(study.score("cei", options, few).values) for name, options in FORMS.items()}}


def scores(study: Study, settings: argparse.Namespace) -> dict[str, Any]:
    found = {}
    with torch.no_grad(), Meter(study.task.model) as meter:
        study.task.predict(study.draws[0])
    forward = meter.flops / study.draws[0].size
    for name, (kind, options) in SCORES.items():
        started = time.process_time()
        with Meter(study.task.model) as meter:
            result = study.score(kind, options, study.draws[:8])
        found[name] = {
            "values": dict(result.values), "stderr": dict(result.stderr), "samples": result.samples,
            "forwards": meter.flops / forward / 64, "cpu_seconds": time.process_time() - started,
        }  # fmt: skip
    return {"scores": found, "flops_forward": forward}


def gains(study: Study, settings: argparse.Namespace) -> dict[str, Any]:
    study.restart()
    before = study.losses()
    found: dict[str, dict[str, Any]] = {}
    for name in study.blocks.names:
        for rate in settings.rates:
            study.restart()
            study.train([name], settings.steps // 2, rate, seed=1, outside=False)
            gain, error = mean_and_error((before - study.losses()).tolist())
            if name not in found or gain > found[name]["gain"]:
                found[name] = {"gain": gain, "stderr": error, "rate": rate}
        print(name, found[name], flush=True)
    return {"gains": found, "steps": settings.steps // 2, "rates": settings.rates, "before": float(before.mean())}


def sets(study: Study, settings: argparse.Namespace) -> dict[str, Any]:
    """Each distinct set once a seed; the rate is the one best for most of four sets."""
    study.restart()
    count = max(1, len(study.blocks) // 4)
    named: dict[str, tuple[str, ...]] = {"all": tuple(sorted(study.blocks.names)), "none": ()}
    for name, (kind, options) in SCORES.items():
        order = study.score(kind, options, study.draws[:8]).ranking().names
        named[f"{name}: top"] = tuple(sorted(order[:count]))
        named[f"{name}: bottom"] = tuple(sorted(order[-count:]))
    before = study.losses()

    def loss(active: Sequence[str], rate: float, seed: int) -> float:
        study.restart()
        study.train(active, settings.steps, rate, seed=seed, outside=True)
        return float(study.losses().mean())

    trial = {rate: sum(loss(named[key], rate, 9) for key in list(named)[:4]) for rate in settings.rates}
    rate = min(trial, key=lambda value: trial[value])
    known: dict[tuple[str, ...], list[float]] = {}
    for name, active in named.items():
        if active not in known:
            known[active] = [loss(active, rate, seed) for seed in settings.seeds]
            print(name, known[active], flush=True)
    return {
        "losses": {name: known[active] for name, active in named.items()},
        "blocks": {name: list(active) for name, active in named.items()},
        "rate": rate, "trial": {str(key): value / 4 for key, value in trial.items()},
        "steps": settings.steps, "seeds": settings.seeds, "before": float(before.mean()), "k": count,
    }  # fmt: skip


def drift(study: Study, settings: argparse.Namespace) -> dict[str, Any]:
    study.restart()
    steps, found = settings.steps * 4, {}
    stops = {0, *(round(steps * share) for share in (0.05, 0.1, 0.25, 0.5, 0.75, 1.0))}

    def note(step: int) -> None:
        if step in stops:
            found[str(step)] = {
                name: dict(study.score(kind, options, study.draws[:8]).values)
                for name, (kind, options) in SCORES.items() if kind != "order"
            } | {"holdout": float(study.losses().mean())}  # fmt: skip
            print("drift", step, flush=True)

    rate = sorted(settings.rates)[len(settings.rates) // 2]
    study.train(study.blocks.names, steps, rate, seed=1, outside=True, each=note)
    return {"by_step": found, "steps": steps}


PARTS = {part.__name__: part for part in (samples, times, forms, scores, gains, sets, drift)}


def rank_correlation(one: Tensor, other: Tensor) -> float:
    """Spearman's, without ties."""
    ranks = torch.stack([values.argsort().argsort().double() for values in (one, other)])
    return float(torch.corrcoef(ranks)[0, 1])


def show(phase: str, records: Path) -> None:
    """Tables and pictures of what is on record."""
    known = {line["part"]: line for line in map(json.loads, records.read_text().splitlines()) if line["phase"] == phase}
    print(f"\n# {phase}: {', '.join(known)}\n")
    if "scores" in known:
        print(table(known))
    if "forms" in known:
        values = known["forms"]["values"]
        listed = (f"{name} {ordered(values[name], values['gaussian']):.2f}" for name in values)
        print("rank correlation with the published form:", ", ".join(listed))
    if "times" in known:
        parts = {low: part["values"] for low, part in known["times"]["by_tau"].items()}
        listed = (f"{low} {ordered(values, known['samples']['values']):.2f}" for low, values in parts.items())
        print("rank correlation with all tau, from:", ", ".join(listed))
    for name, picture in pictures(known, phase).items():
        (IMAGES / f"scores-{phase}-{name}.svg").write_text(picture)


def ordered(one: dict[str, float], other: dict[str, float]) -> float:
    return rank_correlation(*(torch.tensor([values[name] for name in other]) for values in (one, other)))


def table(known: dict[str, Any]) -> str:
    """A line a score, in Markdown."""
    lines = [
        "| score | forwards | with loss rise on skip | with one-block gain | top quarter trained | bottom quarter |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    rise = known["scores"]["scores"]["skip loss"]["values"]
    gain = {name: part["gain"] for name, part in known["gains"]["gains"].items()} if "gains" in known else None
    trained = known.get("sets", {}).get("losses", {})

    def loss(key: str) -> str:
        if key not in trained:
            return ""
        mean, error = mean_and_error(trained[key])
        return f"{mean:.4f} ± {error:.4f}"

    for name, part in known["scores"]["scores"].items():
        with_gain = f"{ordered(part['values'], gain):.2f}" if gain else ""
        lines.append(
            f"| {name} | {part['forwards']:.1f} | {ordered(part['values'], rise):.2f} | {with_gain} | "
            f"{loss(f'{name}: top')} | {loss(f'{name}: bottom')} |"
        )
    if trained:
        lines.append(f"| all blocks, none | | | | {loss('all')} | {loss('none')} |")
    return "\n".join(lines)


def pictures(known: dict[str, Any], phase: str) -> dict[str, str]:
    found = {}
    if "scores" in known:
        series = []
        for name in ("cei", "skip loss", "gradient l1", "gradient snr", "influence"):
            values = known["scores"]["scores"][name]["values"]
            whole = sum(map(abs, values.values()))
            series.append(
                Series(name, [(k, value / whole, 0.0) for k, value in enumerate(values.values())], name == "cei")
            )
        if "gains" in known:
            values = [(part["gain"], part["stderr"]) for part in known["gains"]["gains"].values()]
            whole = sum(abs(gain) for gain, _ in values)
            points = [(k, gain / whole, error / whole) for k, (gain, error) in enumerate(values)]
            series.append(Series("one-block gain", points, True))
        title = f"Importance of each block before the {phase} phase"
        found["values"] = chart(title, "block", "share of the sum of sizes", series, x_text="{:g}".format)
    if "samples" in known:
        parts = {float(count): values for count, values in known["samples"]["rank_correlation_with_all"].items()}
        middle = [(count, values[len(values) // 2], 0.0) for count, values in parts.items()]
        low = [(count, values[len(values) // 4], 0.0) for count, values in parts.items()]
        title, series = (
            "How many samples CEI's order needs",
            [Series("median", middle, True), Series("lowest quarter", low)],
        )
        found["samples"] = chart(
            title, "samples", "rank correlation with 1024", series, x_text="{:g}".format, logarithmic=True
        )
    if "drift" in known:
        steps = known["drift"]["by_step"]
        series = []
        for name in ("cei", "skip loss", "gradient l1", "gradient snr", "influence"):
            points = [(float(step), ordered(steps["0"][name], part[name]), 0.0) for step, part in steps.items()]
            series.append(Series(name, points, name == "cei"))
        title = "How far orders move while all blocks train"
        found["drift"] = chart(title, "step", "rank correlation with the start", series, x_text="{:g}".format)
    return found


def main() -> None:
    settings = arguments()
    there = set()
    if settings.out.is_file():
        there = {(line["part"], line["phase"]) for line in map(json.loads, settings.out.read_text().splitlines())}
    if settings.parts == ["none"]:
        show(settings.phase, settings.out)
        return
    study = Study(settings)
    for name in settings.parts:
        if (name, settings.phase) in there:
            continue
        study.restart()
        about = describe_run(study.config, study.task.device, " ".join(["python", *sys.argv]))
        started = time.perf_counter()
        found = PARTS[name](study, settings)
        record = {
            "part": name, "phase": settings.phase, **found, "seconds": time.perf_counter() - started,
            "shape": asdict(study.shape), "suite": settings.suite,
            **{key: about[key] for key in ("command", "commit", "versions", "device", "capability", "threads")},
        }  # fmt: skip
        with settings.out.open("a") as stream:
            stream.write(json.dumps(record) + "\n")
        print(f"{name}: {record['seconds']:.0f} s", flush=True)
    show(settings.phase, settings.out)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--phase", default="pose")
    parser.add_argument("--suite", default="nano")
    parser.add_argument("--parts", nargs="+", choices=[*PARTS, "none"], default=list(PARTS))
    parser.add_argument("--runs", type=Path, default=Path("runs/bench"), help="where python -m benchmarks keeps runs")
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=100, help="of sets; half of it for gains, four times for drift")
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-4, 3e-4, 1e-3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--out", type=Path, default=OUT, help="the file of records")
    return parser.parse_args()


if __name__ == "__main__":
    main()
