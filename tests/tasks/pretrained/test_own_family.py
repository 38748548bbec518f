"""A family is added by one file: one of the user's own, named by `model.family`, trains with no edit elsewhere."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, SanaVideoTransformer3DModel

from entprog.config.load import config_of
from entprog.data.window_writer import WindowWriter
from entprog.tasks.pretrained.families import families
from entprog.train.run import train
from pretrained_runs import same_weights

OWN = '''
from entprog.tasks.pretrained.families.base import Condition, Family, lengths


class SanaVideo(Family):
    """SanaVideoTransformer3DModel, as SanaVideoPipeline calls it without its instruction before the prompt."""

    networks = ("SanaVideoTransformer3DModel",)
    text_length = 6

    @property
    def patch(self):
        return tuple(self.network["patch_size"])

    def conditions(self, latent, *, pose, reference):
        states = Condition("text", (self.text_length, self.network["caption_channels"]), "text")
        return states, Condition("mask", (self.text_length,), "text")

    def padded(self, texts):
        return super().padded(texts) | {"mask": lengths([text["text"] for text in texts], self.text_length)}

    def inputs(self, x, time, condition):
        text = {"encoder_hidden_states": condition["text"], "encoder_attention_mask": condition["mask"]}
        return {"hidden_states": x.transpose(1, 2), "timestep": time, **text}
'''
FRAMES, SIDE = 5, 32


def save_model(folder: Path) -> None:
    """A tiny SANA-Video: network, scheduler and VAE, without text encoder."""
    torch.manual_seed(0)
    SanaVideoTransformer3DModel(
        in_channels=16, out_channels=16, num_attention_heads=2, attention_head_dim=12, num_layers=4,
        num_cross_attention_heads=2, cross_attention_head_dim=12, cross_attention_dim=24, caption_channels=8,
        sample_size=4,
    ).save_pretrained(folder / "transformer")  # fmt: skip
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(folder / "scheduler")
    AutoencoderKLWan(base_dim=8, dim_mult=[1, 1, 1, 1], num_res_blocks=1).save_pretrained(folder / "vae")


def write_data(folder: Path, model: Path) -> None:
    """Three windows of random latents, one held out."""
    from entprog.codecs.diffusers import DiffusersCodec

    random = torch.Generator().manual_seed(0)
    writer = WindowWriter(
        folder, codec=DiffusersCodec.load(model).about(), text={"class": "tiny", "hash": "0"}, sizes=[f"{SIDE}x{SIDE}"],
        frames=FRAMES, fps=8,
    )  # fmt: skip
    for i in range(3):
        tensors = {
            "latents": torch.randn(2, 16, 4, 4, generator=random),
            "pose": torch.rand(FRAMES, 18, 3, generator=random),
        }
        writer.add(
            tensors, caption="a man walks", clip=f"clip{i}", subject=f"person{i}", source=f"clip{i}.mp4",
            split="holdout" if i == 2 else "train", start=0, frames=FRAMES, height=SIDE, width=SIDE,
        )  # fmt: skip
    writer.close({prompt: {"text": torch.randn(4, 8, generator=random)} for prompt in ("", "a man walks")})


def test_a_family_of_ones_own_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranking, two stages, resume from the first, and a final folder that diffusers loads."""
    assert "SanaVideoTransformer3DModel" not in families(), "this test needs a class that no family calls"
    (tmp_path / "own_sana_video.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    model, data = tmp_path / "model", tmp_path / "data"
    save_model(model)
    write_data(data, model)
    tree = {
        "task": "pretrained", "data": {"path": str(data)},
        "model": {"pretrained": str(model), "family": "own_sana_video:SanaVideo", "reference": "none"},
        "phases": {"video": {
            "resolution": f"{SIDE}x{SIDE}", "frames": FRAMES, "steps": 6, "batch": 2, "learning_rate": 1e-3,
        }},
        "ranking": {"score": "gradient", "samples": 2},
        "schedule": {"name": "fixed", "options": {"m": [1, 2]}},
        "train": {"mixed_precision": "no", "holdout_clips": 1, "checkpointing_steps": 2, "threads": 1},
        "evaluate": {"clips": 0},
    }  # fmt: skip
    whole = train(config_of({**tree, "output_dir": str(tmp_path / "whole")}))
    stages = [json.loads(line)["m"] for line in (whole / "log.jsonl").read_text().splitlines()]
    assert stages == [1, 1, 1, 2, 2, 2]

    steps: list[int] = []

    def stop_after_three() -> None:
        steps.append(len(steps))
        if len(steps) == 3:
            raise KeyboardInterrupt

    stopped = {**tree, "output_dir": str(tmp_path / "stopped")}
    with pytest.raises(KeyboardInterrupt):
        train(config_of(stopped), after_step=stop_after_three)
    again = train(config_of(stopped), resume_from_checkpoint="latest")
    assert same_weights(whole, again)
    SanaVideoTransformer3DModel.from_pretrained(whole / "final" / "transformer")
