"""Driving poses with another person's proportions, place and size in the picture.

Shape legend: F frames. Keypoints are in OpenPose-18 order, x and y in pixels, then a confidence in 0..1.
"""

from dataclasses import dataclass

import numpy as np

__all__ = ["Retargeted", "retarget"]

SEEN = 0.5
"""Least confidence of a keypoint that counts as seen (and is drawn)."""
NECK, NOSE = 1, 0
HIPS, ANKLES = (8, 11), (10, 13)

LIMBS: dict[str, tuple[tuple[int, int], ...]] = {
    "torso": (),  # from the neck to the middle of the hips
    "shoulders": ((1, 2), (1, 5)),
    "upper arms": ((2, 3), (5, 6)),
    "forearms": ((3, 4), (6, 7)),
    "hips": (),  # from the middle of the hips to each
    "thighs": ((8, 9), (11, 12)),
    "shins": ((9, 10), (12, 13)),
    "neck": ((1, 0),),
    "face": ((0, 14), (0, 15), (14, 16), (15, 17)),
}
"""Limbs that share one ratio, left and right alike."""

ALIKE = np.cos(np.radians(35))
"""Limbs are compared where their directions in the photo and in the drive's frame differ by no more."""
Bones = dict[str, tuple[np.ndarray, np.ndarray]]
PAIRS = 9
"""At most so many frames, those most like the photo, say a limb's ratio (their median)."""
FURTHEST = 1.5
"""A limb's ratio differs from the body's by at most this factor: a limb that points at the camera, or shoulders seen
from the side, are short in the picture and say little of the person."""


@dataclass(frozen=True)
class Retargeted:
    """What `retarget` made.

    Attributes:
        keypoints: [F, 18, 3] in pixels of the photo; confidences as in the drive.
        scale: size of the body in the photo / in the drive.
        ratios: by the names of LIMBS: the limb's length in the photo / in the drive. A limb that is not seen in both
            has the body's `scale`, which keeps the drive's proportions there.
        frame: the drive's frame most like the photo; there the two bodies have the same place.
    """

    keypoints: np.ndarray
    scale: float
    ratios: dict[str, float]
    frame: int


def retarget(drive: np.ndarray, reference: np.ndarray) -> Retargeted | None:
    """The drive's motion with the reference's proportions, place and size.

    The lengths of limbs are compared in the frames of the drive in which the body is posed most like the photo, as
    there both are foreshortened alike. Each limb keeps its direction and gets its new length, from the neck outwards.
    In the most similar frame the new body stands where the photo's does; from there it moves as the drive does, times
    the body's scale. Where the feet are seen in both, they are what is moved so, that they do not slide on the ground;
    else the hips, else the neck.

    Args:
        drive: keypoints [F, 18, 3]; what is not seen has a confidence below 0.5.
        reference: keypoints [18, 3] of the photo. Both in square pixels (equal scale of x and y).

    Returns:
        None where no limb is seen in both. A pure function; the drive's own person in one of its own frames gives the
        drive back, as exactly as the limbs' lengths are steady from frame to frame.
    """
    drive, reference = np.asarray(drive, np.float64), np.asarray(reference, np.float64)
    bones, photo = _bones(drive), _bones(reference[None])
    similar = _similarity(bones, photo)
    if similar is None:
        return None
    frames = np.argsort(-similar, kind="stable")[: max(1, min(PAIRS, len(drive) // 8))]
    frames = frames[similar[frames] > similar[frames[0]] - 0.1]
    lengths = {name: _compared(bones[name], photo[name], frames) for name in LIMBS}
    scale = _scale(lengths)
    if scale is None:
        return None
    low, high = scale / FURTHEST, scale * FURTHEST
    ratios = {name: float(np.clip(pair[0], low, high)) if pair else scale for name, pair in lengths.items()}
    built = _built(drive, ratios)
    frame = int(frames[0])
    moved = built[..., :2] + _shift(drive, built, reference, frame, scale)[:, None]
    keypoints = np.concatenate([moved, drive[..., 2:]], -1).astype(np.float32)
    return Retargeted(keypoints, scale, ratios, frame)


def _bones(keypoints: np.ndarray) -> Bones:
    """For each name of LIMBS the vectors [F, K, 2] of its limbs and whether both their ends are seen [F, K]."""
    xy = keypoints[..., :2]
    seen = np.greater_equal(keypoints[..., 2], SEEN)
    middle, both = xy[:, HIPS].mean(1), seen[:, HIPS].all(1)
    found = {}
    for name, pairs in LIMBS.items():
        if name == "torso":
            vectors, there = (middle - xy[:, NECK])[:, None], (both & seen[:, NECK])[:, None]
        elif name == "hips":
            vectors, there = xy[:, HIPS] - middle[:, None], both[:, None].repeat(2, 1)
        else:
            start, end = np.array(pairs).T
            vectors, there = xy[:, end] - xy[:, start], seen[:, start] & seen[:, end]
        found[name] = (vectors, there)
    return found


def _similarity(drive: Bones, photo: Bones) -> np.ndarray | None:
    """How alike the body is posed in each frame [F]: the mean cosine between limbs, the face's left out."""
    total, count = np.zeros(len(drive["torso"][1])), np.zeros(len(drive["torso"][1]))
    for name in LIMBS:
        if name == "face":
            continue
        cosine, both = _cosines(drive[name], photo[name])
        total, count = total + (cosine * both).sum(1), count + both.sum(1)
    most = count.max(initial=0)
    if not most:
        return None if not _any_face(drive, photo) else _cosines(drive["face"], photo["face"])[0].mean(1)
    # frames that show fewer of the photo's limbs say less
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), -1) - (most - count) / most)


def _any_face(drive: Bones, photo: Bones) -> bool:
    return bool((drive["face"][1] & photo["face"][1]).any())


def _cosines(
    drive: tuple[np.ndarray, np.ndarray], photo: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Cosines [F, K] of the angles between limbs, and where both are seen."""
    lengths = np.linalg.norm(drive[0], axis=-1) * np.linalg.norm(photo[0], axis=-1)
    cosine = (drive[0] * photo[0]).sum(-1) / np.maximum(lengths, 1e-9)
    return cosine, drive[1] & photo[1] & (lengths > 1e-9)


def _compared(
    drive: tuple[np.ndarray, np.ndarray], photo: tuple[np.ndarray, np.ndarray], frames: np.ndarray
) -> tuple[float, float] | None:
    """Photo / drive of a limb's length, and the drive's length; None where no frame shows the limb alike in both."""
    cosine, both = (part[frames] for part in _cosines(drive, photo))
    usable = both & (cosine >= ALIKE)
    if not usable.any():
        return None
    own = np.linalg.norm(drive[0][frames], axis=-1)
    ratio = np.broadcast_to(np.linalg.norm(photo[0], axis=-1), own.shape) / np.maximum(own, 1e-9)
    # the median over frames of each side, then of both sides alike
    sides = [np.median(np.log(ratio[usable[:, k], k])) for k in range(own.shape[1]) if usable[:, k].any()]
    return float(np.exp(np.mean(sides))), float(np.median(own[usable]))


def _scale(lengths: dict[str, tuple[float, float] | None]) -> float | None:
    """The body's ratio: the median of its limbs' ratios, each weighted by its length in the drive."""
    found = sorted(pair for pair in lengths.values() if pair)
    if not found:
        return None
    ratios, weights = np.array(found).T
    return float(ratios[np.searchsorted(np.cumsum(weights), weights.sum() / 2)])


def _built(drive: np.ndarray, ratios: dict[str, float]) -> np.ndarray:
    """Keypoints with the new lengths; the neck stays where it is."""
    xy = drive[..., :2]
    seen = np.greater_equal(drive[..., 2], SEEN)
    out = xy.copy()
    neck, torso = xy[:, NECK], ratios["torso"]
    both = seen[:, HIPS].all(1)[:, None]
    middle = xy[:, HIPS].mean(1)
    for hip in HIPS:  # where only one hip is seen, it is all that is known of their middle
        centre = np.where(both, middle, xy[:, hip])
        out[:, hip] = neck + torso * (centre - neck) + ratios["hips"] * (xy[:, hip] - centre)
    for name in ("shoulders", "upper arms", "forearms", "thighs", "shins", "neck", "face"):
        for start, end in LIMBS[name]:
            out[:, end] = out[:, start] + ratios[name] * (xy[:, end] - xy[:, start])
    return np.concatenate([out, drive[..., 2:]], -1)


def _shift(drive: np.ndarray, built: np.ndarray, reference: np.ndarray, frame: int, scale: float) -> np.ndarray:
    """What to add to the new keypoints [F, 2] for place and motion."""
    across = _anchor(drive, reference, (HIPS, (NECK,)), frame)
    down = _anchor(drive, reference, (ANKLES, HIPS, (NECK,)), frame)
    shift = np.zeros((len(drive), 2))
    for axis, joints in ((0, across), (1, down)):
        own, new = (_place(keypoints, joints, axis) for keypoints in (drive, built))
        target = _place(reference[None], joints, axis)[0] + scale * (own - own[frame])
        shift[:, axis] = target - new
    return shift


def _anchor(
    drive: np.ndarray, reference: np.ndarray, choices: tuple[tuple[int, ...], ...], frame: int
) -> tuple[int, ...]:
    """The first of these groups of joints that is seen in the photo, in the frame like it, and nearly always."""
    seen = drive[..., 2] >= SEEN
    for joints in choices:
        chosen = list(joints)
        if (reference[chosen, 2] >= SEEN).all() and seen[frame, chosen].all() and seen[:, chosen].all(1).mean() > 0.9:
            return joints
    shared = (reference[:, 2] >= SEEN) & seen[frame]
    usual = np.where(shared, seen.mean(0), -1)
    return (int(usual.argmax()),)


def _place(keypoints: np.ndarray, joints: tuple[int, ...], axis: int) -> np.ndarray:
    """Where a group of joints is [F] along an axis: the lower ankle, else the middle. Gaps are filled over time."""
    values = keypoints[:, list(joints), axis]
    place = values.max(1) if joints == ANKLES and axis == 1 else values.mean(1)
    known = np.flatnonzero((keypoints[:, list(joints), 2] >= SEEN).all(1))
    return np.interp(np.arange(len(place)), known, place[known]) if len(known) else place
