"""The studio's page, built with gradio: a tab for videos, a tab for animating."""

import base64
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import Any

from entprog.studio import actions
from entprog.studio.actions import Look

REFUSED = (ValueError, OSError, RuntimeError)
STYLE = """
.looks { display: grid; grid-template-columns: repeat(auto-fill, minmax(220px, 1fr)); gap: 18px; }
.look { border: 1px solid var(--border-color-primary); border-radius: 10px; padding: 12px; min-width: 0; }
.look video, .look img, .given img { width: 100%; max-height: 220px; object-fit: contain; border-radius: 6px; }
.look b { overflow-wrap: anywhere; } .look p { margin: 4px 0 0; font-size: 13px; overflow-wrap: anywhere; }
.look .kept { color: #0a7a5a; } .look .dropped, .refused { color: #b3261e; }
.dark .look .kept { color: #4fcfa6; } .dark .look .dropped, .dark .refused { color: #ff8a80; }
.refused, .said { white-space: pre-line; overflow-wrap: anywhere; }
.given img { max-height: 160px; width: auto; }
footer { display: none !important; }
"""


def build(gradio: Any, runs: Path, folder: Path) -> Any:
    """The page.

    Args:
        gradio: the module.
        runs: where run folders are looked for.
        folder: for clips and uploads.
    """
    with gradio.Blocks(title="entprog studio", analytics_enabled=False) as page:
        gradio.Markdown("# entprog studio\nEverything stays on this machine. Uploads are deleted when the studio ends.")
        with gradio.Tab("Videos"):
            _videos(gradio)
        with gradio.Tab("Animate"):
            _animate(gradio, runs, folder)
    return page


def _videos(gradio: Any) -> None:
    with gradio.Row():
        with gradio.Column(scale=2):
            videos = gradio.File(label="Videos of people", file_count="multiple", type="filepath", elem_id="videos")
        with gradio.Column(scale=1):
            sizes = gradio.Textbox("32,64", label="Sizes in pixels, with commas")
            fps = gradio.Number(12, label="Frames a second", minimum=1)
            people = gradio.Dropdown(["largest", "drop"], value="largest", label="Several people in a picture")
            least = gradio.Number(16, label="Shortest clip in frames", minimum=1, precision=0)
    look = gradio.Button("Look at them", variant="primary", elem_id="look")
    message = gradio.HTML(elem_id="videos-message")
    shown = gradio.HTML(elem_id="looks")
    with gradio.Row():
        out = gradio.Textbox("data/people", label="Folder of the data set", scale=3)
        prepare = gradio.Button("Prepare them into this folder", scale=1, elem_id="prepare")

    def looked(files: list[str] | None, *given: Any) -> Iterator[tuple[str, str]]:
        paths, looks = [Path(file) for file in files or ()], list[Look]()
        try:
            if not paths:
                raise ValueError("videos: none given; drop some first")
            yield _said(f"Looking at {paths[0].name}"), ""
            for one in actions.look_at(paths, actions.options(*given)):
                looks.append(one)
                more = f"{len(looks)} of {len(paths)} done" if len(looks) < len(paths) else _counted(looks)
                yield _said(more), _cards(looks)
        except REFUSED as error:
            yield _refused(error), _cards(looks)

    bar = gradio.Progress(track_tqdm=True)

    def prepared(files: list[str] | None, folder: str, *given: Any, progress: Any = bar) -> str:
        return _answer(lambda: actions.prepare([Path(file) for file in files or ()], folder, actions.options(*given)))

    settings = [sizes, fps, people, least]
    look.click(looked, [videos, *settings], [message, shown])
    prepare.click(prepared, [videos, out, *settings], message)


def _animate(gradio: Any, runs: Path, folder: Path) -> None:
    found = actions.finished_runs(runs)
    with gradio.Row():
        with gradio.Column():
            run = gradio.Dropdown(
                found, value=found[0] if found else None, label=f"Finished run, in {runs}", allow_custom_value=True,
                elem_id="run",
            )  # fmt: skip
            with gradio.Row():
                with gradio.Column(min_width=160):
                    photo = gradio.File(label="Photo of a person", type="filepath", elem_id="photo", height=140)
                    photo_shown = gradio.HTML()
                with gradio.Column(min_width=160):
                    drive = gradio.File(label="Video to follow", type="filepath", elem_id="drive", height=140)
                    drive_shown = gradio.HTML()
            with gradio.Accordion("Settings; empty ones are as in the run", open=False):
                with gradio.Row():
                    seed = gradio.Number(None, label="Seed", precision=0)
                    frames = gradio.Number(None, label="Frames at most", precision=0, minimum=1)
                with gradio.Row():
                    steps = gradio.Number(None, label="Steps", precision=0, minimum=1)
                    guidance = gradio.Number(None, label="Guidance")
            start = gradio.Button("Animate", variant="primary", elem_id="animate")
        with gradio.Column():
            message = gradio.HTML(elem_id="animate-message")
            clip = gradio.Video(label="Clip", autoplay=True, loop=True, interactive=False, elem_id="clip")

    bar = gradio.Progress(track_tqdm=True)

    def animated(
        run: str, photo: str, drive: str, seed: Any, frames: Any, steps: Any, guidance: Any, progress: Any = bar
    ) -> tuple[str, str | None]:
        settings = {"seed": seed, "frames": frames, "num_inference_steps": steps, "guidance_scale": guidance}
        try:
            made, said = actions.animate(run, photo, drive, folder, settings)
        except REFUSED as error:
            return _refused(error), None
        return _said(said or made.name), str(made)

    start.click(animated, [run, photo, drive, seed, frames, steps, guidance], [message, clip])
    photo.change(_given, photo, photo_shown)
    drive.change(_given, drive, drive_shown)


def _given(path: str | None) -> str:
    picture = actions.picture_of(path)
    return f'<div class="given">{_image(picture)}</div>' if picture else ""


def _answer(act: Callable[[], str]) -> str:
    try:
        return _said(act())
    except REFUSED as error:
        return _refused(error)


def _said(words: str) -> str:
    return f'<div class="said">{escape(words)}</div>'


def _refused(error: Exception) -> str:
    return f'<div class="refused" role="alert">{escape(actions.problem(error))}</div>'


def _counted(looks: list[Look]) -> str:
    kept = sum(bool(look.clips) for look in looks)
    return f"{kept} of {len(looks)} files would be kept, in {sum(len(look.clips) for look in looks)} clips."


def _cards(looks: list[Look]) -> str:
    return f'<div class="looks">{"".join(map(_card, looks))}</div>'


def _card(look: Look) -> str:
    if look.clips:
        shown = "".join(_video(clip.video, clip.name) for clip in look.clips)
        seconds = ", ".join(f"{clip.seconds:.1f} s" for clip in look.clips)
        state = f'<p class="kept">kept: {len(look.clips)} clip{"s" * (len(look.clips) > 1)}, {seconds}</p>'
        state += f"<p>left out: {escape(look.reason)}</p>" if look.reason else ""
    else:
        shown, state = _image(look.picture), f'<p class="dropped">dropped: {escape(look.reason)}</p>'
    notes = "".join(f"<p>{escape(note)}</p>" for note in look.notes)
    return f'<div class="look">{shown}<b>{escape(look.name)}</b>{state}{notes}</div>'


def _video(data: bytes | None, name: str) -> str:
    if data is None:
        return ""
    address = f"data:video/mp4;base64,{base64.b64encode(data).decode('ascii')}"
    return f'<video autoplay loop muted playsinline aria-label="{escape(name)}" src="{address}"></video>'


def _image(data: bytes | None) -> str:
    if data is None:
        return ""
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(data).decode("ascii")}">'
