"""Opens pages in the system's Chromium, headless, and says what went wrong in them.

Talks Chromium's DevTools protocol over a pair of pipes (JSON messages that end in a zero byte), so that the
standard library is enough.
"""

import base64
import json
import os
import select
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
FINDINGS = """(() => {
  const images = [...document.images], videos = [...document.querySelectorAll("video")];
  if (videos.length) videos[0].scrollIntoView();  // Chromium plays a muted video only while it is seen
  const edge = document.documentElement.clientWidth + 1;
  const inside = ".scroll, svg, details > :not(summary)";
  const wide = [...document.body.querySelectorAll("*")].filter((e) => !e.closest(inside)
    && e.getBoundingClientRect().right > edge);
  return JSON.stringify({
    settled: images.every((i) => i.complete) && videos.every((v) => v.readyState >= 2)
      && (!videos.length || videos[0].currentTime > 0),
    images: images.map((i) => [i.alt, i.naturalWidth]),
    videos: videos.map((v) => [v.getAttribute("aria-label"), v.readyState, v.videoWidth]),
    width: document.documentElement.clientWidth,
    content: document.documentElement.scrollWidth,
    wide: wide.map((e) => e.tagName + "." + e.getAttribute("class")),
  });
})()"""


@dataclass(frozen=True)
class Visit:
    """What the browser saw: errors on the console, what loaded, and widths in CSS pixels."""

    errors: list[str]
    settled: bool
    images: list[tuple[str, int]]
    videos: list[tuple[str, int, int]]
    width: int
    content: int
    wide: list[str]

    def assert_fine(self) -> None:
        """No error, every image and video shown and playing, no sideways scrolling of the page."""
        assert not self.errors, self.errors
        assert all(width > 0 for _, width in self.images), self.images
        assert all(ready >= 2 and width > 0 for _, ready, width in self.videos), self.videos
        assert self.settled, "the first video does not play, or another has not loaded"
        assert self.content <= self.width, f"{self.content} px of content in {self.width} px: {self.wide}"
        assert not self.wide, self.wide


class Browser:
    """A headless Chromium with its profile in `folder`; a context manager, so that it is closed again."""

    def __init__(self, folder: Path) -> None:
        there, self._write = os.pipe()
        self._read, back = os.pipe()
        # Chromium reads commands on descriptor 3 and answers on 4; the shell puts the pipes there.
        script = f'exec "$@" 3<&{there} 4>&{back}'
        command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={folder / 'profile'}", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", script, "bash", *command],
            pass_fds=(there, back),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(there)
        os.close(back)
        self._buffer = b""
        self._number = 0
        self._events: list[dict[str, Any]] = []

    def __enter__(self) -> "Browser":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._process.poll() is None and kind is None:
                self._send("Browser.close")
            self._process.wait(timeout=10)
        except (subprocess.TimeoutExpired, OSError):
            self._process.kill()
            self._process.wait()
        finally:
            os.close(self._read)
            os.close(self._write)

    def visit(
        self,
        page: Path,
        width: int = 360,
        dark: bool = False,
        picture: Path | None = None,
        wait: float = 15.0,
    ) -> Visit:
        """Open `page` in a window `width` px wide, wait until everything plays, and report.

        `picture` takes a screenshot of the whole page, as PNG.
        """
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable", session)
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", session, **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", session, features=[scheme])
        self._events.clear()
        self._call("Page.navigate", session, url=page.resolve().as_uri())
        end = time.monotonic() + wait
        found: dict[str, Any] = {"settled": False}
        while not found["settled"] and time.monotonic() < end:
            time.sleep(0.1)
            answer = self._call("Runtime.evaluate", session, expression=FINDINGS)
            if (text := answer["result"].get("value")) and self._loaded():
                found = json.loads(text)
        if picture:
            area = self._call("Page.getLayoutMetrics", session)["cssContentSize"] | {"scale": 1}
            shot = self._call("Page.captureScreenshot", session, captureBeyondViewport=True, clip=area)
            picture.write_bytes(base64.b64decode(shot["data"]))
        errors = self._errors()
        self._call("Target.closeTarget", targetId=target)
        assert len(found) > 1, f"{page.name} did not load"
        return Visit(**(found | {"errors": errors}))

    def open(self, address: str, width: int = 1200, height: int = 900) -> "Tab":
        """Open an address in a tab that tests can act in."""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "DOM"):
            self._call(f"{domain}.enable", session)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", session, **size)
        self._events.clear()
        self._call("Page.navigate", session, url=address)
        return Tab(self, session)

    def _loaded(self) -> bool:
        return any(event["method"] == "Page.loadEventFired" for event in self._events)

    def _errors(self) -> list[str]:
        found = []
        for event in self._events:
            values = event.get("params", {})
            if event["method"] == "Runtime.exceptionThrown":
                thrown = values["exceptionDetails"]
                found.append(thrown.get("exception", {}).get("description") or thrown["text"])
            elif event["method"] == "Runtime.consoleAPICalled" and values["type"] in ("error", "warning"):
                found.append(json.dumps(values["args"])[:400])
            elif event["method"] == "Log.entryAdded" and values["entry"]["level"] in ("error", "warning"):
                found.append(values["entry"]["text"])
        return found

    def _send(self, method: str, session: str | None = None, **params: Any) -> int:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        return self._number

    def _call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        number = self._send(method, session, **params)
        while True:
            message = self._receive()
            if message.get("id") == number:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]
            if "method" in message:
                self._events.append(message)

    def _receive(self, wait: float = 30.0) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], wait)
            assert ready, f"Chromium said nothing for {wait:.0f} s"
            more = os.read(self._read, 1 << 20)
            assert more, "Chromium has gone"
            self._buffer += more
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)


class Tab:
    """A page that is acted in: scripts, clicks, uploads, screenshots."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session

    def value(self, script: str) -> Any:
        """What a JavaScript expression gives."""
        answer = self._browser._call("Runtime.evaluate", self._session, expression=script, returnByValue=True)
        return answer["result"].get("value")

    def wait(self, script: str, seconds: float = 60.0) -> Any:
        """What an expression gives once that is true."""
        end = time.monotonic() + seconds
        while not (found := self.value(script)):
            assert time.monotonic() < end, f"not true after {seconds:.0f} s: {script}"
            time.sleep(0.2)
        return found

    def upload(self, selector: str, *files: Path) -> None:
        """Give files to the first file input that the selector finds."""
        self.wait(f"!!document.querySelector({json.dumps(selector)})")
        root = self._browser._call("DOM.getDocument", self._session)["root"]["nodeId"]
        node = self._browser._call("DOM.querySelector", self._session, nodeId=root, selector=selector)["nodeId"]
        self._browser._call("DOM.setFileInputFiles", self._session, nodeId=node, files=[str(file) for file in files])

    def picture(self, path: Path) -> None:
        """A screenshot of the whole page, as PNG."""
        area = self._browser._call("Page.getLayoutMetrics", self._session)["cssContentSize"] | {"scale": 1}
        options = {"captureBeyondViewport": True, "clip": area}
        shot = self._browser._call("Page.captureScreenshot", self._session, **options)
        path.write_bytes(base64.b64decode(shot["data"]))

    def errors(self) -> list[str]:
        """What the page complained of on the console."""
        return self._browser._errors()
