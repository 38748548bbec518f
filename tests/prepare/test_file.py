"""One file to clips with a stand-in for the pose estimator: pieces, gates, hands and face, chunks."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from entprog.prepare import person
from entprog.prepare.file import ENCODE_FRAMES, prepare_file
from entprog.prepare.video import Video, write_video
from stand_in import StandIn, painted

RED, BLUE = (200, 40, 40), (40, 40, 200)
SIZE = (96, 128)


def encode(frames: Tensor) -> Tensor:
    return F.pixel_unshuffle(frames.permute(0, 3, 1, 2).float() / 255, 4)[:, :16]


def settings(**changed: Any) -> dict[str, Any]:
    return {"sizes": [32], "fps": 12.0, "people": "largest", "min_frames": 8, "max_frames": None, **changed}


def place(i: int) -> tuple[float, float, float]:
    return (50 + abs(20 - i % 40), 30, 16)


def video(path: Path, count: int = 40, size: tuple[int, int] = SIZE, people: Any = None) -> Path:
    write_video(path, painted(count, size, people or (lambda i: [(place(i), RED)])), 12)
    return path


def prepared(path: Path, script: Any, hands: bool = False, **changed: Any) -> Any:
    return prepare_file(path, path.stem, settings(**changed), estimator(script, hands=hands), encode)


def estimator(script: Any, **options: Any) -> Any:
    return StandIn(script, **options)


def told(row: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [(piece["clip"], piece["start"], piece["end"], piece["reason"]) for piece in row["pieces"]]


def test_who_leaves_and_comes_back_gives_two_clips(tmp_path: Path) -> None:
    path = video(tmp_path / "leave.mp4")
    row, clips = prepared(path, lambda i: (None if 15 <= i < 25 else place(i), int(not 15 <= i < 25)))
    assert row["status"] == "kept" and row["reason"] is None and row["clips"] == list(clips) == ["leave-1", "leave-2"]
    assert told(row) == [("leave-1", 0, 15, None), (None, 15, 25, "no person found"), ("leave-2", 25, 40, None)]
    assert [piece["after"] for piece in row["pieces"]] == ["", "", "lost"]
    assert [len(clip["pose"]) for clip in clips.values()] == [15, 15] and set(row["crops"]) == set(clips)
    assert row["crop"] == row["crops"]["leave-1"] and row["pose_found"] == 0.75


def test_the_pieces_are_judged_one_by_one(tmp_path: Path) -> None:
    """One is good, one short, one small, one with several people."""

    def script(i: int) -> Any:
        if i < 20:
            return place(i), 1
        if i < 24:
            return (110, 60, 10), 1
        if i < 40:
            return (20, 40, 2), 1
        return place(i), 2

    path = video(tmp_path / "many.mp4", 60)
    row, clips = prepared(path, script, people="drop")
    assert row["clips"] == ["many"] and len(clips["many"]["pose"]) == 20
    assert told(row)[1:] == [
        (None, 20, 24, "shorter than 8 frames (4)"),
        (None, 24, 40, "person too small (9 px, at least 16)"),
        (None, 40, 60, "several people (in 100% of the frames that were checked, at most 20%)"),
    ]
    assert row["reason"] == "shorter than 8 frames; person too small; several people"
    assert prepared(path, script)[0]["clips"] == ["many-1", "many-2"]


def test_a_jump_to_another_person_is_in_no_clip(tmp_path: Path) -> None:
    path = video(tmp_path / "two.mp4", people=lambda i: [((30, 30, 16), RED), ((90, 30, 16), BLUE)])
    row, clips = prepared(path, lambda i: ((30 if i < 20 else 90, 30, 16), 2))
    assert [piece["after"] for piece in row["pieces"]] == ["", "jump"] and len(clips) == 2
    for clip in clips.values():
        assert (clip["pose"][1:, 1, :2] - clip["pose"][:-1, 1, :2]).norm(dim=1).max() < 0.1


def test_two_people_who_pass_each_other(tmp_path: Path) -> None:
    """The colours of the pixels decide: the tracking goes over from one to the other without a jump."""

    def people(i: int) -> Any:
        return [((20 + 2 * i, 30, 16), RED), ((100 - 2 * i, 30, 16), BLUE)]

    path = video(tmp_path / "pass.mp4", people=people)
    row, clips = prepared(path, lambda i: ((20 + 2 * i if i < 20 else 100 - 2 * i, 30, 16), 2))
    assert [piece["after"] for piece in row["pieces"] if piece["clip"]] == ["", "colours"]
    for clip, colour in zip(clips.values(), (0, 2), strict=True):  # the middle of the torso, of the first 16 numbers
        assert clip["latents_32"].shape[1:] == (16, 8, 8) and len(clip["pose"]) > 12 and colour in (0, 2)
    assert row["pieces"][0]["end"] <= 24 and row["pieces"][-1]["start"] >= 16


class Breaks(Video):
    """A video with a pause before frame 20 that the reader found."""

    def __iter__(self) -> Iterator[np.ndarray]:
        for frame in super().__iter__():
            self.breaks = [20]
            yield frame

    @property
    def notes(self) -> list[str]:
        return ["pause of 4.4 s cut at 1.7 s"]


def test_a_pause_cuts_and_notes_are_in_the_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = video(tmp_path / "hold.mp4")
    monkeypatch.setattr(person, "Video", Breaks)
    stand_in = estimator(lambda i: (place(i), 1))
    row, clips = prepare_file(path, "hold", settings(), stand_in, encode)
    assert list(clips) == ["hold-1", "hold-2"] and [p["after"] for p in row["pieces"]] == ["", "pause"]
    assert row["notes"] == ["pause of 4.4 s cut at 1.7 s"] and stand_in.restarts == [20]


def test_a_video_of_few_frames_a_second_is_told(tmp_path: Path) -> None:
    path = tmp_path / "slow.mp4"
    write_video(path, painted(8, SIZE, lambda i: [(place(3 * i), RED)]), 2)
    row, _ = prepared(path, lambda i: (place(i // 6 * 3), 1))
    assert row["status"] == "kept" and row["reason"] == "most frames repeat the one before"
    (note,) = row["notes"]
    assert note.startswith("37 of 45 frames repeat the one before (2 frames a second in the file)")


def test_still_pictures_and_blurred_ones_are_dropped(tmp_path: Path) -> None:
    def script(i: int) -> Any:
        return place(0), 1

    frames = painted(20, SIZE, lambda i: [(place(0), RED)])
    write_video(tmp_path / "still.mp4", np.repeat(frames[:1], 20, 0), 12)
    row, clips = prepared(tmp_path / "still.mp4", script)
    assert not clips and row["reason"] == "still picture" and "levels at most" in row["pieces"][0]["reason"]
    path = video(tmp_path / "moves.mp4", 20)
    row, clips = prepared(path, lambda i: (place(i), 1), min_sharpness=0.99)
    assert not clips and row["reason"] == "blurred"
    assert row["pieces"][0]["reason"].startswith("blurred (sharpness 0.") and "at least 0.99" in told(row)[0][3]


def test_hands_and_face_are_kept_where_they_are_given(tmp_path: Path) -> None:
    path = video(tmp_path / "hands.mp4", 12)
    row, clips = prepared(path, lambda i: (None if i == 5 else place(i), 1), hands=True)
    clip = clips["hands"]
    assert clip["hand_keypoints"].shape == (12, 42, 3) and clip["face_keypoints"].shape == (12, 68, 3)
    assert torch.equal(clip["hand_keypoints"][:, 7], clip["pose"][:, 4])  # in units of the square, gaps filled
    assert torch.equal(clip["face_keypoints"][:, 0], clip["pose"][:, 0]) and row["status"] == "kept"
    assert set(prepared(path, lambda i: (place(i), 1))[1]["hands"]) == {"latents_32", "pose"}


def test_clips_are_handed_on_a_few_frames_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = video(tmp_path / "long.mp4", 80)
    script = lambda i: (None if 40 <= i < 46 else place(i), 1)  # noqa: E731
    _, whole = prepared(path, script)
    monkeypatch.setattr(person, "KEPT_BYTES", 0)  # the file is read again
    given: list[tuple[str, dict[str, Tensor]]] = []
    row, clips = prepare_file(path, "long", settings(), estimator(script), encode, lambda *chunk: given.append(chunk))
    assert clips == {} and row["clips"] == ["long-1", "long-2"]
    assert [clip for clip, _ in given] == ["long-1"] * 2 + ["long-2"] * 2
    assert max(len(tensors["pose"]) for _, tensors in given) == ENCODE_FRAMES
    for clip, tensors in whole.items():
        for key, value in tensors.items():
            assert torch.equal(value, torch.cat([t[key] for name, t in given if name == clip])), key


def test_a_file_that_gets_shorter_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = video(tmp_path / "shrinks.mp4")
    monkeypatch.setattr(person, "KEPT_BYTES", 0)
    monkeypatch.setattr("entprog.prepare.file.Video", lambda *a, **k: iter([np.zeros((*SIZE, 3), np.uint8)] * 9))
    row, clips = prepared(path, lambda i: (place(i), 1))
    assert (row["status"], row["reason"], clips) == (
        "dropped", "unreadable: it has fewer frames at the second reading", {}
    )  # fmt: skip


@pytest.mark.parametrize(
    ("count", "size", "script", "reason"),
    [
        (20, SIZE, lambda i: (None, 0), "no person found"),
        (1, SIZE, lambda i: (place(i), 1), "shorter than 8 frames"),
        (7, SIZE, lambda i: (place(i), 1), "shorter than 8 frames"),
        (12, (4, 4), lambda i: (None, 0), "no person found"),
        (12, (4, 4), lambda i: ((2, 1, 1), 1), "person too small"),
        (12, (35, 51), lambda i: ((20 + i, 10, 6), 1), None),
        (12, SIZE, lambda i: ((20, 20, 1.5), 1), "person too small"),
        (12, SIZE, lambda i: ((-500, 20, 16), 1), "no person found"),
        (24, SIZE, lambda i: (place(i) if i % 5 else None, 1), "pose found in fewer than 90% of the frames"),
        (24, SIZE, lambda i: (((i * 37) % 90, 30, 16), 1), "shorter than 8 frames"),
        (24, SIZE, lambda i: (place(i), 2), "several people"),
    ],
    ids=[
        "nobody",
        "one frame",
        "short",
        "4x4",
        "4x4 person",
        "odd",
        "tiny person",
        "outside",
        "flicker",
        "jumps",
        "two",
    ],
)
def test_bad_input(count: int, size: Any, script: Any, reason: str | None, tmp_path: Path) -> None:
    path = video(tmp_path / "bad.mp4", count, size)
    row, clips = prepared(path, script, people="drop", sizes=[16])
    assert (row["reason"], bool(clips)) == (reason, reason is None)
    assert all((piece["reason"] is None) == (piece["clip"] is not None) for piece in row["pieces"])
    assert all(0 <= piece["start"] < piece["end"] <= count for piece in row["pieces"])


@pytest.mark.slow
def test_ten_thousand_frames_and_8k(tmp_path: Path) -> None:
    path = video(tmp_path / "long.mp4", 10_000, (48, 64), lambda i: [((30 + i % 7, 12, 9), RED)])
    row, clips = prepared(path, lambda i: ((30 + i % 7, 12, 9), 1), sizes=[16])
    assert row["clips"] == ["long"] and len(clips["long"]["pose"]) == 10_000
    path = video(tmp_path / "8k.mp4", 8, (4320, 7680), lambda i: [((3000 + 90 * i, 1000, 900), RED)])
    row, clips = prepared(path, lambda i: ((355 + 10 * i, 118, 106), 1))
    assert row["clips"] == ["8k"] and row["size"] == [7680, 4320] and row["crop"][2] > 3000
