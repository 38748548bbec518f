"""Animating with tiny pipelines: windows over any length, in the photo's aspect, with what each family asks for."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from entprog.config.schema import SampleConfig
from entprog.sample.windows import generated, planned
from entprog.tasks.animator import Animator, Conditions
from entprog.tasks.pretrained.task import POSE, PretrainedTask
from pretrained_runs import Variant, task_of
from skeletons import clip, person

FRAMES = 8
SETTINGS = SampleConfig(scheduler="native", num_inference_steps=1, guidance_scale=1.0)
NATIVE = {"wan-animate": "native", "wan-vace": "native"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def animated(name: str, root: Path) -> tuple[PretrainedTask, Animator]:
    pose = {"model__pose": NATIVE[name]} if name in NATIVE else {}
    task = task_of(Variant.make(name, root), **pose)
    return task, task.animator()


def clip_of(
    task: PretrainedTask, animator: Animator, sides: tuple[int, int], frames: int, settings: SampleConfig = SETTINGS
) -> list[torch.Tensor]:
    image = np.full((*sides, 3), 90, np.uint8)
    image[:, ::2] = 200
    reference = animator.reference(image)
    poses = np.tile(clip(person(), scale=0.004, at=(0.5, 0.5)), (3, 1, 1))

    def part(first: int, count: int) -> Conditions:
        faces = torch.zeros(count, 3, animator.face, animator.face, dtype=torch.uint8) if animator.face else None
        return animator.conditions(reference, poses[first : first + count], faces, sides)

    return list(generated(task, animator, part, frames, settings))


@pytest.mark.parametrize(
    "name",
    [
        "svd", "wan-animate",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("wan-vace", "wan-2.1-i2v")),
    ],
)  # fmt: skip
def test_a_drive_longer_than_the_model_makes(name: str, root: Path) -> None:
    """All frames, in a rectangle of the photo's aspect where the family takes it, each window of the trained length."""
    task, animator = animated(name, root)
    sides = animator.like(0.5)
    if not animator.check((64, 32)):
        assert sides[0] > sides[1] and not animator.check(sides)
    windows = planned(animator, FRAMES)
    assert len(windows) > 1 and {window.length for window in windows} == {(animator.window - 1) // animator.group + 1}
    shown = torch.cat(clip_of(task, animator, sides, FRAMES))
    assert shown.shape == (FRAMES, 3, *sides) and bool(shown.isfinite().all())


def test_windows_meet_in_a_frame_that_is_the_same_in_both(root: Path) -> None:
    """The first shared latent frame is the one that the window before made."""
    task, animator = animated("svd", root)
    second = planned(animator, FRAMES)[1]
    kept: list[torch.Tensor] = []

    def decoded(latents: torch.Tensor) -> torch.Tensor:
        kept.append(latents)
        return torch.zeros(*latents.shape[:2], 3, 8, 8)

    object.__setattr__(task, "decoded", decoded)
    clip_of(task, animator, animator.sides, FRAMES)
    assert kept[0].shape[1] == animator.window and animator.fade
    torch.testing.assert_close(kept[0][0, second.start], kept[1][0, 0], rtol=0, atol=1e-5)


def test_a_short_drive_holds_its_last_pose(root: Path) -> None:
    task, animator = animated("wan-animate", root)
    assert len(torch.cat(clip_of(task, animator, animator.sides, 3))) == 3


def test_one_size_and_text_are_said(root: Path) -> None:
    task, animator = animated("svd", root)
    assert "no multiple of" in animator.check((36, 32))
    assert animator.like(100.0)[1] <= 3 * animator.like(100.0)[0], "no strip"
    with pytest.raises(ValueError, match=r"prompt = 'a man': .* takes no text; leave it out"):
        task.animator("a man")
    with pytest.raises(ValueError, match="reference = 'nobody': no such file, and no such clip"):
        animator.stored_reference("nobody", animator.sides)
    assert animator.stored_clip("clip0", animator.sides).conditions


def test_guidance_by_the_pose(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A family that is guided by the pose: the second call of guidance has no poses, and all else as the first."""
    task, animator = animated("wan-2.1-i2v", root)
    monkeypatch.setattr(type(task.family), "guided_by", "pose")
    seen = []

    def denoise(task: Any, noise: torch.Tensor, given: Any, nothing: Any, *args: Any, **more: Any) -> torch.Tensor:
        seen.append((given, nothing))
        return noise

    monkeypatch.setattr("entprog.tasks.pretrained.generate.denoise", denoise)
    clip_of(task, animator, animator.sides, animator.window, replace(SETTINGS, guidance_scale=2.0))
    given, nothing = seen[0]
    assert bool(given[POSE].any()) and not bool(nothing[POSE].any())
    assert all(torch.equal(given[name], nothing[name]) for name in given if name not in (POSE, "text"))
