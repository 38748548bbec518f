"""Rendered creatures: clips in the form of people's, of subjects that are no people, and a run that trains on them."""

from pathlib import Path

import numpy as np
import pytest

from entprog.data.posemap import draw_pose
from entprog.data.source import open_data
from entprog.synthetic import render_clip
from entprog.synthetic.clip import KEYPOINTS, draw_figure, draw_frame
from entprog.synthetic.creatures import EYE, Creature, draw_build, draw_creature, draw_hide
from entprog.synthetic.domains import ALL, CREATURES
from entprog.synthetic.gaits import draw_gait
from entprog.synthetic.geometry import bend_limb
from entprog.synthetic.scene import draw_scene
from entprog.train.run import train
from tiny import lines, tiny_config

SMALL = {"frames": 2, "size": 32, "domain": "creatures"}
LIMBS = [("shoulder", "elbow", "wrist"), ("hip", "knee", "ankle")]


def seed_of(kind: str) -> int:
    """The first motion seed of that kind."""
    return next(seed for seed in range(40) if draw_creature(0, seed, CREATURES, 1, 12.0).motion_kind == kind)


def test_a_clip_has_the_form_of_one_of_people_and_is_a_function_of_its_seeds() -> None:
    clip, again = (render_clip(1, 2, 3, **SMALL) for _ in range(2))
    assert clip.frames.shape == (2, 32, 32, 3) and clip.frames.dtype == np.uint8
    assert clip.keypoints.shape == (2, 18, 3) and clip.keypoints.dtype == np.float32
    assert set(np.unique(clip.keypoints[..., 2])) <= {0, 0.5, 1}
    assert clip.motion_kind in CREATURES.motions
    np.testing.assert_array_equal(clip.frames, again.frames)
    np.testing.assert_array_equal(clip.keypoints, again.keypoints)
    for change in ({"subject": 9}, {"motion": 9}, {"scene": 9}, {"domain": "all"}):
        arguments: dict = {"subject": 1, "motion": 2, "scene": 3, **SMALL, **change}
        assert not np.array_equal(render_clip(**arguments).frames, clip.frames), change
    assert draw_pose(clip.keypoints, 32).any()


def test_only_this_domain_shows_creatures() -> None:
    assert isinstance(draw_figure(0, 0, CREATURES, 1, 12.0), Creature)
    assert not isinstance(draw_figure(0, 0, ALL, 1, 12.0), Creature)
    assert not set(CREATURES.motions) & set(ALL.motions)
    assert (CREATURES.backgrounds, CREATURES.floors) == (ALL.backgrounds, ALL.floors)


def test_a_subject_keeps_build_and_hide_whatever_the_motion() -> None:
    first, second = (draw_creature(7, motion, CREATURES, 2, 12.0) for motion in (0, 1))
    assert first.height == second.height
    np.testing.assert_array_equal(first.faces, second.faces)
    np.testing.assert_allclose(first.surface, second.surface, atol=1e-6)
    np.testing.assert_allclose(first.look.colours(first.surface), second.look.colours(second.surface), atol=1e-6)
    assert np.abs(first.vertices - second.vertices).max() > 0.05


def test_bones_keep_their_lengths() -> None:
    for kind in CREATURES.motions:
        creature = draw_creature(3, seed_of(kind), CREATURES, 12, 12.0)
        joints = {name: creature.keypoints[:, place] for place, name in enumerate(KEYPOINTS)}
        for names in LIMBS:
            for side in ("left", "right"):
                root, middle, end = (joints[f"{side}_{name}"] for name in names)
                for bone in (middle - root, end - middle):
                    assert np.ptp(np.linalg.norm(bone, axis=1)) < 1e-6, (kind, names, side)


def test_subjects_differ() -> None:
    builds = [draw_build(seed, CREATURES) for seed in range(60)]
    hides = [draw_hide(seed, CREATURES) for seed in range(60)]
    assert len({build.height for build in builds}) == len({tuple(hide.first) for hide in hides}) == 60
    assert {hide.pattern for hide in hides} == set(CREATURES.tops)
    for hide in hides:
        red, green, blue = hide.first
        assert not red > green > blue, "a colour between red and yellow, as skin has"
        assert hide.first.max() - hide.first.min() > 0.25 and np.abs(hide.first - hide.second).max() > 0.05


def test_the_eyes_are_white_with_dark_pupils() -> None:
    creature = draw_creature(2, 0, CREATURES, 1, 12.0)
    eye = creature.surface[:, 4] == EYE
    assert {round(float(shade), 2) for shade in creature.look.colours(creature.surface)[eye].ravel()} == {0.04, 0.95}


@pytest.mark.parametrize("kind", CREATURES.motions)
def test_more_frames_extend_a_movement(kind: str) -> None:
    build = draw_build(0, CREATURES)
    short, long = (draw_gait(seed_of(kind), CREATURES, count, 12.0, build.clearance, build.feet) for count in (5, 40))
    for field in ("place", "turns", "feet"):
        np.testing.assert_allclose(getattr(long, field)[:5], getattr(short, field), atol=1e-12)
        assert np.ptp(getattr(long, field), axis=0).max() > 0.01
        assert np.abs(np.diff(getattr(long, field), axis=0)).max() < 0.45, "nothing jumps"
    assert long.feet[..., 2].min() > -1e-9


def test_a_standing_foot_does_not_slide() -> None:
    build = draw_build(0, CREATURES)
    gait = draw_gait(seed_of("scuttle"), CREATURES, 60, 24.0, build.clearance, build.feet)
    slide = np.linalg.norm(np.diff(gait.feet, axis=0), axis=-1)
    down = (gait.feet[1:, :, 2] == build.feet[0, 2]) & (gait.feet[:-1, :, 2] == build.feet[0, 2])
    assert 0.3 < down.mean() < 0.7
    assert slide[down].max() < 1e-12 < 1e-3 < slide[~down].max()


def test_keypoints_lie_on_the_creature_and_most_are_seen() -> None:
    inside, seen, on = [], [], []
    for seed in range(16):
        scene = draw_scene(seed, CREATURES)
        clip = render_clip(seed, seed, seed, frames=1, size=64, domain="creatures")
        visibility = clip.keypoints[0, :, 2]
        seen.append((visibility == 1).sum() / max((visibility > 0).sum(), 1))
        if scene.framing.bottom > 0:
            continue
        creature = draw_creature(seed, seed, CREATURES, 1, 12.0)
        camera = scene.framing.camera(creature.height, 0.0, 96)
        _, depth = draw_frame(creature, 0, scene, camera, scene.draw(camera))
        place, _ = camera.project(creature.keypoints[0])
        within = ((place >= 0) & (place < 96)).all(1)
        columns, rows = place[within].astype(int).T
        inside.append(within.mean())
        on.append(np.isfinite(depth[rows, columns]).mean())
        assert 0.04 < np.isfinite(depth).mean() < 0.5
    assert np.mean(inside) > 0.95
    assert np.mean(on) > 0.93
    assert 0.6 < np.mean(seen) < 0.98


def test_a_bent_limb_reaches_what_is_in_reach_and_points_at_what_is_not() -> None:
    start, ahead = np.zeros((2, 3)), np.array([[0.0, 0, 1], [0, 0, 1]])
    target = np.array([[1.0, 0, 0], [9, 0, 0]])
    joint, end = bend_limb(start, target, 1.0, 0.8, ahead)
    np.testing.assert_allclose(end[0], target[0])
    np.testing.assert_allclose(end[1], [0.998 * 1.8, 0, 0])
    for part, length in ((joint, 1.0), (end - joint, 0.8)):
        np.testing.assert_allclose(np.linalg.norm(part, axis=1), length)
    assert joint[0, 2] > 0.5


def test_a_run_trains_on_creatures(tmp_path: Path) -> None:
    data = {"domain": "creatures", "subjects": 3, "holdout": 2, "frames": 4, "sizes": (16, 32), "workers": 1}
    config = tiny_config(
        tmp_path / "run", tmp_path, method="full", data__path="", data__cache=str(tmp_path / "cache"),
        phases__subject__steps=0, phases__pose__steps=4, phases__video__steps=0,
        **{f"data__{key}": value for key, value in data.items()},
    )  # fmt: skip
    folder = train(config)
    assert len(lines(folder / "log.jsonl")) == 4
    rows = open_data(config.data, progress=False).rows
    assert len(rows) == 10 and all(row.source.startswith("rendered:creatures:") for row in rows)
    assert not set.intersection(
        *({row.subject for row in rows if row.split == split} for split in ("train", "holdout"))
    )
