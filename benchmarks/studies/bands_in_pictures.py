"""Blocks by noise level, judged by pictures: full fine-tuning, LoRA and the method "bands".

python -m benchmarks.studies.bands_in_pictures costs|tune|runs|table|picture

The setting is the demo's: the shipped base learns, from 14 real clips and single frames with poses, people whom it
has not seen; six clips are held out. 300 steps of full fine-tuning are the unit of cost, counted in FLOPs. Every arm
has its learning rate chosen alike, one of three, at a quarter of the unit with a seed that no final run has. Arms
whose name ends in "-high" draw 60 % of their steps at noise levels above .6, as the others draw 40 %: part of what
"bands" gains is where the draws lie, which every method can have.

Judged: the loss in five bands of noise (30 draws each) and 64 generated images of held-out clips, the same for all.

Budget, fixed before: 1.6 core-hours, one thread a run, two runs at a time on a machine with other work. Cut to .8
after the first two runs, as time ran short: two arms (LoRA and bands without "-high") were left out.

The lines go to benchmarks/results/bands-in-pictures.jsonl.
"""

import json
import shutil
import sys
import time
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.runner.rate_sweep import best_by_bands
from entprog import plugins
from entprog.config.load import config_of
from entprog.config.schema import Config
from entprog.core.bands import band_means
from entprog.core.types import Shape
from entprog.files import write_atomically
from entprog.tasks.base import fixed_draws
from entprog.tasks.finished_run import build_task, open_run
from entprog.tasks.human_video.generate import sample_clips
from entprog.tasks.human_video.task import HumanVideoTask
from entprog.train.log import describe_run
from entprog.train.run import train

ROOT = Path("runs") / "bands-in-pictures"
RESULTS = Path("benchmarks") / "results" / "bands-in-pictures.jsonl"
SIDE, STEPS, BATCH = 64, 300, 8
HIGH = {"noise_edges": [0.6], "noise_shares": [0.4, 0.6]}
ARMS: dict[str, dict[str, Any]] = {
    "full": {"method": "full"},
    "full-high": {"method": "full", "method_options": HIGH},
    "lora-high": {"method": "lora", "method_options": {"rank": 16, **HIGH}},
    "bands-high": {"method": "bands", "method_options": {"m": [4, 0], **HIGH}},
}  # fmt: skip
FINAL = (
    ("full", 1.0), ("bands-high", 0.5), ("full-high", 0.5), ("lora-high", 0.5), ("full", 0.5), ("full-high", 1.0),
    ("bands-high", 1.0),
)  # fmt: skip
FIRST = 5
"""The question needs so many of them; the others follow where the budget lasts."""
RATES = (1e-4, 3e-4, 1e-3)
TUNING_SEED, TUNING_COST = 9, 0.25
SEEDS = (0, 1, 2)
IMAGES, EXAM = 64, 150
COMMAND = "python -m benchmarks.studies.bands_in_pictures runs"


def records() -> list[dict[str, Any]]:
    """The lines so far."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.is_file() else []


def keep(row: dict[str, Any]) -> None:
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def config(arm: str, seed: int, rate: float, steps: int) -> Config:
    own = ARMS.get(arm, ARMS["full"])
    tree: dict[str, Any] = {
        **own, "label": arm, "output_dir": str(ROOT / f"{arm}-{seed}-{rate:g}-{steps}"), "data": {"domain": "clips"},
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
    return config_of(tree, quiet=True)


def trained(recipe: Config) -> dict[str, Any]:
    """What a run took; an unfinished one begins anew."""
    run = Path(recipe.output_dir)
    if not (run / "cost.json").is_file():
        shutil.rmtree(run, ignore_errors=True)
        began = time.process_time()
        train(recipe, command=COMMAND, after_step=lambda: None)
        totals = json.loads((run / "totals.json").read_text())
        cost = {"core_seconds": time.process_time() - began, **{k: totals[k] for k in ("flops", "bytes_peak")}}
        write_atomically(run / "cost.json", json.dumps(cost))
    return dict(json.loads((run / "cost.json").read_text()))


def costs() -> None:
    """FLOPs of a step of each arm: the mean over its bands, by their shares."""
    done = {row["arm"] for row in records() if row["kind"] == "cost"}
    for arm in ARMS:
        if arm in done:
            continue
        recipe = config(arm, TUNING_SEED, RATES[0], 16)
        trained(recipe)
        rows = [json.loads(line) for line in (Path(recipe.output_dir) / "log.jsonl").read_text().splitlines()]
        own = plugins.load("method", recipe.method, **recipe.method_options)
        of_band = {own.band(row["phase_step"]): row["flops"] for row in rows}
        shares = list(own.noise_shares) or [0.6, 0.4]
        step = sum(shares[k] * flops for k, flops in of_band.items()) if len(of_band) > 1 else of_band[0]
        keep({"kind": "cost", "arm": arm, "flops": step})


def steps_of(arm: str, cost: float) -> int:
    """Steps of an arm for a share of the FLOPs of 300 full steps."""
    step = {row["arm"]: row["flops"] for row in records() if row["kind"] == "cost"}
    return round(cost * STEPS * step["full"] / step[arm])


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


def tune(part: int = 0, parts: int = 1) -> None:
    """Each arm at three rates; `part` of `parts` by turns."""
    done = {(row["arm"], row["learning_rate"]) for row in records() if row["kind"] == "tune"}
    for arm, rate in [(arm, rate) for rate in RATES for arm in ARMS][part::parts]:
        if (arm, rate) not in done:
            recipe = config(arm, TUNING_SEED, rate, steps_of(arm, TUNING_COST))
            cost = trained(recipe)
            keep({"kind": "tune", "arm": arm, "learning_rate": rate, **exam(_task(recipe), recipe), **cost})


def _task(recipe: Config) -> HumanVideoTask:
    _, task = open_run(Path(recipe.output_dir), "model")
    assert isinstance(task, HumanVideoTask)
    return task


def runs(part: int = 0, parts: int = 1) -> None:
    """The untrained base, copies of the reference, and every arm, seed by seed; `part` of `parts` by turns."""
    done = {(row["arm"], row["cost"], row["seed"]) for row in records() if row["kind"] == "run"}
    if ("untrained", 0, 0) not in done and part == 0:
        recipe = config("untrained", 0, RATES[0], STEPS)
        task = build_task(recipe)
        assert isinstance(task, HumanVideoTask)
        fake, real, shown = pictures(task, recipe)
        keep({"kind": "run", "arm": "untrained", "cost": 0, "seed": 0, **exam(task, recipe), **measured(fake, real)})
        keep({"kind": "run", "arm": "copy", "cost": 0, "seed": 0, **measured(shown, real)})
        _keep_images("truth", real)
        _keep_images("untrained", fake)
    rates = best_by_bands(records())
    order = (*((each, seed) for some in (FINAL[:FIRST], FINAL[FIRST:]) for seed in SEEDS for each in some),)
    todo = [(*each, seed) for each, seed in order]
    for arm, cost, seed in todo[part::parts]:
        if (arm, cost, seed) in done:
            continue
        recipe = config(arm, seed, rates[arm], steps_of(arm, cost))
        spent, task = trained(recipe), _task(recipe)
        fake, real, _ = pictures(task, recipe)
        about = describe_run(recipe, task.device, COMMAND)
        keep({
            "kind": "run", "arm": arm, "cost": cost, "seed": seed, "learning_rate": rates[arm],
            "steps": recipe.phases["pose"].steps, **exam(task, recipe), **measured(fake, real), **spent,
            **{key: about[key] for key in ("commit", "versions", "device", "capability")},
        })  # fmt: skip
        if seed == SEEDS[0]:
            _keep_images(f"{arm}-{cost:g}", fake)


def _keep_images(name: str, images: Tensor) -> None:
    ROOT.mkdir(parents=True, exist_ok=True)
    np.save(ROOT / f"{name}.npy", (images[:, 0] * 255).round().to(torch.uint8).movedim(1, -1).numpy())


def rows() -> list[list[str]]:
    """Per arm and cost: bands of the loss, and the metrics, mean and deviation over seeds."""
    found: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for row in records():
        if row["kind"] == "run":
            found.setdefault((row["arm"], row["cost"]), []).append(row)
    unit = {row["arm"]: row["flops"] for row in records() if row["kind"] == "cost"}["full"] * STEPS

    def over(group: list[dict[str, Any]], key: str, digits: int) -> str:
        values = [fmean(row[key]) if isinstance(row[key], list) else row[key] for row in group if key in row]
        if not values:
            return "-"
        return f"{fmean(values):.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")

    table = [["arm", "FLOPs", "core-s", "peak MiB", "loss", "0-.2", ".6-.8", ".8-1", "L1", "PSNR", "SSIM", "PCK", "n"]]
    known = [("copy", 0), ("untrained", 0), *sorted(FINAL, key=lambda each: (-each[1], each[0]))]
    for key, group in sorted(found.items(), key=lambda item: known.index(item[0])):
        bands = [
            f"{fmean(row['bands'][k] for row in group):.4f}" if "bands" in group[0] else "-" for k in (0, 3, 4)
        ]  # fmt: skip
        flops = f"{fmean(row['flops'] for row in group) / unit:.2f}" if "flops" in group[0] else "0"
        peak = f"{max(row['bytes_peak'] for row in group) / 2**20:.0f}" if "bytes_peak" in group[0] else "-"
        table.append([
            key[0], flops, over(group, "core_seconds", 0), peak, over(group, "loss", 4), *bands, over(group, "l1", 4),
            over(group, "psnr", 2), over(group, "ssim", 4), over(group, "pose_pck", 3), str(len(group)),
        ])  # fmt: skip
    return table


def picture() -> None:
    """Six held-out images: the truth, the untrained base, and arms beside each other, by seed 0."""
    from PIL import Image

    names = ["truth", "untrained", "full-1", "full-0.5", "full-high-0.5", "lora-high-0.5", "bands-high-0.5"]
    shown = [np.load(ROOT / f"{name}.npy")[:: IMAGES // 6][:6] for name in names if (ROOT / f"{name}.npy").is_file()]
    sheet = np.concatenate([np.concatenate(list(images), 1) for images in shown], 0)
    Image.fromarray(sheet).resize((sheet.shape[1] * 2, sheet.shape[0] * 2), Image.Resampling.LANCZOS).save(
        Path("docs") / "images" / "bands-in-pictures.png"
    )


if __name__ == "__main__":
    ROOT.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    if sys.argv[1] in ("tune", "runs"):
        {"tune": tune, "runs": runs}[sys.argv[1]](*map(int, sys.argv[2:]))
    elif sys.argv[1] == "table":
        head, *body = rows()
        print("\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *body]))
    else:
        {"costs": costs, "picture": picture}[sys.argv[1]]()
