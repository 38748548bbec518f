"""Vectors and rotations, over any leading axes."""

import numpy as np

Array = np.ndarray


def unit(vectors: Array) -> Array:
    """Returns vectors [..., 3] scaled to length one."""
    return vectors / (np.sqrt(np.einsum("...i,...i->...", vectors, vectors))[..., None] + 1e-9)


def rotate(rotations: Array, vectors: Array) -> Array:
    """Applies rotations [F, 3, 3] to one vector [3] or to a vector a frame [F, 3]."""
    return np.einsum("fij,j->fi" if vectors.ndim == 1 else "fij,fj->fi", rotations, vectors)


def rotation_about(axis: str, angle: Array) -> Array:
    """Returns rotations [..., 3, 3] about the axis `x`, `y` or `z` by angle [...] in radians."""
    cosine, sine, zero, one = np.cos(angle), np.sin(angle), np.zeros_like(angle), np.ones_like(angle)
    rows = {
        "x": [one, zero, zero, zero, cosine, -sine, zero, sine, cosine],
        "y": [cosine, zero, sine, zero, one, zero, -sine, zero, cosine],
        "z": [cosine, -sine, zero, sine, cosine, zero, zero, zero, one],
    }[axis]
    return np.stack(rows, -1).reshape(*angle.shape, 3, 3)


def rotation_between(start: Array, end: Array) -> Array:
    """Returns the smallest rotations [F, 3, 3] that turn directions start [F, 3] into end [F, 3]."""
    start, end = unit(start), unit(end)
    axis = np.cross(start, end)
    cosine = (start * end).sum(-1)
    scale = 1 / (1 + np.maximum(cosine, -0.999))  # opposite directions have no smallest rotation: stay finite
    x, y, z = axis.T
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(-1, 3, 3)
    return np.eye(3) + cross + cross @ cross * scale[:, None, None]


def bend_limb(start: Array, target: Array, upper: float, lower: float, ahead: Array) -> tuple[Array, Array]:
    """Bends a limb of two bones towards a target: two-bone inverse kinematics.

    Args:
        start: where the limb is attached [F, 3]; target: where its end should be [F, 3].
        upper, lower: lengths of the bones, which are kept: towards a target out of reach the limb is straight.
        ahead: the direction in which the joint bends [F, 3], not along the limb.

    Returns:
        The joint, in the plane of start, target and `ahead`, and the end of the limb [F, 3] each.
    """
    reach = target - start
    direction = unit(reach)
    distance = np.clip(np.linalg.norm(reach, axis=1), 0.35 * (upper + lower), 0.998 * (upper + lower))
    cosine = np.clip((upper**2 + distance**2 - lower**2) / (2 * upper * distance), -1, 1)
    outward = unit(ahead - (ahead * direction).sum(1, keepdims=True) * direction)
    joint = start + direction * (cosine * upper)[:, None] + outward * (np.sqrt(1 - cosine**2) * upper)[:, None]
    return joint, start + direction * distance[:, None]


def vertex_normals(vertices: Array, faces: Array) -> Array:
    """Returns unit normals [V, 3] of a mesh: vertices [V, 3], faces [T, 3]; larger faces weigh more."""
    first, second, third = (vertices[faces[:, corner]] for corner in range(3))
    face_normals = np.cross(second - first, third - first)
    normals = np.zeros_like(vertices)
    for axis in range(3):
        for corner in range(3):
            normals[:, axis] += np.bincount(faces[:, corner], face_normals[:, axis], len(vertices))
    return unit(normals)


def grid_faces(rows: int, columns: int, closed: bool) -> Array:
    """Returns the triangles [T, 3] of a grid of vertices numbered row by row.

    A `closed` grid joins its last column to the first.
    """
    first_row = np.arange(rows - 1)[:, None] * columns
    column = np.arange(columns if closed else columns - 1)[None]
    following = (column + 1) % columns
    a, b = first_row + column, first_row + following
    c, d = a + columns, b + columns
    return np.stack([np.stack([a, c, b], -1), np.stack([b, c, d], -1)], -2).reshape(-1, 3)
