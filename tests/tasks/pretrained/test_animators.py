"""Animating with tiny pipelines: windows over any length, in the photo's aspect, with what each family asks for."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from entprog.config.load import ConfigError, ConfigWarning, config_of
from entprog.config.schema import SampleConfig
from entprog.sample.windows import generated, planned
from entprog.tasks.animator import Animator, Conditions
from entprog.tasks.pretrained import model_checks
from entprog.tasks.pretrained.task import POSE, PretrainedTask
from entprog.toml.trees import laid_over
from pretrained_runs import Variant, task_of
from skeletons import clip, person

FRAMES = 8
SETTINGS = SampleConfig(scheduler="native", num_inference_steps=1, guidance_scale=1.0)
RECIPE: dict[str, Any] = {
    "task": "pretrained", "model": {"pretrained": "some/model"},
}  # fmt: skip
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


@pytest.mark.parametrize("without", ["pose", "reference", "text"])
def test_guidance_goes_without_what_is_asked(without: Any, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second call of guidance lacks one condition, and has all others as the first."""
    task, animator = animated("wan-2.1-i2v", root)
    seen = []

    def denoise(task: Any, noise: torch.Tensor, given: Any, nothing: Any, *args: Any, **more: Any) -> torch.Tensor:
        seen.append((given, nothing))
        return noise

    monkeypatch.setattr("entprog.tasks.pretrained.generate.denoise", denoise)
    settings = replace(SETTINGS, guidance_scale=2.0, guided_by=without)
    clip_of(task, animator, animator.sides, animator.window, settings)
    given, nothing = seen[0]
    differ = {name for name in given if not torch.equal(given[name], nothing[name])}
    if without == "reference":
        assert differ and not differ & {POSE, "text"}
    else:
        assert differ <= {"pose": {POSE}, "text": {"text"}}[without]  # the empty prompt is the text here
    assert bool(given[POSE].any()) and bool(nothing[POSE].any()) == (without != "pose")


@pytest.mark.parametrize("table,said", [
    ({"model": {"drop": {"pose": 0.0}}, "sample": {"guided_by": "pose"}}, "model.drop.pose = 0"),
    ({"sample": {"guided_by": "pose", "guidance_scale": 1.0}}, "there is no second call"),
    ({"task": "human_video", "model": {}, "sample": {"guided_by": "pose"}}, "goes without every condition"),
])  # fmt: skip
def test_guidance_without_effect_is_said(table: dict[str, Any], said: str) -> None:
    with pytest.warns(ConfigWarning, match=said):
        config_of(laid_over({} if "task" in table else RECIPE, table), planned=True)


def test_guidance_by_what_is_not_there_is_refused(root: Path) -> None:
    task, _ = animated("svd", root)
    assert task.guidance_problem(replace(SETTINGS, guided_by="text")) == "this model gets no text; leave it empty"
    assert not task.guidance_problem(replace(SETTINGS, guided_by="pose"))
    model = replace(task.config.model, pose="none")
    assert model_checks.of_guidance(task.family, model, "pose") == "this model gets no pose; leave it empty"
    task.config = replace(task.config, sample=replace(task.config.sample, guided_by="text"))
    assert 'sample.guided_by = "text": this model gets no text; leave it empty' in task.problems_of_files()
    with pytest.raises(ConfigError, match=r"sample\.guided_by"):
        config_of(laid_over(RECIPE, {"sample": {"guided_by": "depth"}}), planned=True)
