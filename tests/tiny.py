"""What tests of whole runs share: a data set of a few rendered clips, and a configuration that trains in seconds."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from entprog.codecs.pca import CHANNELS, PatchCodec
from entprog.config.load import read_config
from entprog.config.schema import Config
from entprog.data.rendered import RenderedPeople, render_data_set
from entprog.data.shards import ShardWriter
from entprog.nets.dit import VideoDiT, build_dit

PEOPLE = RenderedPeople(subjects=3, clips_per_subject=2, holdout=2, frames=8, sizes=(16, 32))
"""Ten clips: six to train on, four held out."""


def render_tiny(cache: Path) -> Path:
    return render_data_set(PEOPLE, cache, workers=1, progress=False)


def tiny_config(out: Path, data: Path, **overrides: Any) -> Config:
    """Three phases of a few steps; `overrides` name dotted keys with "__" for each dot."""
    settings: dict[str, Any] = {
        "output_dir": str(out), "data.path": str(data), "device": "cpu", "model.init": "scratch",
        "ranking.samples": 4, "schedule.name": "linear", "schedule.options.stages": 2,
        "train.holdout_clips": 4, "train.mixed_precision": "no", "train.threads": 1, "train.checkpointing_steps": 0,
        "evaluate.clips": 0, "evaluate.frames": 2, "evaluate.videos": 1, "evaluate.resolution": 32,
        "sample.num_inference_steps": 1,
    }  # fmt: skip
    for name, frames, steps in (("subject", 1, 4), ("pose", 1, 6), ("video", 3, 4)):
        phase = {"steps": steps, "frames": frames, "batch": 2, "resolution": 16, "learning_rate": 1e-3}
        settings.update({f"phases.{name}.{key}": value for key, value in phase.items()})
    settings.update({key.replace("__", "."): value for key, value in overrides.items()})
    if settings["schedule.name"] != "linear" and "schedule__options__stages" not in overrides:
        del settings["schedule.options.stages"]
    if settings.get("method") in ("full", "lora", "benchmarks.rivals.lisa:Lisa", "benchmarks.rivals.badam:Badam"):
        settings = {key: value for key, value in settings.items() if not key.startswith(("ranking", "schedule"))}
    written = {key: v if isinstance(v, str) else json.dumps(v) for key, v in settings.items()}
    return read_config(None, written)


def small_dit(seed: int = 0, *, trained: bool = True, **options: Any) -> VideoDiT:
    """Four blocks of width 32; `trained` opens the gates that a new model keeps at zero."""
    torch.manual_seed(seed)
    model = build_dit("nano", **{"depth": 4, "width": 32, "heads": 2, **options})
    return opened(model) if trained else model


def opened(model: VideoDiT, std: float = 0.08) -> VideoDiT:
    """The model with small random numbers in every weight."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=std)
    return model


def synthetic_data(folder: Path, *, clips: int = 8, frames: int = 6, sizes: tuple[int, ...] = (16,)) -> Path:
    """A prepared data set of smooth random latents: no renderer, the same numbers for ever."""
    codec = PatchCodec.default()
    about = {"codec": codec.name, "codec_hash": codec.hash}
    writer = ShardWriter(folder, codec=about, sizes=sizes, fps=12.0)
    for k in range(clips):
        source = np.random.Generator(np.random.PCG64(np.random.SeedSequence((7, k))))
        base = source.standard_normal((1, CHANNELS, 1, 1), dtype=np.float32)
        latents = {
            size: torch.from_numpy(
                base + 0.3 * source.standard_normal((frames, CHANNELS, size // 4, size // 4), dtype=np.float32)
            )
            for size in sizes
        }
        pose = np.concatenate([source.random((frames, 18, 2)), np.ones((frames, 18, 1))], -1)
        split = "train" if k < clips * 3 // 4 else "holdout"
        writer.add(
            latents, pose.astype(np.float32), clip=f"clip-{k}", subject=str(k // 2), motion=str(k),
            scene=str(k // 2), source="synthetic", split=split,
        )  # fmt: skip
    writer.close()
    return folder


def lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def same(a: Path, b: Path) -> None:
    """Weights, ema, log, search and totals of two runs are equal but for times (and what weighs with them)."""
    for name in ("model", "ema"):
        first, second = (load_file(str(run / "final" / f"{name}.safetensors")) for run in (a, b))
        assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first), name
    timed = {"seconds", "elapsed", "bytes_mean"}
    rows = [[{k: v for k, v in row.items() if k not in timed} for row in lines(run / "log.jsonl")] for run in (a, b)]
    assert rows[0] == rows[1]
    read = [
        [
            {k: v for k, v in row.items() if k not in timed | {"time"} and not k.startswith("seconds")}
            for row in lines(run / "events.jsonl")
            if row["event"] not in ("checkpoint", "resume", "stop")
        ]
        for run in (a, b)
    ]
    assert [(row["event"], row["step"]) for row in read[0]] == [(row["event"], row["step"]) for row in read[1]]
    assert read[0] == read[1]
    totals = [json.loads((run / "totals.json").read_text()) for run in (a, b)]
    for key in totals[0]:
        if not key.startswith("seconds") and key != "bytes_mean":
            assert totals[0][key] == totals[1][key], key
    for file in a.rglob("trainable-stage*.txt"):
        assert file.read_text() == (b / file.relative_to(a)).read_text()
