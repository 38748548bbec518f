"""`entprog.attach` in a loop that knows nothing of us."""

import importlib

import pytest
import torch

import entprog
from entprog.core.skip import Skipper
from entprog.integrations.skip_adapters import with_ready_adapters

diffusers = pytest.importorskip("diffusers")


def test_public_names_stay_what_they_are_once_their_modules_are_imported():
    for name, home in entprog._HOMES.items():
        for _ in range(2):  # importing a module binds it in its package, under its own last name
            assert getattr(entprog, name) is getattr(importlib.import_module(home), name)


def test_a_unet_whose_resnets_change_their_channels():
    torch.manual_seed(0)
    model = diffusers.UNet2DModel(
        sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4, attention_head_dim=8,
    )  # fmt: skip
    patterns = ["down_blocks.*.resnets.*", "mid_block.resnets.*", "up_blocks.*.resnets.*"]
    draw = entprog.Draw(torch.randn(2, 4, 8, 8), torch.rand(2), torch.randn(2, 4, 8, 8))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def predict(draw):
        return model(draw.x, 1000 * draw.tau).sample

    def attached(blocks, **options):
        return entprog.attach(model, optimizer, steps=2, predict=predict, probe=[draw], blocks=blocks, **options)

    plain = entprog.discover_blocks(model, patterns)
    blocks = with_ready_adapters(plain)
    changing = {block.name for block in plain if block.module.conv_shortcut is not None}
    assert blocks.adapters.keys() == changing and len(changing) == 5  # one widens, the others take a skip connection in
    refused = pytest.raises(ValueError, match=r"'down_blocks\.1\.resnets\.0'.* can't be skipped")
    with refused, torch.no_grad(), Skipper(plain) as skipper, skipper.skip("down_blocks.1.resnets.0"):
        predict(draw)
    schedule = {"schedule": "fixed", "schedule_options": {"m": (3,)}}
    assert set(attached(patterns, score="cei", **schedule).plan(0).workload.active) <= set(blocks.names)

    method = attached(blocks, score="order", score_options={"order": "last"}, inputs_every=0, **schedule)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for i in range(2):
        with method.step(i) as info:
            (predict(draw) - draw.target).pow(2).mean().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    assert info.active == blocks.names[-3:]
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    trained = (*info.active, "conv_norm_out", "conv_out")
    assert moved == {name for name, _ in model.named_parameters() if name.startswith(trained)}
