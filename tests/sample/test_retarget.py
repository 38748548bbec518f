"""Poses with another person's proportions, on skeletons of known lengths."""

import numpy as np
import pytest

from entprog.sample.retarget import FURTHEST, LIMBS, retarget
from skeletons import FRAMES, clip, person


def lengths(keypoints: np.ndarray, name: str) -> np.ndarray:
    return np.stack([np.linalg.norm(keypoints[:, b, :2] - keypoints[:, a, :2], axis=-1) for a, b in LIMBS[name]], 1)


def test_the_same_person_is_left_as_they_are() -> None:
    drive = clip(person())
    for frame in (0, 7, FRAMES - 1):
        found = retarget(drive, drive[frame])
        assert found is not None and found.scale == pytest.approx(1, abs=1e-4)
        np.testing.assert_allclose(found.keypoints, drive, atol=0.01)


def test_a_shifted_and_larger_photo_moves_and_scales_the_motion() -> None:
    drive, photo = clip(person()), clip(person(), scale=1.7, at=(500, 420))
    found = retarget(drive, photo[0])
    assert found is not None and found.scale == pytest.approx(1.7, abs=1e-3)
    np.testing.assert_allclose(found.keypoints, photo, atol=0.2)


def test_long_legs_and_wide_shoulders_are_taken_over() -> None:
    other = person(thighs=1.3, shins=1.3, shoulders=1.25, torso=1.1)
    drive, photo = clip(person()), clip(other, at=(260, 180))
    found = retarget(drive, photo[5])
    assert found is not None
    for name in ("thighs", "shins", "shoulders", "upper arms"):
        np.testing.assert_allclose(lengths(found.keypoints, name), lengths(photo, name), rtol=0.01)
    np.testing.assert_allclose(found.keypoints[5], photo[5], atol=0.6)
    assert np.ptp(found.keypoints[:, [10, 13], 1].max(1)) < 0.1, "the feet stay on the ground"
    directions = found.keypoints[:, 4, :2] - found.keypoints[:, 3, :2]
    own = drive[:, 4, :2] - drive[:, 3, :2]
    cosine = (directions * own).sum(1) / np.linalg.norm(directions, axis=1) / np.linalg.norm(own, axis=1)
    assert cosine.min() > 0.9999, "limbs keep their directions"


def test_limbs_that_the_photo_does_not_show_keep_the_drive_s_proportions() -> None:
    drive = clip(person())
    photo = clip(person(shoulders=1.2), scale=2.0)[0]
    photo[[8, 9, 10, 11, 12, 13], 2] = 0  # a portrait down to the chest
    photo[[8, 9, 10, 11, 12, 13], :2] = 0
    found = retarget(drive, photo)
    assert found is not None and found.ratios["shins"] == found.ratios["torso"] == found.scale
    assert found.scale == pytest.approx(2, rel=0.05)
    np.testing.assert_allclose(found.keypoints[0, :8, :2], photo[:8, :2], atol=4)
    assert found.keypoints[0, 10, 1] > photo[1, 1] + 200, "the feet are below the picture, where they belong"


def test_joints_hidden_in_the_drive_stay_hidden_and_finite() -> None:
    drive, photo = clip(person()), clip(person(thighs=1.2))[3]
    drive[::2, [9, 10]] = 0
    drive[:, 11] = 0
    found = retarget(drive, photo)
    assert found is not None and np.isfinite(found.keypoints).all()
    assert (found.keypoints[..., 2] == drive[..., 2]).all()


@pytest.mark.parametrize("narrow", ["photo", "drive"])
def test_a_profile_is_bounded(narrow: str) -> None:
    """Shoulders seen from the side are a few pixels wide, and say nothing of the person's."""
    side, front = person(shoulders=0.05, hips=0.05), person()
    drive, photo = (clip(front), clip(side)[0]) if narrow == "photo" else (clip(side), clip(front)[0])
    found = retarget(drive, photo)
    assert found is not None and found.scale == pytest.approx(1, rel=0.1)
    assert all(1 / FURTHEST <= ratio / found.scale * 1.0001 <= FURTHEST * 1.001 for ratio in found.ratios.values())


def test_an_arm_that_points_at_the_camera_is_no_short_arm() -> None:
    drive, photo = clip(person()), clip(person())[0]
    photo[4, :2] = photo[3, :2] + (3, -1)
    found = retarget(drive, photo)
    assert found is not None and found.ratios["forearms"] > 1 / FURTHEST - 0.01


def test_without_a_common_limb_there_is_nothing_to_compare() -> None:
    drive, photo = clip(person()), clip(person())[0]
    photo[:, 2] = 0
    assert retarget(drive, photo) is None
    photo[3, 2] = 1
    assert retarget(drive, photo) is None
