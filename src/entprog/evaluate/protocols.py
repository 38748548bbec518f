"""Protocols of evaluation: how clips are generated and compared, and the row that papers print. Another is one entry.

Shape legend: F frames, H W height and width in pixels.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from torch import Tensor

from entprog.config.presets import value_of
from entprog.config.schema import Config
from entprog.metrics._collected import resized, rounded

__all__ = ["PROTOCOLS", "EvaluationProtocol", "protocol_named"]


@dataclass(frozen=True)
class EvaluationProtocol:
    """How an evaluation is done.

    Attributes:
        name: as `entprog evaluate --protocol` takes it.
        summary: one line.
        values: dotted keys of the configuration that it sets; what the user gives goes over it, and is said.
        sides: height and width at which frames are compared; None for those at which they were generated.
        rounded: whether frames are rounded to 8 bits, as in PNG files, before anything is measured.
        layout: the layout of `prepare` whose test set it is about; empty for any data.
        row: column of the papers' table -> value of metrics.json.
        notes: where it cannot be what the papers did.
    """

    name: str
    summary: str
    values: Mapping[str, Any] = field(default_factory=dict)
    sides: tuple[int, int] | None = None
    rounded: bool = False
    layout: str = ""
    row: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def overrides(self) -> dict[str, str]:
        """`values` as overrides of a configuration."""
        return {key: value if isinstance(value, str) else json.dumps(value) for key, value in self.values.items()}

    def compared(self, frames: Tensor) -> Tensor:
        """Frames [F, 3, H, W] in 0..1 as they are compared."""
        if self.sides is not None:
            frames = resized(frames, self.sides, "bicubic").clamp(0, 1)
        return rounded(frames) / 255 if self.rounded else frames

    def changed(self, config: Config) -> list[str]:
        """Which of its values another was given for."""
        found = []
        for key, wanted in self.values.items():
            value = _value(config, key)
            if (list(value) if isinstance(value, tuple) else value) != wanted:
                shown = " ".join(value) if isinstance(value, tuple) else value
                found.append(f"{key} = {shown} (the protocol's: {' '.join(wanted) if key == METRICS else wanted})")
        return found


METRICS = "evaluate.metrics"
OPTIONS = "evaluate.metric_options."


def _value(config: Config, key: str) -> Any:
    if not key.startswith(OPTIONS):
        return value_of(config, key)
    metric, _, option = key.removeprefix(OPTIONS).rpartition(".")
    return config.evaluate.metric_options.get(metric, {}).get(option)


DEFAULT = EvaluationProtocol("default", "the recipe's own settings, frames as generated and not rounded")

DISCO = EvaluationProtocol(
    "disco",
    "the TikTok protocol of DisCo (arXiv 2307.00040), which later papers on human video follow",
    values={
        METRICS: ["disco", "lpips", "fid", "fid_vid", "fvd"],
        "evaluate.clips": 1000,
        "evaluate.frames": 17,
        "evaluate.reference": "first",
        f"{OPTIONS}lpips.net": "vgg",
        f"{OPTIONS}lpips.scaled": False,
        f"{OPTIONS}fid.resize": "bilinear",
        f"{OPTIONS}fid_vid.network": "resnet-50",
        f"{OPTIONS}fid_vid.frames": 16,
        f"{OPTIONS}fid_vid.stride": 1,
        f"{OPTIONS}fvd.frames": 16,
        f"{OPTIONS}fvd.stride": 1,
        f"{OPTIONS}fvd.resize": "bicubic",
    },
    sides=(256, 256),
    rounded=True,
    layout="tiktok",
    row={
        "SSIM": "ssim_grey", "PSNR": "psnr_overflow", "PSNR*": "psnr_8bit", "LPIPS": "lpips", "L1": "l1_per_pixel",
        "FID": "fid", "FID-VID": "fid_vid", "FVD": "fvd",
    },
    notes=(
        "PSNR is computed as in most published tables, on bytes that overflow; PSNR* is the correct one",
        "the published test set is 10 videos, of which 8 are not public; here it is videos 335 to 340 of the data set",
        "the true frames are decoded latents of the person's square at the data set's frame rate, not the files' own",
        "the papers judge all frames of a video, the first, which is the reference, among them; here it is left out",
    ),
)  # fmt: skip

PROTOCOLS: Mapping[str, EvaluationProtocol] = MappingProxyType({one.name: one for one in (DEFAULT, DISCO)})


def protocol_named(name: str) -> EvaluationProtocol:
    """The protocol of that name; "" for the default.

    Raises:
        ValueError: there is none.
    """
    if (name or "default") not in PROTOCOLS:
        raise ValueError(f"protocol = {name!r}: choose from {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name or "default"]
