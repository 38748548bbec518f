"""Streamed safetensors files: byte for byte what the library writes, in rows."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from entprog.data.tensor_files import TensorFile, TensorSpool


def test_a_spooled_file_is_the_librarys_own_byte_for_byte(tmp_path: Path) -> None:
    tensors = {
        "pose": torch.randn(7, 18, 3), "latents_32": torch.randn(7, 2, 3).half(), "a": torch.arange(7),
        "image": torch.randint(0, 255, (7, 3, 5), dtype=torch.uint8), "b": torch.randn(7, 3).bfloat16(),
    }  # fmt: skip
    save_file(tensors, str(tmp_path / "whole"))
    spool = TensorSpool(tmp_path / "spooled")
    for start, stop in ((0, 3), (3, 4), (4, 7)):
        spool.append({name: t[start:stop] for name, t in tensors.items()})
    assert spool.rows == 7 and spool.bytes == sum(t.numel() * t.element_size() for t in tensors.values())
    spool.close()
    assert (tmp_path / "spooled").read_bytes() == (tmp_path / "whole").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["spooled", "whole"]
    file = TensorFile(tmp_path / "spooled")
    for name, tensor in load_file(str(tmp_path / "whole")).items():
        assert torch.equal(file.read(name), tensor) and torch.equal(file.read(name, 2, 5), tensor[2:5])
    assert [len(c["x"]) for c in file.chunks({"pose": "x"}, 1, 7, 4)] == [4, 2]


def test_rows_of_another_kind_are_refused(tmp_path: Path) -> None:
    spool = TensorSpool(tmp_path / "a")
    spool.append({"pose": torch.zeros(2, 3)})
    with pytest.raises(ValueError, match=r"pose float16 \[n, 3\], but pose float32 \[n, 3\] before"):
        spool.append({"pose": torch.zeros(2, 3).half()})
    with pytest.raises(ValueError, match="tensors of"):
        TensorSpool(tmp_path / "b").append({"pose": torch.zeros(2, 3), "other": torch.zeros(1, 3)})
    spool.discard()
    assert not list(tmp_path.iterdir())


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(100)}, str(tmp_path / "a"))
    for size in (0, 5, 20, 300):
        (tmp_path / "b").write_bytes((tmp_path / "a").read_bytes()[:size])
        with pytest.raises(ValueError, match="truncated"):
            TensorFile(tmp_path / "b")
