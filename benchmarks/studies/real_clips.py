"""Fine-tuning on real videos, judged on signers whom no training step saw: full, LoRA and the preset beside each other.

python -m benchmarks.studies.real_clips prepare|tune|runs|arms|table|picture

The 20 sign language clips of ../shared/clips are prepared once, at 64 px. Each of four folds holds out one signer: A
(6 clips), B (5), C (4), or D and E together (5; they have 3 and 2 clips). Every arm starts from the shipped base, as
`entprog demo` does, and trains the same number of steps on the same samples with the same noise, pose phase and video
phase. Generated is the middle of each held-out clip, from the clip's first frame as its reference image. Rates are
chosen alike for each arm, one of three, on the fold of signer A with a seed that no final run has.

Budget, fixed before: 2 core-hours in all on a shared machine, one thread. Measured first (13 steps of full fine-tuning,
CPU seconds on the busy machine): .42 a step of 8 images, 27 to judge 6 clips of 8 frames. Hence 48 pose and 16 video
steps, clips of 6 frames, 40 held-out draws: about .7 core-hours for three seeds of four arms, .1 for the rates at half
of the steps.

prepare  the data set and the folds in runs/real-clips; a line with what became of each file
tune     the rates; a line a run
runs     untrained, copy and the arms, seed by seed; a line a run, at once, so that it can be stopped and started again
arms     PCK of elbows and wrists only, from the clips that the runs generated; a line a run
table    the tables of docs/benchmarks.md
picture  docs/images/real-clips.gif from the generated clips of seed 0

The lines go to benchmarks/results/real-clips.jsonl.
"""

import json
import math
import re
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from benchmarks.runner.rate_sweep import best_by_bands
from benchmarks.studies import real_clips_page
from benchmarks.studies.real_clips_page import records
from benchmarks.tables.analysis import markdown
from entprog.config.load import config_of
from entprog.config.schema import Config
from entprog.core.bands import band_means
from entprog.core.types import Shape
from entprog.data.shards import Shards
from entprog.evaluate.evaluation import GeneratedClip, generate_holdout, measure, protocol
from entprog.files import write_atomically
from entprog.metrics.pose_error import PoseError
from entprog.prepare.folder import prepare_folder
from entprog.sample.animate import to_uint8
from entprog.tasks.base import Task, fixed_draws
from entprog.tasks.finished_run import build_task, open_run
from entprog.tasks.human_video.task import HumanVideoTask
from entprog.train.log import describe_run
from entprog.train.run import train

CLIPS = Path("..") / "shared" / "clips"
ROOT = Path("runs") / "real-clips"
RESULTS = real_clips_page.RECORD
SIDE, FRAMES = 64, 6
STEPS, TUNING_STEPS = (48, 16), (24, 8)
FOLDS = {"A": "A", "B": "B", "C": "C", "D+E": "DE"}
ARMS: dict[str, dict[str, Any]] = {
    "full": {"method": "full"},
    "lora": {"method": "lora", "method_options": {"rank": 16}},
    "entprog": {
        "method": "entprog", "model": {"pose": "blocks"}, "method_options": {"full": ["blocks.*.pose"]},
    },
    "full-muon": {"method": "full", "train": {"optimizer": "muon"}},
}  # fmt: skip
RATES = (1e-4, 3e-4, 1e-3)
TUNING_FOLD, TUNING_SEED = "A", 9
SEEDS = (0, 1, 2)
SAMPLES = 40
ELBOWS_AND_WRISTS = (3, 4, 6, 7)
METRICS = ("l1", "psnr", "ssim", "pose_error")
SHOWN = {"frames": f"the middle {FRAMES} of each", "reference": "the first frame of the clip"}
COMMAND = "python -m benchmarks.studies.real_clips runs"


def keep(row: dict[str, Any]) -> None:
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(_rounded(row)) + "\n")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return None if math.isnan(value) else float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


# Data


def prepare() -> None:
    """The data set and its folds, and a line on what became of each file."""
    began = time.process_time()
    prepare_folder([CLIPS], ROOT / "data", sizes=(SIDE,), progress=False)
    spent = time.process_time() - began
    rows = [json.loads(line) for line in (ROOT / "data" / "prepare.jsonl").read_text().splitlines()]
    index = _index(ROOT / "data")
    for fold in FOLDS:
        fold_folder(fold)
    names = ("name", "status", "reason", "decoded_frames", "pose_found", "people_max", "clips")
    if not any(row["kind"] == "prepare" for row in records()):
        keep({
            "kind": "prepare", "files": len(rows), "kept": sum(row["status"] == "kept" for row in rows),
            "clips": len(index), "frames": sum(row["frames"] for row in index), "core_seconds": spent,
            "signers": {letter: sum(who == letter for who in signers().values()) for letter in "ABCDE"},
            "rows": [{name: row[name] for name in names if name in row} for row in rows],
        })  # fmt: skip


def signers() -> dict[str, str]:
    """File stem -> letter of the signer, from the clips' manifest."""
    lines = (CLIPS / "MANIFEST.tsv").read_text(encoding="utf-8").splitlines()[1:]
    found = {Path(line.split("\t")[0]).stem: re.search(r"signer ([A-Z])", line) for line in lines}
    return {stem: match[1] for stem, match in found.items() if match}


def _index(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "index.jsonl").read_text(encoding="utf-8").splitlines()]


def fold_folder(fold: str) -> Path:
    """The data set with the clips of the fold's signers held out."""
    who, rows = signers(), []
    for row in _index(ROOT / "data"):
        signer = who[Path(row["source"]).stem]
        rows.append({**row, "subject": f"signer {signer}", "split": "holdout" if signer in FOLDS[fold] else "train"})
    return _with_index(ROOT / f"fold-{fold}", rows)


def shown_folder(fold: str) -> Path:
    """What is generated: the middle of each held-out clip, from the clip's first frame as its reference image.

    Signers begin at rest. From there, the first frames are all but still, and poses of any other clip fit them as well.
    """
    rows = []
    for row in _index(fold_folder(fold)):
        if row["split"] == "holdout":
            rows.append({**row, "start": row["start"] + (row["frames"] - FRAMES) // 2, "frames": FRAMES})
            rows.append({**row, "clip": f"{row['clip']} photo", "frames": 1})
    return _with_index(ROOT / f"shown-{fold}", rows)


def _with_index(out: Path, rows: list[dict[str, Any]]) -> Path:
    """The same shards under another index."""
    if not (out / "index.jsonl").is_file():
        out.mkdir(parents=True, exist_ok=True)
        for path in [ROOT / "data" / "dataset.json", *(ROOT / "data").glob("*.safetensors")]:
            shutil.copyfile(path, out / path.name)
        write_atomically(out / "index.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return out


# Runs


def config(arm: str, fold: str, seed: int, rate: float, *, steps: tuple[int, int] = STEPS) -> Config:
    held_out = sum(row["split"] == "holdout" for row in _index(fold_folder(fold)))
    own = ARMS.get(arm, ARMS["full"])
    tree: dict[str, Any] = {
        **own, "label": arm, "output_dir": str(ROOT / f"{arm}-{fold}-{seed}-{rate:g}"),
        "data": {"path": str(fold_folder(fold))},
        "phases": {
            "pose": {"resolution": SIDE, "steps": steps[0], "batch": 8, "learning_rate": rate},
            "video": {"resolution": SIDE, "steps": steps[1], "frames": FRAMES, "batch": 2, "learning_rate": rate},
        },
        "train": {
            **own.get("train", {}), "seed": seed, "threads": 1, "lr_scheduler": "cosine", "lr_warmup_steps": 5,
            "holdout_clips": 2, "checkpointing_steps": 0,
        },
        "evaluate": {"clips": held_out, "frames": FRAMES, "resolution": SIDE, "metrics": list(METRICS)},
        "sample": {"seed": seed},
    }  # fmt: skip
    return config_of(tree, quiet=True)


def trained(recipe: Config) -> tuple[Config, Task, dict[str, Any]]:
    """A finished run and what it took; an unfinished one begins anew, as it is a minute."""
    run = Path(recipe.output_dir)
    if not (run / "cost.json").is_file():
        shutil.rmtree(run, ignore_errors=True)
        began, clock = time.process_time(), time.perf_counter()
        train(replace(recipe, evaluate=replace(recipe.evaluate, clips=0)), command=COMMAND, after_step=lambda: None)
        totals = json.loads((run / "totals.json").read_text())
        cost = {
            "core_seconds": time.process_time() - began, "wall_seconds": time.perf_counter() - clock,
            "flops": totals["flops"], "bytes_peak": totals["bytes_peak"],
        }  # fmt: skip
        write_atomically(run / "cost.json", json.dumps(cost))
    _, task = open_run(run, "model")
    return recipe, task, json.loads((run / "cost.json").read_text())


@torch.no_grad()
def losses(task: Task, recipe: Config) -> dict[str, Any]:
    """Held-out loss of clips: the mean and five noise bands; the same draws for every arm and seed of a fold."""
    task.model.eval()
    task.enter(recipe.phases["video"])
    draws = fixed_draws(task, task.samples("holdout", FRAMES, 5), Shape(SIDE, FRAMES, 2), SAMPLES, 5)
    taus = [tau for draw in draws for tau in draw.tau.tolist()]
    each = [loss for draw in draws for loss in task.losses(draw).tolist()]
    task.leave()
    return {"loss": fmean(each), "bands": band_means(each, taus)}


def judged(task: Task, recipe: Config, fold: str, *, copy: bool = False) -> dict[str, Any]:
    """Losses, and metrics of the held-out clips as the model generates them; with `copy` of the reference as well."""
    assert isinstance(task, HumanVideoTask)
    began, found = time.process_time(), losses(task, recipe)
    task.on(Shards(shown_folder(fold)))
    clips = generate_holdout(task, recipe.evaluate, recipe.sample)
    values, rows = measure([clip.generated for clip in clips], clips, METRICS)
    nexts = [
        replace(clip, keypoints=other.keypoints) for clip, other in zip(clips, [*clips[1:], clips[0]], strict=True)
    ]
    shuffled, _ = measure([clip.generated for clip in clips], nexts, ["pose_error"], per_clip=False)
    _keep_frames(Path(recipe.output_dir), clips)
    found |= {"metrics": values, "per_clip": rows, "shuffled_pck": shuffled["pck"]}
    if copy:
        shown = [clip.reference.expand_as(clip.truth) for clip in clips]
        values, rows = measure(shown, clips, METRICS)
        found["copy"] = {"metrics": values, "per_clip": rows}
    return {**found, "core_seconds_judging": time.process_time() - began}


def _keep_frames(run: Path, clips: list[GeneratedClip]) -> None:
    run.mkdir(parents=True, exist_ok=True)
    frames: dict[str, Any] = {}
    for clip in clips:
        frames[f"{clip.clip}/generated"], frames[f"{clip.clip}/truth"] = to_uint8(clip.generated), to_uint8(clip.truth)
        frames[f"{clip.clip}/reference"] = to_uint8(clip.reference[None])
    np.savez_compressed(run / "clips.npz", **frames)


def untrained(fold: str, seed: int) -> dict[str, Any]:
    recipe = config("untrained", fold, seed, RATES[0])
    return judged(build_task(recipe), recipe, fold, copy=seed == SEEDS[0])


def tune(arms: list[str]) -> None:
    """Each arm at three rates on the tuning fold, at half of the steps."""
    done = {(row["arm"], row["learning_rate"]) for row in records() if row["kind"] == "tune"}
    for arm in arms:
        for rate in RATES:
            if (arm, rate) not in done:
                recipe, task, cost = trained(config(arm, TUNING_FOLD, TUNING_SEED, rate, steps=TUNING_STEPS))
                head = {"kind": "tune", "arm": arm, "fold": TUNING_FOLD, "seed": TUNING_SEED, "learning_rate": rate}
                keep({**head, "steps": list(TUNING_STEPS), **losses(task, recipe), **cost})


def order() -> Iterator[tuple[str, str, int]]:
    """Arm, fold and seed of each run: what the question is about first, seed by seed."""
    for seed in SEEDS:
        first = ("untrained", "full", "lora", "entprog") if seed == SEEDS[0] else ("full", "lora", "entprog")
        yield from ((arm, fold, seed) for fold in FOLDS for arm in first)
    for seed in SEEDS:
        later = ("full-muon",) if seed == SEEDS[0] else ("untrained", "full-muon")
        yield from ((arm, fold, seed) for fold in FOLDS for arm in later)


def runs(minutes: float = math.inf) -> None:
    """All runs that have no line yet; none begins after `minutes`."""
    rates, ends = best_by_bands(records()), time.monotonic() + 60 * minutes
    done = {(row["arm"], row["fold"], row["seed"]) for row in records() if row["kind"] == "run"}
    for arm, fold, seed in order():
        if (arm, fold, seed) in done or (arm != "untrained" and arm not in rates) or time.monotonic() > ends:
            continue
        head: dict[str, Any] = {"kind": "run", "arm": arm, "fold": fold, "seed": seed}
        if arm == "untrained":
            found: dict[str, Any] = {"steps": [0, 0], **untrained(fold, seed)}
        else:
            recipe, task, cost = trained(config(arm, fold, seed, rates[arm]))
            about = describe_run(recipe, task.device, COMMAND)
            found = {
                "steps": list(STEPS), "learning_rate": rates[arm], **judged(task, recipe, fold), **cost,
                "protocol": protocol(recipe, task.codec, clips=recipe.evaluate.clips, weights="model") | SHOWN,
                **{key: about[key] for key in ("commit", "versions", "device", "capability")},
            }  # fmt: skip
        keep({**head, **found})


def arms() -> None:
    """PCK of elbows and wrists alone, with the clip's own and the next clip's poses: the other joints hardly move."""
    done = {(row["arm"], row["fold"], row["seed"]) for row in records() if row["kind"] == "arms"}
    runs = [row for row in records() if row["kind"] == "run"]
    todo = [(row["arm"], row["fold"], row["seed"], row.get("learning_rate", RATES[0])) for row in runs]
    todo += [("copy", fold, seed, rate) for arm, fold, seed, rate in todo if arm == "untrained" and seed == SEEDS[0]]
    for arm, fold, seed, rate in todo:
        if (arm, fold, seed) not in done:
            shards = Shards(shown_folder(fold))
            poses = {row.clip: shards.pose(row, 0, FRAMES) for row in shards.rows if row.frames == FRAMES}
            folder = ROOT / f"{'untrained' if arm == 'copy' else arm}-{fold}-{seed}-{rate:g}"
            with np.load(folder / "clips.npz") as stored:
                kind = "reference" if arm == "copy" else "generated"
                shown = [np.broadcast_to(stored[f"{clip}/{kind}"], (FRAMES, SIDE, SIDE, 3)) for clip in poses]
            own = list(poses.values())
            found = {"own": _arm_pck(shown, own), "next": _arm_pck(shown, [*own[1:], own[0]])}
            keep({"kind": "arms", "arm": arm, "fold": fold, "seed": seed, "pck": found})


def _arm_pck(shown: list[np.ndarray], poses: list[np.ndarray]) -> float:
    metric = PoseError()
    for frames, keypoints in zip(shown, poses, strict=True):
        only = torch.from_numpy(keypoints.copy())
        only[:, [joint for joint in range(18) if joint not in ELBOWS_AND_WRISTS], 2] = 0
        metric.update_keypoints(torch.from_numpy(frames.copy()).movedim(-1, 1)[None].float() / 255, only[None])
    return metric.compute()["pck"]


def table() -> None:
    """All tables of the record."""
    for made in real_clips_page.tables().values():
        print(markdown(made))


def show() -> None:
    """The moving picture: the clip of each fold that moves most, by seed 0."""
    rates = best_by_bands(records())
    arms = {"full": "full", "LoRA 16": "lora", "preset": "entprog"}
    runs = {title: Path(f"{arm}-{{fold}}-0-{rates[arm]:g}") for title, arm in arms.items()}
    runs["untrained"] = Path(f"untrained-{{fold}}-0-{RATES[0]:g}")
    there = [
        fold for fold in FOLDS if all((ROOT / str(p).format(fold=fold) / "clips.npz").is_file() for p in runs.values())
    ]
    real_clips_page.picture(ROOT, runs, {fold: _liveliest(fold) for fold in there})


def _liveliest(fold: str) -> str:
    with np.load(ROOT / f"untrained-{fold}-0-{RATES[0]:g}" / "clips.npz") as stored:
        truths = {name.partition("/")[0]: stored[name] for name in stored.files if name.endswith("/truth")}
    return max(truths, key=lambda clip: float(np.abs(np.diff(truths[clip].astype(float), axis=0)).mean()))


if __name__ == "__main__":
    ROOT.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    if sys.argv[1] == "tune":
        tune(sys.argv[2:] or list(ARMS))
    elif sys.argv[1] == "runs":
        runs(*map(float, sys.argv[2:]))
    else:
        {"prepare": prepare, "arms": arms, "table": table, "picture": show}[sys.argv[1]]()
