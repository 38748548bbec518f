"""From whole frames to one square or rectangle around the person: cuts, the crop, its pixels and keypoints.

Boxes are (x0, y0, side) in whole pixels of the frame; they may extend beyond it, where the edge is repeated.
Rectangles are (x0, y0, width, height) and never extend beyond the frame.
"""

from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Box = tuple[int, int, int]
Rectangle = tuple[int, int, int, int]

NOSE, NECK = 0, 1
BEYOND = ((NECK, NOSE, 0.9), (3, 4, 0.5), (6, 7, 0.5), (9, 10, 0.25), (12, 13, 0.25))
"""Body beyond the keypoints (from, to, share of the limb to extend by): top of the head, hands, feet."""
FACE = (0, 14, 15, 16, 17)
"""Nose, eyes, ears."""
FACE_SIDE = 1.7
"""Side of the square around a face, in distances from nose to neck."""
MARGIN = 0.08
VISIBLE = 0.5


def thumbnail(frame: np.ndarray, side: int = 64) -> np.ndarray:
    """A frame (uint8 [H,W,3]) at 64 x 64 pixels, float32 [64,64,3]: the mean of each area.

    Exactly `F.interpolate(..., mode="area")`, but whole numbers are added: that is faster.
    """
    height, width = frame.shape[:2]
    (top, bottom), (left, right) = _areas(height, side), _areas(width, side)
    rows = np.ascontiguousarray(frame).reshape(height, -1)
    if width % 2 or height > 255 * side:
        total = _added(rows.astype(np.uint32), top, bottom)
    else:  # two bytes at once; each sum of a column needs 16 bits at most
        pairs, total = rows.view("<u2"), np.empty((side, 3 * width), np.uint32)
        total[:, ::2], total[:, 1::2] = _added(pairs & 255, top, bottom), _added(pairs >> 8, top, bottom)
    edges = np.zeros((width + 1, side, 3), np.uint32)
    np.cumsum(total.reshape(side, width, 3).transpose(1, 0, 2), 0, out=edges[1:])
    sums = (edges[right] - edges[left]).transpose(1, 0, 2).astype(np.float32)
    down, across = (bottom - top).astype(np.float32), (right - left).astype(np.float32)
    return sums / down[:, None, None] / across[None, :, None]


def _areas(length: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last index + 1 of `count` areas that cover `length` pixels; they overlap where it is no multiple."""
    place = np.arange(count)
    return place * length // count, -(-(place + 1) * length // count)


def _added(rows: np.ndarray, first: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The sums of the rows [first, end) of each area."""
    total = rows[first]
    for step in range(1, int((end - first).max())):
        inside = (end - first > step)[:, None]
        np.add(total, rows[np.minimum(first + step, len(rows) - 1)], out=total, where=inside)
    return total


def histogram(frame: np.ndarray) -> np.ndarray:
    """Colours of a frame (uint8 [H,W,3]) in its four quarters: 8 x 8 x 8 bins each, summing to 1 in all."""
    return histogram_of(thumbnail(frame))


def histogram_of(small: np.ndarray) -> np.ndarray:
    """As `histogram`, of a frame's thumbnail."""
    bins = (small.astype(np.int64) // 32 * np.array([64, 8, 1])).sum(2)
    quarters = [bins[y : y + 32, x : x + 32].ravel() for y in (0, 32) for x in (0, 32)]
    return np.concatenate([np.bincount(quarter, minlength=512) for quarter in quarters]) / 4096


def is_cut(change: float, threshold: float = 0.25) -> bool:
    """Whether the colours changed so much between two frames (half the distance of histograms) that it may be a cut."""
    return change > threshold


def find_cuts(histograms: list[np.ndarray]) -> list[int]:
    """Indices of the frames that begin a new shot: a jump much larger than its neighbours."""
    return cuts_of(np.array([np.abs(b - a).sum() / 2 for a, b in pairwise(histograms)]))


def cuts_of(changes: np.ndarray) -> list[int]:
    """As `find_cuts`, of the distance of each frame's histogram from that before."""
    cuts = []
    for i, value in enumerate(changes):
        if is_cut(value) and value > 3 * np.median(changes[max(0, i - 6) : i + 7]) + 0.1:
            cuts.append(i + 1)
    return cuts


def person_box(keypoints: np.ndarray, width: int, height: int) -> Box | None:
    """One square that holds the person through a clip, as far as the frame shows them.

    Args:
        keypoints: [F,18,3] in pixels, visibility 0..1.
        width, height: of the frame, pixels.

    Returns:
        The box: the 2nd to 98th percentile, over frames, of the visible body's edges (so that a raised hand
        counts and one wrong frame does not), with a margin as far as it needs no pixels beyond the frame;
        moved inside the frame where it fits. None where no frame has a visible keypoint.
    """
    extent_of = _extent(keypoints, width, height)
    if extent_of is None:
        return None
    low, high = extent_of
    size = np.array([width, height])
    extent = float((high - low).max())
    side = int(np.ceil(max(extent, min(extent * (1 + 2 * MARGIN), width, height))))
    side = max(side, 1)
    start = np.round((low + high) / 2 - side / 2).astype(int)
    # inside the frame where the square fits, else centred on it: the least repeated edge
    x0, y0 = (int(np.clip(v, 0, n - side)) if side <= n else (n - side) // 2 for v, n in zip(start, size, strict=True))
    return int(x0), int(y0), side


def person_rectangle(keypoints: np.ndarray, width: int, height: int, aspect: float) -> Rectangle | None:
    """One rectangle of this aspect (width / height) that holds the person through a clip.

    As `person_box`, but inside the frame: where the person needs more, the largest rectangle in the frame's middle.
    """
    extent = _extent(keypoints, width, height)
    if extent is None:
        return None
    low, high = extent
    most = min(width, height * aspect)
    needed = max(float(high[0] - low[0]), float(high[1] - low[1]) * aspect)
    if needed > most:
        wide, (x, y) = most, (width / 2, height / 2)
    else:
        wide, (x, y) = min(needed * (1 + 2 * MARGIN), most), (low + high) / 2
    across, down = max(1, min(width, round(wide))), max(1, min(height, round(wide / aspect)))
    x0, y0 = (int(np.clip(round(c - n / 2), 0, most - n)) for c, n, most in ((x, across, width), (y, down, height)))
    return x0, y0, across, down


def _extent(keypoints: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray] | None:
    """The upper left and lower right corner of the visible body (see `person_box`), inside the frame."""
    beyond = []
    for start, end, share in BEYOND:
        a, b = keypoints[:, start], keypoints[:, end]
        point = b[:, :2] + share * (b[:, :2] - a[:, :2])
        beyond.append(np.concatenate([point, np.minimum(a, b)[:, 2:]], 1))
    points = np.concatenate([keypoints, np.stack(beyond, 1)], 1)
    seen = points[..., 2] >= VISIBLE
    frames = seen.any(1)
    if not frames.any():
        return None
    xy, hidden = points[frames, :, :2], ~seen[frames, :, None]
    low = np.percentile(np.where(hidden, np.inf, xy).min(1), 2, axis=0)
    high = np.percentile(np.where(hidden, -np.inf, xy).max(1), 98, axis=0)
    size = np.array([width, height])
    return low.clip(0, size), high.clip(0, size)


def face_boxes(keypoints: np.ndarray) -> list[Box]:
    """A square around the face in each frame, of keypoints [F,18,3] in pixels; empty where no frame shows a face.

    Its middle is that of the visible nose, eyes and ears. Frames that do not show nose and neck have the square of the
    nearest frame that does.
    """
    seen = np.flatnonzero((keypoints[:, [NOSE, NECK], 2] >= VISIBLE).all(1))
    if not len(seen):
        return []
    boxes = []
    for frame in keypoints[seen[np.abs(seen - np.arange(len(keypoints))[:, None]).argmin(1)]]:
        shown = frame[list(FACE)]
        middle = shown[shown[:, 2] >= VISIBLE, :2].mean(0)
        side = max(2, round(FACE_SIDE * float(np.linalg.norm(frame[NOSE, :2] - frame[NECK, :2]))))
        x0, y0 = np.round(middle - side / 2).astype(int)
        boxes.append((int(x0), int(y0), side))
    return boxes


def crop(frame: np.ndarray, box: Box) -> np.ndarray:
    """The pixels of the box, uint8 [side,side,3]; the frame's edge is repeated where the box leaves it.

    A view of the frame where the box is inside.
    """
    x0, y0, side = box
    height, width = frame.shape[:2]
    if x0 >= 0 and y0 >= 0 and x0 + side <= width and y0 + side <= height:
        return frame[y0 : y0 + side, x0 : x0 + side]
    rows = np.arange(y0, y0 + side).clip(0, height - 1)
    columns = np.arange(x0, x0 + side).clip(0, width - 1)
    return np.asarray(frame[rows[:, None], columns])


def cut_out(frame: np.ndarray, rectangle: Rectangle, size: tuple[int, int]) -> np.ndarray:
    """The rectangle's pixels at `size` (height, width), uint8 [height,width,3]."""
    x0, y0, width, height = rectangle
    pixels = torch.from_numpy(np.ascontiguousarray(frame[y0 : y0 + height, x0 : x0 + width]))
    return resize(pixels[None], size)[0].numpy()


def keypoints_in(keypoints: np.ndarray, rectangle: Rectangle) -> np.ndarray:
    """Keypoints [F,18,3] in pixels of the frame -> x and y in 0..1 of the rectangle's width and height, float32."""
    inside = keypoints.astype(np.float32, copy=True)
    inside[..., :2] = (inside[..., :2] - np.array(rectangle[:2], np.float32)) / np.array(rectangle[2:], np.float32)
    return inside


def resize(frames: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Frames uint8 [F,H,W,3] -> uint8 [F,height,width,3], bilinear with antialiasing; `size`: a side, or both."""
    images = frames.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    sides = (size, size) if isinstance(size, int) else size
    small = F.interpolate(images, size=sides, mode="bilinear", antialias=True, align_corners=False)
    return small.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def crop_keypoints(keypoints: np.ndarray, box: Box) -> np.ndarray:
    """Keypoints [F,18,3] in pixels of the frame -> in units of the box's side (0..1 inside), float32."""
    x0, y0, side = box
    inside = keypoints.astype(np.float32, copy=True)
    inside[..., :2] = (inside[..., :2] - np.array([x0, y0], np.float32)) / side
    return inside


def fill_gaps(keypoints: np.ndarray, found: np.ndarray, longest: int = 3) -> np.ndarray:
    """Keypoints [F,18,3] of frames without a pose, interpolated over time.

    Gaps of up to `longest` frames also get the smaller visibility of both ends; in longer gaps
    and before the first and after the last pose nothing is visible.
    """
    filled = keypoints.astype(np.float32, copy=True)
    known = np.flatnonzero(found)
    if not len(known):
        return filled
    frames = np.arange(len(filled))
    for joint in range(filled.shape[1]):
        for axis in (0, 1):
            filled[:, joint, axis] = np.interp(frames, known, keypoints[known, joint, axis])
    filled[~found, :, 2] = 0
    for before, after in pairwise(known):
        if 1 < after - before <= longest + 1:
            filled[before + 1 : after, :, 2] = np.minimum(keypoints[before, :, 2], keypoints[after, :, 2])
    return filled
