"""Clips that are longer than a model makes: overlapping windows without a seam."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from entprog.config.schema import SampleConfig
from entprog.diffusion.objective import Objective
from entprog.diffusion.windows import Window, plan_windows
from entprog.sample.windows import generated, planned
from entprog.tasks.human_video.generate import sample_clips

FRAMES, LENGTH = 40, 12
SETTINGS = SampleConfig(scheduler="ddpm", num_inference_steps=6, guidance_scale=1.0)


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("length", [2, 3, 6, 21])
@pytest.mark.parametrize("total", [1, 5, 6, 7, 22, 71, 400])
def test_windows_cover_a_clip_and_share_a_third(total: int, length: int, first: int) -> None:
    windows = plan_windows(total, length, first=first)
    assert (windows[0].start, windows[-1].start + windows[-1].length) == (0, total)
    assert windows[0].first == windows[0].before == windows[-1].after == 0
    if total <= length:
        assert len(windows) == 1
        return
    assert all(window.length == length for window in windows)
    for last, window in pairwise(windows):
        shared = last.start + last.length - window.start
        assert shared >= min(length - 1, -(-length // 3)) and window.start > last.start
        assert last.after == window.before == shared - first


def test_windows_of_a_single_frame_share_nothing() -> None:
    assert [(window.start, window.before) for window in plan_windows(3, 1)] == [(0, 0), (1, 0), (2, 0)]


def test_windows_begin_with_the_same_noise_in_frames_that_they_share() -> None:
    one, two = Window(0, 6, after=2), Window(4, 6, before=2)
    assert torch.equal(one.noise((4, 2, 2), 0, 3)[:, 4:], two.noise((4, 2, 2), 0, 3)[:, :2])
    assert not torch.equal(one.noise((4, 2, 2), 0, 3), one.noise((4, 2, 2), 1, 3))
    later = [one.generators(0, 3)[4:], two.generators(0, 3)[:2]]
    assert torch.equal(*(torch.stack([torch.randn(3, generator=g) for g in some]) for some in later))
    causal = Window(4, 6, first=1, before=1)
    led = causal.noise((4, 2, 2), 0, 3, leading=1)
    assert led.shape[1] == 7 and torch.equal(led[:, 2], one.noise((4, 2, 2), 0, 3)[:, 5])
    assert len({float(value) for value in led[0, :, 0, 0, 0]}) == 7, "the frames that it does not share have their own"


class Drifting(torch.nn.Module):
    """A denoiser whose clean clip follows the poses, plus an offset that all frames of a call share.

    The offset depends on the call's noise, as the look of a real model's clip does: windows apart would differ by it.
    """

    def reference_states(self, reference: Tensor) -> list[Tensor]:
        return [reference]

    def forward(self, x: Tensor, tau: Tensor, _: None, pose: Tensor, *, reference_states: list[Tensor]) -> Tensor:
        offset = torch.tanh(6 * x.mean((1, 3, 4), keepdim=True))
        clean = (pose.mean((2, 3, 4)).view(1, -1, 1, 1, 1) + offset).expand_as(x)
        objective = Objective()
        a, b = (part(tau).view(-1, 1, 1, 1, 1) for part in (objective.a, objective.b))
        return (x - a * clean) / b


class Animated:
    """The parts of a task and of its animator that windows need; `blended` False: each window by itself."""

    window, group, fade, fixed, device = LENGTH, 1, False, False, torch.device("cpu")
    objective = Objective()
    precision = staticmethod(nullcontext)

    def __init__(self, blended: bool = True) -> None:
        self.blended, self.asked = blended, []
        self.model: Any = Drifting()

    def generate(
        self, conditions: Mapping[str, Tensor], settings: SampleConfig, keys: Sequence[int], *, progress: bool = False,
        window: Window | None = None,
    ) -> Tensor:  # fmt: skip
        self.asked.append(conditions["pose"].shape[1])
        if window is not None and not self.blended:
            window = Window(window.start, window.length)
        return sample_clips(
            self, conditions["reference"], conditions["pose"], scheduler=settings.scheduler,
            num_inference_steps=settings.num_inference_steps, guidance_scale=1.0, keys=keys, window=window,
        )  # fmt: skip


def poses(first: int, count: int) -> Mapping[str, Tensor]:
    times = torch.arange(first, first + count) / 10
    return {"reference": torch.zeros(4, 4, 4), "pose": times.sin().view(-1, 1, 1, 1).expand(-1, 3, 8, 8)}


def clip(task: Any, frames: int = FRAMES, part: Any = poses) -> Tensor:
    return torch.cat(list(generated(task, task, part, frames, SETTINGS)))


def joints(task: Any, frames: int = FRAMES) -> list[int]:
    """The first frame of each window but the first, and the frames where its blending ends."""
    windows = planned(task, frames)
    return [frame for window in windows[1:] for frame in (window.start, window.start + window.before)]


def test_no_seam_is_seen_between_windows() -> None:
    """The change from frame to frame at a joint is within that inside windows; windows by themselves jump there."""
    own = {}
    for blended in (True, False):
        task = Animated(blended)
        shown = clip(task)
        assert len(shown) == FRAMES
        change = (shown[1:] - shown[:-1]).abs().mean((1, 2, 3))
        places = [frame - 1 for frame in joints(task)]
        inside = np.delete(change.numpy(), places)
        own[blended] = float(change[places].max()), float(np.quantile(inside, 0.95))
    (smooth, usual), (seam, _) = own[True], own[False]
    assert smooth <= 1.5 * usual, own
    assert seam > 3 * usual, own


def test_the_first_shared_frame_is_exactly_that_of_the_window_before() -> None:
    task, second = Animated(), planned(Animated(), FRAMES)[1]
    kept: list[Tensor] = []

    def generate(*given: Any, **more: Any) -> Tensor:
        kept.append(Animated.generate(task, *given, **more))
        return kept[-1]

    list(generated(SimpleNamespace(generate=generate), task, poses, FRAMES, SETTINGS))  # type: ignore[arg-type]
    torch.testing.assert_close(kept[0][0, second.start], kept[1][0, 0], rtol=0, atol=1e-5)


def test_what_is_kept_does_not_grow_with_the_length() -> None:
    """No call gets more than a window, and what a window predicted is dropped with the next one."""
    task = Animated()
    parts = generated(task, task, poses, 200, SETTINGS)  # type: ignore[arg-type]
    windows = planned(task, 200)
    sizes = [len(part) for part in parts]
    assert sum(sizes) == 200 and max(sizes) <= LENGTH and set(task.asked) == {LENGTH} and len(sizes) == len(windows)


def test_a_clip_of_one_window_is_generated_as_ever() -> None:
    task = Animated()
    shown = clip(task, LENGTH)
    conditions = {name: value[None] for name, value in poses(0, LENGTH).items()}
    assert torch.equal(shown, task.generate(conditions, SETTINGS, [0])[0]) and task.asked[0] == LENGTH


class Causal(Animated):
    """Four frames to a latent frame: window of 9 frames; each frame shows its place and the window that made it."""

    window, group, fade, fixed = 9, 4, True, True

    def generate(self, conditions: Any, *given: Any, window: Window | None = None, **more: Any) -> Tensor:
        assert conditions["at"].shape == (1, 9)
        place = conditions["at"][0].float().view(-1, 1, 1, 1)
        return (place + 1000 * (window.start if window else 0))[None]


@pytest.mark.parametrize("frames", [5, 9, 10, 26])
def test_frames_of_a_causal_codec_are_all_there_once_and_fade_over(frames: int) -> None:
    task = Causal()
    shown = clip(task, frames, lambda first, count: {"at": torch.arange(first, first + count)})
    assert len(shown) == frames
    value = shown.flatten()
    windows = planned(task, frames)
    if len(windows) == 1:
        assert value.tolist() == list(range(frames))
        return
    change = value.diff()
    assert float(value[0]) == 0 and float(change.min()) >= 1, "in order"
    steps = [later.start - earlier.start for earlier, later in pairwise(windows)]
    assert float(change.max()) < 1000 * max(steps) / 2, "no jump: five frames fade over"
