"""Starts the studio: one process, reachable from this machine only."""

import os
import shutil
import signal
import socket
import tempfile
from pathlib import Path
from typing import Any

from entprog.studio.page import STYLE, build

HOST = "127.0.0.1"


def studio(runs: Path, *, port: int = 7860, inbrowser: bool = True) -> None:
    """Serve the page at http://127.0.0.1:PORT until Ctrl-C; uploads and clips are deleted at the end.

    Raises:
        ValueError: the port is taken or none, `runs` is no folder, or gradio is not installed.
    """
    wrong = []
    if runs.exists() and not runs.is_dir():
        wrong.append(f"runs = {str(runs)!r}: a file; give the folder that holds your runs")
    if why := _port_problem(port):
        wrong.append(why)
    if wrong:
        raise ValueError("\n".join(wrong))
    folder = Path(tempfile.mkdtemp(prefix="entprog-studio-"))
    before = tempfile.tempdir, signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        gradio = _gradio(folder)
        tempfile.tempdir = str(folder)  # so that nothing of an upload is left elsewhere
        page = build(gradio, runs, folder)
        page.queue(default_concurrency_limit=1)
        page.launch(
            server_name=HOST, server_port=port, share=False, inbrowser=inbrowser, quiet=True, ssr_mode=False,
            prevent_thread_lock=True, footer_links=[], css=STYLE, theme=_theme(gradio),
        )  # fmt: skip
        print(f"entprog studio: http://{HOST}:{port} (Ctrl-C stops it)", flush=True)
        page.block_thread()
    finally:
        tempfile.tempdir = before[0]
        signal.signal(signal.SIGTERM, before[1])
        shutil.rmtree(folder, ignore_errors=True)


def _port_problem(port: int) -> str:
    if not 1 <= port <= 65535:
        return f"port = {port}: give 1 to 65535"
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            other = port + 1 if port < 65535 else port - 1
            return f"port = {port}: cannot be used ({error.strerror}); give another, such as --port {other}"
    return ""


def _gradio(folder: Path) -> Any:
    """The module, without telemetry and with its files in `folder`."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "uploads")
    try:
        import gradio
    except ImportError as error:
        raise ValueError('studio: gradio is not installed; pip install "entprog[studio]"') from error
    return gradio


def _theme(gradio: Any) -> Any:
    """Fonts of this machine: gradio's own theme asks Google for them."""
    return gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
