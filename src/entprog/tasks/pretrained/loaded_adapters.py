"""Pose adapters of a run on any network of diffusers: `entprog.load_adapters`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from entprog.core.blocks import Block, Blocks
from entprog.tasks.pretrained.adapters import PoseAdapters, pose_maps, shown, side_of
from entprog.tasks.pretrained.families import family_of
from entprog.tasks.pretrained.families.base import Configs, Family, Latent
from entprog.tasks.pretrained.map_adapters import as_features, map_adapters, with_map_adapter

__all__ = ["LoadedAdapters", "load_adapters"]

NEEDED = ("pose", "group", "channels", "front", "factor", "frames_factor")
"""Metadata of the file."""


class LoadedAdapters(PoseAdapters):
    """Adapters on a network: give them poses (`show`) or control latents (`show_control`), then call the pipeline.

    What was shown stays until the next `show` or `hide`. `off` takes the adapters off within a context.

    Attributes:
        about: the file's metadata: base, base_hash, pose ("blocks" or "input") and more.
    """

    about: dict[str, Any]
    family: Family
    device: torch.device

    def show(self, keypoints: np.ndarray | Tensor, height: int, width: int) -> None:
        """Poses for the next calls of the network.

        Args:
            keypoints: [B, F, 18, 3] for F pixel frames, in the data set's order: x and y in 0..1 of width and height,
                and a confidence.
            height, width: of the video in pixels.

        Raises:
            ValueError: adapters of control latents, or another shape.
        """
        self._check("blocks", "show_control")
        points = np.asarray(keypoints, np.float32)
        if points.ndim != 4 or points.shape[-2:] != (18, 3):
            raise ValueError(f"keypoints: expected [B, F, 18, 3], not {list(points.shape)}")
        about, front = self.about, int(self.about["front"])
        frames = (points.shape[1] - 1) // about["frames_factor"] + 1 + front
        size = Latent(frames, about["channels"], height // about["factor"], width // about["factor"], points.shape[1])
        tokens, rows, columns = self.family.tokens(size)
        maps = pose_maps(points, (rows, columns)).float() / 255
        pose = shown(maps, tokens, front, about["group"], (rows, columns)).to(self.device)
        self.side.pose = as_features(pose, (rows, columns)) if self.family.posed_maps else pose

    def show_control(self, latents: Tensor) -> None:
        """Latents [B, T, C, h, w] of a video of drawn poses, normalised as the pipeline's own.

        Raises:
            ValueError: adapters of poses.
        """
        self._check("input", "show")
        front = latents.new_zeros(len(latents), int(self.about["front"]), *latents.shape[2:])
        self.side.control = self.family.control(torch.cat([front, latents], 1).to(self.device))

    def hide(self) -> None:
        """The next calls see no pose."""
        self.side.pose = self.side.control = None

    def _check(self, kind: str, other: str) -> None:
        if self.about["pose"] != kind:
            raise ValueError(f'these adapters are of model.pose = "{self.about["pose"]}"; call {other} instead')


def load_adapters(transformer: nn.Module, file: str | Path) -> LoadedAdapters:
    """Put the pose adapters of a run on a network of diffusers.

    Before hooks that replace a module's forward, such as sequential offloading.

    Args:
        transformer: the network, such as `pipeline.transformer`.
        file: entprog_adapters.safetensors.

    Raises:
        ValueError: not such a file, or adapters of another network.
    """
    tensors, about = _read(Path(file))
    if side_of(transformer) is not None:
        raise ValueError("load_adapters: the network has pose adapters already; load it again")
    network = {**dict(getattr(transformer, "config", {})), "_class_name": type(transformer).__name__}
    family = family_of(Configs(network), str(about.get("family", "")))
    hosts = list(dict.fromkeys(_host(name) for name in tensors))
    modules = dict(transformer.named_modules())
    wrong = [name for name in hosts if name not in modules or "forward" in vars(modules[name])]
    width, depth, *maps = next(iter(tensors.values())).shape
    if wrong or (about["pose"] == "blocks" and not maps and width != family.width):
        raise ValueError(
            f"{file}: adapters of {about['base']}, a {about.get('network')}; this {type(transformer).__name__} has "
            f"{'no free module ' + wrong[0] if wrong else f'tokens of another width ({family.width}, not {width})'}; "
            "load them on that model, before any offloading"
        )
    if about["pose"] == "input":
        loaded = LoadedAdapters.at_entrance(transformer, hosts[0], about["channels"])
    elif maps:
        blocks = Blocks([Block(name, modules[name]) for name in hosts])
        loaded = LoadedAdapters.at_blocks(blocks, depth, 0, map_adapters(depth), with_map_adapter)
    else:
        loaded = LoadedAdapters.at_blocks(Blocks([Block(name, modules[name]) for name in hosts]), depth, width)
    try:
        loaded.load(tensors)
    except ValueError as error:
        loaded.remove()
        raise ValueError(f"{file}: {error}") from error
    loaded.about, loaded.family = about, family
    loaded.device = next(transformer.parameters()).device
    return loaded


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(str(file), "pt") as opened:
            written = opened.metadata() or {}
            names = sorted(opened.keys(), key=lambda name: not name.endswith(".weight"))
            tensors = {name: opened.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{file}: can't be read as safetensors ({error}); copy it again") from error
    if missing := [key for key in NEEDED if key not in written]:
        raise ValueError(f"{file}: no {missing[0]} in its metadata; give entprog_adapters.safetensors of a run")
    numbers = {key: json.loads(written[key]) for key in NEEDED if key != "pose"}
    return tensors, {**written, **numbers}


def _host(name: str) -> str:
    """The module that an adapter's tensor belongs to."""
    return name.rpartition(".proj.")[0].rpartition(".")[0]
