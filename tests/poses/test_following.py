"""Who is followed: the largest at first, the same person after a loss; and what the faster networks compute."""

import numpy as np
import pytest
import torch

from contracts import tracked
from entprog.metrics.pose_error import PoseError
from entprog.poses import _networks
from entprog.poses._networks import BlazeGraph, without_pads
from entprog.poses._people import PATIENCE, Person, again
from entprog.poses.base import rescaled
from entprog.poses.blazepose import PoseEstimator
from entprog.poses.loading import default_estimator
from entprog.synthetic import render_clip


def at(x: float, radius: float = 10.0) -> Person:
    return Person((x, 0.0), radius, 0.0, 1.0)


def test_the_largest_at_first_then_the_nearest_in_place_and_size():
    small, large = at(0), at(100, 30)
    assert again([large, small], None) is large
    assert again([large, small], at(3)) is small
    assert again([large, small], at(90, 25)) is large
    same_place = [at(0, 40), at(8, 10)]
    assert again(same_place, at(0, 10)) is same_place[1]  # someone much larger in the same place is another person
    assert again([], at(0)) is None and again([], None) is None


def test_nobody_far_away_is_taken_right_after_a_loss():
    far = at(50)
    assert again([far], at(0), lost=0) is None and again([far], at(0), lost=PATIENCE - 1) is None
    assert again([far], at(0), lost=PATIENCE) is far
    assert again([far], None, lost=0) is far


class Scripted(PoseEstimator):
    """BlazePose's tracker over people who are said; a frame's number is its brightness."""

    def __init__(self, people: list[list[Person]], unreadable: set[int]) -> None:
        self.people, self.unreadable = people, unreadable

    def detect(self, frames):
        return [self.people[int(frames[0, 0, 0, 0])]]

    def read(self, frames, circles):
        frame, circle = int(frames[0, 0, 0, 0]), circles[0]
        points = torch.zeros(1, 39, 2)
        points[0, :, 0], points[0, 34, 1] = circle.centre[0], -circle.radius / 1.25
        return (
            points,
            torch.ones(1, 39),
            torch.tensor([0.0 if frame in self.unreadable and circle.radius < 20 else 1.0]),
        )


def test_after_a_loss_within_a_shot_the_same_person_is_found_again():
    small, large = at(20, 10), at(200, 40)
    both = [large, small]
    people = [[small], both, both, both, [large], both]
    tracker = Scripted(people, unreadable={2}).tracker()
    x = [tracker.step(np.full((4, 4, 3), i, np.uint8), index=i)[0, 0] for i in range(6)]
    assert x == pytest.approx([20, 20, 0, 20, 20, 20])
    assert tracker.step(np.full((4, 4, 3), 3, np.uint8), index=6, restart=True)[0, 0] == 200


def test_padding_inside_the_convolutions_and_fused_activations_change_nothing(monkeypatch):
    graph = BlazeGraph("pose_landmarks")
    image = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    fast = graph(image)
    monkeypatch.setattr(_networks, "FUSED", False)
    for name, plain in graph(image).items():
        torch.testing.assert_close(fast[name], plain, rtol=1e-4, atol=2e-3)
    assert not any(op["op"] == "pad" for op in graph.ops)


def test_padding_stays_where_others_read_it():
    pad = {"op": "pad", "inputs": [0], "output": 1, "pad": [1, 1, 1, 1, 0, 0]}
    conv = {"op": "conv", "inputs": [1], "output": 2, "pad": [0, 0, 0, 0]}
    assert without_pads([pad, conv]) == [{**conv, "inputs": [0], "pad": [1, 1, 1, 1]}]
    for other in (
        {"op": "add", "inputs": [1, 2], "output": 3},
        {**conv, "output": 3, "pad": [1, 1, 1, 1]},
    ):
        assert without_pads([pad, conv, other]) == [pad, conv, other]
    channels = {**pad, "pad": [1, 1, 1, 1, 0, 2]}
    assert without_pads([channels, conv]) == [channels, conv]


def test_confidences_on_one_scale():
    given = np.array([0, 0.15, 0.3, 0.65, 1, 7, np.nan, -1])
    assert rescaled(given, 0.3).tolist() == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1, 0, 0])


def test_rendered_people_are_found_where_they_are():
    """PCK@0.2 of the torso at 128 px; the record has more people: benchmarks/results/poses.jsonl."""
    metric = PoseError()
    for i in range(3):
        clip = render_clip(24, i, i, frames=2, size=128, domain="target")
        pictures = torch.from_numpy(clip.frames).movedim(-1, -3)[None].float() / 255
        metric.update_keypoints(pictures, torch.from_numpy(clip.keypoints)[None].float())
    assert metric.compute()["pck"] >= 0.95


def pictures(kind: str) -> np.ndarray:
    """Two frames of an input that no pose, or part of one, can be had from."""
    person = render_clip(3, 5, 2, frames=2, size=128, domain="target").frames
    match kind:
        case "black":
            return np.zeros((2, 128, 128, 3), np.uint8)
        case "noise":
            return np.random.default_rng(0).integers(0, 255, (2, 96, 128, 3), dtype=np.uint8)
        case "4 x 4":
            return person[:, 62:66, 62:66]
        case "one row":
            return person[:, 64:65]
        case "half outside":
            return person[:, :, 64:]
        case _:  # tiny person
            small = torch.from_numpy(person).movedim(-1, 1).float()
            small = torch.nn.functional.interpolate(small, size=(12, 12), mode="area").byte().movedim(1, -1).numpy()
            return np.pad(small, ((0, 0), (58, 58), (58, 58), (0, 0)), constant_values=90)


@pytest.mark.parametrize("kind", ["black", "noise", "4 x 4", "one row", "half outside", "tiny person"])
def test_bad_pictures(kind):
    frames = pictures(kind)
    track = tracked(default_estimator(), frames, None)
    assert np.isfinite(track.keypoints).all() and not track.keypoints[~track.found].any()
    keypoints, score = default_estimator().single(torch.from_numpy(np.ascontiguousarray(frames)))
    assert torch.isfinite(keypoints).all() and torch.isfinite(score).all()
    if kind in ("black", "noise"):
        assert not track.found.any()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_finds_what_the_cpu_finds():
    frames = render_clip(3, 5, 2, frames=4, size=256, domain="target").frames
    here, there = (PoseEstimator(device).single(torch.from_numpy(frames)) for device in ("cpu", "cuda"))
    torch.testing.assert_close(here[0], there[0], atol=2e-3, rtol=0)
    track = [PoseEstimator(device).track(frames).keypoints for device in ("cpu", "cuda")]
    assert np.abs(track[0] - track[1]).max() < 1.0
