"""A finished run of an untrained network on rendered people, for tests of `sample` and `evaluate`."""

import json
from pathlib import Path

import torch

from entprog.config.load import write_config
from entprog.config.schema import Config, DataConfig, EvaluateConfig, ModelConfig, PhaseConfig, SampleConfig
from entprog.data.rendered import RenderedPeople, render_data_set
from entprog.files import save_weights
from entprog.nets.dit import build_dit


def untrained_run(root: Path, *, side: int = 16, frames: int = 4) -> Path:
    """ROOT/run, whose windows have `frames` frames of `side` pixels; one clip of its data is called "at 12:30"."""
    spec = RenderedPeople(subjects=2, clips_per_subject=1, holdout=1, frames=5, sizes=(side,))
    data = render_data_set(spec, root, workers=1, progress=False)
    index = data / "index.jsonl"
    rows = [json.loads(line) for line in index.read_text().splitlines()]
    rows[0]["clip"] = "at 12:30"
    index.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = Config(
        method="full",
        data=DataConfig(path=str(data), sizes=(side,)),
        model=ModelConfig(init="scratch"),
        phases={"video": PhaseConfig(steps=1, resolution=side, frames=frames)},
        sample=SampleConfig(num_inference_steps=1, guidance_scale=1.0),
        evaluate=EvaluateConfig(clips=1, frames=frames, resolution=side),
    )
    folder = root / "run"
    (folder / "final").mkdir(parents=True)
    torch.manual_seed(0)
    save_weights(dict(build_dit("nano").state_dict()), folder / "final" / "model.safetensors")
    (folder / "config.toml").write_text(write_config(config), encoding="utf-8")
    return folder
