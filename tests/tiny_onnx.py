"""Tiny ONNX networks in the form of YOLOX and of a whole-body network, for the real onnxruntime."""

from pathlib import Path
from typing import Any

import numpy as np

SIDE = 96
BOX = (24.0, 12.0, 72.0, 84.0)
WIDTH, HEIGHT = 48, 64


def detector(folder: Path) -> Path:
    """One box, as sure as the brightest pixel is bright."""
    onnx, helper = _onnx()
    box = helper.make_tensor("box", onnx.TensorProto.FLOAT, [1, 1, 4], list(BOX))
    white = helper.make_tensor("white", onnx.TensorProto.FLOAT, [1, 1, 1], [255.0])
    axes = helper.make_tensor("axes", onnx.TensorProto.INT64, [1], [1])
    nodes = [
        helper.make_node("ReduceMax", ["input"], ["top"], keepdims=1),
        helper.make_node("Squeeze", ["top", "axes"], ["squeezed"]),
        helper.make_node("Div", ["squeezed", "white"], ["score"]),
        helper.make_node("Concat", ["box", "score"], ["dets"], axis=2),
    ]
    return _saved(folder / "detector.onnx", nodes, [1, 3, SIDE, SIDE], {"dets": [1, 1, 5]}, [box, white, axes])


def pose_model(folder: Path) -> Path:
    """133 points on a line through the crop, whatever is in it."""
    onnx, helper = _onnx()
    constants, nodes = [], [helper.make_node("ReduceMax", ["input"], ["top"], keepdims=0)]
    for name, bins in (("simcc_x", 2 * WIDTH), ("simcc_y", 2 * HEIGHT)):
        peaks = np.full((1, 133, bins), 0.01, np.float32)
        peaks[0, np.arange(133), np.linspace(4, bins - 5, 133).astype(int)] = 0.9
        constants.append(helper.make_tensor(f"{name}_peaks", onnx.TensorProto.FLOAT, peaks.shape, peaks.flatten()))
        nodes += [
            helper.make_node("Mul", ["top", "zero"], [f"{name}_nothing"]),
            helper.make_node("Add", [f"{name}_peaks", f"{name}_nothing"], [name]),
        ]
    constants.append(helper.make_tensor("zero", onnx.TensorProto.FLOAT, [], [0.0]))
    outputs = {"simcc_x": [1, 133, 2 * WIDTH], "simcc_y": [1, 133, 2 * HEIGHT]}
    return _saved(folder / "pose.onnx", nodes, [1, 3, HEIGHT, WIDTH], outputs, constants)


def expected() -> np.ndarray:
    """Where the points [133,2] lie in the frame: the crop is the box, a quarter larger, at the network's aspect."""
    low, high = np.array(BOX[:2]), np.array(BOX[2:])
    wide, tall = (high - low) * 1.25
    wide, tall = max(wide, tall * WIDTH / HEIGHT), max(tall, wide * HEIGHT / WIDTH)
    bins = np.stack([np.linspace(4, 2 * side - 5, 133).astype(int) for side in (WIDTH, HEIGHT)], 1)
    return bins / 2 / [WIDTH, HEIGHT] * [wide, tall] + (low + high) / 2 - np.array([wide, tall]) / 2


def _onnx() -> tuple[Any, Any]:
    import onnx
    from onnx import helper

    return onnx, helper


def _saved(path: Path, nodes: list[Any], shape: list[int], outputs: dict[str, list[int]], constants: list[Any]) -> Path:
    onnx, helper = _onnx()
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes, path.stem, [helper.make_tensor_value_info("input", kind, shape)],
        [helper.make_tensor_value_info(name, kind, size) for name, size in outputs.items()], constants,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path
