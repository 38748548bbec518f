"""LoRA and mixed rank: what trains, what merging leaves, and going on exactly."""

from typing import Any

import pytest
import torch

from entprog.core.blocks import discover_blocks
from entprog.core.freeze import param_groups
from entprog.core.types import MethodContext, Ranking
from entprog.plugins import load, problems
from entprog.savings.adapters import adapted_layers, effective_weights, plain_parameters, plain_state_dict
from loops import DRAWS, Rig, adaptive
from toy import toy_draws, toy_task

pytest.importorskip("peft")
OPTIONS = {"rank": 4, "alpha": 8}


def rig(method: str, total: int = 6, schedule: Any = None, **setting: Any) -> Rig:
    schedule = schedule or load("schedule", "linear", stages=2)
    return Rig(method=method, schedule=schedule, total=total, options=OPTIONS, **setting)


def output(made: Rig) -> torch.Tensor:
    with torch.no_grad():
        return made.task.predict(DRAWS[0])


def test_new_adapters_change_nothing_and_names_stay() -> None:
    plain, made = toy_task(), rig("lora")
    assert torch.equal(plain.predict(DRAWS[0]), made.task.predict(DRAWS[0]))
    expected = plain.model.state_dict()
    found = plain_state_dict(made.task.model)
    assert found.keys() == expected.keys() == effective_weights(made.task.model).keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert set(plain_parameters(made.task.model)) == {name for name, _ in plain.model.named_parameters()}


def test_putting_adapters_on_is_repeatable_and_leaves_the_random_state() -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    made = [rig("lora") for _ in range(2)]
    torch.manual_seed(3)
    task = toy_task()
    torch.manual_seed(3)
    load("method", "lora").groups(task.model, discover_blocks(task.model), lr=1e-2, seed=1)
    assert torch.equal(torch.rand(3), expected)
    first, second = (m.task.model.state_dict() for m in made)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_lora_trains_adapters_and_what_lies_outside() -> None:
    made = rig("lora")
    before = {n: p.detach().clone() for n, p in made.task.model.named_parameters()}
    made.run()
    moved = {n for n, p in made.task.model.named_parameters() if not torch.equal(p, before[n])}
    inside = {n for n in moved if n.startswith("blocks.")}
    assert inside == {n for n in before if ".lora_" in n}
    assert {n.split(".")[0] for n in moved - inside} == {"embed", "inlet", "outlet"}
    rates = {group["name"]: group["lr"] for group in made.optimizer.param_groups}
    assert rates == {**{f"blocks.{i} lora": 0.1 for i in range(4)}, "outside": 0.01}


def test_adapters_on_the_last_blocks_only() -> None:
    inputs = tuple(n for n, _ in toy_task().model.named_parameters() if n.split(".")[0] in ("embed", "inlet"))
    schedule = load("schedule", "linear", stages=2)
    made = Rig(
        method="lora", schedule=schedule, total=4, options={**OPTIONS, "m": 0.5, "inputs": "never"}, inputs=inputs
    )
    before = {n: p.detach().clone() for n, p in made.task.model.named_parameters()}
    made.run()
    moved = {n for n, p in made.task.model.named_parameters() if not torch.equal(p, before[n])}
    assert {n.split(".")[1] for n in moved if n.startswith("blocks.")} == {"2", "3"}
    assert {n.split(".")[0] for n in moved} == {"blocks", "outlet"}
    assert {n.split(".")[1] for n in adapted_layers(made.task.model)} == {"2", "3"}
    assert all(info.active == ("blocks.2", "blocks.3") for info in made.infos)


def test_merged_weights_compute_the_same_in_a_plain_model() -> None:
    for method in ("lora", "mixed"):
        made = rig(method)
        made.run()
        before, merged = output(made), effective_weights(made.task.model)
        made.method.finish()
        assert not adapted_layers(made.task.model) and not hasattr(made.task.model, "peft_config")
        torch.testing.assert_close(output(made), before)
        plain = toy_task(seed=7)
        plain.model.load_state_dict(made.task.model.state_dict())
        assert torch.equal(plain.predict(DRAWS[0]), output(made))
        assert all(torch.equal(merged[n], p) for n, p in made.task.model.named_parameters())


def test_new_modules_may_train_in_full() -> None:
    task = toy_task()
    blocks = discover_blocks(task.model)
    load("method", "lora", full=["blocks.3", "blocks.*.mlp.0"]).groups(task.model, blocks, lr=1e-2, seed=0)
    adapted = set(adapted_layers(task.model))
    assert not any(name.startswith("blocks.3.") or name.endswith("mlp.0") for name in adapted)
    assert {name for name in adapted if name.startswith("blocks.0.")} == {
        f"blocks.0.{name}" for name in ("modulation", "query", "key_value", "mlp.2")
    }
    trained = {n for n, p in task.model.named_parameters() if p.requires_grad and n.startswith("blocks.")}
    assert {n for n in trained if ".lora_" not in n} == {
        n for n in plain_parameters(task.model) if n.startswith("blocks.3.") or ".mlp.0." in n
    }


def test_an_adapter_is_taken_in_when_its_block_becomes_active() -> None:
    made = rig("mixed", total=4)
    made.run(0, 2)  # one stage of two blocks
    assert made.infos[-1].active == ("blocks.0", "blocks.2")
    before = output(made)
    made.method.freezer.train_only(["blocks.1"])
    torch.testing.assert_close(output(made), before)
    for name, layer in adapted_layers(made.task.model).items():
        assert layer.disable_adapters == name.startswith("blocks.1.")
        assert layer.lora_B["default"].weight.any() == name.startswith("blocks.3.")
    states = {id(p) for p, state in made.optimizer.state.items() if state}
    assert not any(id(p) in states for n, p in made.task.model.named_parameters() if "blocks.1." in n and "lora" in n)


@pytest.mark.parametrize("kind", ["linear", "probe"])
def test_mixed_goes_on_bit_for_bit(kind: str) -> None:
    """In the middle of a search too; what was saved of the model are its plain weights."""
    schedule = {
        "linear": load("schedule", "linear", stages=2),
        "probe": adaptive("probe", stages=2, search_steps=4, width=2),
    }[kind]
    whole = rig("mixed", 12, schedule)
    whole.run(checked=kind == "linear")
    for stop in (3, 7):
        first, second = rig("mixed", 12, schedule), rig("mixed", 12, schedule)
        first.run(0, stop, checked=False)
        second.task.model.load_state_dict(
            {**second.task.model.state_dict(), **_adapted_names(second, plain_state_dict(first.task.model))}
        )
        second.method.load_state_dict(first.method.state_dict())
        second.optimizer.load_state_dict(first.optimizer.state_dict())
        second.run(stop, checked=False)
        expected, found = whole.task.model.state_dict(), second.task.model.state_dict()
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def _adapted_names(made: Rig, plain: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    layers = adapted_layers(made.task.model)
    return {
        (f"{n.rpartition('.')[0]}.base_layer.{n.rpartition('.')[2]}" if n.rpartition(".")[0] in layers else n): value
        for n, value in plain.items()
    }


def test_averages_are_of_what_the_network_computes_with() -> None:
    from entprog.train.state import EMA

    made = rig("lora")
    average = EMA(made.task.model, 0.9)
    made.run(0, 2)
    for _ in range(400):
        average.update(made.task.model)
    torch.testing.assert_close(average.weights, effective_weights(made.task.model))
    before = output(made)
    flags = {n: p.requires_grad for n, p in made.task.model.named_parameters()}
    with average.applied(made.task.model):
        torch.testing.assert_close(output(made), before)
    assert torch.equal(output(made), before)
    assert flags == {n: p.requires_grad for n, p in made.task.model.named_parameters()}


@pytest.mark.parametrize("method", ["lora", "mixed"])
def test_an_optimizer_without_the_adapters_is_refused(method: str) -> None:
    task = toy_task()
    blocks = discover_blocks(task.model)
    optimizer = torch.optim.AdamW(param_groups(task.model, blocks, lr=1e-2))
    setting = MethodContext(
        task, blocks, optimizer, 4, ranking=Ranking(blocks.names), schedule=load("schedule", "linear", stages=2),
        holdout=toy_draws(1),
    )  # fmt: skip
    with pytest.raises(ValueError, match="the optimizer lacks the adapters"):
        load("method", method).bind(setting)


def test_wrong_options() -> None:
    assert "rank = 0: must be above 0" in problems("method", "lora", {"rank": 0})[0]
    assert "m = 2.5: give a whole number" in problems("method", "lora", {"m": 2.5})[0]
    assert "m_images = 2.5: give a whole number" in problems("method", "lora", {"m_images": 2.5})[0]
    assert "lr_factor = -1.0" in problems("method", "mixed", {"lr_factor": -1.0})[0]
