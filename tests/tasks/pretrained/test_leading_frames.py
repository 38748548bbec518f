"""Families that denoise the reference as a latent frame in front of the clip: VACE and Animate."""

from pathlib import Path
from typing import Any

import pytest
import torch

from entprog.config.load import config_of
from entprog.core.types import Draw, Shape
from entprog.tasks.base import fixed_draws
from entprog.tasks.pretrained.task import PretrainedTask, build_task
from tiny_pipelines import saved
from tiny_windows import write_windows

FRAMES, LATENT_FRAMES, SIDE = 5, 2, 32


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("windows")
    return {name: write_windows(root / name, saved(name)) for name in ("wan-vace", "wan-animate")}


def task_of(name: str, data: dict[str, Path], **model: Any) -> PretrainedTask:
    given = {"pretrained": str(saved(name)), "pose": "native", "reference": "native"} | model
    size = {"resolution": SIDE, "frames": FRAMES}
    config = config_of(
        {
            "task": "pretrained", "data": {"path": str(data[name])}, "model": given,
            "method": "full", "phases": {"video": {**size, "steps": 8, "batch": 2}},
            "train": {"mixed_precision": "no", "threads": 1},
            "evaluate": {"clips": 1, **size}, "sample": {"num_inference_steps": 2},
        }
    )  # fmt: skip
    task = build_task(config)
    task.enter(config.phases["video"])
    return task


def draw_of(task: PretrainedTask) -> Draw:
    return fixed_draws(task, task.samples("train", FRAMES, 0), Shape(SIDE, FRAMES, 2), 2, 0)[0]


@pytest.mark.parametrize("name", ["wan-vace", "wan-animate"])
def test_the_reference_is_noised_with_the_clip_and_does_not_count(name: str, data: dict[str, Path]) -> None:
    task = task_of(name, data)
    draw = draw_of(task)
    clean = task.objective.x0(draw.target, draw.x, draw.tau)
    assert clean.shape[1] == LATENT_FRAMES + 1
    torch.testing.assert_close(clean[:, :1], draw.condition["reference"], rtol=0, atol=1e-5)
    batch = task.samples("train", FRAMES, 0).batch(0, Shape(SIDE, FRAMES, 2))
    torch.testing.assert_close(clean[:, 1:], batch.tensors["latents"], rtol=0, atol=1e-5)
    with torch.no_grad():
        assert task.predict(draw).shape == draw.x.shape
        assert task.errors(draw).shape[1] == LATENT_FRAMES


def test_without_a_reference_vace_has_no_frame_in_front(data: dict[str, Path]) -> None:
    task = task_of("wan-vace", data, reference="none")
    draw = draw_of(task)
    assert draw.x.shape[1] == LATENT_FRAMES and "reference" not in draw.condition
    assert task.errors(draw).shape[1] == LATENT_FRAMES


@pytest.mark.filterwarnings("ignore:model.pose")
@pytest.mark.parametrize("pose", ["blocks", "input"])
@pytest.mark.parametrize("name", ["wan-vace", "wan-animate"])
def test_pose_adapters_leave_the_frame_in_front_alone(name: str, pose: str, data: dict[str, Path]) -> None:
    """Poses belong to the clip's frames; new adapters change nothing."""
    task = task_of(name, data, pose=pose)
    draw = draw_of(task)
    assert task.adapters is not None
    with torch.no_grad():
        adapted = task.predict(draw)
        with task.adapters.off():
            assert torch.equal(adapted, task.predict(draw))
        side = task.adapters.side
        front = side.pose[:, : 2 * 2] if pose == "blocks" else side.control[:, :, :1]
        rest = side.pose[:, 2 * 2 :] if pose == "blocks" else side.control[:, :, 1:]
        assert not front.any() and rest.any()


def test_a_dropped_condition_becomes_nothing(data: dict[str, Path]) -> None:
    """Of a control video the clip of zeros, of a face black pixels."""
    for name in ("wan-vace", "wan-animate"):
        task = task_of(name, data, drop={"pose": 0.5, "reference": 0.5, "text": 0.0})
        batch = task.samples("train", FRAMES, 0).batch(0, Shape(SIDE, FRAMES, 4))
        draw = task.draw(batch, Shape(SIDE, FRAMES, 4), 1)
        whole = task.draw(batch, Shape(SIDE, FRAMES, 4), 1, dropout=0.0)
        for key, value in draw.condition.items():
            nothing = task.family.nothing(key, whole.condition)
            dropped = [torch.equal(a, b) for a, b in zip(value, nothing, strict=True)]
            kept = [torch.equal(a, b) for a, b in zip(value, whole.condition[key], strict=True)]
            assert all(a or b for a, b in zip(dropped, kept, strict=True)), key
            if key in ("pose_latents", "face"):
                assert any(dropped) and any(kept), key
        if name == "wan-vace":
            assert torch.equal(task.family.nothing("pose_latents", whole.condition), whole.condition["blank"])
        else:
            assert (task.family.nothing("face", whole.condition) == -1).all()


@pytest.mark.parametrize("name", ["wan-vace", "wan-animate"])
def test_clips_are_made_without_the_frame_in_front(name: str, data: dict[str, Path]) -> None:
    task = task_of(name, data)
    (clip,) = next(iter(task.held_out(task.config.evaluate)))
    conditions = {key: value[None] for key, value in clip.conditions.items()}
    shown = task.generate(conditions, task.config.sample, [clip.key])
    assert shown.shape == (1, FRAMES, 3, SIDE, SIDE) and shown.isfinite().all()


def test_the_blocks_of_the_task_can_all_be_skipped(data: dict[str, Path]) -> None:
    for name, first in (("wan-vace", "vace_blocks.0"), ("wan-animate", "blocks.0")):
        blocks = (task := task_of(name, data)).blocks(task.config.phases["video"])
        assert blocks.names[0] == first
        assert set(blocks.adapters) == {key for key in blocks.names if not key.startswith("blocks.")}


def test_animate_without_a_reference_is_refused(data: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match=r'model\.reference = "none": Wan-Animate always has a frame'):
        task_of("wan-animate", data, reference="none")
