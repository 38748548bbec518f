"""Creatures that are not people: a fat or a slim trunk, a head on a neck, and four limbs that radiate from it.

All parts are capsules. In the pose the front limbs are the arms, the hind ones the legs, so that poses, shards and
training are as with people. Proportions are in heights of the creature, angles in radians.
"""

from dataclasses import dataclass

import numpy as np

from entprog.synthetic.capsules import Capsule, capsule_mesh
from entprog.synthetic.clothes import colour_from_hsv
from entprog.synthetic.domains import Domain
from entprog.synthetic.gaits import Gait, draw_gait
from entprog.synthetic.geometry import Array, bend_limb, rotate, rotation_about, unit
from entprog.synthetic.random import choose, random_stream

TRUNK, HEAD, LIMB, TOE, EYE, HORN = range(6)
SIDES = np.array([-1, 1, -1, 1])  # sign of x of the limbs: right and left in front, right and left behind
TOE_LENGTH = 0.07
HUES = (0.2, 0.95)  # from lime by green, blue and violet to crimson: no human skin has them


@dataclass(frozen=True, slots=True)
class Build:
    """The proportions of a creature; pairs are (front, hind)."""

    height: float  # metres: the height of a person for the camera
    trunk: float  # half the length, without its round ends
    girth: tuple[float, float]
    squash: float  # thickness of the trunk by its width
    pitch: float  # of the trunk: 0 level, pi / 2 upright
    clearance: float  # of the middle of the trunk above the ground
    neck: float
    neck_pitch: float
    head: float
    muzzle: float
    eye: float
    stalk: float
    horn: float
    tail: float
    limb: float  # radius
    stance: tuple[float, float]  # how far out the feet stand
    azimuth: tuple[float, float]  # of the limbs: 0 ahead, pi behind
    slack: tuple[float, float]  # length of a limb by the way from trunk to foot
    knee_up: float  # 0 outwards, 1 upwards

    @property
    def feet(self) -> Array:
        """Positions of the ankles on the ground below the trunk [4, 3]: x left, -y ahead."""
        azimuth, stance = np.repeat(self.azimuth, 2), np.repeat(self.stance, 2)
        return np.stack([SIDES * stance * np.sin(azimuth), -stance * np.cos(azimuth), np.full(4, 1.6 * self.limb)], 1)


@dataclass(frozen=True, slots=True)
class Hide:
    """The pattern of a creature and its colours [3] in 0..1; scale in radians a height, phases [3]."""

    pattern: str
    first: Array
    second: Array
    toe: Array
    scale: float
    phases: Array

    def colours(self, surface: Array) -> Array:
        """Returns the unlit colours [N, 3] float32 of points of a surface [N, 5]."""
        part, tip = np.round(surface[:, 4]), surface[:, 3]
        colour = np.where(self._is_second(surface[:, :3], part)[:, None], self.second, self.first)
        colour[(part == TOE) | (part == HORN)] = self.toe
        colour[(part == HEAD) & (tip > 0.9)] *= 0.3  # the nose
        eye = part == EYE
        colour[eye] = np.where(tip[eye] > 0.72, 0.04, 0.95)[:, None]
        return colour.astype(np.float32)

    def _is_second(self, place: Array, part: Array) -> Array:
        """Returns where the second colour shows [N], from places [N, 3] along, across and up the part."""
        along, across, up = (place * self.scale).T
        match self.pattern:
            case "stripes":
                return np.sin(along * 1.5 + self.phases[0]) > 0.1
            case "spots":
                return np.sin(along) * np.sin(across + 0.8) + np.sin(up) ** 2 > 1.05
            case "patches":
                waves = 0.6 * np.stack([along + across, across - up, up + along], 1)
                return np.sin(waves + self.phases).sum(1) > 0.5
            case "belly":
                return ((part == TRUNK) | (part == HEAD)) & (place[:, 2] < -0.02)
            case "socks":
                return (part == LIMB) & (place[:, 0] > 0.12)
        return np.zeros(len(place), bool)


@dataclass(frozen=True, slots=True)
class Creature:
    """A creature in motion as one mesh, in the form of a `Person`; its surface [V, 5] is that of its capsules.

    Attributes:
        ground_contacts: feet and trunk [F, 5, 3], which cast shadows.
    """

    vertices: Array
    normals: Array
    keypoints: Array
    faces: Array
    surface: Array
    ground_contacts: Array
    height: float
    look: Hide
    motion_kind: str

    def paint(self, triangle: Array, surface: Array, normal: Array, to_camera: Array) -> tuple[Array, Array]:
        """Returns unlit colours and normals [N, 3] of points of the surface (see `Person.paint`)."""
        return self.look.colours(surface), normal


def draw_creature(subject: int, motion: int, domain: Domain, frames: int, fps: float) -> Creature:
    """Draws the creature of a subject seed, moving by a motion seed, as a mesh for every frame."""
    build = draw_build(subject, domain)
    gait = draw_gait(motion, domain, frames, fps, build.clearance, build.feet)
    capsules, keypoints = _pose(build, gait)
    vertices, normals, faces, surface = capsule_mesh(capsules)
    return Creature(
        vertices=(vertices * build.height).astype(np.float32),
        normals=normals.astype(np.float32),
        keypoints=keypoints * build.height,
        faces=faces,
        surface=surface.astype(np.float32),
        ground_contacts=np.concatenate([gait.feet, gait.place[:, None]], 1) * build.height,
        height=build.height,
        look=draw_hide(subject, domain),
        motion_kind=gait.kind,
    )


def draw_build(seed: int, domain: Domain) -> Build:
    """Draws the proportions of a seed."""
    uniform = random_stream("build", seed, domain.name).uniform
    return Build(
        height=uniform(1.3, 1.8),
        trunk=uniform(0.03, 0.15),
        girth=(uniform(0.07, 0.16), uniform(0.08, 0.2)),
        squash=uniform(0.7, 1.1),
        pitch=uniform(-0.1, 1.1),
        clearance=uniform(0.44, 0.58),
        neck=uniform(0.08, 0.2),
        neck_pitch=uniform(0.5, 1.4),
        head=uniform(0.06, 0.13),
        muzzle=uniform(0.02, 0.12),
        eye=uniform(0.028, 0.05),
        stalk=uniform(0.0, 0.09),
        horn=uniform(0.04, 0.16),
        tail=uniform(0.02, 0.3),
        limb=uniform(0.02, 0.048),
        stance=(uniform(0.28, 0.4), uniform(0.28, 0.4)),
        azimuth=(uniform(0.8, 1.3), uniform(1.8, 2.4)),
        slack=(uniform(1.1, 1.5), uniform(1.1, 1.6)),
        knee_up=uniform(0.3, 1.0),
    )


def draw_hide(seed: int, domain: Domain) -> Hide:
    """Draws the pattern and the colours of a seed, saturated ones."""
    rng = random_stream("hide", seed, domain.name)
    low, span = HUES[0], HUES[1] - HUES[0]
    hue = rng.uniform(0, span)
    other = (hue + rng.uniform(0.25, 0.75) * span) % span
    return Hide(
        pattern=choose(rng, domain.tops),
        first=colour_from_hsv(low + hue, rng.uniform(0.6, 1), rng.uniform(0.5, 0.95)),
        second=colour_from_hsv(low + other, rng.uniform(0.5, 1), rng.uniform(0.25, 1)),
        toe=colour_from_hsv(rng.uniform(*HUES), rng.uniform(0.3, 1), rng.uniform(0.2, 0.95)),
        scale=rng.uniform(25, 55),
        phases=rng.uniform(0, 2 * np.pi, 3),
    )


def _pose(build: Build, gait: Gait) -> tuple[list[Capsule], Array]:
    """Returns the parts of a creature in a gait, and its keypoints [F, 18, 3]."""
    yaw, pitch, roll = gait.turns.T
    heading = rotation_about("z", yaw)
    turned = heading @ rotation_about("y", roll) @ rotation_about("x", -build.pitch - pitch)
    left, ahead, up = (rotate(turned, np.array(axis, float)) for axis in ([1, 0, 0], [0, -1, 0], [0, 0, 1]))
    front, hind = build.girth
    chest, rump = gait.place + build.trunk * ahead, gait.place - build.trunk * ahead
    behind = unit(rotate(heading, np.array([0, 1, 0.4])) + 8 * roll[:, None] * left - ahead)
    parts = [
        Capsule(TRUNK, rump, chest, left, (hind, front), build.squash),
        Capsule(TRUNK, rump, rump + (hind + build.tail) * behind, left, (0.5 * hind, 0.015)),
    ]
    looking = heading @ rotation_about("z", 2 * roll)
    head, (nose, *eyes_and_ears) = _pose_head(build, looking, chest)
    parts += head
    joints: list[Array] = []
    for limb, side in enumerate(SIDES):
        base, girth = (chest, front) if limb < 2 else (rump, hind)
        root = base + 0.75 * girth * unit(side * left - 0.4 * build.squash * up)
        pieces, bent = _pose_limb(build, heading, limb, root, gait.feet[:, limb])
        parts += pieces
        joints += bent
    neck = chest + 0.7 * front * unit(ahead + up)
    return parts, np.stack([nose, neck, *joints, *eyes_and_ears], 1)


def _pose_head(build: Build, looking: Array, chest: Array) -> tuple[list[Capsule], list[Array]]:
    """Returns the rotation [F, 3, 3] of the head on its neck, and nose, eyes and ears [F, 3] each."""

    def way(x: float, y: float, z: float) -> Array:
        return unit(rotate(looking, np.array([x, y, z])))

    left, gaze = way(1, 0, 0), way(0, -1, -0.1)
    reach = 0.7 * build.girth[0] + build.neck + 0.5 * build.head
    poll = chest + reach * way(0, -np.cos(build.neck_pitch), np.sin(build.neck_pitch))
    snout = poll + build.muzzle * gaze
    parts = [
        Capsule(TRUNK, chest, poll, left, (0.6 * build.girth[0], 0.55 * build.head)),
        Capsule(HEAD, poll, snout, left, (build.head, 0.75 * build.head), 0.9),
    ]
    eyes, ears = [], []
    for side in (-1, 1):
        ball = poll + (0.9 * build.head + build.stalk) * way(0.7 * side, -0.35, 0.8)
        glance = way(0.15 * side, -1, -0.1)
        tip = poll + (build.head + build.horn) * way(side, 0.4, 0.35)
        parts += [
            Capsule(HEAD, poll, ball, left, (0.025, 0.02)),
            Capsule(EYE, ball, ball + 0.004 * glance, left, (build.eye, build.eye)),
            Capsule(HORN, poll, tip, gaze, (0.35 * build.head, 0.012)),
        ]
        eyes.append(ball + build.eye * glance)
        ears.append(tip)
    return parts, [snout + 0.75 * build.head * gaze, *eyes, *ears]


def _pose_limb(
    build: Build, heading: Array, limb: int, root: Array, foot: Array
) -> tuple[list[Capsule], tuple[Array, Array, Array]]:
    """Returns a limb from its root that reaches for a foot, and its three joints [F, 3] each."""
    pair = limb // 2
    rising, outward = np.array([0, 0, 1]), unit(build.feet[limb] * [1, 1, 0])
    way_out = rotate(heading, outward)
    half = 0.5 * build.slack[pair] * float(np.hypot(build.stance[pair] - 0.5 * build.girth[pair], build.clearance))
    knee, ankle = bend_limb(root, foot, half, half, (1 - build.knee_up) * way_out + build.knee_up * rising)
    toe = ankle + TOE_LENGTH * unit(way_out - 0.25 * rising)
    side, thick = np.cross(rising, way_out), build.limb
    parts = [
        Capsule(LIMB, root, knee, side, (1.4 * thick, thick)),
        Capsule(LIMB, knee, ankle, side, (thick, 0.8 * thick)),
        Capsule(TOE, ankle, toe, side, (0.9 * thick, 1.1 * thick), 0.7),
    ]
    return parts, (root, knee, ankle)
