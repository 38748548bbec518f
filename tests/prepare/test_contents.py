"""Data known by its content: what a second prepare does with moved, replaced, copied and bad files.

The networks are replaced by a stand-in that "prepares" small text files, so that hundreds of cases take seconds.
"""

import json
import os
import subprocess
import sys
import zipfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from entprog.data.shards import Shards
from entprog.locks import LOCK_FILES, folder_lock
from entprog.prepare import work as work_module
from entprog.prepare.batch import hold, prepare_files, result_of
from entprog.prepare.content import read_content
from entprog.prepare.inputs import list_inputs
from entprog.prepare.names import Names
from entprog.prepare.split import TAIL, split_files, tail_of_clips, tail_of_windows
from entprog.prepare.store import Store
from entprog.prepare.video import VideoError
from kill_host import Forking
from stand_in_work import CODEC, SETTINGS, TextWork, prepare, rows, write


def index(out: Path) -> dict[str, tuple[int, str]]:
    return {row.clip: (row.frames, row.split) for row in Shards(out).rows}


def files_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def test_moved_files_keep_their_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "v", a=20, b=24)
    prepare(tmp_path / "v", tmp_path / "out")
    before, shard = index(tmp_path / "out"), (tmp_path / "out" / "shard-00000.safetensors").stat().st_mtime_ns
    (tmp_path / "v").rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "a.mp4").rename(tmp_path / "elsewhere" / "new name.mp4")
    result = prepare(tmp_path / "elsewhere", tmp_path / "out")
    assert result.skipped == 2 and index(tmp_path / "out") == before
    assert {row["source"] for row in rows(tmp_path / "out")} == {
        str(path) for path in (tmp_path / "elsewhere").iterdir()
    }
    assert {Path(row.source).name for row in Shards(tmp_path / "out").rows} == {"new name.mp4", "b.mp4"}
    assert (tmp_path / "out" / "shard-00000.safetensors").stat().st_mtime_ns == shard


def test_replaced_files_are_prepared_again_and_keep_their_split(tmp_path: Path) -> None:
    write(tmp_path / "v", a=20, b=24, c=3)
    prepare(tmp_path / "v", tmp_path / "out")
    before = index(tmp_path / "out")
    assert rows(tmp_path / "out")[2]["status"] == "dropped"
    write(tmp_path / "v", a=31, c=17)
    result = prepare(tmp_path / "v", tmp_path / "out")
    now = index(tmp_path / "out")
    assert result.skipped == 1 and now["a"][0] == 31 and now["c"][0] == 17 and now["b"] == before["b"]
    assert {clip: split for clip, (_, split) in now.items() if clip in before} == {
        clip: split for clip, (_, split) in before.items()
    }
    assert [row["name"] for row in rows(tmp_path / "out")] == ["a", "b", "c"]
    shards = Shards(tmp_path / "out")
    for row in shards.rows:
        assert float(shards.latents(row, 16, 0, 1).max()) == row.frames, "the latents of the new content"
    write(tmp_path / "v", a=2)
    prepare(tmp_path / "v", tmp_path / "out")
    assert set(index(tmp_path / "out")) == {"b", "c"}


def test_a_swap_of_two_names_is_a_move(tmp_path: Path) -> None:
    write(tmp_path / "v", a=20, b=24)
    prepare(tmp_path / "v", tmp_path / "out")
    write(tmp_path / "v", b=20, a=24)
    assert prepare(tmp_path / "v", tmp_path / "out").skipped == 2
    found = {row["name"]: Path(row["source"]).name for row in rows(tmp_path / "out")}
    assert found == {"a": "b.mp4", "b": "a.mp4"}


def test_a_split_once_given_stays_and_copies_never_leak(tmp_path: Path) -> None:
    out, split = tmp_path / "out", dict[str, str]()
    for count in (2, 5, 9, 14):
        write(tmp_path / "v", **{f"f{i}": 16 + i for i in range(count)})
        prepare(tmp_path / "v", out, holdout=0.3)
        now = {clip: side for clip, (_, side) in index(out).items()}
        assert split.items() <= now.items() and set(now.values()) == {"train", "holdout"}
        split = now
    write(tmp_path / "copies", **{f"copy{i}": 16 + i for i in range(14)})
    result = prepare(tmp_path, out, holdout=0.3)
    assert len(index(out)) == 14 and result.reasons == {"same content as another file": 14}
    assert rows(out)[-1]["reason"].startswith("same content as f")
    for path in (tmp_path / "v").iterdir():
        path.unlink()
    assert prepare(tmp_path / "copies", out, holdout=0.3).reasons == {}
    assert {clip: side for clip, (_, side) in index(out).items()} == split


def test_the_tail_of_a_single_file_is_held_out(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(tmp_path / "v", a=80)
    prepare(tmp_path / "v", out)
    assert index(out) == {"a": (64, "train"), "a-tail": (16, "holdout")}
    shards = Shards(out)
    assert [float(shards.pose(row, 0, row.frames)[-1, 0, 0]) for row in shards.rows] == [63, 79]
    assert rows(out)[0]["clips"] == ["a", "a-tail"] and rows(out)[0]["split"] == TAIL
    before = files_of(out)
    prepare(tmp_path / "v", out)
    assert files_of(out) == before
    write(tmp_path / "v", b=30)
    prepare(tmp_path / "v", out)
    assert index(out) == {"a": (80, "train"), "b": (30, "holdout")}, "a whole file can be held out now"
    shards = Shards(out)
    assert shards.pose(shards.rows[0], 0, 80)[:, 0, 0].tolist() == list(range(80)) and rows(out)[0]["clips"] == ["a"]
    write(tmp_path / "w", a=80)
    prepare(tmp_path / "w", tmp_path / "none", holdout=0.0)
    assert index(tmp_path / "none") == {"a": (80, "train")}


def test_where_a_tail_begins() -> None:
    pieces = tail_of_clips({"a": 40, "b": 60}, 0.1, 16)
    assert [(p.clip, p.name, p.start, p.end, p.split) for p in pieces] == [
        ("a", "a", 0, 40, "train"), ("b", "b", 0, 44, "train"), ("b", "b-tail", 44, 60, "holdout"),
    ]  # fmt: skip
    assert [(p.name, p.end - p.start) for p in tail_of_clips({"a": 20}, 0.1, 16)] == [("a", 10), ("a-tail", 10)]
    assert [(p.name, p.split) for p in tail_of_clips({"a": 30, "b": 20}, 0.4, 16)] == [("a", "train"), ("b", "holdout")]
    assert tail_of_windows([0, 5, 10, 15, 20], 9, 0.1) == 20
    assert tail_of_windows([0, 5, 10], 9, 0.9) == 10
    assert tail_of_windows([0, 4], 9, 0.1) is None and tail_of_windows([0], 9, 0.1) is None


def test_splits_by_name() -> None:
    assert split_files(["a.mp4", "b.mp4"], 0.0) == {"a.mp4": "train", "b.mp4": "train"}
    assert split_files(["a.mp4", "b.mp4"], 0.1, {"a.mp4": "train"})["b.mp4"] == "holdout"
    assert split_files(["c.mp4"], 0.9, {"a.mp4": TAIL}) == {"a.mp4": TAIL, "c.mp4": "holdout"}


def test_names_are_the_stems_and_never_shared() -> None:
    names = Names()
    given = []
    for stem in ("dance", "dance-2", "dance", "take1", "take12", "x" * 300, "été 1"):
        given.append(names.free(Path(f"{stem}.mp4"), "0123456789abcdef" * 4))
        names.take(given[-1])
    assert given == ["dance", "dance-2-01234567", "dance-01234567", "take1", "take12", "x" * 120 + "-01234567", "été 1"]


@pytest.mark.parametrize("workers", [1, 3])
def test_whatever_happens_to_one_file_is_a_row(tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_module, "multiprocessing", Forking)
    write(tmp_path / "v", a=20, b=24)
    wrong = (
        "VideoError",
        "ValueError",
        "RuntimeError",
        "KeyError",
        "UnicodeDecodeError",
        "PermissionError",
        "IndexError",
    )
    for kind in wrong:
        (tmp_path / "v" / f"{kind}.mp4").write_text(f"raise {kind}")
    result = prepare(tmp_path / "v", tmp_path / "out", workers=workers)
    found = {row["name"]: row["reason"] for row in rows(tmp_path / "out")}
    assert (result.kept, result.dropped) == (2, len(wrong)) and list(found) == sorted([*wrong, "a", "b"])
    assert found["VideoError"] == "unreadable: as asked" and found["KeyError"] == "failed: KeyError: 'as asked'"
    assert all(found[kind].startswith(f"failed: {kind}: ") for kind in wrong[1:])
    (tmp_path / "v" / "KeyError.mp4").write_text("21")
    assert prepare(tmp_path / "v", tmp_path / "out").skipped == 3, "those that failed are tried again"
    assert "KeyError" in index(tmp_path / "out")


def test_a_file_that_ends_its_process_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_module, "multiprocessing", Forking)
    write(tmp_path / "v", a=20, b=24, d=18)
    (tmp_path / "v" / "c.mp4").write_text("exit")
    (tmp_path / "v" / "e.mp4").write_text("kill")
    prepare(tmp_path / "v", tmp_path / "out", workers=2)
    assert {row["name"]: row["reason"] for row in rows(tmp_path / "out")} == {
        "a": None, "b": None, "c": "failed: its process ended with code 3", "d": None,
        "e": "failed: its process was ended by SIGKILL; too little memory?",
    }  # fmt: skip


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_what_is_not_the_files_fault_ends_the_run(
    tmp_path: Path, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "v", a=20)

    def stop(*_: Any) -> None:
        raise error

    monkeypatch.setattr(work_module, "keep_clip", stop)
    with pytest.raises(error):
        prepare(tmp_path / "v", tmp_path / "out")
    assert rows(tmp_path / "out") == [] and not any((tmp_path / "out" / name).exists() for name in LOCK_FILES)


def test_the_same_bytes_for_any_number_of_workers_and_order(tmp_path: Path) -> None:
    write(tmp_path / "v", **{f"f{i}": 60 - 5 * i for i in range(8)})
    (tmp_path / "v" / "bad.mp4").write_text("raise VideoError")
    prepare(tmp_path / "v", tmp_path / "one")
    prepare(tmp_path / "v", tmp_path / "three", workers=3)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "three")
    store = Store(tmp_path / "pieces", SETTINGS)
    listing = list_inputs([tmp_path / "v"])
    for some in ((7, 3), (1,), (8, 0)):  # as a parallel run leaves them that is killed
        part = replace(listing, files=tuple(listing.files[i] for i in some))
        store = Store(tmp_path / "pieces", SETTINGS)
        prepare_files(store, part, TextWork(SETTINGS), workers=1, progress=False)
        with (tmp_path / "pieces" / "prepare.jsonl").open("a") as stream:
            stream.write('{"source": "cut o')
        (tmp_path / "pieces" / "parts" / "f4.safetensors").write_bytes(b"half")
    prepare(tmp_path / "v", tmp_path / "pieces")
    assert files_of(tmp_path / "pieces") == files_of(tmp_path / "one")


@pytest.mark.parametrize("step", range(9))
def test_a_kill_while_the_data_set_is_replaced(tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "v", a=20, b=24)
    prepare(tmp_path / "v", tmp_path / "out")
    write(tmp_path / "v", a=50)
    calls = [0]
    real, real_replace = Store._take_over, Path.replace

    def killed(self: Path, target: Path) -> Path:
        if ".next" in self.parts and "partial" not in self.name:
            calls[0] += 1
            if calls[0] > step:
                raise KeyboardInterrupt
        return real_replace(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    with suppress(KeyboardInterrupt):
        prepare(tmp_path / "v", tmp_path / "out")
    monkeypatch.setattr(Path, "replace", real_replace)
    assert real is Store._take_over
    prepare(tmp_path / "v", tmp_path / "out")
    assert index(tmp_path / "out")["a"][0] == 50 and index(tmp_path / "out")["b"][0] == 24
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "dataset.json", "index.jsonl", "prepare.json", "prepare.jsonl", "shard-00000.safetensors"
    }  # fmt: skip


# ---- what an input folder holds ----


def test_every_entry_ends_in_a_row_or_a_counted_line(tmp_path: Path) -> None:
    v = tmp_path / "v"
    write(v, a=20, b=24)
    write(tmp_path / "elsewhere", linked=28)
    (v / "link").symlink_to("../elsewhere")
    (v / "loop").symlink_to(".")
    (v / "up").symlink_to("..")
    (v / "self").symlink_to("self")
    (v / "gone.mp4").symlink_to("nowhere.mp4")
    (v / "again.mp4").symlink_to("a.mp4")
    for name in ("notes.txt", "more.txt", "cover.jpg", ".hidden.mp4", "clip.mp4.part", "README"):
        (v / name).write_text("text")
    (v / ".git").mkdir()
    write(v / ".git", inside=20)
    with zipfile.ZipFile(v / "inner.zip", "w") as archive:
        archive.write(v / "a.mp4")
    os.mkfifo(v / "pipe.mp4")
    (v / "two words é.mp4").write_text("30")
    (v / "deep" / "er").mkdir(parents=True)
    (v / "deep" / "er" / "a.mp4").write_text("33")
    odd = os.fsdecode(os.fsencode(v) + b"/caf\xe9.mp4")
    Path(odd).write_text("35")
    out = v / "out"
    result = prepare(v, out)
    names = {row["name"] for row in rows(out)}
    assert {"a", "b", "linked", "two words é", "caf?"} <= names and len(names) == 6 and result.kept == 6
    assert result.left_out == {
        "another path to a file that is listed already": 1,
        "archive, not unpacked (.zip)": 1,
        "broken link, or one that leads back to itself": 2,
        "hidden (its name begins with a dot)": 2,
        "link to a folder that is listed already": 3,
        "no regular file (a device, pipe or socket)": 1,
        "no video (.jpg)": 1,
        "no video (.txt)": 2,
        "no video (no suffix)": 1,
        "the data set's own folder": 1,
        "unfinished download (.part)": 1,
    }
    assert json.loads((out / "prepare.json").read_text())["left_out"] == result.left_out
    assert prepare(v, out).skipped == 6


def test_files_that_vanish_or_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "v", a=20, b=24, c=28)
    real = Path.open

    def opened(self: Path, *arguments: Any, **more: Any) -> Any:
        if self.name == "b.mp4":
            raise PermissionError(13, "Permission denied")
        if self.name == "c.mp4":
            raise FileNotFoundError(2, "No such file or directory")
        return real(self, *arguments, **more)

    monkeypatch.setattr(Path, "open", opened)
    result = prepare(tmp_path / "v", tmp_path / "out")
    assert result.reasons == {"unreadable: Permission denied": 1, "unreadable: No such file or directory": 1}
    monkeypatch.setattr(Path, "open", real)
    assert prepare(tmp_path / "v", tmp_path / "out").kept == 3 and len(index(tmp_path / "out")) >= 3


def test_a_folder_that_cannot_be_read_as_another_user(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from entprog.prepare.inputs import list_inputs\n"
        "os.geteuid() or os.seteuid(65534)\n"
        "print(list_inputs([Path(sys.argv[1])]).left_out)"
    )
    for path in (tmp_path, *tmp_path.parents):
        if not os.access(path, os.X_OK) or not path.stat().st_mode & 0o001:
            pytest.skip("the temporary folder is private")
    (tmp_path / "v" / "shut").mkdir(parents=True)
    (tmp_path / "v" / "shut").chmod(0)
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "v"], capture_output=True, text=True, check=False)
    (tmp_path / "v" / "shut").chmod(0o755)
    assert "folder that cannot be read" in done.stdout and "Permission denied" in done.stdout, done.stderr


# ---- one at a time ----


def test_a_second_process_waits_and_says_for_whom(tmp_path: Path) -> None:
    out, said = tmp_path / "out", list[str]()
    out.mkdir()
    script = (
        "import sys, time; from pathlib import Path; from entprog.locks import folder_lock\n"
        "with folder_lock(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(float(sys.argv[2]))"
    )
    other = subprocess.Popen([sys.executable, "-c", script, out, "3"], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None and other.stdout.readline() == "held\n"
    refused = rf"is in use by process {other.pid} on \S+ since .*; wait for it, or stop it"
    with pytest.raises(ValueError, match=refused), folder_lock(out):
        pass
    with folder_lock(out, wait=said.append):
        assert other.wait() == 0
    assert len(said) == 1 and f"process {other.pid} on" in said[0] and not list(out.iterdir())
    dead = subprocess.Popen([sys.executable, "-c", script, out, "60"], stdout=subprocess.PIPE, text=True)
    assert dead.stdout is not None and dead.stdout.readline() == "held\n"
    dead.kill()
    dead.wait()
    with folder_lock(out):
        pass
    write(tmp_path / "v", a=20)
    prepare(tmp_path / "v", out)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("")
    with pytest.raises(ValueError, match="was not made by prepare"), hold(tmp_path):
        pass
    with pytest.raises(ValueError, match="is a file"), hold(tmp_path / "other"):
        pass
    with pytest.raises(RuntimeError), hold(tmp_path / "new"):
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_data_sets_of_earlier_versions_are_taken_over(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(tmp_path / "v", a=20, b=24, c=2)
    prepare(tmp_path / "v", out)
    before = index(out)
    added = ("sha256", "bytes", "mtime_ns", "ctime_ns", "split")
    old = [{key: value for key, value in row.items() if key not in added} for row in rows(out)]
    (out / "prepare.jsonl").write_text("".join(json.dumps(row) + "\n" for row in old))
    lines = [json.loads(line) for line in (out / "index.jsonl").read_text().splitlines()]
    (out / "index.jsonl").write_text("".join(json.dumps({**r, "content": ""}) + "\n" for r in lines))
    result = prepare(tmp_path / "v", out)
    assert index(out) == before and result.skipped == 2 and all(row["sha256"] for row in rows(out))


def test_result_counts(tmp_path: Path) -> None:
    store = Store(tmp_path / "out", SETTINGS)
    with pytest.raises(VideoError):
        raise VideoError(tmp_path, "x")
    write(tmp_path / "v", a=1)
    prepare_files(store, list_inputs([tmp_path / "v"]), TextWork(SETTINGS), workers=1, progress=False)
    with pytest.raises(ValueError, match=r"none of 1 files can be used \(1 x shorter than 16 frames\)"):
        result_of(store, 0, 0, 0)
    assert torch.get_num_threads() >= 1 and CODEC


def test_a_text_with_the_suffix_of_a_video_is_no_video(tmp_path: Path) -> None:
    files = {
        "code.ts": b"export const a = 1;\n", "umlaut.mts": "// gr\u00fc\u00dfe\n".encode() * 400, "song.mod": b"a text",
        "stream.ts": b"\x47" + bytes(2000), "empty.ts": b"", "page.mp4": b"<html>", "notes": b"a text",
    }  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    listed = list_inputs([tmp_path])
    assert [path.name for path in listed.files] == ["empty.ts", "page.mp4", "stream.ts"]
    assert listed.left_out == {
        "no video (.mod)": 1, "no video (.mts)": 1, "no video (.ts)": 1, "no video (no suffix)": 1
    }  # fmt: skip


def test_files_of_one_size_and_time_that_change_places_are_noticed(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    for name, text in (("0.png", "a"), ("1.png", "b")):
        (tmp_path / "p" / name).write_text(text)
        os.utime(tmp_path / "p" / name, ns=(1, 1))
    before = read_content(tmp_path / "p", {})
    known = {before.source: before.about | {"source": before.source}}
    assert read_content(tmp_path / "p", known) == before
    (tmp_path / "p" / "0.png").rename(tmp_path / "p" / "x")
    (tmp_path / "p" / "1.png").rename(tmp_path / "p" / "0.png")
    (tmp_path / "p" / "x").rename(tmp_path / "p" / "1.png")
    after = read_content(tmp_path / "p", known)
    assert (after.bytes, after.mtime_ns) == (before.bytes, before.mtime_ns) and after.sha256 != before.sha256


def test_whatever_a_file_raises_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also an error that no list of types foresees, such as Pillow's for a picture that is too large."""
    write(tmp_path / "v", a=20, b=21)
    real = work_module.keep_clip

    def sometimes(parts: Path, clip: str, *more: Any) -> None:
        if clip.startswith("a"):
            raise Image.DecompressionBombError("too many pixels")
        real(parts, clip, *more)

    monkeypatch.setattr(work_module, "keep_clip", sometimes)
    prepare(tmp_path / "v", tmp_path / "out")
    assert {row["name"]: row["reason"] for row in rows(tmp_path / "out")} == {
        "a": "failed: DecompressionBombError: too many pixels", "b": None,
    }  # fmt: skip
