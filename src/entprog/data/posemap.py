"""Pose maps: keypoints drawn as the coloured limbs and joints of OpenPose."""

import numpy as np

LIMBS = np.array(
    [
        (1, 2),
        (1, 5),
        (2, 3),
        (3, 4),
        (5, 6),
        (6, 7),
        (1, 8),
        (8, 9),
        (9, 10),
        (1, 11),
        (11, 12),
        (12, 13),
        (1, 0),
        (0, 14),
        (14, 16),
        (0, 15),
        (15, 17),
    ]
)
COLOURS = np.array(
    [
        (255, 0, 0),
        (255, 85, 0),
        (255, 170, 0),
        (255, 255, 0),
        (170, 255, 0),
        (85, 255, 0),
        (0, 255, 0),
        (0, 255, 85),
        (0, 255, 170),
        (0, 255, 255),
        (0, 170, 255),
        (0, 85, 255),
        (0, 0, 255),
        (85, 0, 255),
        (170, 0, 255),
        (255, 0, 255),
        (255, 0, 170),
        (255, 0, 85),
    ],
    np.float32,
)
DRAWN_FROM = 0.5  # smallest visibility that is drawn: hidden keypoints are, those outside the picture are not
LIMB_SHADE = 0.6
CHUNK = 64  # maps drawn at once, which limits the memory
_PALETTE = np.concatenate([COLOURS[: len(LIMBS)] * LIMB_SHADE, COLOURS])
_LEVELS = 255


def draw_pose(keypoints: np.ndarray, size: int) -> np.ndarray:
    """Draws pose maps.

    A pixel takes the colour of the limb or joint that covers it most, dimmed by that cover; in a tie the
    later one wins, and joints come after limbs. Cover decreases smoothly with the distance to the middle of a
    limb, an ellipse as in OpenPose, or of a joint, a disc. Both are about size / 64 pixels thick and at least
    two.

    Args:
        keypoints: [..., 18, 3] in OpenPose-18 order: x, y in units of the side, visibility. A limb is drawn
            when both its ends have a visibility of 0.5 or more; ends may be outside the picture.
        size: side of the maps in pixels.

    Returns:
        Maps uint8 [..., size, size, 3] on black; each depends on its own pose only.

    Raises:
        ValueError: keypoints have another shape, or the size is below 1.
    """
    keypoints = np.asarray(keypoints, np.float32)
    if keypoints.shape[-2:] != (18, 3):
        raise ValueError(f"keypoints: got shape {keypoints.shape}; the last two axes must be (18, 3)")
    if size < 1:
        raise ValueError(f"size: got {size}; must be at least 1")
    poses = keypoints.reshape(-1, 18, 3)
    maps = np.empty((len(poses), size, size, 3), np.uint8)
    for start in range(0, len(poses), CHUNK):
        maps[start : start + CHUNK] = _draw_chunk(poses[start : start + CHUNK], size)
    return maps.reshape(*keypoints.shape[:-2], size, size, 3)


def draw_pose_in(keypoints: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pose maps uint8 [..., height, width, 3] of keypoints [..., 18, 3] with x and y in 0..1 of width and height.

    As `draw_pose` at the longer side, which fixes the thickness.
    """
    side = max(height, width)
    scaled = np.array(keypoints, np.float32)
    scaled[..., :2] *= np.array([width / side, height / side], np.float32)
    return np.ascontiguousarray(draw_pose(scaled, side)[..., :height, :width, :])


def half_width(size: int) -> float:
    """Returns half the thickness of limbs and joints in pixels, without their soft edge."""
    return max(0.65, size / 128)


def _draw_chunk(poses: np.ndarray, size: int) -> np.ndarray:
    """Draws poses [N, 18, 3]: all pixels of all bounding boxes in one list, the best cover of each kept."""
    visible = poses[..., 2] >= DRAWN_FROM
    places = np.where(visible[..., None], poses[..., :2], 0) * np.float32(size)
    # A joint is a limb of length zero.
    ends = np.concatenate([LIMBS, np.repeat(np.arange(18)[:, None], 2, 1)])
    drawn = visible[:, ends[:, 0]] & visible[:, ends[:, 1]]
    pose, shape = np.nonzero(drawn)
    first, second = places[pose, ends[shape, 0]], places[pose, ends[shape, 1]]

    reach = half_width(size) + 1.5
    low = np.clip(np.ceil(np.minimum(first, second) - reach - 0.5), 0, size).astype(np.int32)
    high = np.clip(np.floor(np.maximum(first, second) + reach - 0.5), -1, size - 1).astype(np.int32)
    extent = np.maximum(high - low + 1, 0)
    counts = extent[:, 0] * extent[:, 1]
    owner = np.repeat(np.arange(len(pose)), counts)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    row, column = np.divmod(place, np.maximum(extent[:, 0], 1)[owner])
    x, y = column + low[owner, 0], row + low[owner, 1]

    cover = _cover(first, second, shape, owner, x + np.float32(0.5), y + np.float32(0.5), size)
    key = np.round(cover * _LEVELS).astype(np.int32) * len(_PALETTE) + shape[owner].astype(np.int32)
    best = np.zeros(len(poses) * size * size, np.int32)
    np.maximum.at(best, (pose[owner] * size + y) * size + x, key)
    level, winner = np.divmod(best, len(_PALETTE))
    colours = _PALETTE[winner] * (level / np.float32(_LEVELS))[:, None]
    return np.round(colours).astype(np.uint8).reshape(len(poses), size, size, 3)


def _cover(
    first: np.ndarray,
    second: np.ndarray,
    shape: np.ndarray,
    owner: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    size: int,
) -> np.ndarray:
    """Returns how much of each pixel [P] its shape covers, 0..1."""
    width = np.float32(half_width(size))
    span = second - first
    length = np.maximum(np.hypot(span[:, 0], span[:, 1]), np.float32(1e-3))
    direction = span / length[:, None]
    from_middle = np.stack([x, y], 1) - ((first + second) / 2)[owner]
    ahead = direction[owner]
    along = (from_middle * ahead).sum(1) / (length / 2 + np.float32(0.5))[owner]
    across = (from_middle[:, 1] * ahead[:, 0] - from_middle[:, 0] * ahead[:, 1]) / (width + np.float32(0.35))
    limb = (np.float32(1.3) - along**2 - across**2) / np.float32(0.6)
    joint = (width + np.float32(0.8) - np.hypot(from_middle[:, 0], from_middle[:, 1])) / np.float32(0.6)
    return np.clip(np.where(shape[owner] < len(LIMBS), limb, joint), 0, 1)
