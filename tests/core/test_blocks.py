"""Discovery: declaration, pattern, guess; overlaps and sharing refused; use outside noticed."""

import pytest
import torch
from torch import nn

from entprog.core.blocks import Block, Blocks, discover_blocks, outside_parameters
from entprog.core.depth import block_costs
from entprog.core.outside import used_outside
from toy import ToyBlock, ToyDiT, siamese_role, toy_draws, toy_task


class Tree(nn.Module):
    """Names made to trap substring matching; an embedder list and a refiner too small to be main stacks."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ToyBlock(8) for _ in range(12))
        self.xblocks = nn.ModuleList(ToyBlock(8) for _ in range(3))
        self.embedders = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
        self.head = nn.ModuleList([nn.Linear(8, 8), nn.LayerNorm(8)])


def test_pattern_matches_whole_components_only():
    assert discover_blocks(Tree(), "blocks.*").names == tuple(f"blocks.{i}" for i in range(12))
    assert discover_blocks(Tree(), ["blocks.1", "xblocks.*"]).names == (
        "blocks.1",
        "xblocks.0",
        "xblocks.1",
        "xblocks.2",
    )
    assert discover_blocks(Tree(), "*.2").names == ("blocks.2", "xblocks.2", "embedders.2")
    with pytest.raises(ValueError, match="one whole component"):
        discover_blocks(Tree(), "block*.1")


def test_no_match_lists_what_was_seen_and_the_nearest_pattern():
    with pytest.raises(ValueError) as error:
        discover_blocks(Tree(), "block.*")
    message = str(error.value)
    count = sum(p.numel() for p in Tree().blocks.parameters())
    assert f"blocks.*: 12 x ToyBlock, {count:,} parameters" in message
    assert "head.*: 2 x LayerNorm/Linear" in message
    assert message.endswith("did you mean 'blocks.*'?")
    with pytest.raises(ValueError, match="no module list"):
        discover_blocks(nn.Linear(2, 2))


def test_overlaps_are_refused():
    with pytest.raises(ValueError, match=r"'blocks\.3' is matched twice: by 'blocks\.\*' and by 'blocks\.3'"):
        discover_blocks(Tree(), ["blocks.*", "blocks.3"])
    with pytest.raises(ValueError, match=r"inside block 'blocks\.\d+'"):
        discover_blocks(Tree(), ["blocks.*", "blocks.*.mlp"])
    with pytest.raises(ValueError, match=r"list 'blocks' itself; write 'blocks\.\*'"):
        discover_blocks(Tree(), "blocks")


def test_guess_takes_the_main_stacks_of_one_class():
    names = discover_blocks(Tree()).names
    assert names == tuple(f"blocks.{i}" for i in range(12)) + tuple(f"xblocks.{i}" for i in range(3))


class Declaring(Tree):
    def entprog_blocks(self) -> list[str]:
        return ["xblocks.2", "blocks.0"]

    def entprog_role(self, arguments: dict[str, object]) -> str:
        return "denoising" if arguments else "reference"


def test_declaration_comes_first_and_patterns_choose_from_it():
    assert discover_blocks(Declaring()).names == ("xblocks.2", "blocks.0")
    assert discover_blocks(Declaring(), "blocks.*").names == ("blocks.0",)
    with pytest.raises(ValueError, match=r"none of the blocks that Declaring declares: xblocks\.2, "):
        discover_blocks(Declaring(), "blocks.7")
    wrapped = nn.Sequential(Declaring())
    assert discover_blocks(wrapped).names == ("0.xblocks.2", "0.blocks.0")
    assert discover_blocks(wrapped).role({}) == "reference"
    wrapped[0].entprog_blocks = {"blocks.1": wrapped[0].blocks[1]}
    assert discover_blocks(wrapped).names == ("0.blocks.1",)
    wrapped[0].entprog_blocks = ["blocks.99"]
    with pytest.raises(ValueError, match=r"declares 'blocks\.99'"):
        discover_blocks(wrapped)


def test_shared_parameters_are_refused_with_their_names():
    model = Tree()
    model.blocks[4].norm.weight = model.blocks[2].norm.weight
    with pytest.raises(ValueError) as error:
        discover_blocks(model, "blocks.*")
    assert "'blocks.2' and 'blocks.4'" in str(error.value)
    assert "blocks.2.norm.weight is blocks.4.norm.weight" in str(error.value)
    once = ToyBlock(8)
    with pytest.raises(ValueError, match="share a parameter"):
        Blocks([Block("a", once), Block("b", once)])


def test_blocks_are_a_sequence_by_exact_name():
    blocks = discover_blocks(Tree(), "blocks.*")
    assert len(blocks) == 12 and blocks["blocks.3"] is blocks[3]
    assert [b.name for b in blocks[-2:]] == ["blocks.10", "blocks.11"]
    assert "blocks.3" in blocks and blocks[3] in blocks and "blocks.33" not in blocks
    with pytest.raises(ValueError, match=r"did you mean 'blocks\."):
        blocks["blocks.12"]
    assert next(blocks[0].named_parameters())[0] == "blocks.0.norm.weight"


def test_parameters_outside():
    model = ToyDiT()
    names = set(outside_parameters(model, discover_blocks(model)))
    assert names == {f"{part}.{kind}" for part in ("embed", "inlet", "outlet") for kind in ("weight", "bias")}


class Borrowing(nn.Module):
    """Its head uses block 0's norm as a module, and block 1's weight as a tensor."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ToyBlock(8) for _ in range(3))
        self.extra = self.blocks[2].query if tied else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            _ = next(block.parameters()).dtype
            x = block(x, x[:, 0])
        return nn.functional.linear(self.blocks[0].norm(x), self.blocks[1].query.weight)


def test_use_outside_its_block_is_noticed():
    model = Borrowing()
    before = {name: module.__dict__.get("forward") for name, module in model.named_modules()}
    with pytest.warns(UserWarning, match=r"blocks\.0\.norm\.weight"):
        names = used_outside(model, discover_blocks(model), lambda: model(torch.randn(2, 3, 8)))
    assert names == ("blocks.0.norm.weight", "blocks.0.norm.bias", "blocks.1.query.weight")
    assert before == {name: module.__dict__.get("forward") for name, module in model.named_modules()}
    tied = Borrowing(tied=True)
    with pytest.warns(UserWarning):
        names = used_outside(tied, discover_blocks(tied), lambda: tied(torch.randn(2, 3, 8)))
    assert {"blocks.2.query.weight", "blocks.2.query.bias"} <= set(names)


@pytest.mark.filterwarnings("error")
def test_clean_models_use_nothing_outside():
    for variant in ("plain", "tuple", "siamese"):
        task = toy_task(3, variant)
        assert used_outside(task.model, discover_blocks(task.model), lambda t=task: t.predict(toy_draws()[0])) == ()


def test_costs_follow_the_order_of_execution():
    task = toy_task(3)
    blocks = Blocks(reversed(list(discover_blocks(task.model))))
    costs = block_costs(task, blocks, toy_draws()[0])
    assert {name: cost["lowest_depth"] for name, cost in costs.items()} == {f"blocks.{i}": i for i in range(3)}
    siamese = toy_task(3, "siamese")
    siamese.model.late = toy_task(1).model.blocks[0]
    blocks = Blocks([*discover_blocks(siamese.model, role=siamese_role), Block("late", siamese.model.late)])
    with pytest.warns(UserWarning, match="never calls: late"):
        places = block_costs(siamese, blocks, toy_draws()[0])
    assert [places[name]["lowest_depth"] for name in blocks.names] == [0, 1, 2, 3]
    assert costs["blocks.0"]["bytes"] == 4 * costs["blocks.0"]["parameters"] == 4 * 2736
