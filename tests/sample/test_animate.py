"""`sample` with a stand-in for the pose estimator: what is written, what is said, and what is refused."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from entprog.cli.app import main
from entprog.data.shards import Shards
from entprog.poses.base import Track
from entprog.prepare.person import NOBODY, Person, Piece
from entprog.prepare.video import read_video, write_video
from entprog.sample import animate, drive, estimator, sample
from skeletons import clip as moving
from skeletons import person
from tiny_sound import with_sound
from untrained_run import untrained_run

FRAMES, WINDOW, SIDE = 10, 4, 16
SIZE = (120, 160)
"""Width and height of the videos."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_run(tmp_path_factory.mktemp("run"), side=SIDE, frames=WINDOW)


@dataclass
class People:
    """What the stand-in estimator finds: poses of the photo and pieces of the drive, in pixels of 120 x 160."""

    photo: np.ndarray | None = field(default_factory=lambda: moving(person(), scale=0.7, at=(60, 70))[0])
    pieces: list[tuple[int, int]] = field(default_factory=lambda: [(0, FRAMES)])
    empty: list[tuple[int, int]] = field(default_factory=list)
    people: int = 1
    rates: list[float] = field(default_factory=list)

    def single(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.photo is None:
            return torch.zeros(1, 18, 3), torch.zeros(1)
        relative = self.photo / np.array([*SIZE, 1], np.float32)
        return torch.from_numpy(relative).float()[None], torch.ones(1)

    def tracker(self, source: Path | None = None) -> "People":
        return self

    def step(self, frame: np.ndarray, *, index: int, restart: bool = False) -> None:
        assert index == 0 and not restart

    def result(self) -> Track:
        return Track(np.zeros((1, 18, 3), np.float32), np.zeros(1, np.float32), np.array([self.people]))

    def find_person(
        self, file: Path, name: str, settings: Any, estimator: Any, least: int
    ) -> tuple[dict[str, Any], Person | None]:
        self.rates.append(settings["fps"])
        poses = moving(person(thighs=0.8), scale=0.5, at=(50, 80))
        pieces = [Piece(a, b, poses[: b - a], np.ones(b - a, bool)) for a, b in self.pieces]
        pieces += [Piece(a, b, poses[:0], np.zeros(0, bool), reason=NOBODY) for a, b in self.empty]
        row = {"reason": None, "people_max": self.people, "pose_found": 1.0, "notes": []}
        return row, Person(sorted(pieces, key=lambda piece: piece.start), SIZE, [])


@pytest.fixture
def people(monkeypatch: pytest.MonkeyPatch) -> People:
    found = People()
    monkeypatch.setattr(estimator, "default_estimator", lambda: found)
    monkeypatch.setattr(drive, "find_person", found.find_person)
    return found


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """me.png (also as you.png) and dance.mp4 with sound (also as walk.mp4), 10 frames at 12 a second."""
    root = tmp_path_factory.mktemp("media")
    noise = np.random.default_rng(0).integers(0, 255, (8, 6, 3), np.uint8)
    pixels = np.asarray(Image.fromarray(noise).resize(SIZE))
    for name in ("me", "you"):
        Image.fromarray(pixels).save(root / f"{name}.png")
    write_video(root / "silent.mp4", np.stack([np.roll(pixels, i, 1) for i in range(FRAMES)]), 12)
    for name in ("dance", "walk"):
        with_sound(root / "silent.mp4", root / f"{name}.mp4")
    return root


def tried(run: Path, media: Path, out: Path, **changed: Any) -> tuple[Any, list[str]]:
    """The result of a call, and what it said."""
    said: list[str] = []
    given = {"reference": media / "me.png", "drive": media / "dance.mp4", "out": out} | changed
    return sample(run, say=said.append, **given), said


def streams(path: Path) -> dict[str, Any]:
    with av.open(str(path)) as container:
        return {stream.type: stream for stream in container.streams}


def test_one_file_with_the_whole_drive_and_its_sound(run: Path, media: Path, people: People, tmp_path: Path) -> None:
    out = tmp_path / "new" / "clip.mp4"
    written, (line,) = tried(run, media, out)
    assert written == out and [path.name for path in out.parent.iterdir()] == ["clip.mp4"]
    frames, fps = read_video(out)
    assert (frames.shape, round(fps)) == ((FRAMES, SIDE, SIDE, 3), 12) and "audio" in streams(out)
    assert line.startswith("clip.mp4: 10 frames at 12 a second, 4 windows of 4, overlap 2; square around the person;")
    assert "poses retargeted (body 1.4" in line and line.endswith("sound kept")
    assert (frames[1:] != frames[:-1]).any()
    tried(run, media, out, frames=2, drive=media / "silent.mp4")
    assert len(read_video(out)[0]) == 2 and "audio" not in streams(out), "in place of the earlier one"


def test_a_folder_has_panels_a_gif_and_frames(run: Path, media: Path, people: People, tmp_path: Path) -> None:
    written, _ = tried(run, media, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["frames", "me-dance.gif", "me-dance.mp4"]
    wide = 192 * 5 + 4 * 4
    assert written == tmp_path / "me-dance.mp4" and read_video(written)[0].shape[1:] == (192, wide, 3)
    assert [path.name for path in sorted((tmp_path / "frames").iterdir())] == [f"{i:04d}.png" for i in range(FRAMES)]
    tried(run, media, tmp_path, retarget=False, frames=1)
    assert read_video(written)[0].shape == (1, 192, 192 * 4 + 3 * 4, 3), "one pose panel where nothing is retargeted"
    tried(run, media, tmp_path, panel=False, frames=1)
    assert read_video(written)[0].shape == (1, SIDE, SIDE, 3)
    shown, _ = tried(run, media, tmp_path / "panel.mp4", panel=True, frames=1)
    assert read_video(shown)[0].shape[2] == wide


def test_every_reference_with_every_drive_by_one_model(
    run: Path, media: Path, people: People, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    real: Callable[..., Any] = animate.open_run
    monkeypatch.setattr(animate, "open_run", lambda run, **more: opened.append(run) or real(run, **more))
    both = {"reference": [media / "me.png", media / "you.png"], "drive": [media / "dance.mp4", media / "walk.mp4"]}
    written, said = tried(run, media, tmp_path, **both, frames=1)
    names = ["me-dance", "me-walk", "you-dance", "you-walk"]
    assert [path.stem for path in written] == names and len(opened) == 1 and len(people.rates) == 2
    assert [line.split(":")[0] for line in said] == [f"{name}.mp4" for name in names]
    assert all((tmp_path / name / "0000.png").is_file() and (tmp_path / f"{name}.gif").is_file() for name in names)
    twice, _ = tried(run, media, tmp_path, reference=[media / "me.png"] * 2, frames=1)
    assert [path.stem for path in twice] == ["me-dance", "me-dance-2"]


def test_the_rate_is_that_of_the_run_s_data(run: Path, media: Path, people: People, tmp_path: Path) -> None:
    out = tmp_path / "clip.mp4"
    record = run / "data.json"
    for given, stored, rate in ((None, 8.0, 8), (6.0, 8.0, 6), (None, None, 12)):
        record.unlink(missing_ok=True)
        if stored:
            record.write_text(json.dumps({"fps": stored}))
        _, (line,) = tried(run, media, out, fps=given, frames=2)
        assert streams(out)["video"].average_rate == rate == people.rates[-1] and f"at {rate} a second" in line
    config = (run / "config.toml").read_text()
    (run / "config.toml").write_text(config.replace("render", "gone"))
    try:
        _, (line,) = tried(run, media, out, frames=1)
        assert "data set is gone, so 12 frames a second are assumed (--fps for another)" in line
    finally:
        (run / "config.toml").write_text(config)


def test_it_says_which_part_of_the_drive_it_used(run: Path, media: Path, people: People, tmp_path: Path) -> None:
    people.pieces, people.empty, people.people = [(0, 2), (4, 9)], [(2, 4)], 3
    _, (line,) = tried(run, media, tmp_path / "clip.mp4", frames=2)
    assert "2 of 5 frames (--frames 5 for all)" in line
    assert "the longest of 3 pieces (2 can be used), 0:00-0:00, number 3; 3 people" in line
    assert "square around the largest of 3 people" in line


def test_sound_begins_where_the_piece_does(run: Path, media: Path, people: People, tmp_path: Path) -> None:
    people.pieces = [(6, 10)]
    tried(run, media, tmp_path / "clip.mp4")
    with av.open(str(tmp_path / "clip.mp4")) as container:
        sound = list(container.decode(audio=0))
    seconds = sum(frame.samples for frame in sound) / 24000
    assert abs(seconds - 4 / 12) < 0.1


def test_a_photo_without_a_person_is_cut_to_its_middle(run: Path, media: Path, people: People, tmp_path: Path) -> None:
    people.photo = None
    _, (line,) = tried(run, media, tmp_path / "clip.mp4", frames=1)
    assert "no person found in the photo: its middle, and poses as in the drive" in line and "retargeted" not in line


def test_names_may_have_a_colon(run: Path, media: Path, people: People, tmp_path: Path) -> None:
    data = Path(next(row for row in (run / "config.toml").read_text().splitlines() if row.startswith("path"))[8:-1])
    other = next(row.clip for row in Shards(data).rows if row.clip != "at 12:30")
    for name in ("at 12:30", f"{data}:at 12:30"):
        written, _ = tried(run, media, tmp_path, reference=other, drive=name, frames=1)
        assert written.name == f"{other}-at_12_30.mp4"
    with pytest.raises(ValueError, match="no such clip among"):
        tried(run, media, tmp_path, reference=other, drive="at 12:31")


def test_a_stored_clip_is_taken_at_the_rate_of_the_call(run: Path, media: Path, people: People, tmp_path: Path) -> None:
    _, (line,) = tried(run, media, tmp_path / "clip.mp4", drive="at 12:30", fps=6)
    assert "2 frames at 6 a second" in line and "its 12 frames a second taken at 6" in line


def test_command_prints_paths_and_says_the_rest_beside(
    run: Path, media: Path, people: People, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--reference", str(media / "me.png"), str(media / "you.png"), "--drive", str(media / "dance.mp4")]
    main(["sample", str(run), *words, "--out", str(tmp_path), "--frames", "1", "--no-retarget", "--no-panel"])
    out, err = capsys.readouterr()
    assert out.splitlines() == [str(tmp_path / f"{name}-dance.mp4") for name in ("me", "you")]
    assert "me-dance.mp4: 1 of 10 frames (--frames 10 for all)" in err and "poses as in the drive" in err


BAD = {
    "frames 0": ({"frames": 0}, "frames = 0: give 1 or more"),
    "fps 0": ({"fps": 0}, "fps = 0: give a number above 0"),
    "fps nan": ({"fps": float("nan")}, "fps = nan: give"),
    "one file for two": ({"reference": ["me.png", "you.png"], "out": "a.mp4"}, "one file for 2 clips; give a folder"),
    "another format": ({"out": "a.webm"}, "clips are written as mp4"),
    "out under a file": ({"out": "me.png/a/clip.mp4"}, r"me\.png is a file, no folder"),
    "out a file": ({"out": "me.png"}, "a file; give a folder, or a name that ends in .mp4"),
    "no reference": ({"reference": []}, "reference: none given"),
    "photo a video": ({"reference": "dance.mp4"}, "reference = .*a video; save one frame of it as an image"),
    "photo a folder": ({"reference": "."}, "reference = .*: a folder; give an image file"),
    "photo gone": ({"reference": "gone.png"}, "reference = .*: no such file, and no such clip"),
    "drive an image": ({"drive": "me.png"}, "drive = .*: not a video"),
    "drive a folder": ({"drive": "."}, "drive = .*: a folder; give a video file, a folder of numbered pictures"),
    "resolution": ({"resolution": "32x16"}, "resolution = 32x16: the task 'human_video' makes squares; give one side"),
    "multiple": ({"resolution": 20}, "resolution = 20: give a multiple of 8 from 16 up"),
    "text": ({"prompt": "a dance"}, "prompt = 'a dance': the task 'human_video' takes no text; leave it out"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(
    case: str, run: Path, media: Path, people: People, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(media)
    changed, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        tried(run, media, **{"out": tmp_path / "out"} | changed)
    assert not (tmp_path / "out").exists()


def test_a_drive_without_a_person_is_refused(run: Path, media: Path, people: People, tmp_path: Path) -> None:
    people.pieces, people.empty = [], [(0, FRAMES)]
    with pytest.raises(ValueError, match=r"drive = .*: no person found; give a video of at least one person"):
        tried(run, media, tmp_path / "clip.mp4")


def test_all_that_is_wrong_is_said_at_once(run: Path, media: Path, people: People, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"frames = 0.*\nfps = -1.*\nout = "):
        tried(run, media, tmp_path / "a.mkv", frames=0, fps=-1)


def test_an_unfinished_run_is_refused(run: Path, media: Path, people: People, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text((run / "config.toml").read_text())
    with pytest.raises(ValueError, match="it has no final weights yet; finish it with --resume-from-checkpoint latest"):
        tried(tmp_path / "run", media, tmp_path / "clip.mp4")


def test_frames_of_a_drive_are_forgotten_when_they_are_used(media: Path) -> None:
    poses = moving(person())[:FRAMES]
    one = drive.Drive("dance", "", poses, SIZE, 12.0, media / "dance.mp4")
    frames = drive.Frames(one, (0, 0, *SIZE), (16, 12))
    whole = np.stack([frames.take(i, 1)[0][0] for i in range(FRAMES)])
    again = drive.Frames(replace(one, start=2, keypoints=poses[2:]), (0, 0, *SIZE), (16, 12))
    np.testing.assert_array_equal(again.take(0, 4)[0], whole[2:6])
    assert len(again._kept) == 4
    np.testing.assert_array_equal(again.take(6, 4)[0], whole[[8, 9, 9, 9]])
    assert len(again._kept) <= 2
