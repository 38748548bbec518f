"""One person's track in pieces: when it is cut, and when it is not."""

from typing import Any

import numpy as np
import pytest

from entprog.prepare.pieces import (
    COLOURS,
    CUT,
    JUMP,
    LONGEST_GAP,
    LOST,
    PAUSE,
    Span,
    scale_of,
    split_track,
    subjects_of,
)
from stand_in import keypoints_at

RED, BLUE = np.array([50.0, 60, 40]), np.array([40.0, 10, -60])


def split(places: Any, *, people: Any = None, colours: Any = None, fps: float = 12, breaks: Any = None) -> list[Span]:
    """`places`: (x, y, torso) or None for each frame."""
    points = np.array([np.zeros((18, 3)) if place is None else keypoints_at(place) for place in places], np.float32)
    points = points.reshape(-1, 18, 3)
    count = len(places)
    people = np.ones(count, int) if people is None else np.asarray(people)
    colours = np.tile(RED, (count, 1)) if colours is None else np.asarray(colours, float)
    return split_track(points, points[..., 2].any(1), people, colours, fps, breaks or {})


def frames(spans: list[Span]) -> list[tuple[int, int, str]]:
    return [(span.start, span.end, span.after) for span in spans]


def walk(count: int, speed: float = 0.2, torso: float = 40, x: float = 0) -> list[tuple[float, float, float]]:
    """A person who walks; `speed` in torso lengths a frame."""
    return [(x + i * speed * torso, 100, torso) for i in range(count)]


def test_a_person_who_is_always_there_is_one_piece() -> None:
    assert frames(split(walk(40))) == [(0, 40, "")]


@pytest.mark.parametrize("gap", [1, LONGEST_GAP, LONGEST_GAP + 1, 20])
def test_a_loss_that_is_longer_than_a_filled_gap_cuts(gap: int) -> None:
    places: list[Any] = walk(60, speed=0.05)
    places[20 : 20 + gap] = [None] * gap
    spans = split(places)
    if gap <= LONGEST_GAP:
        assert frames(spans) == [(0, 60, "")] and (~spans[0].found).nonzero()[0].tolist() == list(range(20, 20 + gap))
    else:
        assert frames(spans) == [(0, 20, ""), (20 + gap, 60, LOST)]


def test_who_leaves_at_the_ends_is_trimmed() -> None:
    assert frames(split([None] * 3 + walk(20) + [None] * 9)) == [(3, 23, "")]
    assert split([None] * 30) == [] and split([]) == []


@pytest.mark.parametrize("fps", [6, 12, 30, 60])
@pytest.mark.parametrize("away", [2.0, 4.0, -3.0])
def test_a_jump_to_someone_else_cuts(fps: float, away: float) -> None:
    places = walk(30, speed=1 / fps) + walk(30, speed=1 / fps, x=30 / fps * 40 + away * 40)
    assert frames(split(places, fps=fps)) == [(0, 30, ""), (30, 60, JUMP)]


def test_a_jump_across_a_filled_gap_cuts() -> None:
    assert frames(split([*walk(30, 0.01), None, None, *walk(30, 0.01, x=120)])) == [(0, 30, ""), (32, 62, JUMP)]


@pytest.mark.parametrize("factor", [1.8, 0.5])
def test_a_jump_of_scale_cuts(factor: float) -> None:
    places = walk(20, 0) + walk(20, 0, torso=40 * factor)
    assert frames(split(places)) == [(0, 20, ""), (20, 40, JUMP)]


@pytest.mark.parametrize(
    "places",
    [
        [(i * 60.0, 100, 40) for i in range(30)],  # a sprint past the camera: fast, but steady
        [(200 + 100 * np.sin(i / 4), 100 + 60 * abs(np.sin(i / 3)), 40) for i in range(60)],  # a dance
        [(200, 100 + 4.0 * i, 40 - i) for i in range(30)],  # a deep bow: the torso gets short
        [(200, 100, 20 * 1.05**i) for i in range(40)],  # towards the camera
        [(200 + 3 * (i % 2), 100, 40 + 4 * (i % 3)) for i in range(60)],  # noise
    ],
    ids=["sprint", "dance", "bow", "towards", "noise"],
)
def test_movements_of_people_do_not_cut(places: Any) -> None:
    assert frames(split(places)) == [(0, len(places), "")]


@pytest.mark.parametrize("count", [1, LONGEST_GAP])
def test_a_wrong_pose_for_a_few_frames_is_filled(count: int) -> None:
    places = walk(40, 0.05)
    places[20 : 20 + count] = [(500, 300, 90)] * count
    (span,) = split(places)
    assert (span.start, span.end) == (0, 40) and (~span.found).sum() == count and not span.found[20]
    places[20:22] = [(500, 300, 90), (10, 400, 60)]  # two different ones
    assert len(split(places)) == 1


def test_cuts_and_pauses_cut() -> None:
    spans = split(walk(40), breaks={10: CUT, 30: PAUSE, 40: PAUSE, 0: CUT})
    assert frames(spans) == [(0, 10, CUT), (10, 30, CUT), (30, 40, PAUSE)]


def crossing(steps: int, *, several: bool = True) -> tuple[list[Any], np.ndarray, np.ndarray]:
    """The tracking follows someone to the right, and after they passed another the other to the left."""
    right = walk(30, 0.1)
    left = [(right[-1][0] - 4.0 * i, 100, 40) for i in range(30)]
    share = np.clip((np.arange(60) - 30 + steps / 2) / max(steps, 1e-9), 0, 1)[:, None]
    people = np.where(np.arange(60) % 8 == 0, 2 if several else 1, -1)
    return right + left, people, RED * (1 - share) + BLUE * share


@pytest.mark.parametrize("steps", [0, 3, 6])
def test_two_people_who_pass_each_other_are_not_one_piece(steps: int) -> None:
    places, people, colours = crossing(steps)
    spans = split(places, people=people, colours=colours)
    assert len(spans) == 2 and spans[1].after == COLOURS and spans[0].after == ""
    for span, own in zip(spans, (RED, BLUE), strict=True):
        assert np.linalg.norm(colours[span.start : span.end] - own, axis=1).max() < 45
        assert span.end - span.start >= 22


def test_colours_count_only_where_several_people_are_near() -> None:
    places, people, colours = crossing(0, several=False)
    assert len(split(places, people=people, colours=colours)) == 1  # someone turns round
    places, people, colours = crossing(0)
    colours[:] = np.nan
    assert len(split(places, people=people, colours=colours)) == 1


def test_an_arm_in_front_of_the_torso_is_no_other_person() -> None:
    places, people, colours = crossing(0)
    colours[:] = RED
    colours[20:23] = BLUE
    assert len(split(places, people=people, colours=colours)) == 1
    colours[58:] = BLUE  # too few to be sure: left out
    (span,) = split(places, people=people, colours=colours)
    assert span.end == 58


def test_the_scale_without_hips_or_shoulders() -> None:
    points = keypoints_at((50, 50, 40))[None].repeat(4, 0)
    points[1, [8, 11], 2] = 0  # no hips: from the shoulders, or the head
    points[2, [8, 11, 2, 5], 2] = 0
    points[3, :, 2] = 0
    assert scale_of(points).tolist() == pytest.approx([40, 28.8, 22.4, 0])


def test_pieces_with_like_colours_of_the_torso_are_of_one_subject():
    red, reddish, blue = np.array([50, 60, 40.0]), np.array([52, 55, 42.0]), np.array([40, 0, -50.0])
    unknown = np.full(3, np.nan)
    pieces = [np.tile(colour, (5, 1)) for colour in (red, blue, reddish, unknown, blue, unknown)]
    assert subjects_of(pieces) == [0, 1, 0, 2, 1, 3]
    assert subjects_of([np.stack([unknown, red]), np.zeros((0, 3))]) == [0, 1] and subjects_of([]) == []
