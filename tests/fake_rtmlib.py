"""Stand-ins for rtmlib and onnxruntime, which tests cannot expect to be installed: a network is a small JSON file.

The detector finds whoever is painted in one of COLOURS; the whole-body network puts its points into the box.
"""

import json
import sys
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

COLOURS = ((250, 0, 0), (0, 250, 0))
DETECTOR = {"input": [1, 3, 64, 96], "outputs": [[1, 10, 5], [1, 10]]}
POSE_MODEL = {"input": ["batch", 3, 96, 72], "outputs": [["batch", 133, 144], ["batch", 133, 192]], "points": 133}
SOURCE = "https://example.org/detector.zip"


class InvalidProtobuf(Exception):
    """As onnxruntime raises it for a file that is no network."""


def install(monkeypatch: pytest.MonkeyPatch, providers: tuple[str, ...] = ("CPUExecutionProvider",)) -> Any:
    """Put the stand-ins where `import` finds them."""
    state = types.ModuleType("onnxruntime.capi.onnxruntime_pybind11_state")
    vars(state)["InvalidProtobuf"] = InvalidProtobuf
    capi, runtime = types.ModuleType("onnxruntime.capi"), types.ModuleType("onnxruntime")
    vars(capi)["onnxruntime_pybind11_state"] = state
    vars(runtime).update(capi=capi, get_available_providers=lambda: list(providers), __path__=[], __spec__=Spec)
    library, file = types.ModuleType("rtmlib"), types.ModuleType("rtmlib.tools.file")
    tools = types.ModuleType("rtmlib.tools")
    whole = SimpleNamespace(MODE={"performance": {"det": SOURCE, "pose": SOURCE}})
    vars(library).update(YOLOX=Detector, RTMPose=Network, Wholebody=whole, tools=tools, __path__=[], __spec__=Spec)
    vars(tools).update(file=file, __path__=[])
    named = (runtime, capi, state, library, tools, file)
    for module in named:
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return file


Spec: Any = SimpleNamespace(name="stand-in", origin=None, submodule_search_locations=[])


def save(folder: Path, name: str, network: dict[str, Any]) -> Path:
    path = folder / name
    path.write_text(json.dumps(network))
    return path


class Tool:
    def __init__(self, path: str, device: str = "cpu") -> None:
        try:
            self.about = json.loads(Path(path).read_text())
        except ValueError as error:
            raise InvalidProtobuf(f"[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : {path}\nmore") from error
        print(f"load {path}")  # as rtmlib does
        inputs, outputs = [SimpleNamespace(shape=self.about["input"])], self.about["outputs"]
        self.session = SimpleNamespace(
            get_inputs=lambda: inputs, get_outputs=lambda: [SimpleNamespace(shape=shape) for shape in outputs]
        )
        self.device, self.model_input_size = device, (0, 0)


class Detector(Tool):
    def __call__(self, image: np.ndarray) -> np.ndarray:
        boxes = []
        for colour in COLOURS:
            rows, columns = np.nonzero((image[..., ::-1] == colour).all(-1))  # it takes blue first
            if len(rows):
                boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        return np.array(boxes, np.float32)


class Network(Tool):
    def __call__(self, image: np.ndarray, bboxes: Any) -> tuple[np.ndarray, np.ndarray]:
        count = self.about["points"]
        at = np.linspace(0.1, 0.9, count)
        x, y, right, low = bboxes[0]
        points = np.stack([x + at * (right - x), y + at * (low - y)], 1)
        return points[None], np.full((1, count), self.about.get("confidence", 0.65))
