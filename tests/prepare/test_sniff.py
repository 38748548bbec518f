"""Files that are videos by their first bytes, whatever their name is."""

import os

import pytest
from PIL import Image

from entprog.prepare.sniff import EXTENSIONS, looks_like_video, numbered_images
from tiny_videos import encode, ramp


@pytest.mark.parametrize(
    "head",
    [
        b"\x00\x00\x00\x18ftypisom", b"\x00\x00\x00\x14ftypqt  ", b"\x00\x00\x00\x08wide\x00\x00\x00\x10mdat",
        b"\x1a\x45\xdf\xa3", b"RIFF\x00\x00\x00\x00AVI LIST", b"GIF89a", b"FLV\x01", b"\x00\x00\x01\xba", b".RMF",
        b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", b"\x06\x0e\x2b\x34", b"OggS" + bytes(30) + b"\x80theora",
        (b"\x47" + bytes(187)) * 6, (bytes(4) + b"\x47" + bytes(187)) * 6, b"YUV4MPEG2 W64", b"DKIF",
    ],
)  # fmt: skip
def test_containers_of_videos(tmp_path, head):
    (tmp_path / "a").write_bytes(head.ljust(64, b"\x00"))
    assert looks_like_video(tmp_path / "a")


@pytest.mark.parametrize(
    "head",
    [
        b"", b"text", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n" + bytes(50), b"%PDF-1.7", b"PK\x03\x04",
        b"ID3\x04", b"fLaC", b"OggS" + bytes(30) + b"\x01vorbis", b"RIFF\x00\x00\x00\x00WAVEfmt ", b"\x7fELF",
        b"RIFF\x00\x00\x00\x00WEBPVP8 ", b"\x00\x00\x00\x18ftypheic", b"\x00\x00\x00\x18ftypM4A ", b"#EXTM3U\n",
        b"export const a = 1;\n",
    ],
)  # fmt: skip
def test_other_files(tmp_path, head):
    (tmp_path / "a.ts").write_bytes(head)
    assert not looks_like_video(tmp_path / "a.ts")


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (tmp_path, tmp_path / "none", tmp_path / "pipe", tmp_path / "loop"):
        assert not looks_like_video(path)


def test_pictures_that_move(tmp_path):
    pictures = [Image.fromarray(frame) for frame in ramp(3)]
    for name in ("a.webp", "a.png"):
        pictures[0].save(tmp_path / name, save_all=True, append_images=pictures[1:])
        assert looks_like_video(tmp_path / name)
        pictures[0].save(tmp_path / name)
        assert not looks_like_video(tmp_path / name)
    encode(tmp_path / "a.mkv", ramp(2)).rename(tmp_path / "unknown.bin")
    assert looks_like_video(tmp_path / "unknown.bin")
    assert all(name in EXTENSIONS for name in (".mts", ".m2ts", ".ts", ".mpg", ".mpeg", ".3gp", ".wmv", ".flv", ".ogv"))


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["2.png", "10.png", "1.png"], ["1.png", "2.png", "10.png"]),
        (["f_002.jpg", "f_001.jpg", "audio.wav"], ["f_001.jpg", "f_002.jpg"]),
        (["a1.png", "b2.png"], []), (["1.png", "2.jpg"], []), (["1.png"], []), (["1.png", "2.png", "cover.png"], []),
        (["1.png", "01.png"], []), (["1.png", "2.png", ".3.png"], ["1.png", "2.png"]), ([], []),
    ],
)  # fmt: skip
def test_numbered_pictures(tmp_path, names, found):
    for name in names:
        (tmp_path / name).write_bytes(b"")
    assert [file.name for file in numbered_images(tmp_path)] == found
