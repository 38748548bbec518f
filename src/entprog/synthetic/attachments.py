"""Meshes attached to the body: long hair and buns follow the head, skirts hang around the legs."""

from dataclasses import dataclass

import numpy as np

from entprog.synthetic.body import Body, Shape
from entprog.synthetic.clothes import BOTTOM, HAIR, Look
from entprog.synthetic.geometry import Array, grid_faces, unit, vertex_normals

SKIRT_ROWS, SKIRT_COLUMNS = 9, 24
HAIR_ROWS, HAIR_COLUMNS = 12, 19
WAIST_ABOVE_HIPS = 0.13  # metres


@dataclass(frozen=True, slots=True)
class Attachment:
    """A mesh: vertices and normals [F, V, 3], faces [T, 3] with both sides listed where both may be seen, the
    columns of `SurfacePoints` [V, 8] that carry its pattern, and the region it counts as."""

    vertices: Array
    normals: Array
    faces: Array
    surface: Array
    region: int


def build_attachments(body: Body, shape: Shape, look: Look, rotations: Array, heads: Array) -> list[Attachment]:
    """Builds the attachments of this look for the posed bones: rotations [F, B, 3, 3], heads [F, B, 3]."""
    attachments = []
    if look.hair_style in ("long", "bun"):
        attachments.append(_build_hair(body, shape, look.hair_style, rotations, heads))
    if look.wears_skirt:
        attachments.append(_build_skirt(body, shape, look, rotations, heads))
    return attachments


def _both_sides(faces: Array) -> Array:
    return np.concatenate([faces, faces[:, ::-1]])


def _surface_at(points: Array) -> Array:
    """Returns surface columns [V, 8] for points [V, 3] that belong to no arm, foot or head."""
    return np.concatenate([points, np.zeros((len(points), 5))], 1).astype(np.float32)


def _build_hair(body: Body, shape: Shape, style: str, rotations: Array, heads: Array) -> Attachment:
    left, right = (shape.keypoints[body.keypoint_index[name]] for name in ("left_ear", "right_ear"))
    centre = (left + right) / 2
    if style == "bun":
        points, faces = _sphere(np.array([0, centre[1] + 0.115, centre[2] + 0.09]), 0.05)
        seen = faces
    else:
        half_width = abs(left[0] - right[0]) / 2 + 0.012
        points, faces = _curtain(centre, half_width, shape.height - 0.05, centre[2] - 0.27)
        seen = _both_sides(faces)
    head = body.bone_index["head"]
    turn = rotations[:, head]
    vertices = np.einsum("fij,vj->fvi", turn, points - shape.joints[head]) + heads[:, head, None]
    normals = np.einsum("fij,vj->fvi", turn, vertex_normals(points, faces))
    return Attachment(vertices, normals, seen, _surface_at(points), HAIR)


def _curtain(centre: Array, half_width: float, top: float, low: float) -> tuple[Array, Array]:
    """Long hair: a sheet round the back of the head, open at the face, narrowing to the shoulders."""
    angle = np.linspace(-1.95, 1.95, HAIR_COLUMNS)
    height = np.linspace(top, low, HAIR_ROWS)[:, None]
    share = (height - low) / (top - low)
    radius = half_width * np.where(share > 0.55, 1, 0.78 + 0.4 * share)
    x = centre[0] + radius * np.sin(angle)
    y = centre[1] + 0.02 + 1.22 * radius * np.cos(angle)
    points = np.stack([x, y, np.broadcast_to(height, x.shape)], -1).reshape(-1, 3)
    return points, grid_faces(HAIR_ROWS, HAIR_COLUMNS, closed=False)


def _sphere(centre: Array, radius: float, rows: int = 9) -> tuple[Array, Array]:
    polar = np.linspace(0, np.pi, rows)[:, None]
    around = np.linspace(0, 2 * np.pi, 2 * rows, endpoint=False)
    flat = np.ones_like(around)
    points = np.stack([np.sin(polar) * np.cos(around), np.sin(polar) * np.sin(around), np.cos(polar) * flat], -1)
    return points.reshape(-1, 3) * radius + centre, grid_faces(rows, 2 * rows, closed=True)


def _build_skirt(body: Body, shape: Shape, look: Look, rotations: Array, heads: Array) -> Attachment:
    """Rings of ellipses from the waist down, each wide enough for both legs where it hangs."""
    hip_height = shape.joints[body.bone_index["uleg.L"]][2]
    near_hips = (np.abs(shape.vertices[:, 2] - hip_height) < 0.05) & (body.surface[:, 4] < 0.3)
    width = np.abs(shape.vertices[near_hips, 0]).max() + 0.02
    depth = 0.72 * width
    root = body.bone_index["root"]
    left_way, up = rotations[:, root, :, 0], rotations[:, root, :, 2]
    around = np.linspace(0, 2 * np.pi, SKIRT_COLUMNS, endpoint=False)
    rings, surface = [], []
    for share in np.linspace(0, 1, SKIRT_ROWS):
        left, right = (_along_leg(body, heads, side, look.way_down(share)) for side in "LR")
        centre = (left + right) / 2 + up * (WAIST_ABOVE_HIPS * (1 - share))
        difference = left - right
        half_gap = np.linalg.norm(difference, axis=1) / 2
        level = difference - (difference * up).sum(1, keepdims=True) * up
        across = unit(level + 1e-3 * left_way)
        forward = np.cross(up, across)
        widening, folds = min(1.0, 4 * share), 1 + 0.05 * share * np.sin(8 * around + look.phases[0])
        half_width = np.maximum(width * (0.86 + 0.14 * widening), half_gap + 0.52 * width) + look.skirt_flare * share
        half_depth = depth * (0.9 + 0.1 * widening) + 0.02 + 0.9 * look.skirt_flare * share
        x, y = half_width[:, None] * np.cos(around) * folds, half_depth * np.sin(around) * folds
        rings.append(centre[:, None] + across[:, None] * x[..., None] + forward[:, None] * y[..., None])
        # The pattern is laid out as if the cloth hung straight down, so it does not slide as the legs move.
        drop = body.rest_joint("uleg.L")[2] + WAIST_ABOVE_HIPS - share * (WAIST_ABOVE_HIPS + look.skirt_length * 0.5)
        surface.append(np.stack([width * np.cos(around), depth * np.sin(around), np.full_like(around, drop)], -1))
    vertices = np.stack(rings, 1).reshape(len(heads), -1, 3)
    faces = grid_faces(SKIRT_ROWS, SKIRT_COLUMNS, closed=True)
    normals = np.stack([vertex_normals(frame, faces) for frame in vertices])
    return Attachment(vertices, normals, _both_sides(faces), _surface_at(np.concatenate(surface)), BOTTOM)


def _along_leg(body: Body, heads: Array, side: str, way: float) -> Array:
    """Returns points [F, 3] on a leg: 0 hip, 1 knee, 2 ankle."""
    hip, knee, ankle = (heads[:, body.bone_index[f"{bone}.{side}"]] for bone in ("uleg", "lleg", "foot"))
    return hip + (knee - hip) * way if way <= 1 else knee + (ankle - knee) * (way - 1)
