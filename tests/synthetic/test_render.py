"""The renderer: what each seed decides, that the pose fits the picture, and that the domains differ."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from entprog.synthetic import render_clip
from entprog.synthetic.body import SurfacePoints, deform, load_body
from entprog.synthetic.clip import KEYPOINTS, draw_frame, draw_person
from entprog.synthetic.clothes import BOTTOM, SKIN_TONES, draw_look
from entprog.synthetic.domains import ALL, SOURCE, TARGET, Domain
from entprog.synthetic.motion import draw_movement
from entprog.synthetic.raster import rasterise, shrink
from entprog.synthetic.scene import draw_scene

SMALL = {"frames": 2, "size": 32}
SHARED = {
    "garments": {"trousers", "shorts"},
    "bottoms": {"plain"},
    "backgrounds": {"plain"},
    "floors": {"plain"},
}


def static_scene(domain: Domain) -> int:
    return next(seed for seed in range(20) if draw_scene(seed, domain).framing.is_static)


def test_a_clip_has_the_promised_form() -> None:
    clip = render_clip(1, 2, 3, **SMALL)
    assert clip.frames.shape == (2, 32, 32, 3) and clip.frames.dtype == np.uint8
    assert clip.keypoints.shape == (2, 18, 3) and clip.keypoints.dtype == np.float32
    assert set(np.unique(clip.keypoints[..., 2])) <= {0, 0.5, 1}
    assert clip.motion_kind in TARGET.motions
    assert len(KEYPOINTS) == 18


def test_equal_seeds_give_equal_bytes_even_in_another_process() -> None:
    clip = render_clip(1, 2, 3, **SMALL)
    digest = hashlib.sha256(clip.frames.tobytes() + clip.keypoints.tobytes()).hexdigest()
    program = (
        "import hashlib; from entprog.synthetic import render_clip;"
        "clip = render_clip(1, 2, 3, frames=2, size=32);"
        "print(hashlib.sha256(clip.frames.tobytes() + clip.keypoints.tobytes()).hexdigest())"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == digest


@pytest.mark.parametrize("change", ["subject", "motion", "scene", "domain"])
def test_every_seed_matters(change: str) -> None:
    arguments: dict = {"subject": 1, "motion": 2, "scene": 3, "domain": "target", **SMALL}
    changed = arguments | {change: "source" if change == "domain" else 9}
    assert not np.array_equal(render_clip(**arguments).frames, render_clip(**changed).frames)


@pytest.mark.parametrize("domain", [SOURCE, TARGET])
def test_another_motion_keeps_the_background(domain: Domain) -> None:
    scene = draw_scene(static_scene(domain), domain)
    camera = scene.framing.camera(1.7, 0.0, 64)
    backdrop = scene.draw(camera)
    for motion in (0, 1):
        person = draw_person(load_body(), 5, motion, domain, 2, 12.0)
        image, depth = draw_frame(person, 1, scene, camera, backdrop)
        beside = ~np.isfinite(depth)
        assert 0.02 < 1 - beside.mean() < 0.6
        untouched = beside & ~backdrop.is_floor  # shadows fall on the floor alone
        np.testing.assert_array_equal(image[untouched], backdrop.image[untouched])
        assert (image[beside] <= backdrop.image[beside]).all()


def test_a_fixed_camera_shows_the_same_corners_in_every_clip() -> None:
    seed = static_scene(TARGET)
    first, second = (render_clip(4, motion, seed, **SMALL).frames for motion in (0, 1))
    assert (first == second).all(-1).mean() > 0.4
    np.testing.assert_array_equal(first[:, :4, :4], second[:, :4, :4])


def test_about_one_scene_in_four_pans_and_one_in_four_shows_the_upper_body() -> None:
    framings = [draw_scene(seed, TARGET).framing for seed in range(200)]
    assert 0.15 < np.mean([not framing.is_static for framing in framings]) < 0.35
    assert 0.15 < np.mean([framing.bottom > 0 for framing in framings]) < 0.35


def test_a_subject_keeps_body_and_clothes_whatever_the_motion() -> None:
    first, second = (draw_person(load_body(), 7, motion, TARGET, 1, 12.0) for motion in (0, 1))
    assert first.height == second.height
    np.testing.assert_array_equal(first.look.top_colours, second.look.top_colours)
    np.testing.assert_array_equal(first.faces, second.faces)


def test_more_frames_extend_a_movement() -> None:
    for seed in range(12):
        short, long = (draw_movement(seed, ALL, frames, 12.0, 0.8) for frames in (5, 40))
        for field in (
            "yaw",
            "feet_yaw",
            "root",
            "lean",
            "look",
            "foot",
            "foot_pitch",
            "upper_arm",
            "forearm",
        ):
            np.testing.assert_allclose(getattr(long, field)[:5], getattr(short, field), atol=1e-12)


@pytest.mark.parametrize("domain", [SOURCE, TARGET])
def test_people_fill_the_picture_and_stay_in_it(domain: Domain) -> None:
    inside, heights = [], []
    for seed in range(12):
        scene = draw_scene(seed, domain)
        person = draw_person(load_body(), seed, seed, domain, 8, 6.0)
        for frame in (0, 7):
            camera = scene.framing.camera(person.height, frame / 6, 64)
            place, _ = camera.project(person.keypoints[frame])
            upper = place[:8]  # head, shoulders, arms
            inside.append(((upper >= 0) & (upper < 64)).all(1).mean())
            if scene.framing.bottom < 0:
                points, _ = camera.project(person.vertices[frame])
                heights.append(np.ptp(points[:, 1]) / 64)
    assert np.mean(inside) > 0.97
    assert np.median(heights) > 0.7


def test_seen_keypoints_lie_on_the_person() -> None:
    scene = draw_scene(static_scene(TARGET), TARGET)
    for seed in range(4):
        person = draw_person(load_body(), seed, seed, TARGET, 1, 12.0)
        camera = scene.framing.camera(person.height, 0.0, 96)
        _, depth = draw_frame(person, 0, scene, camera, scene.draw(camera))
        place, _ = camera.project(person.keypoints[0])
        columns, rows = place[((place >= 0) & (place < 96)).all(1)].astype(int).T
        assert np.isfinite(depth[rows, columns]).mean() > 0.85
    nose = KEYPOINTS.index("nose")
    assert person.keypoints[0, nose, 2] > person.keypoints[0, KEYPOINTS.index("left_ankle"), 2]


def test_domains_are_apart() -> None:
    for field in ("body_rows", "hair", "garments", "tops", "bottoms", "backgrounds", "floors", "motions"):
        source, target = (set(getattr(domain, field)) for domain in (SOURCE, TARGET))
        assert source & target == SHARED.get(field, set())
        assert set(getattr(ALL, field)) == source | target
    looks = {domain.name: [draw_look(seed, domain) for seed in range(40)] for domain in (SOURCE, TARGET)}
    assert not any(look.wears_skirt for look in looks["source"])
    assert sum(look.wears_skirt for look in looks["target"]) > 10
    for kind in ("hair_style", "top"):
        drawn = [{getattr(look, kind) for look in looks[name]} for name in ("source", "target")]
        assert not drawn[0] & drawn[1]


def test_skin_stays_natural() -> None:
    for seed in range(200):
        red, green, blue = draw_look(seed, ALL).skin
        assert red > green > blue
        assert SKIN_TONES[-1, 0] * 0.95 < red <= 1


def test_the_body_at_rest_is_left_as_it_is() -> None:
    body = load_body()
    still = np.broadcast_to(np.eye(3), (1, len(body.bones), 3, 3))
    points, _ = deform(body.rest.vertices, body.skin_weights, body.rest.joints, still, body.rest.joints[None])
    np.testing.assert_allclose(points[0], body.rest.vertices, atol=1e-5)
    assert 1.4 < np.ptp(body.rest.vertices[:, 2]) < 2.0


def test_the_rasteriser_keeps_the_nearest_triangle_and_corrects_for_perspective() -> None:
    points = np.array([[0, 0], [0, 8], [8, 0], [0, 0], [0, 8], [8, 0]], float)
    depth = np.array([1, 2, 4, 0.5, 0.5, 0.5])
    faces = np.array([[0, 1, 2], [3, 4, 5], [0, 2, 1]])
    triangle, weights = rasterise(points, depth, faces, 8, 8)
    assert set(np.unique(triangle)) == {-1, 1}
    triangle, weights = rasterise(points, depth, faces[[0, 2]], 8, 8)
    hit = triangle == 0
    np.testing.assert_allclose(weights[hit].sum(1), 1, atol=1e-5)
    centre = np.stack(np.nonzero(hit), 1)[:, ::-1] + 0.5
    share = np.stack([1 - centre.sum(1) / 8, centre[:, 1] / 8, centre[:, 0] / 8], 1)
    np.testing.assert_allclose(weights[hit] @ depth[:3], 1 / (share @ (1 / depth[:3])), rtol=1e-4)


def test_shrinking_averages_blocks() -> None:
    image = np.arange(4 * 4 * 3, dtype=np.float32).reshape(4, 4, 3)
    np.testing.assert_allclose(shrink(image, 2), image.reshape(2, 2, 2, 2, 3).mean((1, 3)))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("frames", 0),
        ("size", 15),
        ("subject", -1),
        ("motion", -1),
        ("scene", -2),
        ("supersample", 0),
        ("fps", 0.0),
    ],
)
def test_errors_name_field_and_value(field: str, value: float) -> None:
    arguments: dict = {"subject": 0, "motion": 0, "scene": 0, field: value}
    with pytest.raises(ValueError, match=f"{field}: got {value}"):
        render_clip(**arguments)


def test_an_unknown_domain_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'tartget'; choose one of all, creatures, source, target"):
        render_clip(0, 0, 0, domain="tartget")


def test_a_skirt_shows_the_colours_of_its_look() -> None:
    body = load_body()
    seed = next(seed for seed in range(40) if draw_look(seed, TARGET).garment == "skirt")
    person = draw_person(body, seed, 0, TARGET, 1, 12.0)
    below = SurfacePoints(*person.surface[person.faces[person.face_region == BOTTOM]].reshape(-1, 8).T)
    colours = person.look.colours(body, below, np.full(len(below.x), BOTTOM))
    shown = (np.abs(colours[:, None] - person.look.bottom_colours).max(-1) < 1e-6).any(1)
    assert shown.mean() > 0.7  # the rest is the belt
