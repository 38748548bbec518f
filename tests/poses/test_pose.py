"""The packaged pose networks, on a real clip where one is at hand and on hand-made inputs."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from entprog.poses._networks import BlazeGraph, _depth_to_space, _restore
from entprog.poses.blazepose import (
    FOUND_THRESHOLD,
    Person,
    PoseEstimator,
    _cut_out,
    _people,
    _refine,
    _smooth,
    to_openpose,
)
from entprog.prepare.video import read_video

CLIP = Path(__file__).parents[3] / "shared" / "clips" / "intel__walk.mkv"
NOSE, NECK, RIGHT_SHOULDER, LEFT_SHOULDER, RIGHT_HIP = 0, 1, 2, 5, 8


@pytest.fixture(scope="module")
def estimator():
    return PoseEstimator()


@pytest.fixture(scope="module")
def frames():
    if not CLIP.exists():
        pytest.skip("needs ../shared/clips beside the repository")
    return read_video(CLIP, fps=12, max_frames=6)[0]


def test_graphs_have_the_published_outputs(estimator):
    boxes = estimator.detector(torch.zeros(2, 3, 224, 224))
    marks = estimator.landmarks(torch.zeros(1, 3, 256, 256))
    assert {k: tuple(v.shape) for k, v in boxes.items()} == {"boxes": (2, 2254, 12), "scores": (2, 2254, 1)}
    assert marks["points"].shape[-1] == 195
    assert marks["heatmap"].shape == (1, 64 * 64, 39)
    assert 0 <= float(marks["score"]) <= 1


def test_outputs_match_the_record_of_the_original_runtime():
    """Figures of ai-edge-litert 2.3.0 running the two .tflite files on this input."""
    wave = torch.linspace(0, 40, 224).sin()
    image = (wave[:, None] * wave.flip(0)[None]).expand(1, 3, 224, 224)
    boxes = BlazeGraph("pose_detector")(image)
    large = F.interpolate(image, size=(256, 256), mode="nearest") * 0.5 + 0.5
    marks = BlazeGraph("pose_landmarks")(large)
    box, score, points, heat = (
        boxes["boxes"][0],
        boxes["scores"][0],
        marks["points"].flatten(),
        marks["heatmap"][0],
    )
    seen = [box[1000, 0], box[2200, 7], score[1000, 0], score[2200, 0], points[5], points[100], heat[2000, 3]]
    record = [-13.580135, -0.133950, -103.056618, -26.780155, 124.504921, 120.955636, -30.227057]
    torch.testing.assert_close(torch.stack(seen), torch.tensor(record), rtol=1e-4, atol=2e-3)


def test_detects_and_reads_one_upright_person(estimator, frames):
    height = frames.shape[1]
    people = estimator.detect(torch.from_numpy(frames))
    assert [len(found) for found in people] == [1] * len(frames)
    assert all(abs(found[0].angle) < 0.3 and found[0].radius > height / 3 for found in people)
    keypoints, score = estimator.single(torch.from_numpy(frames))
    assert keypoints.shape == (len(frames), 18, 3) and keypoints.dtype == torch.float32
    assert (score > 0.9).all()
    upper = keypoints[:, :9]
    assert ((upper[..., :2] > 0) & (upper[..., :2] < 1)).all()
    assert (keypoints[:, NOSE, 1] < keypoints[:, NECK, 1]).all()
    assert (keypoints[:, NECK, 1] < keypoints[:, RIGHT_HIP, 1]).all()
    # facing the camera, the person's right is on the picture's left
    assert (keypoints[:, RIGHT_SHOULDER, 0] < keypoints[:, LEFT_SHOULDER, 0]).all()
    # the knees are below the picture
    assert (keypoints[:, [9, 12], 2] < 0.5).all()


def test_tracking_agrees_with_single_frames_and_repeats_exactly(estimator, frames):
    track = estimator.track(iter(frames))
    assert track.found.all() and track.people[0] == 1
    keypoints, _ = estimator.single(torch.from_numpy(frames))
    away = np.abs(track.keypoints[:, :9, :2] / [frames.shape[2], frames.shape[1]] - keypoints[:, :9, :2].numpy())
    assert away.mean() < 0.02
    again = estimator.track(iter(frames[:3]), restart=[1])
    assert np.array_equal(again.keypoints[0], track.keypoints[0])
    assert np.array_equal(estimator.track(iter(frames[:2])).keypoints, track.keypoints[:2])


def test_single_reads_small_frames(estimator, frames):
    square = torch.from_numpy(frames[:2, :, 80:560]).permute(0, 3, 1, 2).float()
    small = F.interpolate(square, size=(64, 64), mode="area").round().byte().permute(0, 2, 3, 1)
    large, _ = estimator.single(square.byte().permute(0, 2, 3, 1))
    keypoints, score = estimator.single(small)
    assert (score >= FOUND_THRESHOLD).all()
    assert (keypoints[:, :6, :2] - large[:, :6, :2]).abs().mean() < 0.03


def test_single_in_batches_is_the_same(estimator, frames, monkeypatch):
    few = torch.from_numpy(frames[:3, ::4, ::4].copy())
    whole = estimator.single(few)
    monkeypatch.setattr("entprog.poses.blazepose.BATCH", 2)
    for part, expected in zip(estimator.single(few), whole, strict=True):
        torch.testing.assert_close(part, expected, atol=1e-4, rtol=1e-4)


def test_the_largest_of_two_people_is_followed(estimator, frames):
    images = torch.from_numpy(frames[:2]).permute(0, 3, 1, 2).float()
    reduced = F.interpolate(images, size=(384, 512), mode="area").byte().permute(0, 2, 3, 1).numpy()
    small = np.pad(reduced, ((0, 0), (96, 0), (0, 0), (0, 0)), mode="edge")
    both = np.concatenate([small, frames[:2]], 2)
    track = estimator.track(both)
    assert track.people[0] == 2
    assert (track.keypoints[:, NOSE, 0] > small.shape[2]).all()


def test_nobody_in_an_empty_picture(estimator):
    empty = torch.full((2, 90, 120, 3), 128, dtype=torch.uint8)
    assert estimator.detect(empty) == [[], []]
    keypoints, score = estimator.single(empty)
    assert (score < FOUND_THRESHOLD).all() and torch.isfinite(keypoints).all()
    track = estimator.track(empty.numpy())
    assert not track.found.any() and not track.keypoints.any()
    assert len(estimator.track([]).keypoints) == 0


@pytest.mark.parametrize("bad", [torch.zeros(2, 64, 64, 3), torch.zeros(64, 64, 3, dtype=torch.uint8)])
def test_frames_of_another_kind_are_refused(estimator, bad):
    with pytest.raises(ValueError, match=r"frames: .*uint8 \[N,H,W,3\]"):
        estimator.detect(bad)


def test_cut_out_turns_and_scales():
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    same = _cut_out(image, torch.tensor([[2.0, 2.0, 2.0, 0.0]]), 4)
    torch.testing.assert_close(same, image)
    turned = _cut_out(image, torch.tensor([[2.0, 2.0, 2.0, math.pi / 2]]), 4)
    torch.testing.assert_close(turned, image.rot90(1, (2, 3)), atol=1e-4, rtol=0)
    assert _cut_out(image, torch.tensor([[-9.0, 2.0, 2.0, 0.0]]), 4).abs().sum() == 0


def test_refine_agrees_with_the_slow_way():
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(2, 39, 2, generator=generator) * 280 - 12
    heatmap = torch.randn(2, 64 * 64, 39, generator=generator) * 2 - 2
    expected = points.clone()
    for n in range(2):
        for j in range(39):
            column, row = int(points[n, j, 0] / 4), int(points[n, j, 1] / 4)
            if not (0 <= points[n, j, 0] < 256 and 0 <= points[n, j, 1] < 256):
                continue
            rows, columns = (
                range(max(row - 3, 0), min(row + 4, 64)),
                range(max(column - 3, 0), min(column + 4, 64)),
            )
            weight = {(r, c): float(heatmap[n, r * 64 + c, j].sigmoid()) for r in rows for c in columns}
            if max(weight.values()) >= 0.5:
                total = sum(weight.values())
                expected[n, j, 0] = 4 * sum(w * c for (_, c), w in weight.items()) / total
                expected[n, j, 1] = 4 * sum(w * r for (r, _), w in weight.items()) / total
    torch.testing.assert_close(_refine(points, heatmap), expected)


def test_overlapping_boxes_are_one_person():
    box = [[50.0, 50.0], [20.0, 20.0], [50.0, 80.0], [50.0, 20.0], [0, 0], [0, 0]]
    near = [[52.0, 50.0], [20.0, 20.0], [54.0, 80.0], [54.0, 20.0], [0, 0], [0, 0]]
    far = [[300.0, 50.0], [20.0, 20.0], [300.0, 80.0], [300.0, 0.0], [0, 0], [0, 0]]
    people = _people(np.array([box, near, far]), np.array([0.9, 0.9, 0.6]))
    assert [round(person.centre[0]) for person in people] == [300, 52]
    assert people[1].radius == pytest.approx(75) and people[1].angle == pytest.approx(0)


def test_circles_are_smoothed_unless_they_jump():
    last = Person((0.0, 0.0), 100.0, math.pi - 0.01, 1.0)
    creep = _smooth(last, Person((1.0, 0.0), 100.0, -math.pi + 0.01, 1.0))
    assert 0.3 <= creep.centre[0] < 0.5
    assert abs(creep.angle - last.angle) < 0.02
    assert _smooth(last, Person((60.0, 0.0), 100.0, last.angle, 1.0)).centre == (60.0, 0.0)


def test_neck_is_between_the_shoulders():
    points, visibility = torch.zeros(1, 33, 2), torch.ones(1, 33)
    points[0, 11], points[0, 12], visibility[0, 12] = torch.tensor([4.0, 2.0]), torch.tensor([0.0, 0.0]), 0.2
    keypoints = to_openpose(points, visibility)
    assert keypoints[0, NECK].tolist() == pytest.approx([2.0, 1.0, 0.2])
    assert keypoints[0, LEFT_SHOULDER].tolist() == [4.0, 2.0, 1.0]


def test_asset_helpers():
    mask = torch.from_numpy(np.packbits(np.array([1, 0, 0, 1, 0, 1], bool)))
    assert _restore(mask, torch.tensor([1.0, 2.0, 3.0]), [2, 3]).tolist() == [[1, 0, 0], [2, 0, 3]]
    x = torch.arange(8.0).reshape(1, 8, 1, 1)
    assert _depth_to_space(x, 2)[0, 0].tolist() == [[0, 2], [4, 6]]
