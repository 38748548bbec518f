"""Whether a piece of a track can be used: one reason a piece, with the measured value and the bound."""

from dataclasses import dataclass

import numpy as np

LEAST_FOUND = 0.9
"""Share of a piece's frames that must show a pose."""
OFTEN = 0.2
"""With people = "drop", a piece is dropped if a second person is in a larger share of the checked frames."""
MIN_SHARPNESS = 0.2
"""Default of `min_sharpness` (`measures.sharpness`)."""
STILL_PICTURE = "still picture"
"""Kind of a reason: a driving video may be one."""
STILL = 0.05
"""Levels of 255 by which the frames of a still picture differ at most, at 64 x 64 pixels."""
REPEATS = 0.5
"""A larger share of frames that repeat the one before is said in the file's row."""


@dataclass(frozen=True)
class Reason:
    """Why a piece is not used.

    Attributes:
        kind: the same for all pieces of its kind, so that they can be counted.
        measured: the value, and its bound where `kind` does not name it; "" for none.
        told: whether the file's row names it among its reasons, too.
    """

    kind: str
    measured: str = ""
    told: bool = True

    def __str__(self) -> str:
        return f"{self.kind} ({self.measured})" if self.measured else self.kind


def wrong_length(frames: int, least: int) -> Reason | None:
    return Reason(f"shorter than {least} frames", f"{frames}") if frames < least else None


def wrong_pose(found: np.ndarray) -> Reason | None:
    """`found` [n]: frames with a pose."""
    share = float(found.mean())
    if share >= LEAST_FOUND:
        return None
    return Reason(f"pose found in fewer than {LEAST_FOUND:.0%} of the frames", f"{share:.0%}")


def wrong_people(people: np.ndarray, rule: str) -> Reason | None:
    """`people` [n]: people in each frame, -1 where they were not counted; `rule` "drop" or "largest"."""
    counted = people[people >= 0]
    share = float((counted > 1).mean()) if len(counted) else 0.0
    if rule != "drop" or share <= OFTEN:
        return None
    return Reason("several people", f"in {share:.0%} of the frames that were checked, at most {OFTEN:.0%}")


def wrong_picture(motion: np.ndarray, sharpness: np.ndarray, least: float) -> Reason | None:
    """`motion` [n-1]: change from frame to frame; `sharpness` [n]: NaN where it was not measured."""
    if len(motion) and float(motion.max()) <= STILL:
        return Reason(STILL_PICTURE, f"frames differ by {motion.max():.2f} levels at most, more than {STILL} needed")
    measured = sharpness[np.isfinite(sharpness)]
    if len(measured) and float(np.median(measured)) < least:
        return Reason("blurred", f"sharpness {np.median(measured):.2f}, at least {least:g}")
    return None


def wrong_size(shown: float, needed: float) -> Reason | None:
    """`shown` and `needed`: side in pixels of the square around the person, or width of the rectangle."""
    return Reason("person too small", f"{shown:.0f} px, at least {needed:.0f}") if shown < needed else None


def wrong_sharpness(least: float) -> list[str]:
    """What is wrong with the setting."""
    return [] if 0 <= least <= 1 else [f"min_sharpness: {least}; give a number from 0 to 1"]
