"""What the studio does, without gradio."""

import socket
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from entprog.cli.app import main
from entprog.prepare.video import VideoError, write_video
from entprog.studio import actions
from entprog.studio.page import _cards, _counted, _refused
from entprog.synthetic.clip import render_clip

GIVEN = {"sizes": [16, 32], "fps": 12.0, "people": "largest", "min_frames": 16}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A person, an empty room, and a file that is no video."""
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "person.mp4", render_clip(0, 0, 0, frames=18, size=128).frames, 12)
    write_video(folder / "empty <b>.mp4", np.full((18, 64, 64, 3), 99, np.uint8), 12)
    (folder / "fake.mp4").write_bytes(b"no video")
    return folder


def test_what_would_be_kept_is_shown_and_what_not_has_its_reason(videos):
    names = ["person.mp4", "empty <b>.mp4", "fake.mp4"]
    looks = list(actions.look_at([videos / name for name in names], GIVEN))
    assert [look.name for look in looks] == names
    person, empty, fake = looks
    assert len(person.clips) == 1 and person.clips[0].seconds > 1 and b"ftyp" in (person.clips[0].video or b"")[:32]
    assert empty.reason == "no person found" and (empty.picture or b"").startswith(b"\xff\xd8")
    assert fake.reason.startswith("unreadable") and fake.picture is None
    assert "1 of 3 files would be kept, in 1 clips" in _counted(looks)
    cards = _cards(looks)
    assert cards.count("<video") == 1 and "empty &lt;b&gt;.mp4" in cards and "dropped: no person found" in cards


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sizes": "32;64"}, "sizes: '32;64'"),
        ({"sizes": ""}, "sizes: ''"),
        ({"sizes": "31"}, "sizes: "),
        ({"fps": 0}, "fps: 0"),
    ],
)
def test_wrong_options_are_named(videos, changed, message):
    asked = {"sizes": "16,32", "fps": 12, "people": "largest", "least": 16} | changed
    with pytest.raises(ValueError, match=message):
        list(actions.look_at([videos / "person.mp4"], actions.options(**asked)))


def test_preparing_keeps_a_copy_of_the_videos(videos, tmp_path):
    given = [videos / "person.mp4", videos / "fake.mp4"]
    said = actions.prepare(given, str(tmp_path / "people"), GIVEN)
    assert "2 clips" in said and "1 files kept, 1 dropped" in said and "unreadable" in said
    assert (tmp_path / "people" / "report.html").is_file()
    assert sorted(path.name for path in (tmp_path / "people-videos").iterdir()) == ["fake.mp4", "person.mp4"]
    again = actions.prepare(given, str(tmp_path / "people"), GIVEN)
    assert again == said and len(list((tmp_path / "people-videos").iterdir())) == 2


@pytest.mark.parametrize(("files", "out", "message"), [([], "data", "videos: none"), (["a.mp4"], " ", "folder: empty")])
def test_preparing_nothing_or_nowhere_is_refused(files, out, message):
    with pytest.raises(ValueError, match=message):
        actions.prepare([Path(file) for file in files], out, GIVEN)


@pytest.mark.parametrize(
    ("changed", "out", "message"),
    [
        ({"sizes": [31]}, "new", "sizes: "),
        ({"fps": 1e6}, "new", "fps: "),
        ({"people": "all"}, "new", "people: 'all'"),
        ({"min_frames": 0}, "new", "min_frames: 0"),
        ({}, "other", "exists and was not made by prepare"),
        ({}, "file", "is a file; give a folder"),
        ({}, "file/new", "is a file; give a folder"),
    ],
)
def test_nothing_is_copied_where_prepare_would_refuse(videos, tmp_path, changed, out, message):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("")
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=message):
        actions.prepare([videos / "person.mp4"], str(tmp_path / out), GIVEN | changed)
    assert sorted(tmp_path.rglob("*")) == before


def test_only_finished_runs_are_listed(tmp_path):
    for name, finished in (("done", True), ("deep/er", True), ("running", False)):
        (tmp_path / name / "final").mkdir(parents=True)
        (tmp_path / name / "config.toml").write_text("")
        if finished:
            (tmp_path / name / "final" / "model.safetensors").write_bytes(b"")
    found = {Path(run).relative_to(tmp_path).as_posix() for run in actions.finished_runs(tmp_path)}
    assert found == {"done", "deep/er"} and actions.finished_runs(tmp_path / "none") == []


def test_everything_that_is_missing_is_named_at_once(tmp_path):
    with pytest.raises(ValueError) as caught:
        actions.animate("", None, None, tmp_path, {})
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == ["run", "photo", "drive"]


def test_only_settings_that_are_given_are_passed_on(tmp_path, monkeypatch):
    seen = {}

    def sample(run, *, say, **given):
        seen.update(given, run=run)
        say("used everything")
        return given["out"]

    monkeypatch.setattr(actions, "sample", sample)
    made, said = actions.animate("runs/a", "me.png", "dance.mp4", tmp_path, {"seed": 3, "frames": None})
    assert made.parent.parent == tmp_path and said == "used everything"
    assert seen == {"run": Path("runs/a"), "reference": "me.png", "drive": "dance.mp4", "out": made, "seed": 3}


@pytest.mark.parametrize("given", ["unfinished", "no run"])
def test_a_run_that_cannot_be_used_is_a_plain_message(tmp_path, given):
    Image.new("RGB", (64, 64)).save(tmp_path / "me.png")
    write_video(tmp_path / "d.mp4", np.zeros((4, 64, 64, 3), np.uint8), 12)
    run = tmp_path / "run"
    run.mkdir()
    if given == "unfinished":
        (run / "config.toml").write_text('output_dir = "run"\n')
    with pytest.raises(ValueError) as caught:
        actions.animate(str(run), tmp_path / "me.png", tmp_path / "d.mp4", tmp_path, {})
    page = _refused(caught.value)
    assert "run = " in page and "Traceback" not in page


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (VideoError(Path("a.mp4"), "no video in it"), "video: cannot read a.mp4 (no video in it)"),
        (FileNotFoundError(2, "No such file", "x"), "x: No such file"),
        (ValueError("one\n\ntwo"), "one\ntwo"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_errors_in_plain_words(error, words):
    assert actions.problem(error) == words


def test_pictures_of_what_was_given(tmp_path, videos):
    Image.new("RGB", (40, 30)).save(tmp_path / "me.png")
    assert actions.picture_of(tmp_path / "me.png") and actions.picture_of(videos / "person.mp4")
    assert actions.picture_of(None) is None and actions.picture_of(videos / "fake.mp4") is None


def test_a_port_that_is_taken_is_refused(capsys, tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(SystemExit) as stopped:
            main(["studio", "--port", str(port), "--no-open", "--runs", str(tmp_path)])
    assert stopped.value.code == 2
    assert f"entprog: port = {port}: cannot be used" in capsys.readouterr().err


@pytest.mark.parametrize("port", ["0", "70000"])
def test_all_problems_at_once(capsys, tmp_path, port):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit):
        main(["studio", "--port", port, "--runs", str(tmp_path / "file")])
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and "give the folder that holds your runs" in said[0] and "1 to 65535" in said[1]


def test_without_gradio_one_line_says_what_to_install(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(SystemExit) as stopped:
        main(["studio", "--port", str(port), "--runs", str(tmp_path)])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == 'entprog: studio: gradio is not installed; pip install "entprog[studio]"\n'
