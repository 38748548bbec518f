"""DWPose and RTMW through rtmlib: body, hands and face of people in frames, from ONNX files.

rtmlib (Apache-2.0, github.com/Tau-J/rtmlib) runs a YOLOX detector and a whole-body network of 133 keypoints on
onnxruntime. Yang et al., "Effective Whole-body Pose Estimation with Two-stages Distillation", arXiv 2307.15880.
"""

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from urllib.error import URLError

import numpy as np
import torch
from torch import Tensor

from entprog.poses._people import Person, again
from entprog.poses._wholebody import POINTS, from_wholebody, pose_score
from entprog.poses.base import FOUND_THRESHOLD, Track, checked, gathered

__all__ = ["DWPose"]

KEYPOINTS = 133
MODE = "performance"
"""rtmlib's name of the pair of networks that `download` fetches: YOLOX-m, and RTMW distilled as DWPose is."""
SOURCES = 'the networks of rtmlib\'s mode "performance" from download.openmmlab.com'
INSTALL = 'pip install "entprog[dwpose]"'


@dataclass(frozen=True)
class DWPose:
    """Whole-body networks of the DWPose kind through rtmlib: 18 keypoints of the body, 42 of the hands, 68 of the face.

    Attributes:
        detector: ONNX file of a YOLOX person detector.
        pose_model: ONNX file of a whole-body network with 133 keypoints (DWPose, RTMW, RTMPose whole-body).
        download: fetch those that are not given, from where rtmlib has them; says what is fetched.
        threshold: confidence from which a keypoint counts as seen; stored as 0.5.
    """

    packages: ClassVar[Mapping[str, str]] = {"rtmlib": INSTALL, "onnxruntime": INSTALL}
    detector: Path | None = None
    pose_model: Path | None = None
    download: bool = False
    threshold: float = 0.3

    def __post_init__(self) -> None:
        wrong = [
            f"{name} = {str(path)!r}: no such file; give an ONNX file"
            for name, path in (("detector", self.detector), ("pose_model", self.pose_model))
            if path is not None and not path.is_file()
        ]
        if not 0 < self.threshold < 1:
            wrong.append(f"threshold = {self.threshold}: give a number above 0 and below 1")
        if wrong:
            raise ValueError("; ".join(wrong))

    def missing(self) -> list[str]:
        """What it cannot be opened without, a line each."""
        names = [name for name in ("detector", "pose_model") if getattr(self, name) is None and not self.download]
        remedy = "give it as an option (NAME=FILE, ONNX), or download=true, which fetches"
        return [f"{name}: no file given; {remedy} {SOURCES}" for name in names]

    def open(self, device: str = "cpu") -> "WholeBody":
        try:
            import onnxruntime  # noqa: F401
            from rtmlib import YOLOX, RTMPose, Wholebody
        except ImportError as error:
            raise ValueError(f"pose = 'dwpose': {error.name} is not installed; {INSTALL}") from error
        if wrong := self.missing():
            raise ValueError("\n".join(f"pose = 'dwpose': {text}" for text in wrong))
        _check_device(device)
        sources = Wholebody.MODE[MODE]
        detector = self._file("detector", self.detector, sources["det"])
        pose_model = self._file("pose_model", self.pose_model, sources["pose"])
        found = _session("detector", YOLOX, detector, device)
        read = _session("pose_model", RTMPose, pose_model, device)
        return WholeBody(found, read, self.threshold, names=(detector.name, pose_model.name))

    def _file(self, name: str, given: Path | None, source: str) -> Path:
        """The file that is given, or the fetched one."""
        if given is not None:
            return given
        from rtmlib.tools.file import download_checkpoint

        print(f"dwpose: {name}: {source} (rtmlib keeps it in its cache)", flush=True)
        try:
            return Path(download_checkpoint(source))
        except (URLError, OSError) as error:
            reason = getattr(error, "reason", error)
            raise ValueError(
                f"pose = 'dwpose': {name}: {source} cannot be fetched ({reason}); fetch it elsewhere and give the "
                f"option {name}=FILE"
            ) from error


class WholeBody:
    """A person detector and a whole-body network, as rtmlib runs them."""

    def __init__(self, detector: Any, network: Any, threshold: float, names: tuple[str, str] = ("", "")) -> None:
        self.detector, self.network, self.threshold = detector, network, threshold
        self.names = names

    def people(self, frame: np.ndarray) -> list[tuple[Person, np.ndarray]]:
        """The people in a frame uint8 [H,W,3], the largest first, each with its box (x y of two corners)."""
        boxes = np.asarray(self.detector(np.ascontiguousarray(frame[..., ::-1])), np.float32).reshape(-1, 4)
        found = []
        for box in boxes[np.isfinite(boxes).all(1)]:
            width, height = float(box[2] - box[0]), float(box[3] - box[1])
            if width > 1 and height > 1:
                centre = (float(box[0] + box[2]) / 2, float(box[1] + box[3]) / 2)
                found.append((Person(centre, max(width, height) / 2, 0.0, 1.0), box))
        return sorted(found, key=lambda pair: -pair[0].radius)

    def read(self, frame: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, float]:
        """Keypoints [128,3] in pixels of the person in a box, and the score.

        Raises:
            ValueError: the network is no whole-body network.
        """
        outputs = self.network(np.ascontiguousarray(frame[..., ::-1]), bboxes=[box])
        points, confidence = np.asarray(outputs[0]), np.asarray(outputs[1])
        if points.shape != (1, KEYPOINTS, 2) or confidence.shape != (1, KEYPOINTS):
            given = points.shape[1] if points.ndim == 3 else "no"
            raise ValueError(_other("pose_model", self.names[1], f"it gives {given} keypoints, not {KEYPOINTS}"))
        keypoints = from_wholebody(points[0], confidence[0], self.threshold)
        return keypoints, pose_score(keypoints)

    def single(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        height, width = checked(frames).shape[1:3]
        keypoints, score = np.zeros((len(frames), 18, 3), np.float32), np.zeros(len(frames), np.float32)
        for i, frame in enumerate(frames.cpu().numpy()):
            people = self.people(frame)
            if people:
                found, score[i] = self.read(frame, people[0][1])
                keypoints[i] = found[:18] / np.array([width, height, 1], np.float32)
        return torch.from_numpy(keypoints), torch.from_numpy(score)

    def tracker(self, source: Path | None = None) -> "WholeBodyTracker":
        return WholeBodyTracker(self)


class WholeBodyTracker:
    """One person through a video: the detector reads each frame, whoever is nearest to the last place is followed."""

    def __init__(self, estimator: WholeBody) -> None:
        self.estimator = estimator
        self.last: Person | None = None
        self.lost = 0
        self.rows: list[tuple[np.ndarray, float, int]] = []

    def step(self, frame: np.ndarray, *, index: int = -1, restart: bool = False) -> np.ndarray:
        if restart:
            self.last = None
        people = self.estimator.people(frame)
        boxes = {id(person): box for person, box in people}
        person = again([person for person, _ in people], self.last, self.lost)
        keypoints, score = np.zeros((POINTS, 3), np.float32), 0.0
        if person is not None:
            found, sure = self.estimator.read(frame, boxes[id(person)])
            if sure >= FOUND_THRESHOLD:
                keypoints, score, self.last = found, sure, person
        self.lost = 0 if score else self.lost + 1
        self.rows.append((keypoints, score, len(people)))
        return keypoints[:18]

    def result(self) -> Track:
        return gathered(self.rows, POINTS)


def _check_device(device: str) -> None:
    import onnxruntime

    kind = torch.device(device).type
    if kind not in ("cpu", "cuda"):
        raise ValueError(f"device = {device!r}: dwpose runs on cpu or cuda")
    if kind == "cuda" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise ValueError(f"device = {device!r}: this onnxruntime has no CUDA; pip install onnxruntime-gpu, or use cpu")


def _session(name: str, tool: Any, path: Path, device: str) -> Any:
    """rtmlib's tool with the file loaded, at the size of input that the file says.

    Raises:
        ValueError: the file is no ONNX network, or one of another kind.
    """
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    kinds = (kind for kind in vars(state).values() if isinstance(kind, type) and kind is not Exception)
    unusable: tuple[type[Exception], ...] = (RuntimeError, *(kind for kind in kinds if issubclass(kind, Exception)))
    silent = io.StringIO()
    try:
        with contextlib.redirect_stdout(silent):  # it prints each file that it loads
            loaded = tool(str(path), device=device)
    except unusable as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"pose = 'dwpose': {name}: {path} cannot be loaded ({reason}); give an ONNX file") from error
    shape = loaded.session.get_inputs()[0].shape
    outputs = [output.shape for output in loaded.session.get_outputs()]
    if len(shape) != 4 or shape[1] not in (3, "3"):
        raise ValueError(_other(name, path.name, f"its input is {shape}, not pictures [1, 3, H, W]"))
    # the whole-body network gives a row of x and a row of y for each keypoint, a detector boxes and perhaps their kinds
    if (len(outputs) == 2 and all(len(output) == 3 for output in outputs)) != (name == "pose_model"):
        raise ValueError(_other(name, path.name, f"its outputs are {outputs}"))
    if name == "pose_model" and isinstance(outputs[0][1], int) and outputs[0][1] != KEYPOINTS:
        raise ValueError(_other(name, path.name, f"it gives {outputs[0][1]} keypoints, not {KEYPOINTS}"))
    height, width = shape[2:]
    if isinstance(height, int) and isinstance(width, int):
        # the detector takes height x width, the whole-body network width x height
        loaded.model_input_size = (height, width) if name == "detector" else (width, height)
    return loaded


def _other(name: str, file: str, reason: str) -> str:
    kinds = {"detector": "a YOLOX person detector", "pose_model": "a whole-body network such as DWPose or RTMW"}
    return f"pose = 'dwpose': {name}: {file} is another network ({reason}); give {kinds[name]}"
