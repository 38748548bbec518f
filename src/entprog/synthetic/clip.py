"""One clip: a person or a creature from one seed, its motion from another, its scene from a third."""

from dataclasses import dataclass

import numpy as np

from entprog.synthetic.attachments import build_attachments
from entprog.synthetic.body import ADULT_AGE, Body, Shape, SurfacePoints, deform, load_body
from entprog.synthetic.camera import Camera
from entprog.synthetic.clothes import BOTTOM, TOP, Look, draw_look
from entprog.synthetic.creatures import Creature, draw_creature
from entprog.synthetic.domains import Domain, find_domain
from entprog.synthetic.geometry import Array, unit, vertex_normals
from entprog.synthetic.motion import draw_movement
from entprog.synthetic.random import random_stream
from entprog.synthetic.raster import interpolate, rasterise, shrink
from entprog.synthetic.scene import Backdrop, Scene, draw_scene
from entprog.synthetic.skeleton import pose_skeleton

# OpenPose-18. The neck is the middle of the shoulders.
KEYPOINTS = (
    "nose",
    "neck",
    "right_shoulder",
    "right_elbow",
    "right_wrist",
    "left_shoulder",
    "left_elbow",
    "left_wrist",
    "right_hip",
    "right_knee",
    "right_ankle",
    "left_hip",
    "left_knee",
    "left_ankle",
    "right_eye",
    "left_eye",
    "right_ear",
    "left_ear",
)
# A keypoint counts as seen when the surface in front of it is this close, in metres: those of the face are
# near the skin, the others inside the limbs.
FACE_DEPTH, BODY_DEPTH = 0.06, 0.27
YOUNG_SHARE = 0.3  # how often a drawn child or teenager is kept, relative to an adult


@dataclass(frozen=True, slots=True)
class RenderedClip:
    """A clip and its pose.

    Attributes:
        frames: uint8 [F, H, W, 3], sRGB.
        keypoints: float32 [F, 18, 3] in OpenPose-18 order: x, y in units of the side, 0..1 in the picture,
            and visibility: 1 seen, 0.5 hidden by the body, 0 outside the picture.
        motion_kind: what the person does, one of the domain's `motions`.
    """

    frames: Array
    keypoints: Array
    motion_kind: str


@dataclass(frozen=True, slots=True)
class Person:
    """A person in motion as one mesh: vertices, normals [F, V, 3], keypoints [F, K, 3]; other fields are fixed.

    Attributes:
        faces: [T, 3]; `face_region` [T] is the region of an attachment's face, -1 on the body itself.
        surface: columns of `SurfacePoints` [V, 8].
        ground_contacts: feet and hips [F, 3, 3], which cast shadows.
    """

    vertices: Array
    normals: Array
    keypoints: Array
    faces: Array
    face_region: Array
    surface: Array
    ground_contacts: Array
    height: float
    look: Look
    motion_kind: str

    def paint(self, triangle: Array, surface: Array, normal: Array, to_camera: Array) -> tuple[Array, Array]:
        """Returns unlit colours and normals [N, 3] of points of the surface.

        Args:
            triangle: faces the points lie on [N]; surface: columns of `SurfacePoints` there [N, 8].
            normal: of the smooth surface [N, 3]; to_camera: directions to the eye [N, 3].
        """
        body, points = load_body(), SurfacePoints(*surface.T)
        worn = self.face_region[triangle]
        regions = np.where(worn >= 0, worn, self.look.regions(body, points))
        inner_side = (worn >= 0) & (np.einsum("ni,ni->n", normal, to_camera) < 0)
        normal[inner_side] *= -1
        cloth = (regions == TOP) | (regions == BOTTOM)
        normal[cloth] += _folds(surface[cloth], self.look.phases)
        return self.look.colours(body, points, regions), unit(normal)


Figure = Person | Creature


def render_clip(
    subject: int,
    motion: int,
    scene: int,
    *,
    frames: int = 16,
    size: int = 64,
    fps: float = 12.0,
    domain: str = "target",
    supersample: int = 2,
) -> RenderedClip:
    """Renders a clip; equal arguments give equal bytes.

    Args:
        subject: seed of the person: body, skin, hair, clothes; or of the creature: build and hide.
        motion: seed of the movement alone; more frames extend it.
        scene: seed of the place, the light and the camera, which is aimed at the height of the subject and never
            follows: three scenes in four have a fixed camera, whose background is the same in every frame and
            clip where neither person nor shadow covers it.
        frames: number of frames, at least 1; size: side of the picture in pixels, at least 16; fps: above 0.
        domain: `source`, `target`, `all` or `creatures`: who, where and which movements are drawn (see `Domain`).
        supersample: each pixel averages a square of this many samples a side.

    Raises:
        ValueError: an argument is out of its range; the message names it.
    """
    chosen = find_domain(domain)
    for field, value, least in (
        ("subject", subject, 0),
        ("motion", motion, 0),
        ("scene", scene, 0),
        ("frames", frames, 1),
        ("size", size, 16),
        ("supersample", supersample, 1),
    ):
        if value < least:
            raise ValueError(f"{field}: got {value}; must be at least {least}")
    if not 0 < fps < float("inf"):
        raise ValueError(f"fps: got {fps}; must be a finite number above 0")

    figure = draw_figure(subject, motion, chosen, frames, fps)
    place = draw_scene(scene, chosen)
    side = size * supersample
    images = np.empty((frames, size, size, 3), np.uint8)
    keypoints = np.empty((frames, len(KEYPOINTS), 3), np.float32)
    camera = place.framing.camera(figure.height, 0.0, side)
    backdrop = place.draw(camera)
    for frame in range(frames):
        if not place.framing.is_static and frame > 0:
            camera = place.framing.camera(figure.height, frame / fps, side)
            backdrop = place.draw(camera)
        image, depth = draw_frame(figure, frame, place, camera, backdrop)
        images[frame] = np.round(shrink(image, supersample) * 255)
        keypoints[frame] = _see_keypoints(figure.keypoints[frame], camera, depth)
    return RenderedClip(images, keypoints, figure.motion_kind)


def draw_figure(subject: int, motion: int, domain: Domain, frames: int, fps: float) -> Figure:
    """Draws the person or creature of a subject seed in a domain, moving by a motion seed."""
    if domain.shows_people:
        return draw_person(load_body(), subject, motion, domain, frames, fps)
    return draw_creature(subject, motion, domain, frames, fps)


def draw_person(body: Body, subject: int, motion: int, domain: Domain, frames: int, fps: float) -> Person:
    """Draws the person of a subject seed, moving by a motion seed, as a mesh for every frame."""
    shape, look = _draw_shape(body, subject, domain), draw_look(subject, domain)
    hip, ankle = (shape.joints[body.bone_index[bone]] for bone in ("uleg.L", "foot.L"))
    movement = draw_movement(motion, domain, frames, fps, leg=float(hip[2] - ankle[2]))
    rotations, heads = pose_skeleton(body, shape.joints, movement)

    regions = look.regions(body, SurfacePoints(*body.surface.T))
    rest_normals = vertex_normals(shape.vertices, body.faces)
    dressed = shape.vertices + rest_normals * look.thickness_of(regions)[:, None].astype(np.float32)
    vertices, turns = deform(dressed, body.skin_weights, shape.joints, rotations, heads)
    keypoints, _ = deform(shape.keypoints, body.keypoint_weights, shape.joints, rotations, heads)
    normals = unit(np.einsum("fvij,vj->fvi", turns, rest_normals))

    worn = build_attachments(body, shape, look, rotations, heads)
    starts = np.cumsum([vertices.shape[1]] + [part.vertices.shape[1] for part in worn])
    feet = [heads[:, body.bone_index[f"foot.{side}"]] for side in "LR"]
    hips = [keypoints[:, body.keypoint_index[f"{side}_hip"]] for side in ("left", "right")]
    return Person(
        vertices=np.concatenate([vertices] + [part.vertices for part in worn], 1).astype(np.float32),
        normals=np.concatenate([normals] + [part.normals for part in worn], 1).astype(np.float32),
        keypoints=_order_keypoints(body, keypoints),
        faces=np.concatenate(
            [body.faces] + [part.faces + start for part, start in zip(worn, starts[:-1], strict=True)]
        ),
        face_region=np.concatenate(
            [np.full(len(body.faces), -1)] + [np.full(len(part.faces), part.region) for part in worn]
        ).astype(np.int8),
        surface=np.concatenate([body.surface] + [part.surface for part in worn]),
        ground_contacts=np.stack([*feet, (hips[0] + hips[1]) / 2], 1),
        height=shape.height,
        look=look,
        motion_kind=movement.kind,
    )


def draw_frame(figure: Figure, frame: int, scene: Scene, camera: Camera, backdrop: Backdrop) -> tuple[Array, Array]:
    """Draws one frame.

    Returns:
        The image [S, S, 3] in 0..1 and the depth of the figure [S, S] in metres, infinite outside it.
    """
    image = backdrop.image * (1 - _shadow(figure.ground_contacts[frame], backdrop))[..., None]
    points, vertex_depth = camera.project(figure.vertices[frame])
    triangle, barycentric = rasterise(points, vertex_depth, figure.faces, camera.size, camera.size)
    hit = triangle >= 0
    corners, weights = figure.faces[triangle[hit]], barycentric[hit]
    image[hit] = _shade(figure, frame, scene, camera, triangle[hit], corners, weights)
    depth = np.full(hit.shape, np.inf, np.float32)
    depth[hit] = interpolate(vertex_depth[:, None], corners, weights)[:, 0]
    return np.clip(image, 0, 1), depth


def _draw_shape(body: Body, seed: int, domain: Domain) -> Shape:
    """Mixes two people of the domain's half of the table, mostly adults."""
    rng = random_stream("body", seed, domain.name)
    rows = np.flatnonzero(np.isin(np.arange(len(body.coefficients)) % 2, domain.body_rows))
    share = np.where(body.ages[rows] < ADULT_AGE, YOUNG_SHARE, 1.0)
    first, second = body.coefficients[rng.choice(rows, 2, p=share / share.sum())]
    mix = rng.uniform(0, 0.35)
    return body.shape((1 - mix) * first + mix * second)


def _order_keypoints(body: Body, keypoints: Array) -> Array:
    """Returns the body's keypoints [F, K, 3] in OpenPose-18 order [F, 18, 3]."""
    shoulders = [keypoints[:, body.keypoint_index[f"{side}_shoulder"]] for side in ("left", "right")]
    neck = (shoulders[0] + shoulders[1]) / 2
    return np.stack([neck if name == "neck" else keypoints[:, body.keypoint_index[name]] for name in KEYPOINTS], 1)


def _shadow(contacts: Array, backdrop: Backdrop) -> Array:
    """Returns the share of light that the figure blocks at each pixel of the floor [S, S].

    There is a soft spot below each foot, wider when lifted, and one below the hips or the trunk. Faint rims are cut, so
    that the floor beyond does not change.
    """
    x, y = backdrop.ground[..., 0], backdrop.ground[..., 1]
    *feet, hips = contacts
    shadow = 0.22 * np.exp(-((x - hips[0]) ** 2 + (y - hips[1]) ** 2) / 0.12)
    for foot in feet:
        spread = 0.02 + 0.15 * max(foot[2] - 0.1, 0)
        shadow += 0.38 * np.exp(-((x - foot[0]) ** 2 + (y - foot[1] + 0.06) ** 2) / spread)
    return np.where(backdrop.is_floor, np.clip(shadow - 0.01, 0, 0.65), 0).astype(np.float32)


def _shade(
    figure: Figure, frame: int, scene: Scene, camera: Camera, triangle: Array, corners: Array, weights: Array
) -> Array:
    """Returns the lit colours [N, 3] of points of the figure: triangle [N], corners and weights [N, 3]."""
    surface = interpolate(figure.surface, corners, weights)
    normal = unit(interpolate(figure.normals[frame], corners, weights))
    place = interpolate(figure.vertices[frame], corners, weights)
    to_camera = unit((camera.eye - place).astype(np.float32))
    colour, normal = figure.paint(triangle, surface, normal, to_camera)

    diffuse = np.clip(normal @ scene.light.astype(np.float32), 0, None)
    from_sky = 0.5 + 0.5 * normal[:, 2]
    lit = scene.ambient * (0.7 + 0.3 * from_sky) + (1 - scene.ambient) * 1.05 * diffuse
    rim = 0.1 * (1 - np.abs(np.einsum("ni,ni->n", normal, to_camera))) ** 3
    return colour * lit[:, None] * scene.tint + rim[:, None]


def _folds(surface: Array, phases: Array) -> Array:
    """Returns how folds of cloth tilt the normals [N, 3]."""
    x, z = surface[:, 0], surface[:, 2]
    sideways = np.sin(z * 38 + 4 * np.sin(x * 17 + phases[1]))
    upward = np.sin(x * 31 + 5 * np.sin(z * 13 + phases[2]))
    return 0.16 * np.stack([sideways, np.zeros_like(x), upward], -1)


def _see_keypoints(keypoints: Array, camera: Camera, depth: Array) -> Array:
    """Returns keypoints [18, 3] as x, y in units of the side and visibility."""
    place, distance = camera.project(keypoints)
    side = camera.size
    column, row = np.clip(place.astype(int), 0, side - 1).T
    inside = ((place >= 0) & (place < side)).all(1)
    is_face = np.array([name.endswith(("nose", "eye", "ear")) for name in KEYPOINTS])
    seen = distance - depth[row, column] < np.where(is_face, FACE_DEPTH, BODY_DEPTH)
    visibility = np.where(inside, np.where(seen, 1.0, 0.5), 0.0)
    return np.concatenate([place / side, visibility[:, None]], 1).astype(np.float32)
