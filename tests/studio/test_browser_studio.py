"""The studio in a real browser: videos are looked at, a photo is animated, and what is wrong is said in the page."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from browser import CHROMIUM, Browser
from checkout import ONE_THREAD, ROOT
from entprog.prepare.video import read_video, write_video
from entprog.synthetic.clip import render_clip
from entprog.train.run import train
from tiny import synthetic_data, tiny_config

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.is_file(), reason=f"no Chromium at {CHROMIUM}"),
    pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="gradio is not installed"),
]
REAL = ROOT.parent / "shared" / "clips" / "intel__yes.mkv"
SHOWN = "document.querySelector({!r})?.innerText || ''"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run in runs/, a video of a person, a photo, and a file that is no video."""
    place = tmp_path_factory.mktemp("studio")
    data = synthetic_data(place / "data", sizes=(16, 32))
    train(tiny_config(place / "runs" / "tiny", data, method="full", evaluate__resolution=16))
    video = place / "person.mp4"
    if REAL.is_file():
        write_video(video, read_video(REAL, fps=12)[0], 12)
    else:
        write_video(video, render_clip(0, 0, 0, frames=18, size=128).frames, 12)
    Image.fromarray(read_video(video, max_frames=1)[0][0]).save(place / "photo.jpg")
    (place / "fake.mp4").write_bytes(b"no video")
    (place / "tmp").mkdir()
    return place


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "entprog", "studio", "--no-open", "--port", str(port), "--runs", "runs"]
    environment = {**os.environ, **ONE_THREAD, "TMPDIR": str(folder / "tmp")}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=environment)
    try:
        end = time.monotonic() + 300
        while "Ctrl-C stops it" not in (folder / "log").read_text():
            assert process.poll() is None and time.monotonic() < end, (folder / "log").read_text()
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
    assert not list((folder / "tmp").iterdir()), "uploads are deleted at the end"


def test_look_and_animate(folder: Path, address: str, tmp_path: Path) -> None:
    with Browser(tmp_path) as browser:
        tab = browser.open(address)
        tab.wait("!!document.querySelector('#look')")
        tab.upload("#videos input[type=file]", folder / "person.mp4", folder / "fake.mp4")
        tab.wait("document.querySelectorAll('#videos tr').length >= 2")
        tab.value("document.querySelector('#look').click()")
        tab.wait(f"({SHOWN.format('#videos-message')}).includes('1 of 2 files would be kept')", 240)
        tab.wait("document.querySelector('#looks video')?.currentTime > 0")
        assert "dropped: unreadable" in tab.value(SHOWN.format("#looks"))

        tab.value("[...document.querySelectorAll('button[role=tab]')].find(e => e.innerText == 'Animate').click()")
        tab.wait("!!document.querySelector('#photo input[type=file]')")
        tab.value("document.querySelector('#animate').click()")
        tab.wait("!!document.querySelector('#animate-message [role=alert]')")
        assert tab.value(SHOWN.format("#animate-message")).splitlines()[0].startswith("photo: none given")

        tab.upload("#photo input[type=file]", folder / "photo.jpg")
        tab.upload("#drive input[type=file]", folder / "person.mp4")
        tab.wait("document.querySelectorAll('.given img').length == 2")
        tab.value("document.querySelector('#animate').click()")
        tab.wait("document.querySelector('#clip video')?.readyState >= 2", 240)
        # A page that nobody has clicked in, as here, plays only without sound.
        tab.value("Object.assign(document.querySelector('#clip video'), {muted: true}).play()")
        tab.wait("document.querySelector('#clip video').currentTime > 0")
        assert tab.value("document.querySelector('#clip video').videoWidth") > 0


def test_only_this_machine_is_answered(address: str) -> None:
    """The server listens on the loopback address alone, and the page asks no other host for anything."""
    host, port = address.removeprefix("http://").rstrip("/").split(":")
    listening = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    on = [row[1].split(":")[0] for row in listening if row[3] == "0A" and int(row[1].split(":")[1], 16) == int(port)]
    assert host == "127.0.0.1" and on == ["0100007F"]
