"""Videos to windows: rendered people through a tiny random VAE, and two real clips where they are at hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import tiny_vaes
from entprog.codecs.diffusers import DiffusersCodec
from entprog.core.types import Shape
from entprog.data.posemap import draw_pose_in
from entprog.data.windows import Windows, WindowSamples, prompt_hash
from entprog.prepare import window_file
from entprog.prepare.crop import crop, cut_out, face_boxes, keypoints_in, person_rectangle, resize
from entprog.prepare.folder import PrepareResult
from entprog.prepare.video import read_video, write_video
from entprog.prepare.window_file import window_starts
from entprog.prepare.window_folder import prepare_windows, size_multiple
from entprog.synthetic import render_clip

CLIPS = Path(__file__).parents[3] / "shared" / "clips"
TEXT = {"class": "Stub", "hash": "0"}


@pytest.fixture(scope="module")
def codec() -> DiffusersCodec:
    return DiffusersCodec(tiny_vaes.build("AutoencoderKLWan"))


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rendered people of 21 and 13 frames at 128 px, one clip that is too short."""
    folder = tmp_path_factory.mktemp("videos")
    for name, subject, count in (("a", 0, 21), ("b", 4, 13), ("short", 4, 8)):
        frames = render_clip(subject, subject, subject, frames=count, size=128).frames
        write_video(folder / f"{name}.mp4", frames, 16)
    return folder


def run(inputs: Path | list[Path], out: Path, codec: DiffusersCodec, **options: Any) -> PrepareResult:
    given = {"sizes": ["64x48"], "frames": 9, "references": 2, "progress": False}
    return prepare_windows(inputs if isinstance(inputs, list) else [inputs], out, codec=codec, **{**given, **options})


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "prepare.jsonl").read_text().splitlines()]


class Text:
    """A stand-in for text encoders: a token for each letter."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def __call__(self, prompts: Any) -> dict[str, dict[str, Tensor]]:
        self.calls.append(list(prompts))
        return {p: {"text": torch.full((len(p) + 1, 4), float(len(p)), dtype=torch.bfloat16)} for p in prompts}


@pytest.mark.parametrize(
    ("frames", "starts"),
    [(8, []), (9, [0]), (10, [0, 1]), (14, [0, 5]), (15, [0, 5, 6]), (24, [0, 5, 10, 15])],
)
def test_windows_at_a_stride_of_half_the_last_flush_with_the_end(frames: int, starts: list[int]) -> None:
    assert window_starts(frames, 9) == starts


def test_a_folder_becomes_windows(videos: Path, tmp_path: Path, codec: DiffusersCodec) -> None:
    text = Text()
    captions = {videos / "a.mp4": "someone walks"}
    result = run(
        videos, tmp_path / "out", codec, captions=captions, text=TEXT, encode_text=text, sizes=["64x48", "32x64"]
    )
    assert (result.kept, result.dropped, result.clips, result.reasons) == (2, 1, 2, {"shorter than 9 frames": 1})
    windows = Windows(tmp_path / "out")
    assert windows.about["codec"] == codec.about() and windows.about["text"] == TEXT and windows.about["fps"] == 16
    assert windows.stored == ("latents", "pose", "reference", "first", "image")
    expected = {(clip, start) for clip, n in (("a", 21), ("b", 13)) for start in window_starts(n, 9)}
    for size in windows.sizes:
        assert {(row.clip, row.start) for row in windows.rows if row.size == size} == expected
    assert result.windows == len(windows.rows) == 12 and sorted({row.split for row in windows.rows}) == [
        "holdout",
        "train",
    ]
    for row in windows.rows:
        found = windows.read(row)
        h, w = row.height // 8, row.width // 8
        assert found["latents"].shape == (3, 4, h, w) and found["reference"].shape == (2, 1, 4, h, w)
        assert found["first"].shape == (2, 3, 4, h, w) and found["image"].shape == (2, 3, row.height, row.width)
        seen = found["pose"][found["pose"][..., 2] >= 0.5]
        assert (
            found["pose"].shape == (9, 18, 3) and (abs(seen[:, :2] - 0.5) < (0.7 if row.size == "64x48" else 1.3)).all()
        )
        assert row.caption == ("someone walks" if row.clip == "a" else "")
        assert len(windows.text(row.prompt)["text"]) == len(row.caption) + 1
    assert text.calls == [["", "someone walks"]]
    names = {"dataset.json", "index.jsonl", "prepare.json", "prepare.jsonl", "text.safetensors"}
    assert {path.name for path in (tmp_path / "out").iterdir()} - names == {
        "shard-00000.safetensors",
        "shard-00001.safetensors",
    }
    samples = WindowSamples(windows, "train", size="64x48")
    assert samples.batch(0, Shape(64, 9, 2, width=48)).tensors["latents"].shape == (2, 3, 4, 8, 6)


def test_each_window_is_encoded_by_itself(videos: Path, tmp_path: Path, codec: DiffusersCodec) -> None:
    """By hand from the file: frames, rectangle, latents, keypoints, references and drawn control, bit for bit."""
    run(
        [videos / "a.mp4"],
        tmp_path / "out",
        codec,
        control="draw",
        holdout=0,
        encode_images=lambda x: x.float().mean((2, 3))[:, None],
    )
    frames, _ = read_video(videos / "a.mp4", fps=16)
    windows, (about,) = Windows(tmp_path / "out"), rows(tmp_path / "out")
    rectangle = tuple(about["crops"]["a"]["64x48"])
    assert abs(rectangle[2] / rectangle[3] - 48 / 64) < 0.02 and about["starts"] == {"a": [0, 5, 10, 12]}
    small = torch.from_numpy(np.stack([cut_out(frame, rectangle, (64, 48)) for frame in frames]))
    for row in windows.rows:
        found, own = windows.read(row), small[row.start : row.start + 9]
        assert torch.equal(found["latents"], codec.encode(own).half().float())
        assert torch.equal(found["control"], codec.encode(draw_pose_in(found["pose"].numpy(), 64, 48)).half().float())
        for k, frame in enumerate((21 // 4, 3 * 21 // 4)):
            assert torch.equal(found["image"][k], small[frame].permute(2, 0, 1))
            assert torch.equal(found["reference"][k], codec.encode(small[frame][None]).half().float())
            assert torch.equal(found["first"][k], codec.encode_first(small[frame], 9).half().float())
            assert torch.equal(found["image_embeds"][k, 0], small[frame].float().mean((0, 1)).half().float())
    first, second = windows.read(windows.rows[0]), windows.read(windows.rows[1])
    assert torch.equal(first["pose"][5:], second["pose"][:4]) and not torch.equal(
        first["latents"][2], second["latents"][1]
    )


def test_what_is_not_asked_for_is_not_stored(videos: Path, tmp_path: Path, codec: DiffusersCodec) -> None:
    image = DiffusersCodec(tiny_vaes.build("AutoencoderKL"))
    run([videos / "b.mp4"], tmp_path / "image", image, frames=8, holdout=0)
    windows = Windows(tmp_path / "image")
    assert windows.stored == ("latents", "pose", "reference", "image") and windows.about["codec"]["frames_factor"] == 1
    assert windows.read(windows.rows[0])["latents"].shape == (8, 4, 32, 24)
    run([videos / "b.mp4"], tmp_path / "none", codec, references=0)
    windows = Windows(tmp_path / "none")
    assert windows.stored == ("latents", "pose") and windows.references(windows.rows[0]) == 0
    assert WindowSamples(windows, "train").sample(0)[1] is None


def test_videos_of_the_face_and_a_blank_one(videos: Path, tmp_path: Path, codec: DiffusersCodec) -> None:
    run([videos / "a.mp4"], tmp_path / "out", codec, face=24, references=0, blank=True, holdout=0)
    windows, frames = Windows(tmp_path / "out"), read_video(videos / "a.mp4", fps=16)[0]
    (about,) = rows(tmp_path / "out")
    x0, y0, width, height = about["crops"]["a"]["64x48"]
    for row in windows.rows:
        found = windows.read(row)
        assert found["face"].shape == (9, 3, 24, 24) and found["face"].dtype == torch.uint8
        pixels = found["pose"].numpy() * [width, height, 1] + [x0, y0, 0]
        box = face_boxes(pixels)[3]
        square = resize(torch.from_numpy(crop(frames[row.start + 3], box))[None], 24)[0]
        assert (found["face"][3].permute(1, 2, 0).float() - square.float()).abs().mean() < 20  # keypoints are rounded
        assert torch.equal(found["blank"], codec.encode_pixels(torch.full((9, 3, 64, 48), 0.5)).half().float())
        nose = (pixels[3, 0, :2] - box[:2]) / box[2]
        assert (abs(nose - 0.5) < 0.3).all()
    assert torch.equal(windows.read(windows.rows[0])["face"][5:], windows.read(windows.rows[1])["face"][:4])


def test_the_square_around_a_face() -> None:
    keypoints = np.zeros((4, 18, 3), np.float32)
    keypoints[1:3, [0, 1, 14], 2] = 1
    keypoints[:, 0, :2], keypoints[:, 14, :2], keypoints[:, 1, :2] = [50, 40], [54, 36], [50, 60]
    keypoints[2, :, 0] += 10
    assert face_boxes(keypoints) == [(35, 21, 34), (35, 21, 34), (45, 21, 34), (45, 21, 34)]
    assert face_boxes(keypoints[:1]) == []


def test_a_control_video_is_cut_as_its_video(videos: Path, tmp_path: Path, codec: DiffusersCodec) -> None:
    inverse = tmp_path / "inverse.mp4"
    frames, _ = read_video(videos / "a.mp4", fps=16)
    write_video(inverse, 255 - frames, 16)
    given: dict[str, Any] = {"control": "pose_video", "controls": {videos / "a.mp4": inverse}}
    run([videos / "a.mp4"], tmp_path / "out", codec, holdout=0, **given)
    windows, (about,) = Windows(tmp_path / "out"), rows(tmp_path / "out")
    driving, _ = read_video(inverse, fps=16)
    rectangle = tuple(about["crops"]["a"]["64x48"])
    row = windows.rows[2]
    small = np.stack([cut_out(frame, rectangle, (64, 48)) for frame in driving[row.start : row.start + 9]])
    assert torch.equal(windows.read(row)["control"], codec.encode(small).half().float())


def test_control_videos_that_do_not_fit(videos: Path, tmp_path: Path, codec: DiffusersCodec) -> None:
    frames, _ = read_video(videos / "a.mp4", fps=16)
    for name, other in (("shorter", frames[:15]), ("smaller", frames[:, ::2, ::2])):
        write_video(tmp_path / f"{name}.mp4", other, 16)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    given: dict[str, Any] = {"control": "pose_video"}
    reasons = {
        "shorter": r"1 x control video is shorter: 15 frames",
        "smaller": r"1 x control video is 64x64, but the video is 128x128",
        "broken": r"1 x control video is unreadable: Invalid data",
    }
    for name, reason in reasons.items():
        with pytest.raises(ValueError, match=rf"none of 1 files can be used \({reason}"):
            run(
                [videos / "a.mp4"],
                tmp_path / name,
                codec,
                controls={videos / "a.mp4": tmp_path / f"{name}.mp4"},
                **given,
            )
        assert not (tmp_path / name / "index.jsonl").exists()
    with pytest.raises(ValueError, match=r"control: .*b.mp4 has no 'pose_video' in the metadata; add it, or use"):
        run([videos / "b.mp4"], tmp_path / "none", codec, controls={}, **given)
    with pytest.raises(ValueError, match=r"control: .*gone.mp4 \('pose_video' of b.mp4\) does not exist"):
        run([videos / "b.mp4"], tmp_path / "none", codec, controls={videos / "b.mp4": tmp_path / "gone.mp4"}, **given)
    assert not (tmp_path / "none").exists()


def test_an_interrupted_run_goes_on_and_new_files_are_added(
    videos: Path, tmp_path: Path, codec: DiffusersCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, text = [videos / "b.mp4", videos / "a.mp4"], Text()
    options: dict[str, Any] = {"text": TEXT, "encode_text": text, "captions": {files[0]: "someone walks"}, "holdout": 0}
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    monkeypatch.setattr(window_file, "CLIP_BYTES", 3000)  # two windows a clip
    real = window_file._encode

    def interrupted(file: Path, *arguments: Any) -> Any:
        for number, tensors in enumerate(real(file, *arguments)):
            if file.name == "a.mp4" and number:
                raise KeyboardInterrupt
            yield tensors

    monkeypatch.setattr(window_file, "_encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(files, pieces, codec, **options)
    assert [row["clips"] for row in rows(pieces)] == [["b"]] and not (pieces / "index.jsonl").exists()
    assert {path.name for path in (pieces / "parts").iterdir()} == {f"{n}.safetensors" for n in ("b", "a-1")}
    monkeypatch.setattr(window_file, "_encode", real)
    assert run(files[:1], pieces, codec, **{**options, "captions": {}}).skipped == 1  # keeps its caption
    assert {row.caption for row in Windows(pieces).rows} == {"someone walks"}
    assert run(files, pieces, codec, **options).clips == 3 and text.calls[2:] == []
    before = {path.name: path.read_bytes() for path in pieces.iterdir()}
    assert run(files, pieces, codec, **options).skipped == 2
    assert {path.name: path.read_bytes() for path in pieces.iterdir()} == before
    run(files, whole, codec, **options)
    assert {path.name: path.read_bytes() for path in whole.iterdir()} == before
    assert run(files, pieces, codec, **{**options, "captions": {files[1]: "jumps"}}).windows == 6
    assert {row.clip[0]: row.caption for row in Windows(pieces).rows} == {"b": "someone walks", "a": "jumps"}
    assert text.calls[-1] == ["jumps"] and len(Windows(pieces).text(prompt_hash("jumps"))["text"]) == 6
    with pytest.raises(ValueError, match=r"prepared with other settings \(frames: 9 then, 5 now\)"):
        run(files, pieces, codec, **options, frames=5)
    other = DiffusersCodec(tiny_vaes.build("AutoencoderKLWan-f16"))
    with pytest.raises(ValueError, match=r"codec.hash: '\w+' then, '\w+' now"):
        run(files, pieces, other, **options, multiple=16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": ["64"]}, "sizes: '64'; give height x width, such as"),
        ({"sizes": []}, r"sizes: \[\]; give different ones"),
        ({"sizes": ["64x48", "64x48"]}, "give different ones"),
        ({"sizes": ["60x48"]}, "sizes: 60x48 must be a multiple of 16 for AutoencoderKLWan-f8t4c4; use 64x48"),
        ({"frames": 8}, r"frames = 8: .* takes 4 \* k \+ 1; use 5 or 9"),
        ({"frames": 0}, r"frames = 0: .*use 1 or 5"),
        ({"max_frames": 5}, "max_frames: 5 is below frames, 9"),
        ({"references": -1}, "references: -1"),
        ({"face": -1}, "face: -1"),
        ({"fps": 0}, "fps: 0"),
        ({"people": "all"}, "people: 'all'"),
        ({"holdout": 1.0}, "holdout: 1.0"),
        ({"text": TEXT}, "text: give the text encoders' class and hash together with encode_text"),
        ({"sizes": ["60x48"], "frames": 8}, r"sizes: (.|\n)*frames = 8"),
    ],
)
def test_bad_settings_are_named(options: Any, message: str, tmp_path: Path, codec: DiffusersCodec) -> None:
    with pytest.raises(ValueError, match=message):
        run(tmp_path, tmp_path / "out", codec, **options)
    assert not (tmp_path / "out").exists()


def test_what_encoders_must_not_give(videos: Path, tmp_path: Path) -> None:
    vae = tiny_vaes.build("AutoencoderKLWan")
    vae.register_to_config(latents_std=[1e-9] * 4)
    with pytest.raises(ValueError, match="codec: latents are not finite; use dtype float32"):
        run([videos / "b.mp4"], tmp_path / "out", DiffusersCodec(vae))
    with pytest.raises(ValueError, match="encode_text: gave nothing for 1 prompts"):
        run([videos / "b.mp4"], tmp_path / "text", DiffusersCodec(vae), text=TEXT, encode_text=lambda prompts: {})


def test_a_person_too_small_for_the_size(videos: Path, tmp_path: Path, codec: DiffusersCodec) -> None:
    with pytest.raises(ValueError, match="1 x person too small"):
        run([videos / "b.mp4"], tmp_path / "out", codec, sizes=["640x480"])


def test_the_rectangle_holds_the_person_inside_the_frame() -> None:
    keypoints = np.zeros((4, 18, 3), np.float32)
    keypoints[:, [3, 6], 2] = 1
    keypoints[:, 3, :2], keypoints[:, 6, :2] = [300, 100], [340, 300]
    x, y, width, height = person_rectangle(keypoints, 640, 480, 832 / 480) or ()
    assert (
        abs(width / height - 832 / 480) < 0.01
        and 200 < height < 240
        and (x, y) == (320 - width // 2, 200 - height // 2)
    )
    inside = keypoints_in(keypoints, (x, y, width, height))
    assert (inside[:, [3, 6], :2] > 0).all() and (inside[:, [3, 6], :2] < 1).all()
    tall = person_rectangle(keypoints, 640, 480, 0.5)
    assert tall is not None and abs(tall[2] / tall[3] - 0.5) < 0.01
    keypoints[:, 3, :2] = [300, 470]
    keypoints[:, 6, :2] = [340, 10]  # needs more than a landscape frame has
    assert person_rectangle(keypoints, 640, 480, 832 / 480) == (0, 56, 640, 369)
    keypoints[:, 3, :2], keypoints[:, 6, :2] = [630, 100], [600, 200]  # at the right edge: moved inside
    x, y, width, height = person_rectangle(keypoints, 640, 480, 1.0) or (0, 0, 0, 0)
    assert x + width == 640 and width == height and 80 < y < 100
    assert person_rectangle(np.zeros((3, 18, 3)), 64, 48, 1.0) is None


def test_pose_maps_of_a_rectangle() -> None:
    keypoints = np.zeros((2, 18, 3), np.float32)
    keypoints[:, 2] = [0.5, 0.5, 1]
    maps = draw_pose_in(keypoints, 32, 64)
    assert maps.shape == (2, 32, 64, 3)
    drawn_rows, drawn_columns = np.nonzero(maps[0].max(-1))
    assert drawn_rows.mean() == pytest.approx(15.5, abs=0.6) and drawn_columns.mean() == pytest.approx(31.5, abs=0.6)


def test_sizes_follow_the_patch_of_the_transformer(tmp_path: Path, codec: DiffusersCodec) -> None:
    assert size_multiple(tmp_path, codec) == 16
    (tmp_path / "transformer").mkdir()
    for patch, multiple in (([1, 2, 2], 16), (1, 8), ([1, 4, 4], 32)):
        (tmp_path / "transformer" / "config.json").write_text(json.dumps({"patch_size": patch}))
        assert size_multiple(tmp_path, codec) == multiple


def test_the_tail_of_a_single_video_is_held_out_and_never_seen(
    videos: Path, tmp_path: Path, codec: DiffusersCodec
) -> None:
    result = run([videos / "a.mp4"], tmp_path / "out", codec, references=4)
    windows, (about,) = Windows(tmp_path / "out"), rows(tmp_path / "out")
    assert {(row.start, row.split) for row in windows.rows} == {(0, "train"), (12, "holdout")}
    assert about["held_out_from"] == 12 and about["split"] == "tail" and result.windows == 2
    frames, _ = read_video(videos / "a.mp4", fps=16)
    small = [torch.from_numpy(cut_out(f, tuple(about["crops"]["a"]["64x48"]), (64, 48))) for f in frames]
    shown = windows.read(next(row for row in windows.rows if row.split == "train"))["image"]
    for image in shown:
        (frame,) = [i for i, own in enumerate(small) if torch.equal(own.permute(2, 0, 1), image)]
        assert frame < 12
    run([videos / "a.mp4", videos / "b.mp4"], tmp_path / "out", codec, references=4)
    kept = {(row.clip, row.start, row.split) for row in Windows(tmp_path / "out").rows}
    assert {("a", 0, "train"), ("a", 12, "holdout")} <= kept and {split for c, _, split in kept if c == "b"} == {
        "train"
    }


def test_two_real_clips(tmp_path: Path, codec: DiffusersCodec) -> None:
    if not CLIPS.exists():
        pytest.skip("needs ../shared/clips beside the repository")
    files = [CLIPS / "intel__yes.mkv", CLIPS / "intel__walk.mkv"]
    result = run(files, tmp_path / "out", codec, frames=13, max_frames=24, sizes=["64x112"])
    assert result.kept == 2 and result.windows >= 4
    windows = Windows(tmp_path / "out")
    for row in windows.rows:
        pose = windows.read(row, ["pose"])["pose"]
        assert (pose[:, :8, 2] > 0.5).float().mean() > 0.7 and (abs(pose[:, 0, 0] - 0.5) < 0.3).all()
    assert {tuple(map(len, row["crops"].values())) for row in rows(tmp_path / "out")} == {(1,)}
