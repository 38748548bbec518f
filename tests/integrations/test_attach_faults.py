"""What once went wrong in `attach` without an error: each is right now, or refused in one line."""

import copy
import io
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import entprog
from entprog.core.blocks import Block, Blocks, discover_blocks
from entprog.core.types import Draw, Ranking
from entprog.methods.base import Method
from entprog.savings.recompute import recompute, recomputed

WIDTH = 8


class Net(nn.Module):
    """Four residual linear blocks and a head."""

    def __init__(self, blocks: int = 4, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.blocks = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(blocks))
        self.head = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x).tanh()
        return self.head(x)


def draw(seed: int = 0, **condition: Any) -> Draw:
    generator = torch.Generator().manual_seed(seed)
    x, target = torch.randn(2, 4, WIDTH, generator=generator)
    return Draw(x, torch.rand(4, generator=generator), target, condition)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)


def attached(model: nn.Module, optimizer: Any = None, **options: Any) -> Method:
    values = {"steps": 4, "predict": lambda d: model(d.x), "probe": [draw()], **options}
    return entprog.attach(model, optimizer or sgd(model), **values)


def train(model: nn.Module, method: Method, optimizer: Any, i: int, micro: int = 1) -> tuple[Any, set[str]]:
    """Step i in `micro` entries; its plan and the blocks or heads that moved."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for part in range(micro):
        with method.step(i) as plan:
            ((model(draw(100 + i).x) - draw(100 + i).target).pow(2).mean() / micro).backward()
            if part == micro - 1:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    return plan, {".".join(name.split(".")[:-1]) for name in moved}


class TestRecompute:
    def test_a_copy_runs_its_own_weights_and_the_model_can_be_saved(self) -> None:
        model, x = Net(), draw().x
        attached(model, gradient_checkpointing=True)
        ema, before = copy.deepcopy(model), model(x).detach()
        with torch.no_grad():
            model.blocks[0].weight.zero_()
        assert torch.equal(ema(x), before) and not torch.equal(model(x), before)
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=False)
        assert torch.equal(loaded(x), model(x)) and type(loaded.blocks[0]) is nn.Linear
        assert not any("forward" in vars(module) for module in model.modules())

    def test_it_recomputes_until_released(self) -> None:
        model = Net()
        method = attached(model, gradient_checkpointing=True, score="order")
        assert type(model.blocks[0]) is not nn.Linear and isinstance(model.blocks[0], nn.Linear)
        method.release()
        assert type(model.blocks[0]) is nn.Linear

    def test_a_forward_of_other_code_stays(self) -> None:
        model = Net()
        model.blocks[0].forward = own = model.blocks[0].forward
        undo = recompute(discover_blocks(model))
        undo()
        assert model.blocks[0].__dict__["forward"] is own

    def test_scoring_recomputes_as_well(self) -> None:
        counts = []
        for on in (False, True):
            model, calls = Net(), []
            model.blocks[1].weight.register_hook(lambda _, calls=calls: calls.append("gradient"))
            with torch.autograd.graph.saved_tensors_hooks(
                lambda t, calls=calls: calls.append("saved") or t, lambda t: t
            ):
                attached(model, gradient_checkpointing=on)
            counts.append(calls[: calls.index("gradient")].count("saved"))
        assert counts[1] < counts[0]

    def test_a_failed_attach_leaves_nothing(self) -> None:
        model = Net()
        with pytest.raises(ValueError, match="stages"):
            attached(model, gradient_checkpointing=True, schedule_options={"stages": 99})
        assert type(model.blocks[0]) is nn.Linear and all(p.requires_grad for p in model.parameters())

    @pytest.mark.parametrize("by", ["the block", "the model"])
    @pytest.mark.parametrize("keyword", [False, True])
    def test_an_input_that_is_written_in_place_is_refused(self, by: str, keyword: bool) -> None:
        """By us where the input is given by name, which torch does not watch; else by torch."""

        class Writing(nn.Linear):
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(x.mul_(2) if by == "the block" else x)

        block = Writing(WIDTH, WIDTH)
        hidden = draw().x.clone()
        message = "gradient_checkpointing: an input of a block .Writing. was written in place" if keyword else "inplace"
        with recomputed(Blocks([Block("block", block)])):
            loss = (block(x=hidden) if keyword else block(hidden)).sum()
            if by == "the model":
                hidden.add_(1)
            with pytest.raises(ValueError if keyword else RuntimeError, match=message):
                loss.backward()


class TestBlocks:
    class Nested(nn.Module):
        """A list of lists, whose inner lists have no forward, and one block that is never called."""

        def __init__(self, spare: bool = False) -> None:
            super().__init__()
            self.downs = nn.ModuleList(
                nn.ModuleList([nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)]) for _ in range(3)
            )
            self.spare = spare

        def forward(self, x: Tensor) -> Tensor:
            for first, second in list(self.downs)[: 2 if self.spare else 3]:
                x = x + second(first(x).relu())
            return x

    def test_modules_without_a_forward_are_no_blocks(self) -> None:
        method = attached(self.Nested())
        assert set(method.rankings[0].names) == {f"downs.{i}.{j}" for i in range(3) for j in range(2)}

    def test_guessed_blocks_that_are_never_called_are_left_out(self) -> None:
        with pytest.warns(UserWarning, match=r"never calls are left out: downs\.2\.0, downs\.2\.1"):
            method = attached(self.Nested(spare=True))
        assert len(method.rankings[0].names) == 4

    def test_named_blocks_that_are_never_called_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"never calls the forward of downs\.2\.0.*blocks="):
            attached(self.Nested(spare=True), blocks="downs.*.*")

    def test_a_model_that_predict_does_not_call_is_refused(self) -> None:
        other = Net()
        with pytest.raises(ValueError, match=r"never calls the forward of blocks\.0"):
            attached(Net(), predict=lambda d: other(d.x))

    def test_a_sequential_stack_is_found(self) -> None:
        class Stack(Net):
            def __init__(self) -> None:
                super().__init__()
                self.blocks = nn.Sequential(*self.blocks)

        assert discover_blocks(Stack()).names == tuple(f"blocks.{i}" for i in range(4))
        assert len(attached(Stack()).rankings[0].names) == 4
        mixed = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU())
        with pytest.raises(
            ValueError, match=r"name its blocks \(blocks=\); its module lists are\n  \*: 2 x Linear/ReLU"
        ):
            discover_blocks(mixed)

    def test_blocks_with_nothing_to_train_are_left_out(self) -> None:
        model = Net()
        model.blocks[1].requires_grad_(False)
        with pytest.warns(UserWarning, match=r"requires a gradient are left out: blocks\.1$"):
            method = attached(model)
        assert set(method.rankings[0].names) == {"blocks.0", "blocks.2", "blocks.3"}
        names = tuple(f"blocks.{i}" for i in range(4))
        with pytest.warns(UserWarning, match=r"requires a gradient stay in the given ranking: blocks\.1$"):
            assert attached(model, ranking=Ranking(names)).rankings[0].names == names
        model = Net()
        model.blocks.requires_grad_(False)
        with pytest.raises(ValueError, match="nothing in them requires a gradient"):
            attached(model)

    def test_what_can_be_done_where_a_block_cannot_be_skipped(self) -> None:
        model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH))
        with pytest.raises(ValueError, match=r'can\'t be skipped.*"gradient".*other blocks.*an adapter'):
            attached(model, score="cei")


class TestAgain:
    def test_a_second_attach_starts_from_the_flags_of_before_the_first(self) -> None:
        model = Net()
        model.head.bias.requires_grad_(False)
        optimizer = sgd(model)
        for order, active in (("last", "blocks.3"), ("first", "blocks.0")):
            method = attached(model, optimizer, score="order", score_options={"order": order})
            plan, moved = train(model, method, optimizer, 0)
            assert plan.active == (active,) and moved == {active, "head"}
        del method, optimizer  # the cell makes both anew, and the first are gone
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        method = attached(model, optimizer, score="order", score_options={"order": "last"})
        assert train(model, method, optimizer, 0)[1] == {"blocks.3", "head"}
        method.release()
        assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["head.bias"]

    def test_flags_changed_by_hand_stay(self) -> None:
        model = Net()
        first = attached(model)
        model.requires_grad_(False)
        model.blocks[1:3].requires_grad_(True)
        with pytest.warns(UserWarning, match="left out"):
            method = attached(model, score="order")
        assert set(method.rankings[0].names) == {"blocks.1", "blocks.2"}
        with pytest.raises(ValueError, match="was released"), first.step(0):
            pass

    def test_a_released_method_steps_no_more(self) -> None:
        model = Net()
        method = attached(model)
        with method.step(0):
            assert not all(p.requires_grad for p in model.parameters())
        method.release()
        method.release()
        assert all(p.requires_grad for p in model.parameters())
        with pytest.raises(ValueError, match="was released"), method.step(1):
            pass


class TestMicroBatches:
    @pytest.mark.parametrize("estimator", ["supernet", "probe"])
    @pytest.mark.parametrize("outside", [False, True])
    def test_a_step_that_is_entered_again_changes_nothing(self, estimator: str, outside: bool) -> None:
        """`outside`: the optimizer steps after the context, so that only the next step ends the one before."""
        found = []
        for micro in (1, 3):
            model = Net()
            optimizer = sgd(model)
            options = {"stages": 2, "search_steps": 6, "estimator": estimator}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                method = attached(
                    model,
                    optimizer,
                    score="order",
                    steps=16,
                    schedule="adaptive",
                    cost="flops",
                    schedule_options=options,
                )
                plans = [_step(model, method, optimizer, i, micro, outside) for i in range(16)]
            state = method.state_dict()
            trials = [(t["stage"], t["step"], t["workload"]["active"]) for t in state["trials"]]
            found.append((plans, trials, [w["active"] for w in state["chosen"]]))
        assert found[0] == found[1]
        plans, trials, chosen = found[0]
        assert len(chosen) == 2 and plans[-1] == chosen[1]


def _step(model: nn.Module, method: Method, optimizer: Any, i: int, micro: int, outside: bool) -> Any:
    """Step i in `micro` entries: the first has the backward, the last the optimizer's step."""
    for part in range(micro):
        with method.step(i) as plan:
            if part == 0:
                (model(draw(i).x) - draw(i).target).pow(2).mean().backward()
            if part == micro - 1 and not outside:
                optimizer.step()
    if outside:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return plan.active


class TestOptimizer:
    def test_that_of_another_model_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"holds none of the model's trainable parameters"):
            attached(Net(), sgd(Net()))

    def test_every_trainable_parameter_must_be_in_it(self) -> None:
        model = Net()
        with pytest.raises(ValueError, match=r"lacks 2 of 10 .*: head\.weight, head\.bias; add them"):
            attached(model, sgd(model.blocks))

    def test_that_of_accelerate_is_taken_out_of_its_wrapper(self) -> None:
        accelerate = pytest.importorskip("accelerate")
        model = Net()
        accelerator = accelerate.Accelerator(cpu=True)
        plain = sgd(model)
        model, optimizer = accelerator.prepare(model, plain)
        method = attached(model, optimizer)
        plan, moved = train(model, method, optimizer, 0)
        assert moved == {*plan.active, "head"} and method.freezer.optimizer is plain

    def test_no_optimizer_at_all(self) -> None:
        with pytest.raises(ValueError, match=r"a str is no torch\.optim\.Optimizer"):
            attached(Net(), "adamw")


def test_each_module_keeps_its_own_mode() -> None:
    model = Net().train()
    model.blocks[0].eval()
    attached(model)
    assert model.training and not model.blocks[0].training and model.blocks[1].training


class TestInput:
    def test_a_prediction_of_another_shape(self) -> None:
        model = Net()
        wrong = Draw(draw().x, draw().tau, draw().target[:, :1])
        for score in ("gradient", "cei"):
            with pytest.raises(ValueError, match=r"shape \[4, 8\], but draw.target has \[4, 1\]"):
                attached(model, probe=[wrong], score=score)
        learned = Draw(draw().x, draw().tau, draw().target[:, :4])
        with pytest.raises(ValueError, match=r"learned sigma\); return the first half, prediction\.chunk\(2, 1\)\[0\]"):
            attached(model, probe=[learned])
        with pytest.raises(ValueError, match="predict gave a tuple"):
            attached(model, predict=lambda d: (model(d.x),))
        attached(model, probe=[wrong], loss=lambda d: model(d.x).mean())
        with pytest.raises(ValueError, match=r"loss gave shape \[4\]"):
            attached(model, loss=lambda d: model(d.x).mean(1))

    def test_timesteps_for_tau(self) -> None:
        wrong = Draw(draw().x, 1000 * draw().tau, draw().target)
        with pytest.raises(ValueError, match=r"probe\[0\]\.tau is in .* must be a time in 0\.\.1: divide timesteps"):
            attached(Net(), probe=[wrong])
        with pytest.raises(ValueError, match="one time a sample"):
            attached(Net(), probe=[Draw(draw().x, torch.rand(4, 1), draw().target)])

    @pytest.mark.parametrize("value", [3, (4, 4), torch.tensor(1.0), torch.zeros(7, 2)])
    def test_conditions_without_a_batch(self, value: Any) -> None:
        with pytest.raises(ValueError, match=r"condition\['size'\] .*give tensors with the batch first"):
            attached(Net(), probe=[draw(size=value)])
