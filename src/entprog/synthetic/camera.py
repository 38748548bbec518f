"""The camera of a scene: framed for the person's height, fixed or slowly panning, never following."""

from dataclasses import dataclass

import numpy as np

from entprog.synthetic.geometry import Array, unit
from entprog.synthetic.random import random_stream

# Bottom edge and span of the picture in heights of the person: raised and spread arms fit into both framings.
FULL_BODY = ((-0.07, -0.05), (1.22, 1.32))
HALF_BODY = ((0.35, 0.41), (0.85, 0.92))


@dataclass(frozen=True, slots=True)
class Camera:
    """A pinhole camera at `eye` [3]; rows of `axes` [3, 3] are right, down, forward; `focal` in pixels."""

    eye: Array
    axes: Array
    focal: float
    size: int

    def project(self, points: Array) -> tuple[Array, Array]:
        """Returns pixel coordinates [..., 2] and depths [...] of points [..., 3]."""
        seen = (points - self.eye) @ self.axes.T
        return self.focal * seen[..., :2] / seen[..., 2:] + self.size / 2, seen[..., 2]

    def rays(self) -> Array:
        """Returns the directions [S, S, 3] seen by the pixel centres, one unit along the view."""
        y, x = np.mgrid[0 : self.size, 0 : self.size] + 0.5
        centre = self.size / 2
        ahead = np.stack([(x - centre) / self.focal, (y - centre) / self.focal, np.ones_like(x)], -1)
        return ahead @ self.axes


@dataclass(frozen=True, slots=True)
class Framing:
    """The position of a scene's camera; angles in radians, `bottom` and `span` in heights of the person."""

    bottom: float
    span: float
    yaw: float
    pitch: float
    field_of_view: float
    pan: float  # amplitude; 0 for a fixed camera
    pan_seconds: float

    @property
    def is_static(self) -> bool:
        return self.pan == 0

    def camera(self, height: float, seconds: float, size: int) -> Camera:
        """Returns the camera at a time, for a person of that height in metres and a picture of that side."""
        target = np.array([0, 0, height * (self.bottom + self.span / 2)])
        yaw = self.yaw + self.pan * np.sin(2 * np.pi * seconds / self.pan_seconds)
        back = np.array([np.sin(yaw) * np.cos(self.pitch), -np.cos(yaw) * np.cos(self.pitch), np.sin(self.pitch)])
        eye = target + height * self.span / 2 / np.tan(self.field_of_view / 2) * back
        eye[2] = max(eye[2], 0.15)
        forward = unit(target - eye)
        right = unit(np.cross(forward, [0, 0, 1]))
        axes = np.stack([right, -np.cross(right, forward), forward])
        return Camera(eye, axes, 0.5 * size / np.tan(self.field_of_view / 2), size)


def draw_framing(seed: int, domain_name: str) -> Framing:
    """Draws the framing of a scene: one in four shows the upper body, one in four pans."""
    rng = random_stream("camera", seed, domain_name)
    bottom, span = HALF_BODY if rng.random() < 0.25 else FULL_BODY
    return Framing(
        bottom=rng.uniform(*bottom),
        span=rng.uniform(*span),
        yaw=float(np.clip(rng.normal(0, 0.3), -0.7, 0.7)),
        pitch=rng.uniform(-0.03, 0.2),
        field_of_view=np.deg2rad(rng.uniform(28, 42)),
        pan=rng.uniform(0.06, 0.15) * (rng.random() < 0.25),
        pan_seconds=rng.uniform(3, 6),
    )
