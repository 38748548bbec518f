"""Meshes of tapered capsules: two half balls of any two radii and the cone between them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from entprog.synthetic.geometry import Array, grid_faces, unit

RINGS, SPOKES = 10, 14  # vertices along, the half balls' in equal shares, and around


@dataclass(frozen=True, slots=True)
class Capsule:
    """A moving capsule of a kind; start and end differ, are [F, 3] and keep their distance.

    Attributes:
        side: direction [F, 3] that the pattern is aligned with, not parallel to the capsule.
        radii: at start and end; `squash` is thickness / width, the width being along `side`.
    """

    kind: int
    start: Array
    end: Array
    side: Array
    radii: tuple[float, float]
    squash: float = 1.0


def capsule_mesh(capsules: Sequence[Capsule]) -> tuple[Array, Array, Array, Array]:
    """Makes one mesh of all capsules.

    Returns:
        Vertices and normals [F, V, 3], faces [T, 3], and the surface [V, 5]: the position in the frame of the
        capsule (along from its start, across along `side`, up), how near its tip, -1..1, and its kind.
    """
    start, end, side = (np.stack([getattr(one, name) for one in capsules], 1) for name in ("start", "end", "side"))
    axis = unit(end - start)
    across = unit(side - (side * axis).sum(-1, keepdims=True) * axis)
    basis = np.stack([axis, across, np.cross(axis, across)], -2)  # [F, P, 3, 3], in rows
    length = np.linalg.norm((end - start)[0], axis=-1)

    quarter = np.linspace(0, np.pi / 2, RINGS // 2)
    polar = np.repeat(np.concatenate([quarter, np.pi / 2 + quarter]), SPOKES)
    around = np.tile(np.linspace(0, 2 * np.pi, SPOKES, endpoint=False), RINGS)
    ball = np.stack([np.cos(polar), np.sin(polar) * np.cos(around), np.sin(polar) * np.sin(around)], 1)
    at_end = np.arange(len(ball)) < len(ball) // 2
    radius = np.where(at_end, *(np.array([[one.radii[place]] for one in capsules]) for place in (1, 0)))
    squash = np.array([[[1, 1, one.squash]] for one in capsules])
    local = ball * radius[..., None] * squash  # [P, V of a capsule, 3]
    local[..., 0] += at_end * length[:, None]
    tip, kind = np.broadcast_arrays(ball[:, 0], np.array([[float(one.kind)] for one in capsules]))

    vertices = local @ basis + start[:, :, None]
    normals = unit(ball / squash) @ basis
    faces = grid_faces(RINGS, SPOKES, closed=True) + np.arange(len(capsules))[:, None, None] * len(ball)
    surface = np.concatenate([local, tip[..., None], kind[..., None]], -1)
    flat = (len(start), -1, 3)
    return vertices.reshape(flat), normals.reshape(flat), faces.reshape(-1, 3), surface.reshape(-1, 5)
