"""safetensors files that are written and read a few rows at a time, so that memory does not grow with their size."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

__all__ = ["TensorFile", "TensorSpool"]

DTYPES = {
    "I64": torch.int64, "F64": torch.float64, "F32": torch.float32, "I32": torch.int32, "BF16": torch.bfloat16,
    "F16": torch.float16, "I16": torch.int16, "U8": torch.uint8, "I8": torch.int8, "BOOL": torch.bool,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}
ALIGNED = 8
"""The header is padded so that the tensors begin at a multiple of this."""


class TensorSpool:
    """Tensors that grow along their first axis, on disk; `close` makes a safetensors file of them.

    The bytes are those of `safetensors.torch.save_file` of the whole tensors.
    """

    def __init__(self, final: Path) -> None:
        self.final, self.rows, self.bytes = final, 0, 0
        self._streams: dict[str, IO[bytes]] = {}
        self._about: dict[str, tuple[torch.dtype, list[int]]] = {}

    def append(self, tensors: Mapping[str, Tensor]) -> None:
        """Add rows [n, ...] to each tensor; the names, types and other sides are those of the first call.

        Raises:
            ValueError: they are not, or the tensors have different numbers of rows.
        """
        about = {name: (t.dtype, list(t.shape[1:])) for name, t in tensors.items()}
        if self._about and about != self._about:
            raise ValueError(f"{self.final.name}: tensors {_listed(about)}, but {_listed(self._about)} before")
        counts = {len(t) for t in tensors.values()}
        if len(counts) != 1:
            raise ValueError(f"{self.final.name}: tensors of {sorted(counts)} rows; give all the same number")
        self._about = about
        for name, tensor in tensors.items():
            if name not in self._streams:
                self._streams[name] = self._partial(name).open("w+b")
            data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            self._streams[name].write(data.data)
            self.bytes += data.nbytes
        self.rows += counts.pop()

    def close(self) -> None:
        """Write the file under a temporary name, with the folder's read permissions, and rename it."""
        header, end = {}, 0
        for name in sorted(self._about, key=lambda n: (-self._about[n][0].itemsize, n)):
            dtype, sides = self._about[name]
            start, end = end, end + self._streams[name].tell()
            header[name] = {"dtype": NAMES[dtype], "shape": [self.rows, *sides], "data_offsets": [start, end]}
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % ALIGNED)
        partial = self._partial("")
        try:
            with partial.open("wb") as stream:
                stream.write(len(text).to_bytes(8, "little") + text)
                for name in header:
                    self._streams[name].seek(0)
                    shutil.copyfileobj(self._streams[name], stream, 2**20)
            partial.chmod(partial.parent.stat().st_mode & 0o666)
            partial.replace(self.final)
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove the temporary files."""
        for name, stream in self._streams.items():
            stream.close()
            self._partial(name).unlink(missing_ok=True)
        self._partial("").unlink(missing_ok=True)
        self._streams = {}

    def _partial(self, name: str) -> Path:
        return self.final.with_name(f"{self.final.name}{name and '.'}{name}.partial")


class TensorFile:
    """A safetensors file read by rows with ordinary reads: a memory map would count towards the peak memory.

    Attributes:
        shapes: of the tensors by name.
    """

    def __init__(self, path: Path) -> None:
        """Raises OSError where it can't be read, and ValueError where it is no safetensors file or is cut off."""
        self.path = path
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            size = path.stat().st_size
            if not 0 < length <= size - 8:
                raise ValueError(f"{path}: truncated or no safetensors file")
            header: dict[str, Any] = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        self._begin = 8 + length
        self._about = header
        self.shapes: dict[str, list[int]] = {name: about["shape"] for name, about in header.items()}
        if max((about["data_offsets"][1] for about in header.values()), default=0) > size - self._begin:
            raise ValueError(f"{path}: truncated or no safetensors file")

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Rows [start, stop) of a tensor."""
        about = self._about[name]
        dtype, (rows, *sides) = DTYPES[about["dtype"]], about["shape"]
        first, end = about["data_offsets"]
        stop = rows if stop is None else min(stop, rows)
        each = (end - first) // rows if rows else 0
        data = bytearray(each * (stop - start))
        with self.path.open("rb") as stream:
            stream.seek(self._begin + first + each * start)
            if stream.readinto(data) != len(data):
                raise ValueError(f"{self.path}: truncated")
        if not data:
            return torch.empty([stop - start, *sides], dtype=dtype)
        return torch.frombuffer(data, dtype=dtype).reshape([stop - start, *sides])

    def chunks(self, names: Mapping[str, str], start: int, stop: int, most: int) -> Iterator[dict[str, Tensor]]:
        """Rows [start, stop) of several tensors, at most `most` rows at once; `names`: stored name to given name."""
        for first in range(start, stop, most):
            last = min(first + most, stop)
            yield {given: self.read(stored, first, last) for stored, given in names.items()}


def _listed(about: Mapping[str, tuple[torch.dtype, list[int]]]) -> str:
    return ", ".join(f"{name} {str(dtype)[6:]} [n, {str(sides)[1:]}" for name, (dtype, sides) in sorted(about.items()))
