"""The BlazePose networks on onnxruntime: twice as fast on a CPU as in torch, equal up to rounding.

The ONNX graph is built from the packaged weights whenever it is opened, so that they are stored once.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from entprog.poses._networks import Baked, baked, rows_of

INSTALL = 'pip install "entprog[pose-onnx]"'
PACKAGES: Mapping[str, str] = {"onnx": INSTALL, "onnxruntime": INSTALL}
OPSET, IR_VERSION = 17, 8
"""Those of ONNX 1.12 (2022), which onnxruntime reads from 1.13 on."""
IMAGES = "images"


class OnnxGraph:
    """As `BlazeGraph`, on the CPU: images [N,3,H,W] -> its named outputs, each [N, rows, columns].

    Runs on as many threads as torch is set to when it is opened.
    """

    def __init__(self, name: str) -> None:
        import onnxruntime

        graph = baked(name)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.outputs = list(graph.outputs)
        self._session = onnxruntime.InferenceSession(as_onnx(graph), options, providers=["CPUExecutionProvider"])

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        found = self._session.run(self.outputs, {IMAGES: images.contiguous().numpy()})
        return {label: rows_of(torch.from_numpy(value)) for label, value in zip(self.outputs, found, strict=True)}


def as_onnx(graph: Baked) -> bytes:
    """The network as an ONNX file, for any number of images."""
    from onnx import TensorProto, helper, numpy_helper

    names = {graph.input: IMAGES, **{number: label for label, number in graph.outputs.items()}}
    nodes: list[Any] = []
    constants: dict[str, Any] = {key: value.numpy() for key, value in graph.weights.items()}
    constants |= {"zero": np.float32(0), "six": np.float32(6), "twice": np.array([1, 1, 2, 2], np.float32)}
    for op in graph.ops:
        number = op["output"]
        inputs, output = [names.get(n, f"{n}") for n in op["inputs"]], names.get(number, f"{number}")
        if op["op"] == "rows":
            constants[f"{number}.shape"] = np.array([0, *op["shape"]], np.int64)  # 0: as many as there are images
        activation = op.get("activation")
        for kind, more, attributes in _nodes(op):
            # several nodes in a row, and the activation, make one tensor
            nodes.append(helper.make_node(kind, [*inputs, *more], [f"{output}.{len(nodes)}"], **attributes))
            inputs = list(nodes[-1].output)
        if activation is not None:
            limits = {"relu": ("Relu", []), "relu6": ("Clip", ["zero", "six"])}
            kind, more = limits[activation]
            nodes.append(helper.make_node(kind, [*inputs, *more], [output]))
        nodes[-1].output[0] = output
    images = helper.make_tensor_value_info(IMAGES, TensorProto.FLOAT, ["N", 3, "H", "W"])
    made_by = {op["output"]: op for op in graph.ops}
    outputs = [
        helper.make_tensor_value_info(label, TensorProto.FLOAT, ["N", *[None] * (_axes(made_by[number]) - 1)])
        for label, number in graph.outputs.items()
    ]
    stored = [numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items()]
    made = helper.make_graph(nodes, "blazepose", [images], outputs, stored)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    return bytes(model.SerializeToString())


def _axes(op: dict[str, Any]) -> int:
    """How many axes an operation's output has."""
    return {"rows": 1 + len(op.get("shape", ())), "concatenate_rows": 3}.get(op["op"], 4)


def _nodes(op: dict[str, Any]) -> list[tuple[str, list[str], dict[str, Any]]]:
    """The ONNX operators of an operation, one after the other: kind, constants that they need, and attributes."""
    number = op["output"]
    match op["op"]:
        case "conv":
            left, right, top, bottom = op["pad"]
            place = {"pads": [top, left, bottom, right], "strides": op["stride"], "group": op["groups"]}
            return [("Conv", [f"{number}.weight", f"{number}.bias"], place)]
        case "add":
            return [("Add", [], {})]
        case "max_pool":
            return [("MaxPool", [], {"kernel_shape": op["kernel"], "strides": op["stride"]})]
        case "resize":
            return [("Resize", ["", "twice"], {"mode": "linear"})]
        case "sigmoid":
            return [("Sigmoid", [], {})]
        case "depth_to_space":
            return [("DepthToSpace", [], {"blocksize": op["block"], "mode": "DCR"})]
        case "rows":
            return [("Transpose", [], {"perm": [0, 2, 3, 1]}), ("Reshape", [f"{number}.shape"], {})]
        case "concatenate_rows":
            return [("Concat", [], {"axis": 1})]
    raise ValueError(f"pose asset: unknown op {op['op']!r}; bake it again with tools/bake_pose.py")
