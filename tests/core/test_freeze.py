"""Exactly the named blocks train; frozen weights stay bit-identical."""

import copy

import pytest
import torch

from entprog.core.blocks import discover_blocks
from entprog.core.freeze import Freezer, param_groups
from toy import toy_draws, toy_task

OPTIMIZERS = {
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=1e-2, weight_decay=0.1),
    "sgd": lambda groups: torch.optim.SGD(groups, lr=1e-2, momentum=0.9, weight_decay=0.1, nesterov=True),
    "rmsprop": lambda groups: torch.optim.RMSprop(groups, lr=1e-2, momentum=0.9, weight_decay=0.1),
    "adafactor": lambda groups: torch.optim.Adafactor(groups, lr=1e-2, weight_decay=0.1),
    "one group": lambda groups: torch.optim.AdamW([p for g in groups for p in g["params"]], lr=1e-2),
}


def setup(optimizer="adamw", depth=4, **options):
    task = toy_task(depth)
    blocks = discover_blocks(task.model)
    built = OPTIMIZERS[optimizer](param_groups(task.model, blocks))
    return task, blocks, built, Freezer(task.model, blocks, built, **options)


def step(task, optimizer, seed=0, set_to_none=True):
    optimizer.zero_grad(set_to_none=set_to_none)
    task.loss(toy_draws(1, seed=seed)[0]).backward()
    optimizer.step()


def moved(before, task):
    return {name for name, p in task.model.named_parameters() if not torch.equal(p, before[name])}


def weights(task):
    return {name: p.detach().clone() for name, p in task.model.named_parameters()}


def names_in(task, *prefixes):
    return {n for n, _ in task.model.named_parameters() if n.startswith(tuple(p + "." for p in prefixes))}


@pytest.mark.parametrize("states", ["keep", "drop", "offload"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("set_to_none", [True, False])
def test_exactly_the_named_blocks_move(optimizer, states, set_to_none):
    task, _, built, freezer = setup(optimizer, states=states)
    outside = names_in(task, "embed", "inlet", "outlet")
    for active in (["blocks.0", "blocks.1", "blocks.2"], ["blocks.1"], ["blocks.3", "blocks.1"], []):
        step(task, built)  # with momentum and gradients of the former active set
        freezer.train_only(active)
        before = weights(task)
        for i in range(3):
            step(task, built, i, set_to_none)
        assert moved(before, task) == outside | names_in(task, *active)
        assert freezer.active == tuple(sorted(active))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_stale_gradients_do_not_move_frozen_weights(optimizer):
    task, _, built, freezer = setup(optimizer)
    step(task, built)
    task.loss(toy_draws(1)[0]).backward()
    graph = task.loss(toy_draws(1)[0])
    freezer.train_only(["blocks.2"])
    assert all(p.grad is None for n, p in task.model.named_parameters() if n in names_in(task, "blocks.1"))
    graph.backward()  # built while everything trained: it may fill gradients again
    before = weights(task)
    built.step()
    assert moved(before, task) == names_in(task, "blocks.2", "embed", "inlet", "outlet")


def test_outside_can_be_frozen_and_what_was_frozen_stays_so():
    task = toy_task()
    for parameter in task.model.blocks[1].norm.parameters():
        parameter.requires_grad_(False)
    task.model.inlet.requires_grad_(False)
    blocks = discover_blocks(task.model)
    flags = {n: p.requires_grad for n, p in task.model.named_parameters()}
    built = torch.optim.AdamW(task.model.parameters(), lr=1e-2, weight_decay=0.1)
    with Freezer(task.model, blocks, built, outside=False) as freezer:
        before = weights(task)
        step(task, built)
        assert moved(before, task) == {n for n in names_in(task, "blocks.0", "blocks.1", "blocks.2", "blocks.3")} - (
            names_in(task, "blocks.1.norm")
        )
        freezer.train_only(["blocks.0"])
        freezer.train_only(["blocks.1"])
        assert not any(p.requires_grad for p in task.model.blocks[1].norm.parameters())
    assert flags == {n: p.requires_grad for n, p in task.model.named_parameters()}
    assert not built._optimizer_step_pre_hooks


def test_all_active_is_plain_training_bit_for_bit():
    results = []
    for frozen in (False, True):
        task = toy_task()
        blocks = discover_blocks(task.model)
        built = torch.optim.AdamW(param_groups(task.model, blocks, lr=1e-2, weight_decay=0.1))
        freezer = Freezer(task.model, blocks, built) if frozen else None
        for i in range(4):
            if freezer is not None:
                freezer.train_only(blocks.names)
            step(task, built, i)
        results.append(weights(task))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_states_are_kept_dropped_or_offloaded():
    sizes = {}
    for states in ("keep", "drop", "offload"):
        task, _, built, freezer = setup(states=states)
        step(task, built)
        parameter = task.model.blocks[0].query.weight
        average = built.state[parameter]["exp_avg"].clone()
        freezer.train_only(["blocks.2"])
        sizes[states] = len(built.state)
        assert (len(freezer.state_dict()["offloaded"]) > 0) == (states == "offload")
        step(task, built)
        freezer.train_only(["blocks.0", "blocks.2"])
        if states == "drop":
            assert parameter not in built.state
        else:
            assert torch.equal(built.state[parameter]["exp_avg"], average)
            assert float(built.state[parameter]["step"]) == 1
        assert freezer.state_dict()["offloaded"].keys() == (
            names_in(task, "blocks.1", "blocks.3") if states == "offload" else set()
        )
    assert sizes["drop"] == sizes["offload"] < sizes["keep"]


@pytest.mark.parametrize("optimizer_first", [True, False])
@pytest.mark.parametrize("states", ["keep", "drop", "offload"])
def test_a_saved_state_goes_on_bit_for_bit(states, optimizer_first):
    """Into a fresh process, and back in time within one (a search restores snapshots so)."""

    def later(task, built, freezer):
        step(task, built, 5)
        freezer.train_only(["blocks.0", "blocks.3"])
        step(task, built, 6)
        step(task, built, 7)
        return weights(task)

    task, _, built, freezer = setup(states=states)
    step(task, built)
    freezer.train_only(["blocks.1", "blocks.3"])
    step(task, built, 1)
    saved = copy.deepcopy((task.model.state_dict(), built.state_dict(), freezer.state_dict()))
    expected = later(task, built, freezer)

    fresh_task, _, *fresh = setup(states=states)
    for into, optimizer, freeze in ((fresh_task, *fresh), (task, built, freezer)):
        model_state, optimizer_state, state = copy.deepcopy(saved)
        into.model.load_state_dict(model_state)
        parts = [(optimizer, optimizer_state), (freeze, state)]
        for part, its_state in parts if optimizer_first else parts[::-1]:
            part.load_state_dict(its_state)
        assert freeze.active == ("blocks.1", "blocks.3")
        result = later(into, optimizer, freeze)
        assert all(torch.equal(result[name], expected[name]) for name in expected)


def test_schedulers_and_groups_stay_valid():
    task, blocks, built, freezer = setup()
    assert [g["name"] for g in built.param_groups] == [*blocks.names, "outside"]
    scheduler = torch.optim.lr_scheduler.LambdaLR(built, lambda i: 0.5**i)
    for active in (["blocks.0"], ["blocks.1"]):
        freezer.train_only(active)
        step(task, built)
        scheduler.step()
    assert {g["lr"] for g in built.param_groups} == {1e-2 / 4}
    options = param_groups(task.model, blocks, lr=3e-4, weight_decay=0.0)[0]
    assert (options["lr"], options["weight_decay"]) == (3e-4, 0.0)


def test_report_has_totals_and_one_line_a_tensor():
    task, _, _, freezer = setup()
    freezer.train_only(["blocks.1"])
    head, listed, *lines = freezer.trainable_report().splitlines()
    named = dict(task.model.named_parameters())
    trained = sum(p.numel() for p in named.values() if p.requires_grad)
    total = sum(p.numel() for p in named.values())
    assert f"trained {trained:,} of {total:,} parameters" in head and "1 of 4 blocks" in head
    assert listed == "blocks: blocks.1"
    assert len(lines) == len(named)
    assert "blocks.1.norm.weight (16,) 16 trained" in lines and "blocks.0.norm.weight (16,) 16 frozen" in lines


def test_wrong_names_are_told():
    task, blocks, built, freezer = setup()
    with pytest.raises(ValueError, match=r"'block.2'; did you mean 'blocks\.2'"):
        freezer.train_only(["block.2"])
    assert freezer.active == blocks.names
    with pytest.raises(ValueError, match="choose from keep, drop, offload"):
        Freezer(task.model, blocks, built, states="discard")
    with pytest.raises(ValueError, match="parameters that this model lacks"):
        freezer.load_state_dict({"active": [], "offloaded": {"blocks.9.x": {}}, "moved": {}})
    with pytest.raises(ValueError, match="is not in this model"):
        Freezer(toy_task().model, blocks, built)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_states_leave_the_gpu_and_come_back():
    task = toy_task()
    task.model.cuda()
    blocks = discover_blocks(task.model)
    built = torch.optim.AdamW(param_groups(task.model, blocks, lr=1e-2))
    freezer = Freezer(task.model, blocks, built, states="offload")
    task.model(torch.randn(2, 6, 16).cuda(), torch.rand(2).cuda(), torch.randn(2, 6, 16).cuda()).sum().backward()
    built.step()
    parameter = task.model.blocks[0].query.weight
    before = {key: value.clone() for key, value in built.state[parameter].items()}
    freezer.train_only(["blocks.1"])
    away = freezer.state_dict()["offloaded"]["blocks.0.query.weight"]
    assert all(value.device.type == "cpu" for value in away.values()) and away["exp_avg"].is_pinned()
    freezer.train_only(["blocks.0"])
    for key, value in built.state[parameter].items():
        assert value.device == before[key].device and torch.equal(value, before[key])
