"""Original names against diffusers' own converters: original -> diffusers gives back the same tensors."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import HunyuanVideoTransformer3DModel, LTXVideoTransformer3DModel
from diffusers.loaders.single_file_utils import (
    convert_hunyuan_video_transformer_to_diffusers,
    convert_ltx_transformer_checkpoint_to_diffusers,
    convert_wan_transformer_to_diffusers,
)
from safetensors.torch import load_file
from torch import Tensor

from entprog.export.original_names import known, original_sources, original_tensors
from tiny_pipelines import saved

CONVERTERS: dict[str, Callable[..., dict[str, Tensor]]] = {
    "WanTransformer3DModel": convert_wan_transformer_to_diffusers,
    "WanVACETransformer3DModel": convert_wan_transformer_to_diffusers,
    "WanAnimateTransformer3DModel": convert_wan_transformer_to_diffusers,
    "LTXVideoTransformer3DModel": convert_ltx_transformer_checkpoint_to_diffusers,
    "HunyuanVideoTransformer3DModel": convert_hunyuan_video_transformer_to_diffusers,
}


def of_file(name: str) -> dict[str, Tensor]:
    return load_file(saved(name) / "transformer" / "diffusion_pytorch_model.safetensors")


def of_shapes(cls: type[Any], **settings: int) -> dict[str, Tensor]:
    """Random tensors of the real widths, two columns at most."""
    with torch.device("meta"):
        network = cls(**settings)
    random = torch.Generator().manual_seed(0)
    return {
        name: torch.randn([tensor.shape[0], *(min(2, side) for side in tensor.shape[1:])], generator=random)
        for name, tensor in network.state_dict().items()
    }


def returned(cls: str, tensors: dict[str, Tensor]) -> None:
    back = CONVERTERS[cls](original_tensors(cls, tensors))
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("wan-2.1-t2v", "WanTransformer3DModel"),
        ("wan-2.1-i2v", "WanTransformer3DModel"),
        ("wan-vace", "WanVACETransformer3DModel"),
        ("ltx-video", "LTXVideoTransformer3DModel"),
    ],
)
def test_diffusers_converter_gives_back_the_tensors(name: str, cls: str) -> None:
    returned(cls, of_file(name))


def test_wan_animate_but_for_its_motion_encoder() -> None:
    """Whose biases have another shape in the original; the export refuses them."""
    tensors = of_file("wan-animate")
    returned("WanAnimateTransformer3DModel", {name: tensor for name, tensor in tensors.items() if known(name)})
    assert not known("motion_encoder.conv_in.act_fn.bias")


def test_hunyuan_video_with_fused_queries_keys_and_values() -> None:
    """At the real width, which the converter takes for granted."""
    tensors = of_shapes(HunyuanVideoTransformer3DModel, num_layers=2, num_single_layers=2, num_refiner_layers=2)
    returned("HunyuanVideoTransformer3DModel", tensors)
    sources = original_sources("HunyuanVideoTransformer3DModel", tensors)
    assert sources["single_blocks.1.linear1.bias"].names == tuple(
        f"single_transformer_blocks.1.{part}.bias" for part in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
    )


def test_ltx_at_its_real_width() -> None:
    returned("LTXVideoTransformer3DModel", of_shapes(LTXVideoTransformer3DModel, num_layers=2))


def test_a_family_without_known_names() -> None:
    with pytest.raises(ValueError, match=r"CogVideoXTransformer3DModel.*WanTransformer3DModel"):
        original_sources("CogVideoXTransformer3DModel", ["proj_out.weight"])
