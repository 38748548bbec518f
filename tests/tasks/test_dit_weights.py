"""A pretrained DiT as the start of our transformer."""

from pathlib import Path

import pytest
import torch

from entprog.config.schema import ModelConfig
from entprog.nets.dit import SIZES
from entprog.tasks.human_video.build import build_model
from tiny_pipelines import saved


@pytest.fixture
def as_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """The size "xl" is as large as the tiny DiT."""
    from diffusers import DiTTransformer2DModel

    config = DiTTransformer2DModel.load_config(saved("dit") / "transformer")
    heads, head = config["num_attention_heads"], config["attention_head_dim"]
    monkeypatch.setitem(SIZES, "xl", {"depth": config["num_layers"], "width": heads * head, "heads": heads})


@pytest.mark.usefixtures("as_large")
def test_blocks_are_the_same_function() -> None:
    from diffusers import DiTTransformer2DModel

    theirs = DiTTransformer2DModel.from_pretrained(saved("dit") / "transformer").eval()
    ours = build_model(ModelConfig(size="xl", init=str(saved("dit"))))
    width = ours.config.width
    tokens, condition = torch.randn(2, 16, width), torch.randn(2, width)
    for block, own in zip(theirs.transformer_blocks, ours.blocks, strict=True):
        block.norm1.emb = torch.nn.Identity()
        # Their block embeds time and class itself: an identity passes the condition vector through.
        block.norm1.forward = _modulated(block.norm1, condition)
        with torch.no_grad():
            wanted = block(tokens, timestep=torch.zeros(2), class_labels=torch.zeros(2, dtype=torch.long))
            found = own(tokens[:, None], torch.nn.functional.silu(condition))[:, 0]
        assert torch.allclose(found, wanted, atol=1e-5)


def _modulated(norm, condition):  # type: ignore[no-untyped-def]
    def forward(x, *args, **kwargs):  # type: ignore[no-untyped-def]
        shift, scale, gate, shift2, scale2, gate2 = norm.linear(norm.silu(condition)).chunk(6, 1)
        return norm.norm(x) * (1 + scale[:, None]) + shift[:, None], gate, shift2, scale2, gate2

    return forward


def test_another_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.init = .*a DiT of depth 4 \(ours 12\)|width"):
        build_model(ModelConfig(size="s", init=str(saved("dit"))))
