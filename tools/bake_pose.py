"""Bake the BlazePose networks into src/entprog/assets: run once, the result is committed.

Reads the two .tflite files of the package mediapipe 0.10.21 (Apache-2.0), drops what entprog does not use
(segmentation and world landmarks), and writes pose_detector.safetensors and pose_landmarks.safetensors:
float16 weights exactly as published, the op graph as JSON in the metadata. Needs ai-edge-litert (its
flatbuffer schema), numpy and safetensors in a scratch environment; the package itself needs none of the
first.

    pip download --no-deps mediapipe==0.10.21 && unzip mediapipe-*.whl -d wheel
    python tools/bake_pose.py wheel/mediapipe/modules src/entprog/assets

The graph is a list of ops over numbered tensors in NCHW. Static padding is computed here, so that the
executor (entprog/poses/_networks.py) contains none of TensorFlow's rules. Pruned detector weights are
kept as a bit mask and values.
"""

import json
import sys
from math import prod
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from safetensors.numpy import save_file

OPERATORS = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
ELEMENT = {0: np.float32, 1: np.float16, 2: np.int32}
ACTIVATION = {0: None, 1: "relu", 3: "relu6"}
SOURCES = {
    "pose_detector": ("pose_detection/pose_detection.tflite", {"boxes": 2254 * 12, "scores": 2254}),
    "pose_landmarks": (
        "pose_landmark/pose_landmark_full.tflite",
        {"points": 195, "score": 1, "heatmap": 64 * 64 * 39},
    ),
}


class Reader:
    """One .tflite file: shapes and constants by tensor number, ops in order."""

    def __init__(self, path: Path) -> None:
        self.model = schema.Model.GetRootAs(path.read_bytes())
        self.graph = self.model.Subgraphs(0)
        self.constants: dict[int, np.ndarray] = {}
        for number in range(self.graph.TensorsLength()):
            tensor = self.graph.Tensors(number)
            buffer = self.model.Buffers(tensor.Buffer())
            if buffer.DataIsNone():
                continue
            values = np.frombuffer(buffer.DataAsNumpy().tobytes(), ELEMENT[tensor.Type()])
            sparsity = tensor.Sparsity()
            shape = self.shape(number)
            self.constants[number] = values.reshape(shape) if sparsity is None else densify(values, shape, sparsity)

    def shape(self, number: int) -> list[int]:
        tensor = self.graph.Tensors(number)
        return [] if tensor.ShapeIsNone() else [int(n) for n in np.atleast_1d(tensor.ShapeAsNumpy())]

    def operators(self):
        for number in range(self.graph.OperatorsLength()):
            operator = self.graph.Operators(number)
            code = self.model.OperatorCodes(operator.OpcodeIndex())
            name = OPERATORS[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
            yield name, operator.InputsAsNumpy().tolist(), int(operator.OutputsAsNumpy()[0]), operator


def options(operator, kind):
    read = kind()
    table = operator.BuiltinOptions()
    read.Init(table.Bytes, table.Pos)
    return read


def index_vector(kind: int, table) -> np.ndarray:
    vector = {1: schema.Int32Vector, 2: schema.Uint16Vector, 3: schema.Uint8Vector}[kind]()
    vector.Init(table.Bytes, table.Pos)
    return vector.ValuesAsNumpy().astype(np.int64)


def densify(values: np.ndarray, shape: list[int], sparsity) -> np.ndarray:
    """Expand TensorFlow Lite's sparse layout level by level (dense or compressed rows, optional blocks)."""
    order = sparsity.TraversalOrderAsNumpy().tolist()
    block_map = [] if sparsity.BlockMapIsNone() else sparsity.BlockMapAsNumpy().tolist()
    rank = len(shape)
    levels = [sparsity.DimMetadata(i) for i in range(sparsity.DimMetadataLength())]
    block = [1] * rank
    for level, dimension in zip(levels, order, strict=True):
        if dimension >= rank:
            block[block_map[dimension - rank]] *= level.DenseSize()
    position = np.zeros(1, np.int64)
    coordinate = [np.zeros(1, np.int64) for _ in range(rank)]
    for level, dimension in zip(levels, order, strict=True):
        if level.Format() == 0:
            size = level.DenseSize()
            parent = np.repeat(np.arange(len(position)), size)
            value = np.tile(np.arange(size), len(position))
            position = position[parent] * size + value
        else:
            starts = index_vector(level.ArraySegmentsType(), level.ArraySegments())
            indices = index_vector(level.ArrayIndicesType(), level.ArrayIndices())
            parent = np.repeat(np.arange(len(position)), starts[position + 1] - starts[position])
            position = np.concatenate([np.arange(starts[p], starts[p + 1]) for p in position])
            value = indices[position]
        coordinate = [c[parent] for c in coordinate]
        axis = dimension if dimension < rank else block_map[dimension - rank]
        coordinate[axis] = coordinate[axis] + value * (block[axis] if dimension < rank else 1)
    dense = np.zeros(shape, values.dtype)
    dense[tuple(coordinate)] = values[position]
    return dense


def same_padding(size: list[int], kernel: tuple[int, int], stride: tuple[int, int], same: bool) -> list[int]:
    """TensorFlow's padding as (left, right, top, bottom); the odd pixel goes right and below."""
    if not same:
        return [0, 0, 0, 0]
    pads = []
    for n, k, s in zip(size, kernel, stride, strict=True):
        extra = max((-(-n // s) - 1) * s + k - n, 0)
        pads.append([extra // 2, extra - extra // 2])
    return pads[1] + pads[0]


def bake(path: Path, wanted: dict[str, int]) -> tuple[dict[str, np.ndarray], dict]:
    reader = Reader(path)
    constants, weights, ops = reader.constants, {}, []
    for name, inputs, output, operator in reader.operators():
        if name in ("DEQUANTIZE", "DENSIFY"):
            constants[output] = constants[inputs[0]]
            continue
        op = {"inputs": [inputs[0]], "output": output}
        shape = reader.shape(inputs[0])
        if name in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            dense = name == "CONV_2D"
            read = options(operator, schema.Conv2DOptions if dense else schema.DepthwiseConv2DOptions)
            assert read.DilationHFactor() == read.DilationWFactor() == 1
            weight = constants[inputs[1]].transpose((0, 3, 1, 2) if dense else (3, 0, 1, 2))
            stride = (read.StrideH(), read.StrideW())
            weights[f"{output}.weight"], weights[f"{output}.bias"] = weight, constants[inputs[2]]
            op |= {
                "op": "conv",
                "groups": 1 if dense else shape[3],
                "stride": stride,
                "pad": same_padding(shape[1:3], weight.shape[2:], stride, read.Padding() == 0),
                "activation": ACTIVATION[read.FusedActivationFunction()],
            }
        elif name == "ADD":
            act = ACTIVATION[options(operator, schema.AddOptions).FusedActivationFunction()]
            op |= {"op": "add", "inputs": inputs, "activation": act}
        elif name == "PAD":
            n, h, w, c = constants[inputs[1]].tolist()
            assert n == [0, 0]
            op |= {"op": "pad", "pad": w + h + c}
        elif name == "MAX_POOL_2D":
            read = options(operator, schema.Pool2DOptions)
            kernel, stride = (read.FilterHeight(), read.FilterWidth()), (read.StrideH(), read.StrideW())
            assert not any(same_padding(shape[1:3], kernel, stride, read.Padding() == 0))
            op |= {"op": "max_pool", "kernel": kernel, "stride": stride}
        elif name == "RESIZE_BILINEAR":
            read = options(operator, schema.ResizeBilinearOptions)
            assert read.HalfPixelCenters() and not read.AlignCorners(), "only half-pixel centres are executed"
            op |= {"op": "resize", "size": constants[inputs[1]].tolist()}
        elif name == "RESHAPE":
            op |= {"op": "rows", "shape": constants[inputs[1]].tolist()[1:]}
        elif name == "CONCATENATION":
            assert len(reader.shape(output)) == 3 and options(operator, schema.ConcatenationOptions).Axis() == 1
            op |= {"op": "concatenate_rows", "inputs": inputs}
        elif name == "LOGISTIC":
            op |= {"op": "sigmoid"}
        elif name == "DEPTH_TO_SPACE":
            op |= {"op": "depth_to_space", "block": options(operator, schema.DepthToSpaceOptions).BlockSize()}
        else:
            raise SystemExit(f"{path.name}: no rule for the op {name}")
        ops.append(op)
    sizes = {int(n): prod(reader.shape(int(n))) for n in reader.graph.OutputsAsNumpy()}
    outputs = {label: next(n for n, size in sizes.items() if size == count) for label, count in wanted.items()}
    needed, kept = set(outputs.values()), []
    for op in reversed(ops):
        if op["output"] in needed:
            needed |= set(op["inputs"])
            kept.insert(0, op)
    graph = {"input": int(reader.graph.InputsAsNumpy()[0]), "outputs": outputs, "ops": kept}
    used = {f"{op['output']}.{part}" for op in kept if op["op"] == "conv" for part in ("weight", "bias")}
    return {name: weights[name] for name in sorted(used)}, graph


def compact(weights: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, list[int]]]:
    """Pruned weights become a packed bit mask and their values; the shapes go to the metadata."""
    stored, pruned = {}, {}
    for name, value in weights.items():
        assert value.dtype == np.float16, f"{name} is {value.dtype}, expected the published float16"
        if np.mean(value == 0) > 0.2:
            pruned[name] = list(value.shape)
            stored[f"{name}.mask"] = np.packbits(value.reshape(-1) != 0)
            stored[f"{name}.values"] = value[value != 0]
        else:
            stored[name] = np.ascontiguousarray(value)
    return stored, pruned


def main(modules: Path, assets: Path) -> None:
    for target, (source, wanted) in SOURCES.items():
        weights, graph = bake(modules / source, wanted)
        stored, pruned = compact(weights)
        graph |= {"source": f"mediapipe 0.10.21, {source}, Apache-2.0", "pruned": pruned}
        file = assets / f"{target}.safetensors"
        # one metadata key: the order of several is random, and the same input must give the same file
        save_file(stored, str(file), metadata={"graph": json.dumps(graph)})
        file.chmod(0o644)
        count = sum(value.size for value in weights.values())
        print(f"{file.name}: {len(graph['ops'])} ops, {count} weights, {file.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
