"""A triangle rasteriser: which triangle each pixel sees, and where in it."""

import numpy as np

from entprog.synthetic.geometry import Array

NEAR = 0.05  # metres: triangles that reach closer than this to the camera are dropped, not clipped
_EMPTY = np.int64(1 << 62)


def rasterise(points: Array, depth: Array, faces: Array, height: int, width: int) -> tuple[Array, Array]:
    """Finds the nearest triangle at each pixel centre.

    All triangles are scanned at once: the pixels of every bounding box in one long list, tested by edge
    functions, and the nearest kept by an integer key of (depth, index in the list), so equal depths resolve
    the same way everywhere. Triangles facing away are culled.

    Args:
        points: pixel coordinates of the vertices [V, 2], y down; depth: [V] metres along the view.
        faces: [T, 3].

    Returns:
        The triangle at each pixel [H, W] int32, -1 for none, and its perspective-correct barycentric
        coordinates [H, W, 3].
    """
    triangle = np.full(height * width, -1, np.int32)
    barycentric = np.zeros((height * width, 3), np.float32)
    a, b, c = (points[faces[:, corner]] for corner in range(3))
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    low = np.ceil(np.minimum(np.minimum(a, b), c) - 0.5).astype(np.int32)
    high = np.floor(np.maximum(np.maximum(a, b), c) - 0.5).astype(np.int32)
    low, high = np.maximum(low, 0), np.minimum(high, [width - 1, height - 1])
    extent = high - low + 1
    kept = np.flatnonzero((area < -1e-9) & (extent > 0).all(1) & (depth[faces].min(1) > NEAR))
    extent = extent[kept]
    counts = extent[:, 0] * extent[:, 1]
    total = int(counts.sum())
    if total:
        owner = np.repeat(np.arange(len(kept), dtype=np.int32), counts)
        place = np.arange(total, dtype=np.int32) - np.repeat(np.cumsum(counts) - counts, counts).astype(np.int32)
        row = place // extent[owner, 0]
        x = low[kept, 0][owner] + place - row * extent[owner, 0]
        y = low[kept, 1][owner] + row
        weight_a = _edge(b[kept], c[kept], area[kept], owner, x, y)
        weight_b = _edge(c[kept], a[kept], area[kept], owner, x, y)
        weight_c = 1 - weight_a - weight_b
        inside = (weight_a >= 0) & (weight_b >= 0) & (weight_c >= 0)
        owner, pixel = owner[inside], (y * width + x)[inside]
        weights = np.stack([weight_a[inside], weight_b[inside], weight_c[inside]], 1)
        weights *= (1 / depth[faces[kept]]).astype(np.float32)[owner]
        inverse_depth = weights.sum(1)
        weights /= inverse_depth[:, None]
        key = ((1 / inverse_depth * 1e5).astype(np.int64) << 32) | np.arange(len(owner))
        nearest = np.full(height * width, _EMPTY, np.int64)
        np.minimum.at(nearest, pixel, key)
        hit = np.flatnonzero(nearest < _EMPTY)
        winner = nearest[hit] & 0xFFFFFFFF
        triangle[hit] = kept[owner[winner]]
        barycentric[hit] = weights[winner]
    return triangle.reshape(height, width), barycentric.reshape(height, width, 3)


def interpolate(values: Array, corners: Array, barycentric: Array) -> Array:
    """Returns vertex values [V, C] at points given by corners [N, 3] and barycentric coordinates [N, 3]."""
    first, second, third = (values[corners[:, corner]] * barycentric[:, corner, None] for corner in range(3))
    return first + second + third


def shrink(image: Array, factor: int) -> Array:
    """Averages blocks of factor x factor pixels of an image [H, W, C]."""
    # Strided sums: several times faster than a mean over the axes of a block.
    total = np.zeros_like(image[::factor, ::factor])
    for row in range(factor):
        for column in range(factor):
            total += image[row::factor, column::factor]
    return total / factor**2


def _edge(start: Array, end: Array, area: Array, owner: Array, x: Array, y: Array) -> Array:
    """Returns the barycentric weight of the corner opposite to the edge, linear in the pixel centre."""
    slope_x = -(end[:, 1] - start[:, 1]) / area
    slope_y = (end[:, 0] - start[:, 0]) / area
    constant = -(slope_x * start[:, 0] + slope_y * start[:, 1])
    slope_x, slope_y, constant = (part.astype(np.float32) for part in (slope_x, slope_y, constant))
    return slope_x[owner] * (x + 0.5) + slope_y[owner] * (y + 0.5) + constant[owner]
