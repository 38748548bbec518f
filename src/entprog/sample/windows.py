"""A clip of any length, window by window; what is done is given away at once, so that memory stays flat.

Shape legend: F frames, H W height and width in pixels.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from tqdm import tqdm

from entprog.config.schema import SampleConfig
from entprog.diffusion.windows import Window, plan_windows
from entprog.tasks.animator import Animator, Conditions
from entprog.tasks.base import Task

__all__ = ["generated", "planned"]

Part = Callable[[int, int], Conditions]
"""The conditions of so many frames from a first one on."""


def planned(animator: Animator, frames: int) -> list[Window]:
    """The windows of a clip, in latent frames."""
    group = animator.group
    length = (animator.window - 1) // group + 1
    return plan_windows(-(-(frames - 1) // group) + 1, length, first=int(group > 1))


def generated(
    task: Task, animator: Animator, part: Part, frames: int, settings: SampleConfig, *, progress: bool = False
) -> Iterator[Tensor]:
    """The frames [F, 3, H, W] in 0..1 of a clip of `frames` frames, in parts of up to a window.

    Windows share frames, whose latents are blended at each step (see `entprog.diffusion.windows`). A codec that decodes
    frames by their neighbours gives shared ones a little differently in each window: there the pixels are faded, too.
    """
    windows, group = planned(animator, frames), animator.group
    alone = len(windows) == 1 or animator.window == 1
    tail = torch.zeros(0)
    bar = tqdm(windows, "Sampling", unit="window", disable=not progress or len(windows) == 1, leave=False)
    for i, window in enumerate(bar):
        first = window.start * group
        count = (window.length - 1) * group + 1
        if len(windows) == 1:
            count = animator.window if animator.fixed else frames
        elif i and not alone:
            window.follow(windows[i - 1])
        conditions = {name: value[None] for name, value in part(first, count).items()}
        own = {} if alone else {"window": window}
        shown = task.generate(conditions, settings, [0], progress=progress and len(windows) == 1, **own)[0]
        if animator.fade and len(tail):
            both = min(len(tail), len(shown))
            weight = torch.arange(both, 0, -1).view(-1, 1, 1, 1) / both
            shown = torch.cat([shown[:both] + weight * (tail[:both] - shown[:both]), shown[both:]])
        end = windows[i + 1].start * group - first if i + 1 < len(windows) else frames - first
        yield shown[:end]
        tail = shown[end:]
