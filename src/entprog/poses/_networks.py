"""The two BlazePose networks in plain torch: a baked op graph, run in order.

Weights and graph: `mediapipe` 0.10.21 (Apache-2.0, (c) The MediaPipe Authors), baked by tools/bake_pose.py.
Architecture: Bazarevsky et al., "BlazePose: On-device Real-time Body Pose tracking", arXiv 2006.10204.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

ASSETS = Path(__file__).parents[1] / "assets"
DETECTOR_SIDE = 224
LANDMARK_SIDE = 256


POINTWISE: dict[str | None, tuple[str, list[float]]] = {
    None: ("none", []), "relu": ("relu", []), "relu6": ("hardtanh", [0.0, 6.0])
}  # fmt: skip
"""oneDNN's names of the activations."""
REORDERED: Any = getattr(torch._C._nn, "mkldnn_reorder_conv2d_weight", None)
FUSED = (
    torch.backends.mkldnn.is_available()
    and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    and REORDERED is not None
)
"""Whether this build of torch has the fused convolutions, which its compiler uses, too."""


@dataclass(frozen=True)
class Baked:
    """A network as it is packaged.

    Attributes:
        input: number of the tensor that the images are.
        outputs: numbers of the tensors that are returned, by name.
        ops: in order; each names its "op", its "inputs", its "output" and what that kind of operation needs.
        weights: float32, as "NUMBER.weight" and "NUMBER.bias" of the tensor that they make.
    """

    input: int
    outputs: dict[str, int]
    ops: list[dict[str, Any]]
    weights: dict[str, Tensor]


def baked(name: str) -> Baked:
    """The packaged network "pose_detector" (images of 224 x 224) or "pose_landmarks" (256 x 256)."""
    with safe_open(str(ASSETS / f"{name}.safetensors"), framework="pt") as file:
        graph = json.loads(file.metadata()["graph"])
        stored = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    for key, shape in graph["pruned"].items():
        stored[key] = _restore(stored.pop(f"{key}.mask"), stored.pop(f"{key}.values"), shape)
    weights = {key: value.float() for key, value in stored.items()}
    return Baked(graph["input"], graph["outputs"], without_pads(graph["ops"]), weights)


class BlazeGraph(nn.Module):
    """One baked network: images [N,3,H,W] -> its named outputs, each [N, rows, columns].

    H and W are fixed by the graph (224 for "pose_detector", 256 for "pose_landmarks"). Runs without
    gradients.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        graph = baked(name)
        for key, value in graph.weights.items():
            # the CPU's convolution kernels are fastest with channels_last, here and for the images
            layout = torch.channels_last if value.dim() == 4 else torch.contiguous_format
            self.register_buffer(key.replace(".", "_"), value.contiguous(memory_format=layout))
        self.input, self.outputs, self.ops = graph.input, graph.outputs, graph.ops
        self._last_use = {number: i for i, op in enumerate(self.ops) for number in op["inputs"]}
        self._packed: dict[int, Tensor] = {}

    @torch.no_grad()
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        live = {self.input: images.contiguous(memory_format=torch.channels_last)}
        keep = set(self.outputs.values())
        for i, op in enumerate(self.ops):
            live[op["output"]] = self._run(op, [live[number] for number in op["inputs"]])
            for number in set(op["inputs"]) - keep:
                if self._last_use[number] == i:
                    del live[number]
        return {label: rows_of(live[number]) for label, number in self.outputs.items()}

    def _conv(self, x: Tensor, op: dict[str, Any], pad: tuple[int, int]) -> Tensor:
        number, stride, groups = op["output"], op["stride"], op["groups"]
        weight: Tensor = getattr(self, f"{number}_weight")
        bias: Tensor = getattr(self, f"{number}_bias")
        if x.device.type != "cpu" or not FUSED:
            return _activate(F.conv2d(x, weight, bias, stride, pad, 1, groups), op["activation"])
        # oneDNN reorders the weights at every call unless they come reordered; the activation joins the convolution
        if number not in self._packed:
            self._packed[number] = REORDERED(weight.to_mkldnn(), pad, stride, (1, 1), groups, list(x.shape))
        name, limits = POINTWISE[op["activation"]]
        fused: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self._packed[number], bias, pad, stride, (1, 1), groups, name, limits, ""
        )
        return fused

    def _run(self, op: dict[str, Any], inputs: list[Tensor]) -> Tensor:
        x = inputs[0]
        match op["op"]:
            case "conv":
                left, right, top, bottom = op["pad"]
                pad: tuple[int, int] = (top, left)
                if (left, top) != (right, bottom):
                    x, pad = F.pad(x, op["pad"]), (0, 0)
                return self._conv(x, op, pad)
            case "add":
                return _activate(x + inputs[1], op["activation"])
            case "pad":
                return F.pad(x, op["pad"])
            case "max_pool":
                return F.max_pool2d(x, op["kernel"], op["stride"])
            case "resize":
                return F.interpolate(x, size=op["size"], mode="bilinear", align_corners=False)
            case "sigmoid":
                return x.sigmoid()
            case "depth_to_space":
                return _depth_to_space(x, op["block"])
            case "rows":
                return x.permute(0, 2, 3, 1).reshape(len(x), *op["shape"])
            case "concatenate_rows":
                return torch.cat(inputs, 1)
        raise ValueError(f"pose asset: unknown op {op['op']!r}; bake it again with tools/bake_pose.py")


def without_pads(ops: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The graph with each padding moved into the convolutions that read it, where all that read it are such."""
    readers: dict[int, list[dict[str, Any]]] = {}
    for op in ops:
        for number in op["inputs"]:
            readers.setdefault(number, []).append(op)
    moved: dict[int, dict[str, Any]] = {}
    for op in ops:
        reading = readers.get(op["output"], [])
        unpadded = all(other["op"] == "conv" and not any(other["pad"]) for other in reading)
        if op["op"] == "pad" and not any(op["pad"][4:]) and reading and unpadded:
            moved[op["output"]] = op
    kept = []
    for op in ops:
        if op["output"] in moved:
            continue
        if op["op"] == "conv" and op["inputs"][0] in moved:
            padding = moved[op["inputs"][0]]
            op = {**op, "inputs": padding["inputs"], "pad": padding["pad"][:4]}
        kept.append(op)
    return kept


def _activate(x: Tensor, name: str | None) -> Tensor:
    if name is None:
        return x
    return x.relu_() if name == "relu" else x.clamp_(0, 6)


def _depth_to_space(x: Tensor, block: int) -> Tensor:
    """TensorFlow's channel order (block row, block column, channel); pixel_shuffle has the channel first."""
    n, channels, height, width = x.shape
    rest = channels // block**2
    x = x.reshape(n, block, block, rest, height, width).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(n, rest, height * block, width * block)


def rows_of(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).flatten(1, 2) if x.dim() == 4 else x


def _restore(mask: Tensor, values: Tensor, shape: list[int]) -> Tensor:
    """A pruned weight from its packed bit mask (most significant bit first) and its non-zero values."""
    bits = (mask[:, None] >> torch.arange(7, -1, -1, dtype=torch.uint8)) & 1
    dense = torch.zeros(torch.Size(shape).numel(), dtype=values.dtype)
    dense[bits.reshape(-1)[: len(dense)].bool()] = values
    return dense.reshape(shape)
