"""DisCo's errors of pixels against numpy's bytes and a slow SSIM."""

import numpy as np
import pytest
import torch
from torch import Tensor

from entprog import plugins


def clips(seed: int, count: int, frames: int, side: int) -> Tensor:
    return torch.rand(count, frames, 3, side, side, generator=torch.Generator().manual_seed(seed))


def reference_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Window by window, with the sample covariance."""
    values: list[float] = []
    for i in range(a.shape[0] - 6):
        for j in range(a.shape[1] - 6):
            x, y = (side[i : i + 7, j : j + 7].ravel() for side in (a, b))
            cov = np.cov(x, y)
            top = (2 * x.mean() * y.mean() + 2.55**2) * (2 * cov[0, 1] + 7.65**2)
            low = (x.mean() ** 2 + y.mean() ** 2 + 2.55**2) * (cov[0, 0] + cov[1, 1] + 7.65**2)
            values.append(top / low)
    return float(np.mean(values))


def test_discos_errors_are_those_of_bytes() -> None:
    fake, real = clips(14, 1, 2, 12), clips(15, 1, 2, 12)
    metric = plugins.load("metric", "disco")
    metric.update(fake, real)
    values = metric.compute()
    a, b = ((side[0] * 255).round().to(torch.uint8).numpy() for side in (fake, real))
    grey = [(np.tensordot((0.299, 0.587, 0.114), side.astype(float), (0, 1))).round() for side in (a, b)]
    assert values["ssim_grey"] == pytest.approx(np.mean([reference_ssim(x, y) for x, y in zip(*grey, strict=True)]))

    def decibel(error: np.ndarray) -> float:
        return float(np.mean([20 * np.log10(255 / np.sqrt(frame.mean())) for frame in error]))

    assert values["psnr_8bit"] == pytest.approx(decibel((a.astype(float) - b.astype(float)) ** 2))
    assert values["psnr_overflow"] == pytest.approx(decibel((a - b) ** 2)), "in numpy's uint8, which wraps"
    assert values["psnr_overflow"] > 20 > values["psnr_8bit"]
    assert values["l1_per_pixel"] == pytest.approx(np.abs(a.astype(float) - b.astype(float)).mean() / 144)
    equal = plugins.load("metric", "disco")
    equal.update(real, real)
    assert equal.compute() == pytest.approx({"ssim_grey": 1, "psnr_8bit": 100, "psnr_overflow": 100, "l1_per_pixel": 0})
