"""Does pose-driven fine-tuning of a pretrained image-to-video model work, and what does a partial one lose?

python -m benchmarks.studies.small_i2v base|tune|runs|guided|table|picture|curves

A small network of Wan's class (6 blocks, width 160, image-to-video channels) is pretrained without poses on rendered
people of the source domain, then fine-tuned with `pose = "blocks"` on people of the target domain: full, the last third
of the blocks, and the third that ranks first. Latents are those of the packaged codec. All train by Muon: in the first
120 steps of the base its holdout loss is 1.42, that of AdamW 1.64 (rates .01 and .001, each the best that was tried).
Budget, fixed before: 2 core-hours in all, of which at most 1 for the base.

base     renders, pretrains (cached in runs/small-i2v)
tune     learning rates of each arm on people that no run sees
runs     three seeds with other people in each; writes benchmarks/results/small-i2v.jsonl, a line a run
guided   clips of each run once more with classifier-free guidance by the pose; a line a run and scale
table    what came out
picture  frames of held-out clips beside each other, by the first seed
curves   the held-out loss while each arm trains

`tune 0 2` and `tune 1 2`, and so with `runs` and `guided`, share the work between two processes.
"""

import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanTransformer3DModel
from PIL import Image

from benchmarks.tables.scatter import Series, chart
from entprog.codecs.pca import PatchCodec
from entprog.config.load import config_of
from entprog.config.schema import Config
from entprog.core.bands import band_means
from entprog.core.types import Draw, Shape
from entprog.data.rendered import RenderedPeople, render_data_set
from entprog.data.shards import Shards
from entprog.data.window_writer import WindowWriter
from entprog.evaluate.evaluation import evaluate_task
from entprog.files import write_atomically
from entprog.prepare.video import read_video
from entprog.tasks.base import fixed_draws
from entprog.tasks.finished_run import open_run
from entprog.tasks.pretrained.families.wan import Wan
from entprog.train.log import describe_run
from entprog.train.run import train

ROOT = Path("runs") / "small-i2v"
RESULTS = Path(__file__).parent.parent / "results" / "small-i2v.jsonl"
SIDE, FRAMES, STRIDE = 64, 6, 5
NETWORK = {
    "num_attention_heads": 5, "attention_head_dim": 32, "in_channels": 36, "out_channels": 16, "text_dim": 16,
    "freq_dim": 64, "ffn_dim": 640, "num_layers": 6, "rope_max_seq_len": 64,
}  # fmt: skip
BASE_STEPS, TUNING_STEPS, STEPS, BATCH = 2600, 120, 240, 8
ARMS: dict[str, dict[str, Any]] = {
    "full": {"method": "full"},
    "last-third": {
        "ranking": {"score": "order", "options": {"order": "last"}},
        "schedule": {"name": "fixed", "options": {"m": [0.34]}},
    },
    "ranked-third": {
        "ranking": {"score": "cei", "samples": 64}, "schedule": {"name": "fixed", "options": {"m": [0.34]}},
    },
}  # fmt: skip
RATES = (1e-3, 3e-3, 1e-2)
SEEDS = (0, 1, 2)
TUNING = 9
SAMPLES, CLIPS = 96, 48
SCALES = (3.0, 6.0)
"""Of guidance; the runs themselves are sampled with 1, which is none."""
REFERENCE, POSE, GENERATED, TRUTH = range(4)
"""Places in a sample's panel, `GAP` pixels apart."""
GAP = 4


class SmallWan(Wan):
    """Wan's network without text to speak of: one empty token."""

    networks = ()
    guided_by = "pose"

    @property
    def text_length(self) -> int:
        return 1


def windows(people: RenderedPeople, name: str) -> Path:
    """Rendered people as windows of 6 frames, each with two reference images from other clips of the person."""
    out = ROOT / name
    if (out / "index.jsonl").is_file():
        return out
    codec = PatchCodec.default()
    shards = Shards(render_data_set(people, ROOT / "cache", codec, workers=1))
    about = {"name": codec.name, "hash": codec.hash, "channels": codec.channels, "factor": codec.factor,
             "frames_factor": 1}  # fmt: skip
    writer = WindowWriter(
        out, codec=about, text={"class": "none", "hash": "none"}, sizes=[f"{SIDE}x{SIDE}"], frames=FRAMES, fps=12
    )
    grey = codec.encode_pixels(torch.full((1, 3, SIDE, SIDE), 0.5))
    for row in shards.rows:
        others = [other for other in shards.rows if other.subject == row.subject and other.clip != row.clip] or [row]
        for start in range(0, row.frames - FRAMES + 1, STRIDE):
            other = others[start % len(others)]
            picks = [shards.latents(other, SIDE, (start + 7 * k) % other.frames, 1) for k in range(2)]
            first = torch.stack([torch.cat([pick, grey.expand(FRAMES - 1, -1, -1, -1)]) for pick in picks])
            tensors = {
                "latents": shards.latents(row, SIDE, start, FRAMES), "reference": torch.stack(picks), "first": first,
                "pose": torch.from_numpy(shards.pose(row, start, FRAMES)),
            }  # fmt: skip
            writer.add(
                tensors, clip=row.clip, subject=row.subject, source=row.source, split=row.split, start=start,
                frames=FRAMES, height=SIDE, width=SIDE,
            )  # fmt: skip
    writer.close({"": {"text": torch.zeros(1, NETWORK["text_dim"])}})
    return out


def fresh() -> Path:
    """The untrained network in diffusers' layout."""
    folder = ROOT / "fresh"
    if not (folder / "scheduler").is_dir():
        torch.manual_seed(0)
        network = WanTransformer3DModel(**NETWORK)
        torch.nn.init.zeros_(network.proj_out.weight)
        network.save_pretrained(folder / "transformer")
        FlowMatchEulerDiscreteScheduler(shift=1.0).save_pretrained(folder / "scheduler")
    return folder


def recipe(model: Path, data: Path, run: Path, steps: int, rate: float, **more: Any) -> Config:
    tree: dict[str, Any] = {
        "task": "pretrained", "output_dir": str(run), "data": {"path": str(data)},
        "model": {
            "pretrained": str(model), "family": "benchmarks.studies.small_i2v:SmallWan", "dtype": "float32",
            "pose": "blocks", "drop": {"text": 0.0, "pose": 0.1, "reference": 0.1},
        },
        "phases": {"video": {
            "resolution": SIDE, "frames": FRAMES, "steps": steps, "batch": BATCH, "learning_rate": rate,
        }},
        "train": {
            "holdout_clips": 32, "checkpointing_steps": 200, "checkpoints_total_limit": 1, "threads": 1,
            "lr_scheduler": "cosine", "validation_steps": 50,
        },
        "evaluate": {
            "clips": 0, "frames": FRAMES, "resolution": SIDE, "metrics": ["l1", "psnr", "ssim", "pose_error"],
        },
        "sample": {"num_inference_steps": 12, "guidance_scale": 1.0},
    }  # fmt: skip
    return config_of({**tree, **more}, quiet=True)


def trained(config: Config) -> Path:
    """The run, from where it stopped."""
    run = Path(config.output_dir)
    if (run / "totals.json").is_file():
        return run
    if any(run.glob("checkpoint-*")):
        return train(config, resume_from_checkpoint="latest")
    return train(config)


def base() -> Path:
    people = RenderedPeople(domain="source", subjects=160, clips_per_subject=2, holdout=8, frames=16, sizes=(SIDE,))
    config = recipe(fresh(), windows(people, "source"), ROOT / "base", BASE_STEPS, 1e-2, method="full")
    config = replace(config, model=replace(config.model, pose="none"), train=replace(config.train, optimizer="muon"))
    return trained(config) / "final"


def target(seed: int) -> Path:
    people = RenderedPeople(
        domain="target", subjects=12, clips_per_subject=4, holdout=12, frames=16, sizes=(SIDE,), seed=20 + seed
    )
    return windows(people, f"target-{seed}")


def arm(name: str, seed: int, rate: float, steps: int) -> Path:
    config = recipe(
        ROOT / "base" / "final", target(seed), ROOT / f"{name}-{seed}-{rate:g}-{steps}", steps, rate, **ARMS[name]
    )
    return trained(replace(config, train=replace(config.train, seed=seed, optimizer="muon")))


def tune(part: int = 0, parts: int = 1) -> None:
    """Each arm at each rate on people that no run sees, in fewer steps."""
    for name, rate in [(name, rate) for rate in RATES for name in ARMS][part::parts]:
        arm(name, TUNING, rate, TUNING_STEPS)


def best_rates() -> dict[str, float]:
    """Each arm's best rate."""
    losses = {
        (name, rate): json.loads((arm(name, TUNING, rate, TUNING_STEPS) / "totals.json").read_text())["holdout_loss"]
        for name in ARMS for rate in RATES
    }  # fmt: skip
    (ROOT / "tuning.json").write_text(json.dumps({f"{n} {r:g}": loss for (n, r), loss in losses.items()}, indent=2))
    return {name: min(RATES, key=lambda rate: losses[name, rate]) for name in ARMS}


def with_poses_of_next(draw: Draw) -> Draw:
    """The same draw, each sample with the poses of the next; reference and noise stay."""
    return replace(draw, condition={**draw.condition, "pose": draw.condition["pose"].roll(-1, 0)})


def measured(name: str, seed: int, rate: float) -> dict[str, Any]:
    run = arm(name, seed, rate, STEPS)
    with torch.no_grad():
        return {"arm": name, "seed": seed, "learning_rate": rate, "steps": STEPS, **figures(run)}


def figures(run: Path) -> dict[str, Any]:
    """Losses by noise band with true and with the next sample's poses, and metrics of generated clips."""
    config, task = open_run(run)
    task.enter(config.phases["video"])
    shape = Shape(SIDE, FRAMES, BATCH)
    draws = fixed_draws(task, task.samples("holdout", FRAMES, 5), shape, SAMPLES, 5)
    taus = [tau for draw in draws for tau in draw.tau.tolist()]
    true = [loss for draw in draws for loss in task.losses(draw).tolist()]
    shuffled = [loss for draw in draws for loss in task.losses(with_poses_of_next(draw)).tolist()]
    evaluated = replace(config, evaluate=replace(config.evaluate, clips=CLIPS, videos=4))
    metrics = evaluate_task(task, evaluated, run, progress=False)
    totals = json.loads((run / "totals.json").read_text())
    last = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
    about = describe_run(config, task.device, "python -m benchmarks.studies.small_i2v runs")
    return {
        "blocks": last["active"], "bytes_step": last["bytes_peak"],
        "bands": band_means(true, taus), "bands_shuffled": band_means(shuffled, taus), "loss": mean(true),
        "loss_shuffled": mean(shuffled), "metrics": metrics["metrics"], "baselines": metrics["baselines"],
        "flops": totals["flops"], "bytes_peak": totals["bytes_peak"], "about": about,
    }  # fmt: skip


def runs(part: int = 0, parts: int = 1) -> None:
    rates = best_rates()
    done = {(r["arm"], r["seed"]) for r in records()}
    for seed, name in [(seed, name) for seed in SEEDS for name in ARMS][part::parts]:
        if (name, seed) not in done:
            began = time.process_time()
            row = measured(name, seed, rates[name]) | {"core_seconds": round(time.process_time() - began)}
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def guided(part: int = 0, parts: int = 1) -> None:
    """Metrics of each run's clips where the second call of guidance goes without poses, as a tenth of training did."""
    done = {(row["arm"], row["seed"], row["guidance"]) for row in records(guided=True)}
    todo = [(scale, row) for scale in SCALES[::-1] for row in records()]
    for scale, row in todo[part::parts]:
        if (row["arm"], row["seed"], scale) in done:
            continue
        run = arm(row["arm"], row["seed"], row["learning_rate"], row["steps"])
        config, task = open_run(run)
        task.enter(config.phases["video"])
        sampled = replace(
            config, sample=replace(config.sample, guidance_scale=scale),
            evaluate=replace(config.evaluate, clips=CLIPS, videos=4 if row["seed"] == SEEDS[0] else 0),
        )  # fmt: skip
        out = ROOT / f"guided-{row['arm']}-{row['seed']}-{scale:g}"
        out.mkdir(exist_ok=True)
        with torch.no_grad():
            found = evaluate_task(task, sampled, out, progress=False)
        line = {
            "arm": row["arm"], "seed": row["seed"], "guidance": scale, "metrics": found["metrics"],
            "baselines": found["baselines"],
            "about": describe_run(config, task.device, "python -m benchmarks.studies.small_i2v guided"),
        }  # fmt: skip
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def records(guided: bool = False) -> list[dict[str, Any]]:
    """Lines of the runs, or of their clips with guidance."""
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.is_file() else []
    return [row for row in rows if ("guidance" in row) == guided]


def table() -> None:
    rows = records()
    full = {row["seed"]: row for row in rows if row["arm"] == "full"}
    for name in ARMS:
        mine = [row for row in rows if row["arm"] == name]
        if not mine:
            continue
        print(f"{name}: blocks {[row['blocks'] for row in mine]}")
        for key in ("loss", "loss_shuffled"):
            print(f"  {key}: {_spread([row[key] for row in mine])}")
        for band in range(5):
            gaps = [row["bands_shuffled"][band] - row["bands"][band] for row in mine]
            print(f"  band {band}: {_spread([row['bands'][band] for row in mine])}, shuffled worse by {_spread(gaps)}")
        for key in mine[0]["metrics"]:
            shuffled = [row["baselines"].get("shuffled_poses", {}).get(key, math.nan) for row in mine]
            print(f"  {key}: {_spread([row['metrics'][key] for row in mine])}; shuffled {_spread(shuffled)}")
        cost = mean(row["flops"] / full[row["seed"]]["flops"] for row in mine if row["seed"] in full)
        peak = mean(row["bytes_step"] / full[row["seed"]]["bytes_step"] for row in mine if row["seed"] in full)
        for scale in SCALES:
            clips = [row for row in records(guided=True) if (row["arm"], row["guidance"]) == (name, scale)]
            if clips:
                print(f"  guidance {scale:g}:", *(_against_shuffled(clips, key) for key in ("pck", "pose_error", "l1")))
                print(f"    a person is found in {_spread([row['metrics']['pose_found'] for row in clips])}")
        print(f"  FLOPs {cost:.2f} and metered memory of a step {peak:.2f} of full's")


def picture(clips: int = 3, shown: Sequence[int] = (0, 2, 5)) -> None:
    """docs/images/small-i2v.png: guided clips of the first seed; in rows poses, truth and each arm; on the left the
    reference.
    """
    panels, columns = {}, []
    for name in (row["arm"] for row in records() if row["seed"] == SEEDS[0]):
        folder = ROOT / f"guided-{name}-{SEEDS[0]}-{SCALES[-1]:g}"
        videos = sorted((folder / "samples" / "final").glob("*.mp4"))[:clips]
        panels[name] = [read_video(video)[0] for video in videos]
    side = next(iter(panels.values()))[0].shape[1]

    def tile(name: str, clip: int, frame: int, place: int) -> np.ndarray:
        left = place * (side + GAP)
        return panels[name][clip][frame][:, left : left + side]

    first = next(iter(panels))
    for clip in range(clips):
        reference = tile(first, clip, 0, REFERENCE)
        columns.append(np.concatenate([reference, np.full((side * (1 + len(panels)), side, 3), 255, np.uint8)]))
        for frame in shown:
            tiles = [tile(first, clip, frame, POSE), tile(first, clip, frame, TRUTH)]
            columns.append(np.concatenate([*tiles, *(tile(name, clip, frame, GENERATED) for name in panels)]))
    Image.fromarray(np.concatenate(columns, 1)).resize((96 * len(columns), 96 * (2 + len(panels)))).save(
        Path("docs") / "images" / "small-i2v.png", optimize=True
    )
    print(*panels)


def curves() -> None:
    """docs/images/small-i2v.svg: the held-out loss while each arm trains, mean and deviation over seeds.

    Seeds have other people, which moves all arms alike, so each is drawn as a difference: to the first reading of full
    fine-tuning with the same people.
    """
    first: dict[int, float] = {}
    lines = []
    for name in ARMS:
        readings: dict[int, list[float]] = {}
        for row in (row for row in records() if row["arm"] == name):
            seed = row["seed"]
            found = read_holdout(ROOT / f"{name}-{seed}-{row['learning_rate']:g}-{STEPS}")
            if name == "full":
                first[seed] = found[0][1]
            for step, loss in found:
                readings.setdefault(step, []).append(loss - first[seed])
        points = [(float(step), mean(each), stdev(each) if len(each) > 1 else 0.0) for step, each in readings.items()]
        lines.append(Series(name, sorted(points), strong=name == "full"))
    text = chart(
        "Learning poses by a pretrained image-to-video model", "step", "held-out loss, minus full's at step 50", lines,
        x_text="{:.0f}".format,
    )  # fmt: skip
    write_atomically(Path("docs") / "images" / "small-i2v.svg", text)


def read_holdout(run: Path) -> list[tuple[int, float]]:
    """(step, held-out loss) of each reading of a run."""
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    return [(event["step"], event["loss"]) for event in events if event.get("event") == "holdout"]


def _against_shuffled(rows: list[dict[str, Any]], key: str) -> str:
    """A metric with true poses, and by how much it differs with shuffled ones, paired by seed."""
    true = [row["metrics"][key] for row in rows]
    others = [row["baselines"]["shuffled_poses"].get(key) for row in rows]
    gaps = [mine - other for mine, other in zip(true, others, strict=True) if other is not None]
    return f"{key} {_spread(true)}" + (f" (true less shuffled {_spread(gaps)})" if gaps else "")


def _spread(values: list[float]) -> str:
    values = [value for value in values if not math.isnan(value)] or [math.nan]
    spread = f" +- {stdev(values):.4f}" if len(values) > 1 else ""
    return f"{mean(values):.4f}{spread}"


if __name__ == "__main__":
    ROOT.mkdir(parents=True, exist_ok=True)
    command, *shares = sys.argv[1:]
    if command in ("tune", "runs", "guided"):
        {"tune": tune, "runs": runs, "guided": guided}[command](*map(int, shares))
    else:
        {"base": base, "table": table, "picture": picture, "curves": curves}[command]()
