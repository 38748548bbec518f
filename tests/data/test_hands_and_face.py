"""Keypoints of hands and face in data sets of both formats; without them the files are as before."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from entprog.data.shards import Shards, ShardWriter
from entprog.data.window_writer import WindowWriter
from entprog.data.windows import Windows

CODEC = {"codec": "stand-in", "codec_hash": "0"}
BOTH = ("hand_keypoints", "face_keypoints")


def clip(frames: int, *names: str) -> dict[str, torch.Tensor]:
    points = {"pose": 18, "hand_keypoints": 42, "face_keypoints": 68}
    random = torch.Generator().manual_seed(frames)
    return {
        "latents_16": torch.rand(frames, 16, 4, 4, generator=random).half(),
        **{name: torch.rand(frames, points[name], 3, generator=random) for name in ("pose", *names)},
    }


def about(name: str) -> dict[str, str]:
    return {key: name for key in ("clip", "subject", "motion", "scene", "source")} | {"split": "train"}


def test_shards_with_hands_and_face(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, codec=CODEC, sizes=(16,), fps=12, stored=BOTH)
    first, second = clip(5, *BOTH), clip(7, "hand_keypoints")
    writer.add_chunks([{k: v[:3] for k, v in first.items()}, {k: v[3:] for k, v in first.items()}], **about("a"))
    writer.add_chunks([second], **about("b"))
    writer.close()
    shards = Shards(tmp_path)
    a, b = shards.rows
    assert shards.stored == BOTH and shards.about["stored"] == list(BOTH)
    assert np.array_equal(shards.keypoints(a, "hands", 1, 4), first["hand_keypoints"][1:])
    assert np.array_equal(shards.keypoints(a, "face", 0, 5), first["face_keypoints"])
    assert np.array_equal(shards.keypoints(b, "hands", 0, 7), second["hand_keypoints"])
    assert not shards.keypoints(b, "face", 0, 7).any()  # not given: confidence 0
    assert np.array_equal(shards.pose(b, 0, 7), second["pose"])


def test_shards_without_them_are_as_before(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, codec=CODEC, sizes=(16,), fps=12)
    one = clip(4)
    writer.add({16: one["latents_16"]}, one["pose"].numpy(), **about("a"))
    writer.close()
    assert set(json.loads((tmp_path / "dataset.json").read_text())) == {
        "format", "codec", "codec_hash", "sizes", "fps", "clips", "frames"
    }  # fmt: skip
    shards = Shards(tmp_path)
    assert shards.stored == ()
    with pytest.raises(ValueError, match=r"no hand_keypoints are stored; prepare .* --pose dwpose"):
        shards.keypoints(shards.rows[0], "hands", 0, 4)


def test_windows_with_hands_and_face(tmp_path: Path) -> None:
    writer = WindowWriter(tmp_path, codec={}, sizes=["64x48"], frames=5, fps=16, keypoints=BOTH)
    row: dict[str, Any] = {"clip": "a", "subject": "a", "source": "a", "split": "train", "frames": 5}
    row |= {"height": 64, "width": 48}
    window = {"latents": torch.zeros(2, 4, 8, 6), "pose": torch.zeros(5, 18, 3), "hand_keypoints": torch.ones(5, 42, 3)}
    writer.add(window, start=0, **row)
    writer.add({name: window[name] for name in ("latents", "pose")}, start=1, **row)
    writer.close()
    windows = Windows(tmp_path)
    assert windows.stored == ("latents", "pose", *BOTH)
    first, second = map(windows.read, windows.rows)
    assert first["hand_keypoints"].mean() == 1 and first["face_keypoints"].shape == (5, 68, 3)
    assert not second["hand_keypoints"].any()
