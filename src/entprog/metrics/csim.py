"""Cosine similarity of face embeddings (CSIM): whether the generated person is still the same one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from entprog.metrics._collected import resized
from entprog.metrics._weights import Weights, called, script
from entprog.metrics.base import Skipped
from entprog.profiling.device import pick_device

__all__ = ["CSIM"]

FACE = (0, 14, 15, 16, 17)
"""Nose, eyes and ears of OpenPose-18."""
VISIBLE = 0.5
WIDTH = 2.0
"""Side of the square, in distances of the outermost of these points."""
SIDE = 112
CALL = "network(faces [N, 3, 112, 112] RGB, (pixel - 127.5) / 127.5) -> [N, D]"
BATCH = 32


@dataclass(frozen=True)
class CSIM:
    """Cosine similarity of the embeddings of the generated and the true face, -1..1; higher is better (CSIM).

    There is no face network in the package: give one at `weights`, such as ArcFace as TorchScript or as ONNX (needs
    onnxruntime). The face is cut out around the driving keypoints' nose, eyes and ears, in both frames alike. Frames in
    which fewer than three of these are visible, or the face has less than 8 pixels a side, are left out and counted.

    Attributes:
        weights: file of the network, .pt or .onnx.
        hash: the sha256 that this file must have, or its first digits.
        device: "auto", "cpu", "cuda" or "cuda:N"; of ONNX always the CPU.
    """

    pooling: ClassVar[str] = (
        f"cosine of face embeddings, square of {WIDTH:g} face widths around the driving keypoints of the face, "
        f"resized to {SIDE}x{SIDE} (bilinear, antialiased), mean over frames with a visible face and clips"
    )
    weights: Path | None = None
    hash: str = ""
    device: str = "auto"
    _frames: list[Tensor] = field(default_factory=list, init=False, repr=False, compare=False)
    _counts: list[int] = field(default_factory=list, init=False, repr=False, compare=False)

    def open(self) -> None:
        """See `NetworkMetric`."""
        _network(self._weights(), pick_device(self.device))

    def update(self, fake: Tensor, real: Tensor) -> None:
        """Clips without keypoints: there is no telling where the face is.

        Raises:
            Skipped: always.
        """
        raise Skipped("needs the driving keypoints, which say where the face is")

    @torch.inference_mode()
    def update_posed(self, fake: Tensor, real: Tensor, keypoints: Tensor) -> None:
        """Take clips, both [B, F, 3, H, W] in 0..1, with the keypoints [B, F, 18, 3] that drove them."""
        weights = self._weights()
        network = _network(weights, pick_device(self.device))
        ours, theirs = [], []
        for a, b, points in zip(fake.flatten(0, 1), real.flatten(0, 1), keypoints.flatten(0, 1), strict=True):
            place = face(points, *a.shape[-2:])
            self._counts.append(place is not None)
            if place is not None:
                ours.append(cut(a, place))
                theirs.append(cut(b, place))
        for i in range(0, len(ours), BATCH):
            with called(weights, CALL):
                first, second = (network(torch.stack(faces[i : i + BATCH])) for faces in (ours, theirs))
                self._frames.append(functional.cosine_similarity(first.double(), second.double(), dim=1).cpu())

    def compute(self) -> dict[str, float]:
        """{"csim": ...} over all frames with a visible face.

        Raises:
            Skipped: there is none.
        """
        if not self._frames:
            raise Skipped(f"no face to be seen in {len(self._counts)} frames")
        return {"csim": torch.cat(self._frames).mean().item()}

    def details(self) -> Mapping[str, Mapping[str, Any]]:
        """See `Details`."""
        seen = f"{sum(self._counts)} of {len(self._counts)}"
        return {"csim": {"frames with a face": seen, "network": self._weights().said}}

    def _weights(self) -> Weights:
        return Weights.find("csim", None, self.weights, self.hash)


def face(keypoints: Tensor, height: int, width: int) -> tuple[int, int, int, int] | None:
    """Left, top, right and bottom in pixels of the face's square, inside the frame; None where none is to be seen."""
    points = keypoints[list(FACE)]
    points = points[points[:, 2] >= VISIBLE, :2].double().cpu() * torch.tensor([width, height])
    if len(points) < 3 or not bool(points.isfinite().all()):
        return None
    extent = float((points.amax(0) - points.amin(0)).max())
    middle = (points.amax(0) + points.amin(0)) / 2
    half = extent * WIDTH / 2
    left, top = (max(0, round(float(value) - half)) for value in middle)
    right, bottom = (min(side, round(float(value) + half)) for side, value in zip((width, height), middle, strict=True))
    return (left, top, right, bottom) if min(right - left, bottom - top) >= 8 else None


def cut(frame: Tensor, place: tuple[int, int, int, int]) -> Tensor:
    """The face [3, 112, 112] in -1..1 of a frame [3, H, W] in 0..1."""
    left, top, right, bottom = place
    part = frame[None, :, top:bottom, left:right].float()
    return (resized(part, (SIDE, SIDE), "bilinear")[0].clamp(0, 1) * 255 - 127.5) / 127.5


@lru_cache(maxsize=1)
def _network(weights: Weights, device: torch.device) -> Callable[[Tensor], Tensor]:
    if weights.path.suffix.lower() != ".onnx":
        network = script(weights, device)
        return lambda faces: network(faces.to(device)).flatten(1)
    try:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as failures
    except ImportError as error:
        raise Skipped(f"{weights.path}: needs onnxruntime; pip install onnxruntime") from error
    broken = (failures.Fail, failures.InvalidArgument, failures.InvalidGraph, failures.InvalidProtobuf, RuntimeError)
    try:
        session = onnxruntime.InferenceSession(str(weights.path), providers=["CPUExecutionProvider"])
    except broken as error:
        raise Skipped(f"{weights.path}: no ONNX file ({str(error)[:200]})") from error
    name = session.get_inputs()[0].name

    def run(faces: Tensor) -> Tensor:
        found = session.run(None, {name: faces.cpu().numpy().astype(np.float32)})[0]
        return torch.from_numpy(np.asarray(found)).flatten(1)

    return run
