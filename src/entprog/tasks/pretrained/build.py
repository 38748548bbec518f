"""A pretrained network made ready: its blocks declared, its pose adapters put on."""

import torch
from torch import nn

from entprog.config.load import ConfigError
from entprog.config.schema import ModelConfig
from entprog.core.blocks import Blocks, discover_blocks
from entprog.diffusion.objective import Objective
from entprog.savings.weight_precision import set_precision
from entprog.tasks.pretrained.adapters import PoseAdapters, adapter_depth
from entprog.tasks.pretrained.families.base import Family
from entprog.tasks.pretrained.map_adapters import map_adapters, with_map_adapter

__all__ = [
    "declare_blocks", "frames_of_a_token", "new_modules", "objective_of", "pose_adapters", "ready", "settings_problems",
]  # fmt: skip


def ready(network: nn.Module, family: Family, model: ModelConfig) -> PoseAdapters | None:
    """Make a network ready to train, with weights or as a plan's: in evaluation mode, its blocks declared, its pose
    adapters put on, its weights held as `model.dtype` and `model.weights` say.

    Raises:
        ValueError: the model does not take these settings.
    """
    network.eval()
    family.prepared(network)
    declare_blocks(network, family)
    adapters = pose_adapters(network, family, model)
    set_precision(network, model.dtype, model.weights)
    return adapters


def new_modules(adapters: PoseAdapters | None, model: ModelConfig) -> tuple[str, ...]:
    """Patterns of the modules inside blocks that start untrained, `*` for one dotted part."""
    names = adapters.hosts if adapters is not None and model.pose == "blocks" else {}
    starred = (".".join("*" if part.isdigit() else part for part in name.split(".")) for name in names)
    return tuple(dict.fromkeys(f"{name}.pose_adapter" for name in starred))


def declare_blocks(network: nn.Module, family: Family) -> None:
    """Note the family's blocks on the network, so that every search for blocks finds the same in the same order."""
    names = family.block_names(network) or list(family.patterns)
    if names:
        network.__dict__["entprog_blocks"] = discover_blocks(network, names).names
    if adapters := family.skip_adapters(network):
        network.__dict__["entprog_adapters"] = dict(adapters)


def frames_of_a_token(family: Family) -> int:
    """Pixel frames that a token stands for."""
    return family.frames_factor * family.patch[0]


def control_channels(network: nn.Module, family: Family) -> int:
    """Channels of control latents in the layout of the input of `Family.entrance`: of a patch for a linear layer."""
    frames, rows, columns = family.patch
    token = family.control(torch.zeros(1, frames, family.channels, rows, columns))
    return token.shape[-1 if isinstance(network.get_submodule(family.entrance), nn.Linear) else 1]


def settings_problems(family: Family, model: ModelConfig, name: str) -> list[str]:
    """Settings of [model] that a network, of the class `name`, does not take: a line each."""
    wrong = []
    if why := family.problem(pose=model.pose, reference=model.reference):
        wrong.append(why if why.startswith("model.") else f"model.pretrained = {model.pretrained!r}: {why}")
    if model.pose == "native" and not family.native_pose:
        wrong.append(
            f'model.pose = "native": {name} of {model.pretrained} has no pose path of its own; choose "blocks"'
        )
    if model.reference == "native" and not family.native_reference:
        wrong.append(
            f'model.reference = "native": {name} of {model.pretrained} has no inputs for an image; choose "frame" '
            '(the reference as one more latent frame) or "none"'
        )
    if len(model.timestep_range) not in (0, 2):
        return wrong  # said of the recipe itself
    try:
        objective_of(family, model)
    except ValueError as error:
        said = str(error)
        wrong.append(said if said.startswith("model.") else f"model.pretrained = {model.pretrained!r}: {said}")
    return wrong


def objective_of(family: Family, model: ModelConfig, tokens: int = 0) -> Objective:
    """The family's objective with what the recipe says of its noise levels."""
    low, high = tuple(model.timestep_range) or family.part()
    return family.objective(shift=model.flow_shift, sampling=model.timestep_sampling, part=(low, high), tokens=tokens)


def pose_adapters(network: nn.Module, family: Family, model: ModelConfig) -> PoseAdapters | None:
    """The new pose adapters that `model.pose` asks for, put on the network.

    Raises:
        ValueError: the base has no pose path of its own, or no blocks that take adapters.
    """
    if wrong := settings_problems(family, model, type(network).__name__):
        raise ConfigError(wrong)
    if model.pose == "input":
        return PoseAdapters.at_entrance(network, family.entrance, control_channels(network, family))
    if model.pose != "blocks":
        return None
    hosts = discover_blocks(network, family.posed) if family.posed else discover_blocks(network)
    depth = adapter_depth(frames_of_a_token(family))
    if family.posed_maps:
        return PoseAdapters.at_blocks(Blocks(hosts), depth, 0, map_adapters(depth), with_map_adapter)
    return PoseAdapters.at_blocks(Blocks(hosts), depth, family.width)
