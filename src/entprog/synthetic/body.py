"""The human body: a baked mesh with shapes, bones and keypoints (see tools/bake_body.py and NOTICE)."""

import functools
import importlib.resources
from dataclasses import dataclass

import numpy as np

from entprog.synthetic.geometry import Array

ADULT_AGE = 0.4  # on MakeHuman's scale: below are children and teenagers
COEFFICIENT_STEP = 1 / 32  # the asset stores shape coefficients in int8 units of this


@dataclass(frozen=True, slots=True)
class SurfacePoints:
    """Where points are on the average body, which decides the garment that covers them. All fields [N]."""

    x: Array  # metres, to the subject's left
    y: Array  # metres, to the back
    z: Array  # metres, up
    along_arm: Array  # 0 shoulder, 1 elbow, 2 wrist, about 2.6 finger tips
    arm: Array  # share of the skinning weight on arms, 0..1; so too the next three
    foot: Array
    head: Array
    head_and_neck: Array


@dataclass(frozen=True, slots=True)
class Shape:
    """One person in the rest pose, feet on z = 0: vertices [V, 3], joints [B, 3], keypoints [K, 3], in metres."""

    vertices: Array
    joints: Array
    keypoints: Array

    @property
    def height(self) -> float:
        return float(self.vertices[:, 2].max())


class Body:
    """The asset, unpacked.

    Attributes:
        faces: triangles [T, 3].
        bones: names of the B bones; `parents` [B] holds the index of each one's parent, -1 at the root.
        skin_weights: share of each bone in the motion of a vertex [V, B]; keypoint_weights: likewise [K, B].
        coefficients: shapes of sampled people [P, C]; `ages` [P] on MakeHuman's scale.
        rest: the average person.
        surface: columns of `SurfacePoints` for each vertex [V, 8].
    """

    def __init__(self, asset: dict[str, Array]) -> None:
        vertex_count, bone_count, end_count, keypoint_count = (int(count) for count in asset["sizes"])
        self._ends = np.cumsum([vertex_count, bone_count, end_count, keypoint_count])
        self._mean = asset["mean"].astype(np.float32)
        self._components = asset["comp"].astype(np.float32) * asset["comp_scale"][:, None, None]
        self.faces = asset["faces"].astype(np.int32)
        self.bones = tuple(str(name) for name in asset["bones"])
        self.bone_index = {name: index for index, name in enumerate(self.bones)}
        self.parents = asset["parents"].astype(int)
        self.keypoint_names = tuple(str(name) for name in asset["kp_names"])
        self.keypoint_index = {name: index for index, name in enumerate(self.keypoint_names)}
        self.coefficients = asset["coef"].astype(np.float32) * COEFFICIENT_STEP
        self.ages = asset["phen"][:, 1].astype(np.float32)
        weights = np.zeros((vertex_count, bone_count), np.float32)
        np.put_along_axis(weights, asset["skin_idx"].astype(int), asset["skin_w"].astype(np.float32), 1)
        self.skin_weights = weights / weights.sum(1, keepdims=True)
        keypoint_weights = asset["kp_w"].astype(np.float32)
        self.keypoint_weights = keypoint_weights / keypoint_weights.sum(1, keepdims=True)
        self.rest = self._split(self._mean)
        self.surface = self._describe_surface()

    def shape(self, coefficients: Array) -> Shape:
        """Returns the person with these shape coefficients [C]."""
        shape = self._split(self._mean + np.tensordot(coefficients, self._components, 1))
        ground = np.array([0, 0, shape.vertices[:, 2].min()], np.float32)
        return Shape(shape.vertices - ground, shape.joints - ground, shape.keypoints - ground)

    def rest_joint(self, bone: str) -> Array:
        """Returns the head [3] of a bone of the average person."""
        return self.rest.joints[self.bone_index[bone]]

    def rest_keypoint(self, name: str) -> Array:
        """Returns a keypoint [3] of the average person."""
        return self.rest.keypoints[self.keypoint_index[name]]

    def _split(self, points: Array) -> Shape:
        vertices, joints, _, keypoints = np.split(points, self._ends[:-1])
        return Shape(vertices, joints, keypoints)

    def _share(self, *bones: str) -> Array:
        return self.skin_weights[:, [self.bone_index[bone] for bone in bones]].sum(1)

    def _describe_surface(self) -> Array:
        vertices = self.rest.vertices
        along_arm = np.zeros(len(vertices), np.float32)
        for side in "LR":
            shoulder, elbow, wrist = (self.rest_joint(f"{bone}.{side}") for bone in ("uarm", "larm", "hand"))
            upper = (vertices - shoulder) @ (elbow - shoulder) / ((elbow - shoulder) @ (elbow - shoulder))
            lower = (vertices - elbow) @ (wrist - elbow) / ((wrist - elbow) @ (wrist - elbow))
            along = np.where(upper < 1, np.clip(upper, 0, 1), 1 + np.clip(lower, 0, 1.6))
            on_side = (vertices[:, 0] > 0) == (side == "L")
            along_arm[on_side] = along[on_side]
        arm = self._share("uarm.L", "uarm.R", "larm.L", "larm.R", "hand.L", "hand.R")
        foot = self._share("foot.L", "foot.R")
        head = self._share("head")
        columns = [along_arm, arm, foot, head, head + 0.5 * self._share("neck")]
        return np.concatenate([vertices, np.stack(columns, 1)], 1).astype(np.float32)


@functools.cache
def load_body() -> Body:
    """Reads the body that ships with the package (once a process)."""
    path = importlib.resources.files("entprog") / "assets" / "body.npz"
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as asset:
        return Body({name: asset[name] for name in asset.files})


def deform(points: Array, weights: Array, joints: Array, rotations: Array, heads: Array) -> tuple[Array, Array]:
    """Moves points with the bones by linear blend skinning.

    Args:
        points: in the rest pose [N, 3]; weights: [N, B]; joints: bone heads in the rest pose [B, 3].
        rotations: of each bone in the world [F, B, 3, 3]; heads: posed bone heads [F, B, 3].

    Returns:
        The points [F, N, 3] and the blended matrices [F, N, 3, 3] that turn normals.
    """
    offsets = heads - np.einsum("fbij,bj->fbi", rotations, joints)
    affine = np.concatenate([rotations, offsets[..., None]], -1).astype(np.float32)
    blended = (weights @ affine.reshape(*affine.shape[:2], 12)).reshape(len(rotations), len(points), 3, 4)
    matrices = blended[..., :3]
    return np.einsum("fnij,nj->fni", matrices, points) + blended[..., 3], matrices
