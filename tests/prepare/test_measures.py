"""What is measured of each frame: colours and cuts as before, sharpness, colours of the torso."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter

from entprog.prepare.crop import crop, cuts_of, find_cuts, histogram, thumbnail
from entprog.prepare.measures import Measures, cielab, sharpness, sharpness_of, torso_colour
from entprog.synthetic import render_clip
from stand_in import keypoints_at, painted


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (63, 65), (480, 640), (353, 641), (512, 910), (64, 2000), (17000, 2)])
def test_the_fast_thumbnail_is_that_of_torch(size: tuple[int, int]) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    frame[-1000:] = 255  # the largest sums
    slow = F.interpolate(torch.from_numpy(frame).permute(2, 0, 1)[None].float(), size=(64, 64), mode="area")
    assert np.array_equal(thumbnail(frame), slow[0].permute(1, 2, 0).numpy())


def test_cuts_are_those_of_all_histograms() -> None:
    frames = [*painted(20, (48, 64), lambda i: [((20 + i, 10, 8), (200, 40, 40))])]
    frames += [255 - frame for frame in frames]
    measures = Measures()
    jumps = []
    for i, frame in enumerate(frames):
        if measures.may_be_cut(frame):
            jumps.append(i)
        measures.add(frame, None)
    histograms = [histogram(frame) for frame in frames]
    assert measures.changes.tolist() == [np.abs(b - a).sum() / 2 for a, b in pairwise(histograms)]
    assert cuts_of(measures.changes) == find_cuts(histograms) == [20] and 20 in jumps
    assert np.isnan(measures.sharpness).all() and np.isnan(measures.colours).all() and len(measures) == 40


def test_a_square_inside_the_frame_is_a_view() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    assert np.shares_memory(crop(frame, (20, 0, 40)), frame) and crop(frame, (20, 0, 40)).shape == (40, 40, 3)
    assert np.array_equal(crop(frame, (-1, 0, 40))[:, 1:], frame[:, :39])


def blurred(frame: np.ndarray, sigma: float) -> np.ndarray:
    return np.array(Image.fromarray(frame).filter(ImageFilter.GaussianBlur(sigma)))


def test_sharpness_falls_with_blur_and_not_with_resolution() -> None:
    frame = render_clip(0, 0, 0, frames=1, size=256).frames[0]
    values = [sharpness(blurred(frame, 256 * share)) for share in (0, 0.01, 0.02, 0.04)]
    assert values == sorted(values, reverse=True) and values[0] > 0.5 and values[-1] < 0.2
    for factor in (2, 3):
        for share in (0, 0.02):
            picture = Image.fromarray(blurred(frame, 256 * share))
            large = np.array(picture.resize((256 * factor, 256 * factor), Image.Resampling.BICUBIC))
            assert sharpness(large) == pytest.approx(sharpness(np.array(picture)), abs=0.05)


@pytest.mark.parametrize("gain", [0.4, 0.8])
def test_sharpness_does_not_depend_on_contrast(gain: float) -> None:
    frame = render_clip(0, 0, 0, frames=1, size=128).frames[0]
    darker = (frame * gain).astype(np.uint8)
    assert sharpness(darker) == pytest.approx(sharpness(frame), abs=0.03)


def test_sharpness_of_what_has_none() -> None:
    assert sharpness(np.zeros((64, 64, 3), np.uint8)) == 0 and np.isnan(sharpness(np.zeros((4, 90, 3), np.uint8)))
    frame = np.zeros((64, 64, 3), np.uint8)
    assert np.isnan(sharpness_of(frame, np.zeros((18, 3), np.float32)))
    assert np.isnan(sharpness_of(frame, keypoints_at((-500, 0, 20))))


def test_the_colour_of_the_torso() -> None:
    frame = painted(1, (96, 128), lambda i: [((60, 30, 20), (200, 40, 40))])[0]
    red = cielab(np.array([203.0, 43, 43]))
    assert np.linalg.norm(torso_colour(frame, keypoints_at((60, 30, 20))) - red) < 3
    side = keypoints_at((60, 30, 20))
    side[[2, 5, 8, 11], 0] = 60  # a side view: shoulders behind one another
    assert np.linalg.norm(torso_colour(frame, side) - red) < 3
    assert np.isnan(torso_colour(frame, keypoints_at((-90, 30, 20)))).all()
    side[8, 2] = 0
    assert np.isnan(torso_colour(frame, side)).all()


def test_cielab() -> None:
    assert cielab(np.array([255.0, 255, 255])) == pytest.approx([100, 0, 0], abs=0.1)
    assert cielab(np.array([0.0, 0, 0])) == pytest.approx([0, 0, 0], abs=0.1)
    assert cielab(np.array([255.0, 0, 0])) == pytest.approx([53.2, 80.1, 67.2], abs=0.2)
