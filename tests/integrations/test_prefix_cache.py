"""`attach(..., prefix_cache=N)`: the same numbers with fewer FLOPs, or refused, or in full."""

import copy
import gc
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import nn

import entprog
from denoisers import denoisers
from entprog.methods.base import Method
from entprog.profiling.meter import Meter
from foreign_networks import FOREIGN
from stacks import WIDTH, Stack, called, draw

STEPS = 8

LAST = {
    "score": "order", "score_options": {"order": "last"}, "schedule": "fixed", "schedule_options": {"m": (0.34,)},
    "inputs_every": 0,
}  # fmt: skip
"""The last two of six blocks in every step."""


def attached(
    model: nn.Module, keep: int = 2, predict: Any = None, probe: Any = None, **options: Any
) -> tuple[Any, Any]:
    options = {**LAST, "steps": STEPS, **options}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    method = entprog.attach(
        model, optimizer, predict=predict or called(model), probe=probe or [draw(0)], prefix_cache=keep, quiet=True,
        **options,
    )  # fmt: skip
    return optimizer, method


class Trained:
    """A run in which each batch comes twice: losses, FLOPs of forward and backward by step, weights at the end."""

    def __init__(self, model: nn.Module, keep: int, draws: Any = draw, predict: Any = None, **options: Any) -> None:
        predict = predict or called(model)
        optimizer, self.method = attached(model, keep, predict, [draws(0)], **options)
        self.losses: list[float] = []
        self.flops: list[int] = []
        self.active: list[tuple[str, ...]] = []
        for i in range(options.get("steps", STEPS)):
            one = draws(1 + i // 2)
            with self.method.step(i) as plan, self.method.batch(i // 2):
                with Meter(None) as meter:
                    loss = (predict(one).float() - one.target).pow(2).mean()
                    loss.backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            self.losses.append(float(loss.detach()))
            self.flops.append(meter.flops)
            self.active.append(plan.active)
        self.method.finish()
        self.method.release()
        self.weights = {name: value.clone() for name, value in model.state_dict().items()}


def both(make: Callable[[], nn.Module], predictor: Any = called, **options: Any) -> tuple[Trained, Trained]:
    """A run with and one without the cache: losses and weights are equal bit for bit."""
    found = []
    for keep in (2, 0):
        model = make()
        found.append(Trained(model, keep, predict=predictor(model), **options))
    cached, plain = found
    assert cached.losses == plain.losses
    assert cached.weights.keys() == plain.weights.keys()
    assert all(torch.equal(value, plain.weights[name]) for name, value in cached.weights.items())
    assert all(a <= b for a, b in zip(cached.flops, plain.flops, strict=True))
    return cached, plain


def spared(cached: Trained, plain: Trained) -> list[int]:
    """Steps that cost less with the cache."""
    return [i for i, (a, b) in enumerate(zip(cached.flops, plain.flops, strict=True)) if a < b]


ADAPTIVE = {"steps": 16, "schedule": "adaptive", "cost": "flops"}
ODD = {1, 3, 5, 7}
CASES: dict[str, tuple[dict[str, Any], set[int] | None]] = {
    "two last blocks": ({}, ODD),
    "a change of stage": ({"steps": 12, "schedule": "linear", "schedule_options": {"stages": 3}}, ODD),
    "gradient checkpointing": ({"gradient_checkpointing": True}, ODD),
    "bf16 storage": ({"storage": "bf16"}, ODD),
    "the preset": (
        {"preset": "entprog", **dict.fromkeys(["score", "score_options", "schedule", "schedule_options"])},
        ODD,
    ),
    "lora": ({"method": "lora", "method_options": {"m": 0.5, "inputs": "never"}}, ODD),
    "lora with inputs": ({"method": "lora", "method_options": {"m": 0.5}}, set()),
    "mixed": ({"method": "mixed"}, set()),
    "full": ({"method": "full"}, set()),
    "inputs train": ({"inputs_every": 1}, set()),
    "inputs train at every fourth step": ({"inputs_every": 4}, {3, 7}),
    "supernet": ({**ADAPTIVE, "schedule_options": {"stages": 2, "search_steps": 4}}, None),
    "probe": ({**ADAPTIVE, "schedule_options": {"stages": 2, "search_steps": 6, "estimator": "probe"}}, None),
}
"""Options, and the steps that cost less; None where a search decides."""


@pytest.mark.parametrize("case", CASES)
def test_the_same_numbers_in_fewer_flops(case: str) -> None:
    options, steps = CASES[case]
    cached, plain = both(Stack, **options)
    found = spared(cached, plain)
    if steps is None:
        assert len(set(cached.active)) > 1
        assert found
    else:
        assert set(found) == steps
    assert ("used in no step" in cached.method.summary) == (not found), cached.method.summary


SINGLE = ("WanTransformer3DModel", "FluxTransformer2DModel", "DiT, its authors' code", "nanoGPT", "Swin, timm")
CONNECTED = ("UNet2DConditionModel", "U-Net, lucidrains", "HunyuanDiT2DModel")


def case_of(name: str) -> Any:
    return FOREIGN[name] if name in FOREIGN else denoisers()[name]


@pytest.mark.parametrize("name", SINGLE)
def test_networks_that_are_one_stack(name: str) -> None:
    """Also those with two streams, with blocks of two kinds, and with tied weights."""
    case = case_of(name)
    cached, plain = both(
        case.model, case.predictor, draws=case.draw, steps=4, blocks=getattr(case, "blocks", None),
        schedule_options={"m": (1,)},
    )  # fmt: skip
    assert spared(cached, plain) == [1, 3]


@pytest.mark.parametrize("name", CONNECTED)
def test_networks_with_other_connections_are_refused(name: str) -> None:
    case = case_of(name)
    model = case.model()
    with pytest.raises(ValueError, match=r"prefix_cache: .* no single stack; leave prefix_cache out"):
        attached(model, predict=case.predictor(model), probe=[case.draw(0)])
    attached(model, 0, predict=case.predictor(model), probe=[case.draw(0)])


def test_a_connection_whose_weight_is_zero_is_seen() -> None:
    with pytest.raises(ValueError, match="no single stack"):
        attached(Stack(skip=True))


def test_the_models_own_gradient_checkpointing() -> None:
    case = case_of("WanTransformer3DModel")

    def make() -> Any:
        model = case.model().train()
        model.enable_gradient_checkpointing()
        return model

    assert spared(*both(make, case.predictor, draws=case.draw, steps=4, schedule_options={"m": (1,)})) == [1, 3]


def step(method: Method, optimizer: Any, model: Stack, i: int, key: Any, d: entprog.Draw | None = None) -> int:
    """One step; the FLOPs of its forward and backward."""
    one = draw(7) if d is None else d
    with method.step(i), method.batch(key):
        with Meter(None) as meter:
            (called(model)(one) - one.target).pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return meter.flops


def change_a_frozen_weight(model: Stack, method: Method) -> None:
    with torch.no_grad():
        model.blocks[0].inner.weight.mul_(2)


def train_the_first_block(model: Stack, method: Method) -> None:
    model.blocks[0].requires_grad_(True)


@pytest.mark.parametrize(
    "change",
    [
        lambda model, method: model.load_state_dict(model.state_dict()),
        change_a_frozen_weight,
        train_the_first_block,
        lambda model, method: method.release(),
        lambda model, method: model.blocks[2].requires_grad_(True),
        lambda model, method: model.eval(),
        lambda model, method: model.scale.fill_(2),
        lambda model, method: setattr(model.blocks[1].inner, "weight", nn.Parameter(torch.ones(WIDTH, WIDTH))),
    ],
)
def test_what_was_kept_is_dropped_when_it_may_have_changed(change: Callable[[Stack, Method], Any]) -> None:
    model = Stack()
    optimizer, method = attached(model)
    flops = [step(method, optimizer, model, i, "a") for i in range(2)]
    assert flops[1] < flops[0]
    change(model, method)
    one = draw(7)
    expected = called(copy.deepcopy(model))(one)
    with method.batch("a"), Meter(None) as meter:
        assert torch.equal(called(model)(one), expected)
    with Meter(None) as full:
        called(model)(one)
    assert meter.flops == full.flops


def test_the_oldest_batches_are_dropped() -> None:
    model = Stack()
    optimizer, method = attached(model, keep=2)
    flops = [step(method, optimizer, model, i, key, draw(ord(key))) for i, key in enumerate("abaabcbca")]
    assert [each < flops[0] for each in flops] == [False, False, True, True, True, False, True, True, False]


def test_a_key_of_another_batch_is_an_error() -> None:
    model = Stack()
    optimizer, method = attached(model)
    step(method, optimizer, model, 0, ("clip", 3))
    with pytest.raises(ValueError, match=r"batch\(\('clip', 3\)\): the model is called with other inputs"):
        step(method, optimizer, model, 1, ("clip", 3), draw(8))
    step(method, optimizer, model, 1, None, draw(8))
    step(method, optimizer, model, 2, ("clip", 3))


def test_micro_batches_and_several_calls() -> None:
    """Keys for each micro-batch of a step, two calls of the model for each key, a backward after the context."""
    gradients = []
    for keep in (4, 0):
        model = Stack()
        _, method = attached(model, keep)
        for i in range(2):
            with method.step(i), Meter(None) as meter:
                for micro in range(2):
                    one, two = draw(micro), draw(micro + 9)
                    with method.batch(("micro", micro)):
                        loss = (called(model)(one) * called(model)(two)).pow(2).mean()
                    loss.backward()
        gradients.append(([p.grad for p in model.parameters() if p.grad is not None], meter.flops))
    (cached, few), (plain, many) = gradients
    assert few < many
    assert all(map(torch.equal, cached, plain))


def test_a_buffer_that_is_written_again_with_the_same_values() -> None:
    model = Stack()
    optimizer, method = attached(model)
    flops = step(method, optimizer, model, 0, "a")
    model.scale = model.scale.clone()
    assert step(method, optimizer, model, 1, "a") < flops


@contextmanager
def warned(word: str) -> Iterator[None]:
    with pytest.warns(UserWarning, match=word) as seen:
        yield
    assert len([each for each in seen if "prefix_cache" in str(each.message)]) == 1


@pytest.mark.parametrize(
    ("options", "word"), [({"dropout": 0.5}, "random numbers"), ({"norm": True}, "a buffer or a mode")]
)
def test_what_changes_at_each_call_runs_in_full(options: dict[str, Any], word: str) -> None:
    losses, flops = [], []
    for keep in (2, 0):
        model = Stack(**options)
        optimizer, method = attached(model, keep)
        torch.manual_seed(3)
        with warned(word) if keep else nullcontext():
            flops += [step(method, optimizer, model, i, "a") for i in range(3)]
        losses.append(float(called(model.eval())(draw(1)).detach().sum()))
        if keep:  # in evaluation mode they are as good as others
            model.train()
            model.blocks[:4].eval()
            assert step(method, optimizer, model, 3, "a") > step(method, optimizer, model, 4, "a")
    assert len(set(flops)) == 1
    assert losses[0] == losses[1]


def test_checkpointing_of_frozen_with_active_blocks_is_refused() -> None:
    model = Stack(grouped=True)
    optimizer, method = attached(model)
    step(method, optimizer, model, 0, "a")
    with pytest.raises(ValueError, match=r"prefix_cache: checkpointing runs block 'blocks.0'"):
        step(method, optimizer, model, 1, "a")


def test_a_model_that_calls_its_blocks_otherwise_later() -> None:
    model = Stack()
    optimizer, method = attached(model)
    step(method, optimizer, model, 0, "a")
    model.order = (1, 0, 2, 3, 4, 5)
    with pytest.raises(ValueError, match="in another order than at attach"):
        step(method, optimizer, model, 1, "a")
    flops = {step(method, optimizer, model, i, "b") for i in (1, 2)}
    assert len(flops) == 1  # never kept


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4, 5, 5), (0, 1, 2, 3, 4, 5, 0)])
def test_blocks_that_are_called_twice_are_refused(order: tuple[int, ...]) -> None:
    model = Stack()
    model.order = order
    with pytest.raises(ValueError, match=r"prefix_cache: the model calls its 6 blocks 7 times"):
        attached(model)


def test_inputs_that_need_a_gradient_get_it() -> None:
    model = Stack()
    _, method = attached(model)
    one = draw(7)
    for i in range(2):
        x = one.x.clone().requires_grad_(True)
        with method.step(i), method.batch("a"):
            called(model)(entprog.Draw(x, one.tau, one.target, one.condition)).sum().backward()
        assert x.grad is not None


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"prefix_cache = -1: give the count"):
        attached(Stack(), -1)
    with pytest.raises(ValueError, match=r"compiled code can't leave out blocks"):
        compiled = Stack()
        compiled.blocks[0]._compiled_call_impl = lambda *given: None  # as .compile() does
        attached(compiled)
    with pytest.raises(ValueError, match=r"predict calls the attached model never"):
        outer = nn.ModuleDict({"inner": Stack()})
        attached(outer, predict=called(outer["inner"]))
    model = Stack()
    _, method = attached(model)
    with method.batch("a"), pytest.raises(ValueError, match=r"batch\('b'\): inside batch\('a'\)"), method.batch("b"):
        pass


def test_a_model_that_is_not_called_is_said_once() -> None:
    model = Stack()
    _, method = attached(model)
    with warned("was not called"):
        for key in "ab":
            with method.batch(key):
                pass


def test_copies_are_plain_and_nothing_is_left_after_release() -> None:
    model = Stack()
    optimizer, method = attached(model)
    for i in range(2):
        step(method, optimizer, model, i, "a")
    method.release()
    assert not any("forward" in module.__dict__ for module in copy.deepcopy(model).modules())
    assert not model._forward_hooks
    assert not optimizer._optimizer_step_post_hooks
    with method.batch("a"), warnings.catch_warnings():
        warnings.simplefilter("error")
        called(model)(draw(9))


def test_nothing_keeps_the_model_alive() -> None:
    model = Stack()
    optimizer, method = attached(model)
    for i in range(2):
        step(method, optimizer, model, i, "a")
    alive = weakref.ref(model)
    del model, optimizer, method
    gc.collect()
    assert alive() is None


def test_the_summary_says_what_is_kept() -> None:
    _, method = attached(Stack(), keep=3)
    assert "prefix cache: up to 3 batches of 0.000256 MB (as large as probe[0]) on cpu; blocks below" in method.summary
    assert "run once a batch in steps 0-7" in method.summary
