"""Pose maps: the fast drawing against a slow obvious one, and what is and is not drawn."""

import numpy as np
import pytest

from entprog.data.posemap import COLOURS, LIMB_SHADE, LIMBS, draw_pose, half_width


def draw_slowly(pose: np.ndarray, size: int) -> np.ndarray:
    """One limb or joint after another over the whole map: the strongest cover wins, the later of equals."""
    y, x = np.mgrid[0:size, 0:size] + 0.5
    best = np.zeros((size, size), int)
    image = np.zeros((size, size, 3))
    width = half_width(size)

    def paint(cover: np.ndarray, colour: np.ndarray) -> None:
        level = np.round(np.clip(cover, 0, 1) * 255).astype(int)
        stronger = (level >= best) & (level > 0)
        best[stronger] = level[stronger]
        image[stronger] = colour * (level[stronger] / 255)[:, None]

    for (first, second), colour in zip(LIMBS, COLOURS[: len(LIMBS)], strict=True):
        if pose[[first, second], 2].min() < 0.5:
            continue
        start, span = pose[first, :2] * size, (pose[second, :2] - pose[first, :2]) * size
        length = max(np.hypot(*span), 1e-3)
        along = ((x - start[0]) * span[0] + (y - start[1]) * span[1]) / length - length / 2
        across = ((y - start[1]) * span[0] - (x - start[0]) * span[1]) / length
        distance = (along / (length / 2 + 0.5)) ** 2 + (across / (width + 0.35)) ** 2
        paint((1.3 - distance) / 0.6, colour * LIMB_SHADE)
    for (across, down, visibility), colour in zip(pose, COLOURS, strict=True):
        if visibility >= 0.5:
            paint((width + 0.8 - np.hypot(x - across * size, y - down * size)) / 0.6, colour)
    return np.round(image)


def random_poses(*shape: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    places = rng.uniform(-0.2, 1.2, (*shape, 18, 2))
    visibility = rng.choice([0, 0.5, 1], (*shape, 18, 1))
    return np.concatenate([places, visibility], -1).astype(np.float32)


@pytest.mark.parametrize("size", [16, 64, 200])
def test_fast_drawing_agrees_with_the_slow_one(size: int) -> None:
    poses = random_poses(6)
    fast = draw_pose(poses, size).astype(int)
    slow = np.stack([draw_slowly(pose.astype(np.float64), size) for pose in poses])
    # Rounding may tip the choice between two equally strong covers: never over more than a few pixels.
    differing = (np.abs(fast - slow) > 3).any(-1).mean()
    assert fast.any() and differing < 0.005


def test_leading_axes_do_not_change_a_map() -> None:
    poses = random_poses(2, 35)
    maps = draw_pose(poses, 32)
    assert maps.shape == (2, 35, 32, 32, 3) and maps.dtype == np.uint8
    np.testing.assert_array_equal(maps[1, 34], draw_pose(poses[1, 34], 32))
    assert draw_pose(poses[:0], 32).shape == (0, 35, 32, 32, 3)


def test_hidden_keypoints_are_drawn_and_absent_ones_are_not() -> None:
    pose = np.zeros((18, 3), np.float32)
    pose[[3, 4]] = [[0.25, 0.5, 0.5], [0.75, 0.5, 0.5]]
    drawn = draw_pose(pose, 64)
    np.testing.assert_array_equal(drawn[32, 16], COLOURS[3])
    np.testing.assert_array_equal(drawn[32, 32], np.round(COLOURS[3] * LIMB_SHADE))
    assert not drawn[:24].any()
    pose[4, 2] = 0.49
    drawn = draw_pose(pose, 64)
    assert drawn[32, 16].any() and not drawn[:, 24:].any()


def test_limbs_reach_out_of_the_picture_and_nonsense_out_there_is_harmless() -> None:
    pose = np.zeros((18, 3), np.float32)
    pose[3], pose[4] = [0.5, 0.5, 1], [3.0, 0.5, 1]
    assert draw_pose(pose, 64)[32, 63].any()
    pose[4] = [np.nan, np.nan, 0]
    assert draw_pose(pose, 64).any()


def test_limbs_are_thicker_on_larger_maps() -> None:
    pose = np.zeros((18, 3), np.float32)
    pose[3], pose[4] = [0.5, 0.1, 1], [0.5, 0.9, 1]
    thickness = [draw_pose(pose, size)[size // 2].any(-1).sum() for size in (64, 256, 512)]
    assert 2 <= thickness[0] < thickness[1] < thickness[2] <= 512 / 40


def test_errors_name_the_argument() -> None:
    with pytest.raises(ValueError, match=r"keypoints: got shape \(17, 3\)"):
        draw_pose(np.zeros((17, 3)), 64)
    with pytest.raises(ValueError, match="size: got 0"):
        draw_pose(np.zeros((18, 3)), 0)
