"""Arms judged by pictures: each trains from the shipped base to a share of the cost of full fine-tuning.

A study (bands_, people_ and creatures_in_pictures.py) names its data, its arms and the costs that they run to. The unit
of cost is a number of steps of full fine-tuning, counted in FLOPs. Rates are chosen alike for every arm, at a quarter
of the unit, with a seed (and, where people are rendered, with people) that no final run has. Judged: the loss in five
bands of noise (30 draws each) and 64 generated images of held-out clips, the same for all arms of a seed.

Every subcommand can be stopped and started again: a run is a line, written when it has ended.

costs               FLOPs of a step of each arm
tune [PART PARTS]   each arm at every rate; PART of PARTS by turns, so that two processes can share the work
runs [PART PARTS]   untrained base, copies of the reference and the arms, seed by seed
one ARM COST SEED   one arm once more, in a folder of its own, beside what the record says of it
table               what came out
picture             held-out images beside each other, by the first seed
"""

import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.runner.rate_sweep import best_by_bands
from benchmarks.studies.pictures_page import against, gate, sheet, table
from benchmarks.tables.analysis import markdown
from entprog import plugins
from entprog.config.load import config_of
from entprog.config.schema import Config
from entprog.core.bands import band_means
from entprog.core.types import Shape
from entprog.files import write_atomically
from entprog.methods._unranked import Unranked
from entprog.tasks.base import fixed_draws
from entprog.tasks.finished_run import build_task, open_run
from entprog.tasks.human_video.generate import sample_clips
from entprog.tasks.human_video.task import HumanVideoTask
from entprog.toml.trees import laid_over
from entprog.train.log import describe_run
from entprog.train.run import train

RESULTS = Path("benchmarks") / "results" / "in-pictures.jsonl"
"""The record of all such studies, a line a run."""
SIDE, BATCH = 64, 8
IMAGES, EXAM = 64, 150
TUNING_SEED, TUNING_COST = 9, 0.25
HIGH = {"noise_edges": [0.6], "noise_shares": [0.4, 0.6]}
"""60 % of the steps at noise levels above .6, where they would be 40 %: every method can have it."""
MUON = {"train": {"optimizer": "muon", "optimizer_options": {"rows": 32}}}
BLOCKS = {"model": {"pose": "blocks"}}
LORA = {"rank": 16, "alpha": 16, "lr_factor": 10.0, "full": ["blocks.*.pose"], **HIGH}
"""As the preset trains single frames by Muon: pose adapters in the blocks, in full."""


@dataclass(frozen=True)
class PictureStudy:
    """One setting and what is compared in it.

    Attributes:
        name: of the module, of the folder of the runs, and in the record.
        data: `[data]` of a recipe; with `people`, the seed of a run decides also who is rendered.
        arms: what each arm lays over the recipe. "full" must be there: its step is the unit.
        final: (arm, cost) of every seed, in the order of their importance; the first `first` of them come first.
        steps: of full fine-tuning at cost 1.
        cost_steps: arm -> the steps that its cost is measured over, where 16 are too few for its searches.
        rates_of: other rates of single arms.
        rate_from: arm -> the arm whose rate it takes; it is not swept.
        shown: (arm, cost) in the picture.
    """

    name: str
    data: Mapping[str, Any]
    arms: Mapping[str, Mapping[str, Any]]
    final: Sequence[tuple[str, float]]
    first: int
    shown: Sequence[str]
    steps: int = 300
    rates: Sequence[float] = (1e-4, 3e-4, 1e-3)
    cost_steps: Mapping[str, int] = field(default_factory=dict)
    rates_of: Mapping[str, Sequence[float]] = field(default_factory=dict)
    rate_from: Mapping[str, str] = field(default_factory=dict)
    seeds: Sequence[int] = (0, 1, 2)
    people: bool = False

    @property
    def root(self) -> Path:
        """Folder of the runs."""
        return Path("runs") / self.name.replace("_", "-")

    @property
    def command(self) -> str:
        """What makes the record."""
        return f"python -m benchmarks.studies.{self.name} runs"

    def main(self, words: Sequence[str]) -> None:
        """Run a subcommand with its arguments."""
        self.root.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(1)
        command, *rest = words
        if command in ("tune", "runs"):
            part, parts = map(int, rest) if rest else (0, 1)
            {"tune": self.tune, "runs": self.runs}[command](part, parts)
        elif command == "one":
            self.one(rest[0], float(rest[1]), int(rest[2]))
        elif command == "table":
            found, baseline = self.records(), self.final[0]
            if not any(row["kind"] == "run" and (row["arm"], row["cost"]) == baseline for row in found):
                sys.exit(f"{self.name}: no run of {baseline[0]} yet, which the others are compared with")
            print(markdown(table(found, self.final, self.steps)), markdown(against(found, baseline)), sep="\n")
            print(*gate(found, baseline), sep="\n")
        elif command == "picture":
            sheet([self.root / f"{name}.npy" for name in self.shown], Path("docs") / "images" / f"{self.root.name}.png")
        else:
            self.costs()

    def records(self) -> list[dict[str, Any]]:
        """The lines so far."""
        lines = RESULTS.read_text().splitlines() if RESULTS.is_file() else []
        return [row for row in map(json.loads, lines) if row["study"] == self.name]

    def keep(self, row: Mapping[str, Any]) -> None:
        """Add a line to the record."""
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"study": self.name, **row}) + "\n")

    def recipe(self, arm: str, seed: int, rate: float, steps: int, folder: str = "") -> Config:
        """An arm's run."""
        data = {**self.data, "seed": 50 + seed} if self.people else dict(self.data)
        tree: dict[str, Any] = {
            "label": arm, "output_dir": str(self.root / (folder or f"{arm}-{seed}-{rate:g}-{steps}")), "data": data,
            "phases": {
                "subject": {"steps": 0}, "video": {"steps": 0},
                "pose": {"resolution": SIDE, "steps": steps, "batch": BATCH, "learning_rate": rate},
            },
            "train": {
                "seed": seed, "threads": 1, "lr_scheduler": "cosine", "lr_warmup_steps": 10, "mixed_precision": "no",
                "holdout_clips": 2, "checkpointing_steps": 0,
            },
            "evaluate": {"clips": 0},
        }  # fmt: skip
        return config_of(laid_over(tree, self.arms.get(arm, self.arms["full"])), quiet=True)

    def trained(self, recipe: Config) -> dict[str, Any]:
        """What a run took; an unfinished one begins anew."""
        run = Path(recipe.output_dir)
        if not (run / "cost.json").is_file():
            shutil.rmtree(run, ignore_errors=True)
            began = time.process_time()
            train(recipe, command=self.command, after_step=lambda: None)
            totals = json.loads((run / "totals.json").read_text())
            cost = {"core_seconds": time.process_time() - began, **{k: totals[k] for k in ("flops", "bytes_peak")}}
            write_atomically(run / "cost.json", json.dumps(cost))
        return dict(json.loads((run / "cost.json").read_text()))

    def costs(self) -> None:
        """FLOPs of a step of each arm: the mean over its bands, by their shares; and of its scoring and readings."""
        done = {row["arm"] for row in self.records() if row["kind"] == "cost"}
        for arm in self.arms:
            if arm in done:
                continue
            recipe = self.recipe(arm, TUNING_SEED, self.rates[0], self.cost_steps.get(arm, 16))
            self.trained(recipe)
            rows = [json.loads(line) for line in (Path(recipe.output_dir) / "log.jsonl").read_text().splitlines()]
            own = plugins.load("method", recipe.method, **recipe.method_options)
            of_band: dict[int, list[float]] = {}
            for row in rows:
                of_band.setdefault(own.band(row["phase_step"]) if isinstance(own, Unranked) else 0, []).append(
                    row["flops"]
                )
            means = {k: fmean(flops) for k, flops in of_band.items()}
            shares = list(own.noise_shares) or [0.6, 0.4] if len(means) > 1 else [1.0]
            step = sum(shares[k] * flops for k, flops in means.items())
            totals = json.loads((Path(recipe.output_dir) / "totals.json").read_text())
            scoring = totals["flops_scoring"] + totals["flops_search"]
            self.keep({"kind": "cost", "arm": arm, "flops": step} | ({"scoring": scoring} if scoring else {}))

    def steps_of(self, arm: str, cost: float) -> int:
        """Steps of an arm for a share of the FLOPs of full fine-tuning, scoring and readings paid from it."""
        found = {row["arm"]: row for row in self.records() if row["kind"] == "cost"}
        whole = cost * self.steps * found["full"]["flops"]
        return round((whole - found[arm].get("scoring", 0.0)) / found[arm]["flops"])

    def tune(self, part: int, parts: int) -> None:
        """Each arm at its rates."""
        done = {(row["arm"], row["learning_rate"]) for row in self.records() if row["kind"] == "tune"}
        swept = [arm for arm in self.arms if arm not in self.rate_from]
        todo = [(arm, rate) for arm in swept for rate in self.rates_of.get(arm, self.rates)]
        for arm, rate in todo[part::parts]:
            if (arm, rate) not in done:
                recipe = self.recipe(arm, TUNING_SEED, rate, self.steps_of(arm, TUNING_COST))
                cost = self.trained(recipe)
                self.keep({"kind": "tune", "arm": arm, "learning_rate": rate, **exam(_task(recipe), recipe), **cost})

    def runs(self, part: int, parts: int) -> None:
        """The untrained base, copies of the reference, and every arm, seed by seed."""
        for seed in self.seeds if self.people else self.seeds[:1]:
            if ("untrained", 0, seed) not in self.done() and part == 0:
                self.untrained(seed)
        rates = best_by_bands(self.records())
        rates |= {arm: rates[other] for arm, other in self.rate_from.items()}
        halves = (self.final[: self.first], self.final[self.first :])
        todo = [(*each, seed) for some in halves for seed in self.seeds for each in some]
        for arm, cost, seed in todo[part::parts]:
            if (arm, cost, seed) in self.done():
                continue
            recipe = self.recipe(arm, seed, rates[arm], self.steps_of(arm, cost))
            row, images = self.judged(recipe, arm, cost, seed, rates[arm])
            self.keep(row)
            if seed == self.seeds[0]:
                _keep_images(self.root / f"{arm}-{cost:g}", images)

    def done(self) -> set[tuple[str, float, int]]:
        """Arm, cost and seed of the runs on record, which another process may have added to."""
        return {(row["arm"], row["cost"], row["seed"]) for row in self.records() if row["kind"] == "run"}

    def one(self, arm: str, cost: float, seed: int) -> None:
        """One run once more; prints both lines."""
        (before,) = [
            row for row in self.records()
            if row["kind"] == "run" and (row["arm"], row["cost"], row["seed"]) == (arm, cost, seed)
        ]  # fmt: skip
        recipe = self.recipe(arm, seed, before["learning_rate"], before["steps"], f"once-more-{arm}-{cost:g}-{seed}")
        row, _ = self.judged(recipe, arm, cost, seed, before["learning_rate"])
        for key in ("loss", "bands", "l1", "psnr", "ssim", "pose_pck", "flops", "bytes_peak", "core_seconds"):
            print(f"{key}: {_short(before[key])} on record, {_short(row[key])} now")

    def untrained(self, seed: int) -> None:
        """What there is before training: the base, and copies of the reference."""
        recipe = self.recipe("untrained", seed, self.rates[0], self.steps)
        task = build_task(recipe)
        assert isinstance(task, HumanVideoTask)
        fake, real, shown = pictures(task, recipe)
        loss = exam(task, recipe)
        self.keep({"kind": "run", "arm": "untrained", "cost": 0, "seed": seed, **loss, **measured(fake, real)})
        self.keep({"kind": "run", "arm": "copy", "cost": 0, "seed": seed, **measured(shown, real)})
        if seed == self.seeds[0]:
            for name, images in (("truth", real), ("reference", shown), ("untrained", fake)):
                _keep_images(self.root / name, images)

    def judged(self, recipe: Config, arm: str, cost: float, seed: int, rate: float) -> tuple[dict[str, Any], Tensor]:
        """A run, trained and measured: its line, and its images."""
        spent, task = self.trained(recipe), _task(recipe)
        fake, real, _ = pictures(task, recipe)
        about = describe_run(recipe, task.device, self.command)
        row = {
            "kind": "run", "arm": arm, "cost": cost, "seed": seed, "learning_rate": rate,
            "steps": recipe.phases["pose"].steps, **exam(task, recipe), **measured(fake, real), **spent,
            **{key: about[key] for key in ("commit", "versions", "device", "capability")},
        }  # fmt: skip
        return row, fake


@torch.no_grad()
def exam(task: HumanVideoTask, recipe: Config) -> dict[str, Any]:
    """Held-out loss, the mean and in five bands; the same draws for all."""
    task.model.eval()
    task.enter(recipe.phases["pose"])
    draws = fixed_draws(task, task.samples("holdout", 1, 5), Shape(SIDE, 1, BATCH), EXAM, 5)
    taus = [tau for draw in draws for tau in draw.tau.tolist()]
    each = [loss for draw in draws for loss in task.losses(draw).tolist()]
    return {"loss": fmean(each), "bands": band_means(each, taus)}


@torch.no_grad()
def pictures(task: HumanVideoTask, recipe: Config) -> tuple[Tensor, Tensor, Tensor]:
    """64 images of held-out clips: generated, true, and the reference, each [64, 1, 3, 64, 64]."""
    task.model.eval()
    task.enter(recipe.phases["pose"])
    batch = task.samples("holdout", 1, 7).batch(0, Shape(SIDE, 1, IMAGES))
    made = []
    for k in range(0, IMAGES, BATCH):
        latents = sample_clips(
            task, batch.reference[k : k + BATCH], batch.pose[k : k + BATCH], scheduler="ddpm", num_inference_steps=12,
            guidance_scale=1.5, seed=0, keys=range(k, k + BATCH), codec=task.codec,
        )  # fmt: skip
        made.append(task.codec.decode(latents))
    shown = task.codec.decode(batch.reference[:, None])
    return torch.cat(made).clamp(0, 1), task.codec.decode(batch.latents).clamp(0, 1), shown.clamp(0, 1)


def measured(fake: Tensor, real: Tensor) -> dict[str, Any]:
    """L1, PSNR and SSIM of each image; pose error and PCK of all, against true and against shuffled images."""
    found: dict[str, Any] = {"l1": (fake - real).abs().flatten(1).mean(1).tolist()}
    for name in ("psnr", "ssim"):
        each = []
        for k in range(len(fake)):
            metric = plugins.load("metric", name)
            metric.update(fake[k : k + 1], real[k : k + 1])
            each.append(metric.compute()[name])
        found[name] = each
    for name, truth in (("pose", real), ("shuffled", real.roll(11, 0))):
        metric = plugins.load("metric", "pose_error")
        metric.update(fake, truth)
        found |= {f"{name}_{key}": value for key, value in metric.compute().items()}
    return found


def _task(recipe: Config) -> HumanVideoTask:
    _, task = open_run(Path(recipe.output_dir), "model")
    assert isinstance(task, HumanVideoTask)
    return task


def _keep_images(path: Path, images: Tensor) -> None:
    np.save(path.with_name(f"{path.name}.npy"), (images[:, 0] * 255).round().to(torch.uint8).movedim(1, -1).numpy())


def _short(value: Any) -> str:
    if isinstance(value, list):
        return f"{fmean(value):.5g}" if len(value) > 5 else " ".join(f"{each:.4f}" for each in value)
    return f"{value:.6g}"
