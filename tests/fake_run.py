"""Synthetic run folders, realistic enough to look at: three phases, 12 spatial and 6 temporal blocks."""

import json
import math
from pathlib import Path

import av
import numpy as np
from PIL import Image

SPATIAL = tuple(f"blocks.{i}" for i in range(12))
TEMPORAL = tuple(f"temporal.{i}" for i in range(6))
PHASES = (("1-subject", SPATIAL, 1, 16), ("2-pose", SPATIAL, 1, 16), ("3-video", TEMPORAL, 8, 4))
MIB = 2**20
CLIPS = ("ana__walk", "bo__turn", "cleo__wave")
CONFIG = """seed = {seed}
method = "{method}"
preset = "paper"

[data]
source = "rendered"
resolution = 64

[score]
name = "cei"
samples = 64

[schedule]
name = "adaptive"
estimator = "{estimator}"
cost = "flops"

[train]
learning_rate = 3e-4
lr_scheduler = "cosine"
"""


def make_run(
    folder: Path,
    method: str = "progressive",
    *,
    label: str | None = None,
    seed: int = 0,
    steps: int = 20,
    status: str = "finished",
    estimator: str = "probe",
    clips: tuple[str, ...] = CLIPS,
) -> Path:
    """Write a run folder of `steps` steps a phase; without status "finished" what comes last is left out."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    _json(folder / "run.json", _about(method, label or method, seed, status))
    (folder / "config.toml").write_text(CONFIG.format(seed=seed, method=method, estimator=estimator))
    rows: list[dict] = []
    events: list[dict] = []
    for index, (phase, names, frames, batch) in enumerate(PHASES):
        place = folder / phase
        place.mkdir()
        order = list(names)
        if method == "progressive":
            order = _scores(place, names, random)
        _phase(place, index, names, order, frames, batch, method, steps, random, rows, events)
        if clips:
            for clip in clips:
                _video(folder / "samples" / f"{phase}-{len(rows)}" / f"{clip}.mp4", random, frames=8)
            events.append(_event(rows, phase, "sample", folder=f"samples/{phase}-{len(rows)}"))
    if method == "progressive":
        message = "scoring and search took 31 % of the time and saved 24 % of it"
        events.append(_event(rows, "3-video", "warning", sign="search dearer than its saving", message=message))
    if status == "finished":
        events.append(_event(rows, "3-video", "finish"))
        _json(folder / "metrics.json", _metrics(method, clips))
        _json(folder / "totals.json", _totals(rows, method))
    _lines(folder / "log.jsonl", rows)
    _lines(folder / "events.jsonl", events)
    return folder


def _about(method: str, label: str, seed: int, status: str) -> dict:
    return {
        "status": status,
        "reason": "SIGINT" if status == "interrupted" else None,
        "commit": "c83f99c1d377595a0277491373de3d34fff2c720",
        "versions": {
            "entprog": "0.1.0.dev0",
            "torch": "2.13.0+cpu",
            "diffusers": "0.39.0",
            "python": "3.11.2",
        },
        "device": "cpu (AVX512, 2 cores)",
        "threads": 1,
        "seed": seed,
        "started": "2026-05-04T10:12:03+00:00",
        "finished": "2026-05-04T10:19:41+00:00" if status == "finished" else None,
        "command": f"entprog train recipes/demo.toml --method {method}",
        "method": method,
        "label": label,
    }


def _scores(place: Path, names: tuple[str, ...], random: np.random.Generator) -> list[str]:
    count = len(names)
    values = {
        name: round(float(0.42 * math.exp(-i / 1.4) + random.normal(0, 0.012)), 5) for i, name in enumerate(names)
    }
    order = sorted(values, key=lambda name: -values[name])
    cost = {
        name: {
            "lowest_depth": i,
            "flops": int(2.1e9 * (3 + (count - i) / count)),
            "seconds": 0.021 + 0.006 * (count - i),
            "parameters": 591_744,
            "bytes": int((30 + 4 * (count - i)) * MIB),
        }
        for i, name in enumerate(names)
    }
    _json(
        place / "scores.json",
        {
            "score": "cei",
            "options": {"estimator": "gaussian", "skip": "denoising"},
            "samples": 64,
            "seconds": 4.2,
            "flops": 8.1e11,
            "order": order,
            "values": values,
            "stderr": {name: round(float(abs(random.normal(0.008, 0.003))), 5) for name in names},
            "cost": cost,
            "warnings": [],
        },
    )
    return order


def _phase(place, index, names, order, frames, batch, method, steps, random, rows, events) -> None:
    phase, count = place.name, len(names)
    events.append(_event(rows, phase, "phase", blocks=list(names)))
    stages = 1 if method == "full" else 3
    level = (0.95, 0.55, 0.42)[index]
    for stage in range(stages):
        first, last = stage * steps // stages, (stage + 1) * steps // stages
        grown = count if method == "full" else max(1, count * (stage + 1) // 3)
        candidates = (grown,) if method == "full" else (max(1, grown // 2), grown)
        searched = 0 if method == "full" else max(2, (last - first) // 3)
        for inner in range(first, last):
            searching = inner - first < searched
            m = candidates[(inner - first) % 2 if searching and len(candidates) > 1 else -1]
            active = sorted(names.index(name) for name in order[:m])
            share = m / count
            loss = level * (0.55 + 0.45 * math.exp(-2.5 * inner / steps)) * random.lognormal(0, 0.08)
            rows.append(_row(rows, phase, inner, stage, loss, m, active, share, frames, batch, searching))
            if searching:
                work = {"m": m, "active": active, "resolution": 64, "frames": frames, "batch": batch}
                events.append(
                    _event(rows, phase, "trial", stage=stage, workload=work, seconds=rows[-1]["seconds"])
                    | {
                        "flops": rows[-1]["flops"],
                        "loss_before": loss * 1.02,
                        "loss_after": loss,
                        "gain": loss * 0.02,
                    }
                )
        if searched:
            scale = {str(m): round(0.004 / m + 0.0011 * (m == grown), 5) for m in candidates}
            events.append(_event(rows, phase, "choice", stage=stage, m=grown, efficiency=scale))
        events.append(_event(rows, phase, "stage", stage=stage, active=order[:grown], m=grown))
        text = "".join(
            f"{name}.proj.weight  [384, 384]  147456  {'trained' if name in order[:grown] else 'frozen'}\n"
            for name in names
        )
        text += f"trained {147456 * grown} of {147456 * count} parameters\n"
        (place / f"trainable-stage{stage}.txt").write_text(text)
        holdout = level * (0.55 + 0.45 * math.exp(-2.5 * last / steps))
        events.append(_event(rows, phase, "holdout", loss=holdout, per_draw=[holdout] * 4))


def _row(rows, phase, inner, stage, loss, m, active, share, frames, batch, searching) -> dict:
    depth = 1 - (min(active) / 12 if active else 0)
    seconds = (1.1 + 1.9 * share * depth) * (1.0 if frames == 1 else 1.6)
    live = {
        "weights": 27 * MIB,
        "gradients": int(27 * MIB * share),
        "optimizer": int(54 * MIB * share),
        "activations": int((18 + 44 * depth) * MIB * (1 if frames == 1 else 1.5)),
        "temporaries": int((4 + 6 * depth) * MIB),
    }
    return {
        "step": len(rows),
        "phase": phase,
        "phase_step": inner,
        "stage": stage,
        "loss": loss,
        "lr": 3e-4,
        "grad_norm": 1.0,
        "m": m,
        "active": active,
        "trainable_params": 591_744 * m,
        "seconds": seconds,
        "elapsed": (rows[-1]["elapsed"] if rows else 4.0) + seconds,
        "flops": seconds * 9.1e10,
        "bytes_peak": int(sum(live.values()) * 1.08),
        "bytes_live": live,
        "frames": frames,
        "resolution": 64,
        "batch": batch,
        "searching": searching,
    }


def _event(rows: list[dict], phase: str, event: str, **more) -> dict:
    elapsed = rows[-1]["elapsed"] if rows else 0.0
    return {"time": "2026-05-04T10:12:03+00:00", "elapsed": elapsed, "step": len(rows), "phase": phase} | {
        "event": event,
        **more,
    }


def _metrics(method: str, clips: tuple[str, ...]) -> dict:
    shift = 0.0 if method == "full" else 0.0011
    values = {"l1": 0.0412 + shift, "psnr": 22.71 - 30 * shift, "ssim": 0.834 - 4 * shift}
    return {
        "protocol": {"clips": 3, "frames": "all 8", "size": 64, "pooling": "mean over frames, then clips"},
        "metrics": values,
        "per_clip": [{"clip": clip} | values for clip in clips],
        "baselines": {
            "copy_reference": {"l1": 0.0893, "psnr": 16.2, "ssim": 0.641},
            "mean_frame": {"l1": 0.0711, "psnr": 18.4, "ssim": 0.688},
        },
    }


def _totals(rows: list[dict], method: str) -> dict:
    search = [row for row in rows if row["searching"]]
    scoring = (0.0, 0.0) if method == "full" else (12.6, 2.43e12)
    return {
        "seconds": rows[-1]["elapsed"] + scoring[0],
        "seconds_scoring": scoring[0],
        "seconds_search": sum(row["seconds"] for row in search),
        "flops": sum(row["flops"] for row in rows) + scoring[1],
        "flops_scoring": scoring[1],
        "flops_search": sum(row["flops"] for row in search),
        "bytes_peak": max(row["bytes_peak"] for row in rows),
        "bytes_mean": sum(row["bytes_peak"] for row in rows) / len(rows),
        "holdout_loss": 0.2491 if method == "full" else 0.2535,
        "steps": len(rows),
    }


def _video(path: Path, random: np.random.Generator, frames: int) -> None:
    """Four tiles of 64 px: a moving bright square over a tint, enough to see that it plays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tint = random.uniform(60, 200, 3)
    pictures = []
    for frame in range(frames):
        picture = np.zeros((64, 256, 3), np.uint8)
        for tile in range(4):
            left = 64 * tile
            picture[:, left : left + 64] = 20 if tile == 1 else tint
            x = left + 8 + (0 if tile == 0 else 4 * frame)
            picture[16:56, x : x + 14] = 255 - tint * 0.7 if tile != 1 else (230, 120, 40)
        pictures.append(picture)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 256, 64, "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    images = [Image.fromarray(picture) for picture in pictures]
    images[0].save(path.with_suffix(".gif"), save_all=True, append_images=images[1:], duration=125, loop=0)


def _json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=1))


def _lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
