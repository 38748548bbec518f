"""Windows of the pieces of a track: the same pieces as clips have, with hands and face where they are given."""

from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_vaes
from entprog.codecs.diffusers import DiffusersCodec
from entprog.prepare import person
from entprog.prepare.video import write_video
from entprog.prepare.window_file import Encoders, prepare_windows_of
from stand_in import StandIn, painted

SETTINGS = {"sizes": ["32x32"], "frames": 9, "references": 1, "fps": 12.0, "people": "largest", "max_frames": None}


def place(i: int) -> tuple[float, float, float]:
    return (50 + abs(20 - i % 40), 30, 16)


def prepared(path: Path, script: Any, encoders: Encoders, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    kept: dict[str, Any] = {}
    stand_in: Any = StandIn(script, **options)
    row = prepare_windows_of(path, path.stem, SETTINGS, stand_in, encoders, kept.__setitem__)
    return row, kept


@pytest.fixture(scope="module")
def encoders() -> Encoders:
    return Encoders(DiffusersCodec(tiny_vaes.build("AutoencoderKLWan")))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("videos") / "leave.mp4"
    write_video(path, painted(30, (96, 128), lambda i: [(place(i), (200, 40, 40))]), 12)
    return path


def test_each_piece_has_its_own_windows(video: Path, encoders: Encoders, monkeypatch: pytest.MonkeyPatch) -> None:
    def script(i: int) -> Any:
        return (None if 12 <= i < 18 else place(i)), 1

    row, kept = prepared(video, script, encoders, hands=True)
    assert row["status"] == "kept" and row["clips"] == list(kept) == ["leave-1", "leave-2"]
    assert row["starts"] == {"leave-1": [0, 3], "leave-2": [18, 21]}
    assert [(piece["clip"], piece["start"], piece["end"], piece["reason"]) for piece in row["pieces"]] == [
        ("leave-1", 0, 12, None), (None, 12, 18, "no person found"), ("leave-2", 18, 30, None)
    ]  # fmt: skip
    for tensors in kept.values():
        assert tensors["32x32/hand_keypoints"].shape == (2, 9, 42, 3)
        assert torch.equal(tensors["32x32/hand_keypoints"][:, :, 0], tensors["32x32/pose"][:, :, 4])
        assert tensors["32x32/face_keypoints"].shape == (2, 9, 68, 3)
    monkeypatch.setattr(person, "KEPT_BYTES", 0)  # the file is read again
    again = prepared(video, script, encoders)[1]
    assert all(torch.equal(again[clip][key], kept[clip][key]) for clip in again for key in again[clip])
    assert "32x32/hand_keypoints" not in again["leave-1"]


def test_pieces_that_are_dropped(video: Path, encoders: Encoders) -> None:
    row, kept = prepared(video, lambda i: (None if i % 8 > 3 else place(i), 1), encoders)
    assert not kept and row["status"] == "dropped" and row["reason"] == "shorter than 9 frames"
    assert row["pieces"][0]["reason"] == "shorter than 9 frames (4)"
    row, kept = prepared(video, lambda i: ((50, 30, 1.5), 1), encoders)
    assert not kept and row["reason"] == "person too small" and "px, at least 16)" in row["pieces"][0]["reason"]
