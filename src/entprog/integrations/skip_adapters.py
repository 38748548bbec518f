"""Ready skip adapters: what blocks of diffusers return when skipped, where the zero-parameter probe can't find it."""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from entprog.core.blocks import Adapter, Blocks
from entprog.integrations.level_adapters import LEVELS, Shortcut, resnet_shortcut
from entprog.tasks.pretrained.families.wan_animate import nothing_added
from entprog.tasks.pretrained.families.wan_vace import control_passed_on, without_control

__all__ = ["with_ready_adapters"]


def with_ready_adapters(blocks: Blocks) -> Blocks:
    """The blocks, with an adapter for each of a kind that is known here; adapters of the user's own stay.

    Kinds are known by the name of their class and the submodules that make the difference, so that no model has to be
    imported: residual blocks with a shortcut and whole levels of U-Nets, HunyuanDiT's blocks with a long skip
    connection, Cosmos' with an added position embedding, the control blocks of Wan-VACE, the face blocks of Wan-Animate
    and the residual blocks of its motion encoder.
    """
    found: dict[str, Adapter] = {}
    for block in blocks:
        if block.name in blocks.adapters:
            continue
        for cls in type(block.module).__mro__:
            if (kind := KINDS.get(cls.__name__)) and (adapter := kind(block.module)):
                found[block.name] = adapter
                break
    return Blocks(blocks, role=blocks.role, adapters={**blocks.adapters, **found}) if found else blocks


def _resnet(block: Any) -> Adapter | None:
    found = resnet_shortcut(block)
    plain = all(getattr(block, name, None) is None for name in found.path)
    return None if plain and found.divisor == 1 else found


def _convolved(block: Any) -> Adapter | None:
    """A residual block of U-Nets outside diffusers, whose shortcut may be a convolution `res_conv`."""
    return Shortcut(block, ("res_conv",)) if isinstance(getattr(block, "res_conv", None), CONVOLUTIONS) else None


def _mixed_resnet(block: Any) -> Adapter | None:
    """Spatial, then temporal: the temporal one keeps the channels."""
    return _resnet(block.spatial_res_block)


def _hunyuan_dit(block: Any) -> Adapter | None:
    """A block with a long skip connection mixes it in by a projection of its own: skipped, it passes the tokens on."""
    return None if block.skip_linear is None else _first


def _first(arguments: Mapping[str, Any]) -> Any:
    return next(iter(arguments.values()))


def _cosmos(block: Any) -> Adapter | None:
    """A position embedding and a ControlNet's residual are added in every block, whatever its parameters are."""
    return None if block.before_proj is not None or block.after_proj is not None else _cosmos_sum


def _cosmos_sum(arguments: Mapping[str, Any]) -> Tensor:
    tokens: Tensor = arguments["hidden_states"]
    for added in ("extra_pos_emb", "controlnet_residual"):
        if arguments[added] is not None:
            tokens = tokens + arguments[added]
    return tokens


def _vace(block: Any) -> Adapter | None:
    """The first block projects the control and adds the video's tokens; the others pass the control on."""
    return control_passed_on if getattr(block, "proj_in", None) is None else without_control


def _face(block: Any) -> Adapter | None:
    return nothing_added if "hidden_states" in inspect.signature(block.forward).parameters else None


def _motion_encoder(block: Any) -> Adapter:
    return Shortcut(block, ("conv_skip",), math.sqrt(2))


CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
KINDS: Mapping[str, Callable[[Any], Adapter | None]] = {
    "ResnetBlock2D": _resnet,
    "ResnetBlockCondNorm2D": _resnet,
    "ResnetBlock": _convolved,
    "SpatioTemporalResBlock": _mixed_resnet,
    "HunyuanDiTBlock": _hunyuan_dit,
    "CosmosTransformerBlock": _cosmos,
    "WanVACETransformerBlock": _vace,
    "WanAnimateFaceBlockCrossAttention": _face,
    "MotionEncoderResBlock": _motion_encoder,
    **LEVELS,
}
"""Class of a block -> its adapter, or None where the probe finds what this one passes on."""
