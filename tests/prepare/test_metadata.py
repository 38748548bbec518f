"""Captions and control videos: the layouts of other trainers, and what is refused."""

import csv
import json
from pathlib import Path

import pytest

from entprog.prepare.metadata import captions

TEXTS = {"a.mp4": "a person signs", "b.mp4": "she dances, turns\nand bows"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two videos, and a control video of each in pose/."""
    (tmp_path / "pose").mkdir()
    for name in TEXTS:
        (tmp_path / name).touch()
        (tmp_path / "pose" / name).touch()
    return tmp_path


def rows(video: str, caption: str = "", control: str = "") -> list[dict[str, object]]:
    """A row for each video, in columns of these names."""
    said = {name: {video: name, caption: text, control: f"pose/{name}"} for name, text in TEXTS.items()}
    return [{key: value for key, value in row.items() if key} for row in said.values()]


def write(path: Path, table: list[dict[str, object]]) -> Path:
    if path.suffix == ".csv":
        with path.open("w", encoding="utf-8-sig", newline="") as stream:
            writer = csv.DictWriter(stream, list(table[0]))
            writer.writeheader()
            writer.writerows(table)
    elif path.suffix == ".json":
        path.write_text(json.dumps(table, indent=2), encoding="utf-8")
    else:
        path.write_text("".join(f"{json.dumps(row)}\n" for row in table), encoding="utf-8")
    return path


def read(folder: Path, **more: object) -> dict[str, tuple[str, str]]:
    """Caption and control video by the video's path in the folder."""
    found = captions([folder], **more).rows  # type: ignore[arg-type]
    control = [sample.control.relative_to(folder).as_posix() if sample.control else "" for sample in found]
    names = [sample.video.relative_to(folder).as_posix() for sample in found]
    return {name: (sample.caption, path) for name, sample, path in zip(names, found, control, strict=True)}


def refused(folder: Path, **more: object) -> str:
    with pytest.raises(ValueError) as raised:
        captions([folder], **more)  # type: ignore[arg-type]
    return str(raised.value)


EXPECTED = {name: (text, f"pose/{name}") for name, text in TEXTS.items()}
LAYOUTS = {
    "DiffSynth": ("video", "prompt", "control_video"),
    "VideoX-Fun": ("file_path", "text", "control_file_path"),
    "musubi": ("video_path", "caption", "control_path"),
    "FastVideo": ("path", "cap", "control"),
    "datasets": ("file_name", "text", "control"),
}


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_other_trainers_whatever_the_file_is_called(folder: Path, layout: str, suffix: str) -> None:
    video, caption, control = LAYOUTS[layout]
    write(folder / f"train{suffix}", rows(video, caption, control))
    assert read(folder, control=control) == EXPECTED
    assert read(folder) == {name: (text, "") for name, text in TEXTS.items()}


def test_videox_fun_images_are_left_out(folder: Path) -> None:
    (folder / "c.jpg").touch()
    image = {"file_path": "c.jpg", "text": "a photo", "type": "image", "width": 8, "height": 8}
    write(folder / "metadata.json", [{**row, "type": "video"} for row in rows("file_path", "text")] + [image])
    found = captions([folder])
    assert [sample.caption for sample in found.rows] == list(TEXTS.values())
    assert "1 of 3 rows are of images and are left out (row 3, c.jpg)" in " ".join(found.notes)


def test_fastvideo_has_lists_of_captions_and_a_folder_of_videos(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").touch()
    write(tmp_path / "videos2caption.json", [{"path": "a.mp4", "cap": ["first", "second"], "fps": 16.0}])
    found = captions([tmp_path])
    assert [sample.caption for sample in found.rows] == ["first"]
    assert any("several captions; the first is used" in note for note in found.notes)


def test_animate_anyone_has_poses_and_no_captions(folder: Path) -> None:
    write(folder / "dance_meta.json", rows("video_path", control="kps_path"))
    assert read(folder, control="kps_path") == {name: ("", f"pose/{name}") for name in TEXTS}
    assert "2 of 2 videos have no caption" in captions([folder]).notes[-1]


def test_text_files_beside_the_videos(folder: Path) -> None:
    (folder / "a.txt").write_bytes(b"\xef\xbb\xbf  a person signs \r\n")
    found = captions([folder])
    assert [sample.caption for sample in found.rows] == ["a person signs", "", "", ""]
    assert found.notes == (f"3 of 4 videos have no caption ({folder / 'b.mp4'}): the empty prompt is used",)
    (folder / "b.txt").write_bytes("größer".encode("latin-1"))
    assert "b.txt: not UTF-8 (byte 2); save it as UTF-8" in refused(folder)


def test_metadata_wins_over_text_files_and_says_so(folder: Path) -> None:
    (folder / "a.txt").write_text("another text")
    write(folder / "metadata.jsonl", rows("video", "prompt", "control_video"))
    found = captions([folder])
    assert [sample.caption for sample in found.rows] == list(TEXTS.values())
    beside = f"captions are from the metadata, not from 1 .txt files beside the videos ({folder / 'a.mp4'})"
    assert found.notes == (beside,)


def test_a_given_file_wins_over_one_that_is_found(folder: Path) -> None:
    write(folder / "metadata.csv", [{"video": "a.mp4", "prompt": "found"}])
    other = folder / "other"
    other.mkdir()
    given = write(other / "mine.jsonl", [{"video": "a.mp4", "prompt": "given"}])
    found = captions([folder], given)
    assert [(s.video, s.caption) for s in found.rows] == [(folder / "a.mp4", "given")]
    assert f"{folder / 'metadata.csv'} is not read, as --metadata is given" in found.notes
    assert any(note.startswith("3 videos have no row in the metadata and are left out") for note in found.notes)


def test_a_folder_with_metadata_beside_one_without(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    write(folder / "metadata.csv", rows("video", "prompt", "control_video"))
    plain = tmp_path_factory.mktemp("plain")
    (plain / "c.mp4").touch()
    (plain / "c.txt").write_text("walks")
    found = captions([folder, plain])
    assert [s.caption for s in found.rows] == [*TEXTS.values(), "walks"]
    with pytest.raises(ValueError, match=r"1 videos are in no metadata file \(.*c.mp4\); give --metadata FILE"):
        captions([folder, plain], control="control_video")


def test_rows_that_can_be_skipped_are_counted(folder: Path) -> None:
    table = rows("video", "prompt", "control_video")
    away = folder.parent / "away.mp4"
    away.touch()
    write(folder / "metadata.jsonl", [*table, table[0], {"video": "gone.mp4", "prompt": "x"}, {"video": str(away)}])
    notes = "\n".join(captions([folder]).notes)
    assert "1 of 5 rows repeat an earlier row and are left out (line 3, a.mp4)" in notes
    assert "1 of 5 rows name files that are not there and are left out (line 4, gone.mp4)" in notes
    assert "1 of 5 rows name no video of the inputs" in notes


def test_missing_captions_are_empty(folder: Path) -> None:
    (folder / "metadata.jsonl").write_text(
        '{"video": "a.mp4", "prompt": null, "mood": 1}\n\n{"video": "b.mp4", "prompt": NaN}\n'
    )
    found = captions([folder])
    assert [sample.caption for sample in found.rows] == ["", ""]
    assert f"{folder / 'metadata.jsonl'}: columns that are not read: mood" in found.notes


def test_other_json_files_are_no_metadata(folder: Path) -> None:
    (folder / "settings.json").write_text('{"a": 1}')
    (folder / "files.json").write_text('[{"path": "gone.bin", "size": 3}]')
    (folder / "broken.csv").write_text('a,"b\n')
    write(folder / "others.csv", [{"video": "gone.mp4", "prompt": "x"}])
    found = captions([folder])
    assert len(found.rows) == 4
    assert found.notes[0] == f"{folder / 'others.csv'} is not read, as no row names a video of the inputs"
    assert len(found.notes) == 2


def test_broken_lines_are_all_listed(folder: Path) -> None:
    (folder / "metadata.jsonl").write_text('{"video": "a.mp4"}\n{"video": \n[1]\n{"video": "b.mp4"}\n')
    said = refused(folder).splitlines()
    assert len(said) == 2
    assert "metadata.jsonl, line 2: no JSON" in said[0]
    assert "line 3: [1] is not an object" in said[1]
    (folder / "metadata.jsonl").unlink()
    (folder / "metadata.csv").write_text("video,prompt\na.mp4,she turns, bows\nb.mp4\n")
    said = refused(folder).splitlines()
    assert "line 2: 3 fields under 2 columns" in said[0] and "line 3: 1 fields" in said[1]
    (folder / "metadata.csv").write_text('video,prompt\na.mp4,x\nb.mp4,"she turns\n')
    assert "line 3: unexpected end of data" in refused(folder)


def test_many_problems_are_counted(folder: Path) -> None:
    (folder / "metadata.jsonl").write_text("nonsense\n" * 30)
    said = refused(folder).splitlines()
    assert len(said) == 11 and said[-1] == "... and 20 more such lines"


@pytest.mark.parametrize(
    "row, said",
    [
        ({"video": "a.mp4", "prompt": 3}, "line 1: prompt = 3 is not text"),
        ({"video": ["a.mp4"], "prompt": "x"}, "line 1: video = ['a.mp4'] is not a path"),
        ({"video": "a.mp4", "promts": "x"}, "did you mean prompt by promts?"),
        ({"vidoe": "a.mp4", "prompt": "x"}, "did you mean video by vidoe?"),
        ({"video": "a.mp4", "text": "x", "caption": "y"}, "it has text and caption"),
        ({"video": "gone.mp4", "prompt": "x"}, "no row names a video of the inputs (line 1: gone.mp4)"),
    ],
)
def test_what_would_train_something_wrong_is_refused(folder: Path, row: dict[str, object], said: str) -> None:
    write(folder / "metadata.jsonl", [row])
    found = refused(folder)
    assert said in found and len(found.splitlines()) == 1


def test_two_captions_of_one_video(folder: Path) -> None:
    write(folder / "metadata.jsonl", [{"video": "a.mp4", "prompt": text} for text in ("x", "y")])
    assert "line 2: a.mp4 has another caption in line 1; keep one of the rows" in refused(folder)
    write(folder / "metadata.jsonl", [{"video": "a.mp4", "prompt": "x"}])
    write(folder / "pose" / "metadata.jsonl", [{"video": "../a.mp4", "prompt": "y"}])
    assert "disagrees about" in refused(folder)


def test_two_metadata_files_in_one_folder(folder: Path) -> None:
    for name in ("metadata.csv", "metadata_control.csv"):
        write(folder / name, rows("video", "prompt"))
    assert "has metadata.csv and metadata_control.csv; say with --metadata which to read" in refused(folder)


def test_control_columns(folder: Path) -> None:
    write(folder / "metadata.jsonl", rows("video", "prompt", "control_video"))
    assert "did you mean control_video?" in refused(folder, control="control_vido")
    assert "no such column of control videos" in refused(folder, control="video")
    bad = ["pose/gone.mp4", "a.mp4", "metadata.jsonl", None]
    write(folder / "metadata.jsonl", [{"video": "a.mp4", "control_video": path} for path in bad])
    said = refused(folder, control="control_video").splitlines()
    assert [line.split("control_video = ")[1].split(";")[0] for line in said] == [
        "'pose/gone.mp4' is not there",
        "'a.mp4' is the video itself",
        "'metadata.jsonl' is not a video file",
        "None is not a path",
    ]
    (folder / "metadata.jsonl").unlink()
    assert "4 videos are in no metadata file" in refused(folder, control="control_video")


def test_paths_may_be_relative_to_an_input_folder(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    given = write(tmp_path_factory.mktemp("lists") / "list.csv", rows("file_path", "text"))
    assert read(folder, metadata=given) == {name: (text, "") for name, text in TEXTS.items()}
    assert ".txt: not one of .csv, .json, .jsonl" in refused(folder, metadata=given.with_suffix(".txt"))
    assert "cannot be read (No such file or directory)" in refused(folder, metadata=folder / "gone.csv")
