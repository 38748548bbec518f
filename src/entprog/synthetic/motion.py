"""Movement: targets of the body over time, as smooth functions.

Keys fall on the beats of a tempo and are joined by a spline. Each quantity has a random stream of its own and
its keys are drawn in order, so more frames extend the same movement.
"""

from dataclasses import dataclass

import numpy as np

from entprog.synthetic.domains import Domain
from entprog.synthetic.geometry import Array
from entprog.synthetic.random import choose, random_stream

# Directions of (upper arm, forearm) for the left arm in the body's frame: x left, -y front, z up.
ARM_POSES = {
    "down": ([0.18, 0, -1], [0.08, -0.18, -1]),
    "out": ([1, -0.05, 0], [1, -0.15, 0.05]),
    "up": ([0.3, 0, 1], [0.05, -0.05, 1]),
    "forward": ([0.15, -1, -0.05], [0.05, -1, 0.1]),
    "hips": ([0.75, 0.25, -0.65], [-0.65, -0.45, -0.55]),
    "flex": ([1, 0, 0.1], [0.05, -0.15, 1]),
    "cross": ([0.35, -0.55, -0.7], [-0.9, -0.35, 0.35]),
    "wave": ([0.75, -0.1, 0.6], [0.25, -0.25, 0.95]),
    "head": ([0.85, -0.05, 0.55], [-0.55, 0, 0.8]),
    "back": ([0.3, 0.55, -0.8], [0.1, 0.2, -1]),
    "diagonal": ([0.7, -0.3, 0.65], [0.65, -0.35, 0.65]),
    "low": ([0.7, -0.25, -0.65], [0.65, -0.4, -0.6]),
    "clap": ([0.35, -0.75, 0.1], [-0.45, -0.85, 0.25]),
    "chin": ([0.3, -0.5, -0.75], [-0.25, -0.5, 0.8]),
}

# Offsets of a stepping foot, in leg lengths, for the left foot.
STEPS = {
    "side": [0.25, 0, 0.02],
    "forward": [0, -0.3, 0.02],
    "lift": [0.02, -0.22, 0.32],
    "kick": [0.1, -0.6, 0.4],
    "back": [0, 0.3, 0.06],
}


@dataclass(frozen=True, slots=True)
class Style:
    """How a movement on the beat is performed; amounts are relative to a lively dance."""

    arms: tuple[str, ...]
    amount: float
    arm_spread: float  # radians or so, how far arms stray from their pose
    mirrored: float  # chance that both arms do the same


_DANCE = Style(tuple(ARM_POSES), amount=1.0, arm_spread=0.13, mirrored=0.35)
STYLES = {
    "dance": _DANCE,
    "spin": _DANCE,
    "sway": Style(("down", "down", "hips", "low", "chin", "back"), amount=0.35, arm_spread=0.05, mirrored=0.35),
    "exercise": Style(("out", "up", "forward", "down", "flex"), amount=0.15, arm_spread=0.05, mirrored=1.0),
}


@dataclass(frozen=True, slots=True)
class Movement:
    """Targets of the skeleton. Angles in radians, lengths in metres; the second axis is (left, right).

    Attributes:
        yaw: heading of the body [F]; feet_yaw: heading of the feet [F].
        root: offset of the hips from rest [F, 3].
        lean: forward, sideways, twist of the spine [F, 3]; look: turn and nod of the head [F, 2].
        foot: ankles relative to the middle of the stance, turned by feet_yaw [F, 2, 3]; foot_pitch: [F, 2].
        upper_arm, forearm: directions in the body's frame [F, 2, 3].
        feet_follow: whether the stance moves along with the hips (walking) or stays (dancing).
    """

    kind: str
    yaw: Array
    feet_yaw: Array
    root: Array
    lean: Array
    look: Array
    foot: Array
    foot_pitch: Array
    upper_arm: Array
    forearm: Array
    feet_follow: bool


def draw_movement(seed: int, domain: Domain, frames: int, fps: float, leg: float) -> Movement:
    """Draws the movement of a seed for a person whose legs are `leg` metres long."""
    rng = random_stream("motion", seed, domain.name)
    kind = choose(rng, domain.motions)
    beat = rng.uniform(0.45, 0.75)
    seconds = np.arange(frames) / fps
    beats = seconds / beat + rng.uniform(0, 0.9)
    if kind == "walk":
        return _walk(seed, domain, seconds, beats, leg)
    return _move_on_the_beat(kind, seed, domain, seconds, beats, leg)


def spline(keys: Array, beats: Array) -> Array:
    """Joins keys [N, ...], one a beat, at times beats [F]: a Catmull-Rom curve that lingers at each key."""
    last = len(keys) - 1
    index = np.clip(np.floor(beats).astype(int), 0, last)
    part = (beats - index).reshape((-1,) + (1,) * (keys.ndim - 1))
    part = 0.6 * part * part * (3 - 2 * part) + 0.4 * part
    before, here, after, later = (keys[np.clip(index + step, 0, last)] for step in (-1, 0, 1, 2))
    cubic = 3 * (here - after) + later - before
    return here + 0.5 * part * (after - before + part * (2 * before - 5 * here + 4 * after - later + part * cubic))


def _count_keys(beats: Array) -> int:
    """The number of keys the spline can reach: a longer clip reaches further keys, the first stay the same."""
    return int(np.floor(beats[-1])) + 3


def _look_around(seed: int, domain: Domain, beats: Array) -> Array:
    keys = random_stream("motion", seed, domain.name, "look").normal(0, 1, (_count_keys(beats), 2))
    return spline(keys * [0.25, 0.12], beats)


def _walk(seed: int, domain: Domain, seconds: Array, beats: Array, leg: float) -> Movement:
    """Walks on the spot or round a small circle, so that a fixed camera keeps the person in view."""
    rng = random_stream("motion", seed, domain.name, "walk")
    constant = np.zeros_like(seconds)
    stride = rng.uniform(0.18, 0.36) * leg
    period = rng.uniform(0.95, 1.25)
    phase = 2 * np.pi * (seconds / period + rng.random())
    heading = choose(rng, (0.0, 0.0, 0.0, 0.6, -0.6, 1.3, -1.3, np.pi))
    root = np.stack([constant, constant, -0.0125 * leg * (1 - np.cos(2 * phase)) - 0.02 * leg], 1)
    yaw = heading + 0.06 * np.sin(phase)
    if rng.random() < 0.5:
        radius = rng.uniform(0.2, 0.3)
        way = choose(rng, (1, -1))
        angle = way * (4 * stride / period) / radius * 0.6 * seconds
        # Facing -y when yaw is 0, a person who turns left by `angle` moves along (sin, -cos).
        root[:, 0] = -radius * way * np.cos(heading + angle)
        root[:, 1] = -radius * way * np.sin(heading + angle)
        yaw = yaw + angle
    foot, pitch, upper, fore = [], [], [], []
    for side, offset in ((1, 0.0), (-1, np.pi)):
        cycle = (phase + offset) % (2 * np.pi)
        swing = np.sin(cycle) > 0
        back = np.where(swing, -stride * np.cos(cycle), stride * (2 * (cycle - np.pi) / np.pi - 1) * -1)
        height = 0.12 * leg * np.where(swing, np.clip(np.sin(cycle), 0, None) ** 1.2, 0)
        foot.append(np.stack([side * 0.09 * leg + constant, -back, height], -1))
        pitch.append(0.5 * np.clip(-np.cos(cycle), 0, 1) * np.clip(np.sin(cycle) + 0.4, 0, 1))
        arm_swing = rng.uniform(0.3, 0.5) * np.cos(phase + offset)
        upper.append(np.stack([side * 0.2 + constant, arm_swing, constant - 1], -1))
        fore.append(np.stack([side * 0.08 + constant, arm_swing * 0.9 - 0.3, constant - 1], -1))
    return Movement(
        kind="walk",
        yaw=yaw,
        feet_yaw=yaw,
        root=root,
        lean=np.stack([0.05 + constant, 0.04 * np.sin(phase), 0.1 * np.cos(phase)], -1),
        look=_look_around(seed, domain, beats),
        foot=np.stack(foot, 1),
        foot_pitch=np.stack(pitch, 1),
        upper_arm=np.stack(upper, 1),
        forearm=np.stack(fore, 1),
        feet_follow=True,
    )


def _move_on_the_beat(kind: str, seed: int, domain: Domain, seconds: Array, beats: Array, leg: float) -> Movement:
    """Dances, sways or exercises: a new pose of arms, hips and feet on every beat."""
    style = STYLES[kind]
    keys = _count_keys(beats)
    rng = random_stream("motion", seed, domain.name, kind)
    odd = np.arange(keys) % 2 == 1
    arms = spline(_arm_keys(kind, style, seed, domain, keys), beats)

    sideways = rng.uniform(0, 0.11) * leg * style.amount
    dip = {"exercise": choose(rng, (0.02, 0.45)), "sway": rng.uniform(0.01, 0.06)}.get(kind, rng.uniform(0.02, 0.22))
    depth = random_stream("motion", seed, domain.name, "depth").normal(0, 0.03, keys) * leg * style.amount
    down = -np.where(odd, dip, 0.015) * leg - 0.01 * leg
    root = spline(np.stack([np.where(odd, sideways, -sideways), depth, down], 1), beats)

    width = rng.uniform(0.1, 0.2) * leg
    feet_keys = np.zeros((keys, 2, 3))
    feet_keys[:, 0, 0], feet_keys[:, 1, 0] = width, -width
    if kind in ("dance", "spin"):
        feet_keys += _step_keys(seed, domain, keys) * leg
    if kind == "exercise" and rng.random() < 0.5:
        feet_keys[:, :, 0] *= np.where(odd, 2.2, 0.7)[:, None]
    foot = spline(feet_keys, beats)
    foot[..., 2] = np.maximum(foot[..., 2], 0)

    facing = choose(rng, (0.0, 0.0, 0.0, 0.5, -0.5))
    turn = choose(rng, (1, -1)) * rng.uniform(1.2, 3.5) * seconds if kind == "spin" else np.zeros_like(seconds)
    wiggle = random_stream("motion", seed, domain.name, "yaw").normal(0, 0.3 * style.amount, keys)
    lean = random_stream("motion", seed, domain.name, "lean").normal(0, 1, (keys, 3)) * [0.12, 0.12, 0.2]
    return Movement(
        kind=kind,
        yaw=facing + spline(wiggle, beats) + turn,
        feet_yaw=turn,
        root=root,
        lean=spline(lean * style.amount, beats),
        look=_look_around(seed, domain, beats),
        foot=foot,
        foot_pitch=np.clip(foot[..., 2] / leg, 0, 0.5),
        upper_arm=arms[:, :, 0],
        forearm=arms[:, :, 1],
        feet_follow=False,
    )


def _arm_keys(kind: str, style: Style, seed: int, domain: Domain, keys: int) -> Array:
    """Draws arm poses [keys, 2 (left, right), 2 (upper arm, forearm), 3]."""
    rng = random_stream("motion", seed, domain.name, "arms")
    poses = np.array([ARM_POSES[name] for name in style.arms])
    mirrored = rng.random() < style.mirrored
    if kind == "exercise":  # two poses in turn, like a jumping jack
        pair = rng.choice(len(poses), 2, replace=False)
        chosen = np.repeat(pair[np.arange(keys) % 2][:, None], 2, 1)
    else:
        chosen = rng.integers(len(poses), size=(keys, 2))
        if mirrored:
            chosen[:, 1] = chosen[:, 0]
    spread = random_stream("motion", seed, domain.name, "spread").normal(0, style.arm_spread, (keys, 2, 2, 3))
    directions = poses[chosen] + spread
    directions[:, 1, :, 0] *= -1
    return directions


def _step_keys(seed: int, domain: Domain, keys: int) -> Array:
    """Draws steps of either foot on about every other beat [keys, 2, 3], in leg lengths."""
    rng = random_stream("motion", seed, domain.name, "steps")
    steps = np.zeros((keys, 2, 3))
    for key in range(keys):
        moves, foot, step, size = (
            rng.random(),
            rng.integers(2),
            choose(rng, tuple(STEPS)),
            rng.uniform(0.6, 1.1),
        )
        if moves < 0.55:
            steps[key, foot] = np.array(STEPS[step]) * size * [1 if foot == 0 else -1, 1, 1]
    return steps
