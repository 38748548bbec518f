"""How creatures move: sums of sines, so that more frames extend the same movement."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from entprog.synthetic.domains import Domain
from entprog.synthetic.geometry import Array, rotation_about
from entprog.synthetic.random import choose, random_stream

ROAM = {"scuttle": 1.3, "hop": 1.0, "swim": 0.8, "wave": 0.2}  # how far each strays, relative to a hop
IN_THE_AIR = 0.5  # share of a cycle that a stepping foot is off the ground


@dataclass(frozen=True, slots=True)
class Gait:
    """Targets of the body, in heights of the creature; feet are right and left in front, right and left behind.

    Attributes:
        place: the middle of the trunk [F, 3]; turns: its yaw, pitch and roll from rest [F, 3] in radians.
        feet: targets of the ankles [F, 4, 3].
    """

    kind: str
    place: Array
    turns: Array
    feet: Array


def draw_gait(seed: int, domain: Domain, frames: int, fps: float, clearance: float, rest: Array) -> Gait:
    """Draws the movement of a seed for a trunk as high as its clearance and feet at rest [4, 3]."""
    rng = random_stream("gait", seed, domain.name)
    kind = choose(rng, domain.motions)
    heading = choose(rng, (0.0, 0.4, -0.4, 0.8, -0.8, 1.3, -1.3))
    period, size = rng.uniform(0.9, 1.4), rng.uniform(0.6, 1.0)
    stray = ROAM[kind] * rng.uniform(0.04, 0.1, 3) * [1, 0.6, 3]
    rates, starts = rng.uniform(1.2, 2.4, 3), rng.uniform(0, 2 * np.pi, 3)
    phase, lean = rng.uniform(0, 2 * np.pi, 2)
    is_fast, is_opposed = rng.random(2) < 0.5
    seconds = np.arange(frames) / fps
    cycle = 2 * np.pi * seconds / period + phase

    def track(time: Array) -> Array:
        """Target at times [...]: x, y and yaw [..., 3]."""
        return stray * np.sin(time[..., None] * rates + starts) + [0, 0, heading]

    def stand(time: Array) -> Array:
        """Targets of the feet [F, 4, 3] at a time of each [F, 4]."""
        there = track(time)
        return np.einsum("fnij,nj->fni", rotation_about("z", there[..., 2]), rest) + there * [1, 1, 0]

    here = track(seconds)
    ground, heading_now = here[:, None] * [1, 1, 0], rotation_about("z", here[:, 2])
    offsets = np.array([0, 0.5, 0.5, 0]) * (kind == "scuttle") + phase / (2 * np.pi)
    feet, flight = _step(seconds, period, offsets, stand)
    rise, pitch = 0.012 * np.sin(2 * cycle), 0.05 * np.sin(cycle)
    match kind:
        case "scuttle":  # opposite feet in turn
            feet[..., 2] += 0.07 * size * flight
        case "hop":  # all feet at once
            rise = 0.21 * size * flight[:, 0] - 0.05
            pitch = 0.2 * np.cos(cycle) * flight[:, 0]
            feet[..., 2] += 0.14 * size * flight
        case "swim":  # limbs open and close above the ground, the hind ones later
            beat = cycle[:, None] - [0, 0.4, 1.2, 1.6]
            rise = 0.09 + 0.05 * np.sin(cycle + 2)
            hanging = rest * np.array([1, 1, 0]) * (0.75 + 0.3 * size * np.sin(beat))[..., None]
            hanging[..., 2] = rise[:, None] + 0.12 + 0.07 * np.cos(beat)
            feet = np.einsum("fij,fnj->fni", heading_now, hanging) + ground
        case "wave":  # stands on the hind ones
            rise, pitch = rise - 0.02, pitch + 0.3
            beat = cycle[:, None] * (0.5 + 0.5 * is_fast) + [0, np.pi * is_opposed]
            across = np.sign(rest[:2, 0]) * (0.4 + 0.12 * size * np.sin(beat))
            raised = np.stack([across, np.full_like(across, -0.1), 0.8 + 0.2 * np.cos(beat)], -1)
            feet[:, :2] = np.einsum("fij,fnj->fni", heading_now, raised) + ground
    place = np.stack([here[:, 0], here[:, 1], clearance + rise], 1)
    return Gait(kind, place, np.stack([here[:, 2], pitch, 0.06 * np.sin(cycle + lean)], 1), feet)


def _step(time: Array, period: float, offsets: Array, stand: Callable[[Array], Array]) -> tuple[Array, Array]:
    """Plants each foot and lifts it to its next target; offsets [4] of the feet in cycles.

    Returns:
        The feet on the ground [F, 4, 3] and how high each is in its flight [F, 4], 0..1.
    """
    cycle = time[:, None] / period + offsets
    count = np.floor(cycle)
    way = np.clip((cycle - count - 1 + IN_THE_AIR) / IN_THE_AIR, 0, 1)
    standing = (count + (1 - IN_THE_AIR) / 2 - offsets) * period
    share = (way * way * (3 - 2 * way))[..., None]
    return stand(standing) * (1 - share) + stand(standing + period) * share, 4 * way * (1 - way)
