"""Metrics against known values, and SSIM against torchmetrics."""

import pytest
import torch
from torch.nn import functional

from entprog import plugins
from entprog.metrics import pose_error
from entprog.synthetic import render_clip


def clips(seed: int, side: int = 24) -> torch.Tensor:
    return torch.rand(2, 3, 3, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["l1", "psnr", "ssim"])
def test_updates_add_up(name: str) -> None:
    a, b = clips(0), clips(1)
    whole, parts = plugins.load("metric", name), plugins.load("metric", name)
    whole.update(a, b)
    parts.update(a[:1], b[:1])
    parts.update(a[1:], b[1:])
    assert whole.compute().keys() == {name}
    assert whole.compute()[name] == pytest.approx(parts.compute()[name], rel=1e-12)
    assert "mean" in whole.pooling
    assert plugins.load("metric", name) == whole, "readings are no part of the options"


def test_l1_and_psnr_of_a_constant_error() -> None:
    real = torch.full((1, 4, 3, 16, 16), 0.5)
    l1, psnr = plugins.load("metric", "l1"), plugins.load("metric", "psnr")
    for metric in (l1, psnr):
        metric.update(real + 0.1, real)
    assert l1.compute()["l1"] == pytest.approx(0.1, abs=1e-6)
    assert psnr.compute()["psnr"] == pytest.approx(20.0, abs=1e-4)


def test_psnr_is_the_mean_of_decibels_not_the_decibels_of_the_mean() -> None:
    real = torch.zeros(1, 2, 3, 16, 16)
    fake = real.clone()
    fake[:, 0] += 0.1
    fake[:, 1] += 0.01
    metric = plugins.load("metric", "psnr")
    metric.update(fake, real)
    assert metric.compute()["psnr"] == pytest.approx(30.0, abs=1e-3)
    equal = plugins.load("metric", "psnr")
    equal.update(real, real)
    assert equal.compute()["psnr"] == 100.0


def reference_ssim(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The formula of the paper, window by window, of images [N, 3, H, W]."""
    places = torch.arange(11, dtype=torch.float64) - 5
    line = torch.exp(-(places**2) / (2 * 1.5**2))
    window = (line[:, None] * line / line.sum() ** 2).flatten()
    a, b = (functional.pad(x.double(), [5] * 4, mode="reflect").unfold(2, 11, 1).unfold(3, 11, 1) for x in (a, b))
    a, b = a.flatten(4), b.flatten(4)
    mean_a, mean_b = (a * window).sum(-1), (b * window).sum(-1)
    var_a, var_b = ((x * x * window).sum(-1) - m**2 for x, m in ((a, mean_a), (b, mean_b)))
    cov = (a * b * window).sum(-1) - mean_a * mean_b
    top = (2 * mean_a * mean_b + 1e-4) * (2 * cov + 9e-4)
    return (top / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4))).flatten(1).mean(1)


@pytest.mark.parametrize("side", [11, 24, 33])
def test_ssim_is_that_of_the_paper(side: int) -> None:
    fake, real = clips(3, side), clips(4, side)
    real = (fake + 0.3 * real).clamp(0, 1)
    metric = plugins.load("metric", "ssim")
    metric.update(fake, real)
    slow = reference_ssim(fake.flatten(0, 1), real.flatten(0, 1)).mean().item()
    assert metric.compute()["ssim"] == pytest.approx(slow, abs=1e-6)
    equal = plugins.load("metric", "ssim")
    equal.update(fake, fake)
    assert equal.compute()["ssim"] == pytest.approx(1.0)


def test_ssim_refuses_frames_smaller_than_its_window() -> None:
    with pytest.raises(ValueError, match="11"):
        plugins.load("metric", "ssim").update(clips(0, 8), clips(1, 8))


def test_pose_error_tells_the_right_pose_from_another() -> None:
    clip = render_clip(3, 5, 2, frames=9, size=128, domain="target")
    frames = torch.from_numpy(clip.frames).movedim(-1, -3)[None].float() / 255
    keypoints = torch.from_numpy(clip.keypoints)[None]
    right, wrong, empty, estimated = (plugins.load("metric", "pose_error") for _ in range(4))
    right.update_keypoints(frames[:, ::4], keypoints[:, ::4])
    turned = keypoints[:, ::4].clone()
    turned[..., 1] = 1 - turned[..., 1]
    wrong.update_keypoints(frames[:, ::4], turned)
    empty.update_keypoints(torch.full_like(frames[:, :1], 0.5), keypoints[:, :1])
    estimated.update(frames[:, :1], frames[:, :1])
    assert right.compute()["pose_found"] == 1.0
    assert right.compute()["pck"] > 0.8 > wrong.compute()["pck"]
    assert right.compute()["pose_error"] < 0.2 < wrong.compute()["pose_error"]
    assert empty.compute() == {"pose_error": 1.0, "pck": 0.0, "pose_found": 0.0}
    assert estimated.compute()["pose_error"] == 0.0


def test_poses_of_a_clip_are_estimated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = torch.rand(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    asked: list[int] = []
    own = pose_error._estimated
    monkeypatch.setattr(pose_error, "_estimated", lambda frames: asked.append(len(frames)) or own(frames))
    first, score = pose_error.estimate(shown)
    kept = first.clone(), score.clone()
    first[:] = score[:] = -1  # whoever asks may write into what it gets
    again = pose_error.estimate(shown.clone())
    assert asked == [4] and all(torch.equal(a, b) for a, b in zip(again, kept, strict=True))
    pose_error.estimate(shown.flip(0))
    assert asked == [4, 4]


def test_pose_error_without_any_keypoint_says_so() -> None:
    metric = plugins.load("metric", "pose_error")
    metric.update_keypoints(torch.zeros(1, 1, 3, 64, 64), torch.zeros(1, 1, 18, 3))
    with pytest.raises(ValueError, match="pose_error"):
        metric.compute()


def test_all_metrics_are_plugins() -> None:
    assert {"l1", "psnr", "ssim", "pose_error"} <= set(plugins.names("metric"))
    for name in plugins.names("metric"):
        assert plugins.describe("metric", name).summary
