"""From a movement to the bones: the spine bends, arms follow directions, legs reach for the ground."""

import numpy as np

from entprog.synthetic.body import Body
from entprog.synthetic.geometry import Array, bend_limb, rotate, rotation_about, rotation_between, unit
from entprog.synthetic.motion import Movement

SIDES = (("L", 0, 1), ("R", 1, -1))  # name, index in the movement's (left, right) axis, sign of x


class _Posing:
    """The bones of all frames, placed one after another from the root outwards."""

    def __init__(self, body: Body, joints: Array, frames: int) -> None:
        self.index = body.bone_index
        self.parents = body.parents
        self.joints = joints.astype(np.float64)
        self.rotations = np.zeros((frames, len(body.bones), 3, 3))
        self.heads = np.zeros((frames, len(body.bones), 3))

    def rotation(self, bone: str) -> Array:
        return self.rotations[:, self.index[bone]]

    def head(self, bone: str) -> Array:
        return self.heads[:, self.index[bone]]

    def between(self, first: str, second: str) -> Array:
        """Returns the vector [3] from one bone's head to another's, at rest."""
        return self.joints[self.index[second]] - self.joints[self.index[first]]

    def attach(self, bone: str, parent: str) -> None:
        """Moves the bone's head with its parent."""
        self.heads[:, self.index[bone]] = self.head(parent) + rotate(self.rotation(parent), self.between(parent, bone))

    def turn(self, bone: str, parent: str, *turns: Array) -> None:
        """Attaches the bone and turns it relative to its parent."""
        self.attach(bone, parent)
        rotation = self.rotation(parent)
        for turn in turns:
            rotation = rotation @ turn
        self.rotations[:, self.index[bone]] = rotation

    def point(self, bone: str, tip: str, direction: Array, carried_by: Array) -> None:
        """Turns the bone along direction [F, 3] by the smallest rotation from its parent's orientation."""
        carried = rotate(carried_by, self.between(bone, tip))
        self.rotations[:, self.index[bone]] = rotation_between(carried, direction) @ carried_by


def pose_skeleton(body: Body, joints: Array, movement: Movement) -> tuple[Array, Array]:
    """Poses the bones of a person with these joints [B, 3] at rest.

    Returns:
        Rotations of the bones in the world [F, B, 3, 3] and their heads [F, B, 3].
    """
    bones = _Posing(body, joints, len(movement.yaw))
    heading = rotation_about("z", movement.yaw)
    _pose_trunk(bones, movement, heading)
    for side, column, sign in SIDES:
        _pose_arm(bones, movement, heading, side, column, sign)
        _pose_leg(bones, movement, heading, side, column, sign)
    return bones.rotations, bones.heads


def _pose_trunk(bones: _Posing, movement: Movement, heading: Array) -> None:
    forward, sideways, twist = movement.lean.T
    turn, nod = movement.look.T
    root = bones.index["root"]
    bones.rotations[:, root] = heading @ rotation_about("x", 0.6 * forward) @ rotation_about("y", 0.6 * sideways)
    bones.heads[:, root] = bones.joints[root] + movement.root
    for bone, parent in (("spine1", "root"), ("spine2", "spine1"), ("spine3", "spine2")):
        bones.turn(
            bone,
            parent,
            rotation_about("x", 0.4 * forward),
            rotation_about("y", -0.53 * sideways),
            rotation_about("z", twist / 3),
        )
    # The neck compensates part of the lean, so that people keep looking ahead.
    nodding = rotation_about("x", 0.3 * nod - 0.48 * forward)
    bones.turn("neck", "spine3", rotation_about("z", 0.4 * turn), nodding)
    bones.turn("head", "neck", rotation_about("z", 0.6 * turn), rotation_about("x", 0.5 * nod))


def _pose_arm(bones: _Posing, movement: Movement, heading: Array, side: str, column: int, sign: int) -> None:
    upper, fore = movement.upper_arm[:, column], movement.forearm[:, column]
    height = unit(upper)[:, 2]
    shrug = np.clip(height, -0.2, 1) * 0.35 * np.clip(height + 0.3, 0, 1)  # shoulders rise with the arms
    bones.turn(f"clav.{side}", "spine3", rotation_about("y", -sign * shrug))
    bones.attach(f"uarm.{side}", f"clav.{side}")
    bones.point(f"uarm.{side}", f"larm.{side}", rotate(heading, upper), bones.rotation(f"clav.{side}"))
    bones.attach(f"larm.{side}", f"uarm.{side}")
    bones.point(f"larm.{side}", f"hand.{side}", rotate(heading, fore), bones.rotation(f"uarm.{side}"))
    bones.turn(f"hand.{side}", f"larm.{side}")


def _pose_leg(bones: _Posing, movement: Movement, heading: Array, side: str, column: int, sign: int) -> None:
    """Moves the leg to the foot's target; the knee bends in the direction the person faces."""
    thigh, shin, foot = f"uleg.{side}", f"lleg.{side}", f"foot.{side}"
    bones.attach(thigh, "root")
    hip = bones.head(thigh)
    upper, lower = (np.linalg.norm(bones.between(*pair)) for pair in ((thigh, shin), (shin, foot)))
    feet_heading = rotation_about("z", movement.feet_yaw)
    rest = np.append(bones.joints[bones.index["root"]][:2], bones.joints[bones.index[foot]][2])
    target = rotate(feet_heading, movement.foot[:, column]) + rest
    if movement.feet_follow:
        target = target + movement.root * [1, 1, 0]
    ahead = rotate(heading, np.array([0.25 * sign, -1.0, 0.0]))
    knee, ankle = bend_limb(hip, target, float(upper), float(lower), ahead)
    bones.point(thigh, shin, knee - hip, heading)
    bones.heads[:, bones.index[shin]] = knee
    bones.point(shin, foot, ankle - knee, bones.rotation(thigh))
    bones.heads[:, bones.index[foot]] = ankle
    splay = rotation_about("z", np.full(len(hip), 0.15 * sign))
    bones.rotations[:, bones.index[foot]] = feet_heading @ splay @ rotation_about("x", movement.foot_pitch[:, column])
