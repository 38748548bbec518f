"""Cost-aware selection against every set there is."""

import random
from itertools import combinations

import pytest
import torch

from entprog.core.blocks import discover_blocks
from entprog.core.select import PassCosts, best_set, deepest_sets, plain_ranking, ranking_from_plain, select_blocks
from entprog.core.types import Draw, Ranking, Scores
from entprog.diffusion.objective import Objective
from entprog.profiling.meter import Meter
from entprog.profiling.step_costs import measure_costs
from entprog.tasks.human_video.task import HumanVideoTask
from tiny import small_dit


def random_costs(source: random.Random, blocks: int) -> PassCosts:
    order = tuple(f"b{i}" for i in range(blocks))
    weights = {b: source.choice([1.0, 1.0, 0.5, source.random()]) for b in order}
    return PassCosts.chain(order, source.choice([3.0, 9.0]), weights, {b: source.uniform(0.5, 2) for b in order})


def rate(chosen: tuple[str, ...], importance: dict[str, float], costs: PassCosts) -> float:
    return sum(max(importance[b], 0.0) for b in chosen) / costs.of(chosen)


def test_costs_by_parts_and_by_place() -> None:
    order = ("a", "b", "c")
    costs = PassCosts.chain(order, 10.0, {"a": 1.0, "b": 2.0, "c": 3.0}, {"a": 0.5, "b": 0.25, "c": 0.125})
    assert costs.of(["c"]) == 10 + 3 + 0.125
    assert costs.of(["c", "a"]) == 10 + 1 + 3 + 0.5 + 0.25 + 0.125, "everything above the lowest is traversed"
    with pytest.raises(ValueError, match="'b' has no cost of at least 0"):
        PassCosts(order, dict.fromkeys(order, 1.0), {"a": 1.0, "b": -1.0, "c": 1.0})


@pytest.mark.parametrize("seed", range(12))
def test_the_best_set_is_the_best_of_all(seed: int) -> None:
    """By brute force, for every number of blocks and for any number; some importances are negative."""
    source = random.Random(seed)
    costs = random_costs(source, 8 + seed % 3)
    importance = {b: source.choice([source.gauss(0, 1), abs(source.gauss(0, 3)), 0.0]) for b in costs.order}
    overall = 0.0
    for m in range(1, len(costs.order) + 1):
        every = {chosen: rate(chosen, importance, costs) for chosen in combinations(costs.order, m)}
        found = best_set(importance, costs, m)
        assert len(found) == m and found in every
        assert every[found] == pytest.approx(max(every.values()), rel=1e-12)
        overall = max(overall, *every.values())
    assert rate(best_set(importance, costs), importance, costs) == pytest.approx(overall, rel=1e-12)


def test_worth_nothing_goes_to_the_cheapest() -> None:
    order = tuple("abcdef")
    costs = PassCosts.chain(order, 5.0, dict.fromkeys(order, 1.0), dict.fromkeys(order, 1.0))
    for importance in (dict.fromkeys(order, 0.0), {b: -1.0 - k for k, b in enumerate(order)}):
        assert best_set(importance, costs, 2) == ("e", "f")
        assert best_set(importance, costs) == ("f",)
    # a block below zero is not chosen for its sake, but it may have to fill up
    assert best_set({**dict.fromkeys(order, -1.0), "c": 1.0, "f": -0.5}, costs, 2) == ("c", "f")
    for m in (0, 7):
        with pytest.raises(ValueError, match=f"m = {m}: choose from 1 to 6"):
            best_set(dict.fromkeys(order, 1.0), costs, m)


def test_depth_pulls_the_choice_upwards() -> None:
    """The lowest block must be worth the cost of the whole backward."""
    order = tuple(f"b{i}" for i in range(10))
    costs = PassCosts.chain(order, 10.0, dict.fromkeys(order, 1.0), dict.fromkeys(order, 1.0))
    flat = {b: 1.0 for b in order} | {"b0": 1.2}
    assert best_set(flat, costs, 3) == ("b7", "b8", "b9")
    assert best_set(flat | {"b0": 9.0}, costs, 3)[0] == "b0"


def test_a_selection_stands_in_for_a_ranking() -> None:
    order = tuple("abcdef")
    costs = PassCosts.chain(order, 5.0, dict.fromkeys(order, 1.0), dict.fromkeys(order, 1.0))
    scores = Scores(dict(zip(order, (1.4, 1.0, 1.1, 1.0, 1.2, 1.0), strict=True)))
    ranking = scores.ranking()
    selection = select_blocks(ranking, scores.values, costs)
    assert selection.names == ranking.names and isinstance(selection, Ranking)
    for m in range(1, 7):
        assert set(selection.top(m)) == set(best_set(scores.values, costs, m))
        assert list(selection.top(m)) == [b for b in ranking.names if b in selection.top(m)]
    assert selection.top(6) == ranking.top(6) and selection.top(2) != ranking.top(2)
    for each in (ranking, selection):
        assert ranking_from_plain(plain_ranking(each)) == each
    with pytest.raises(ValueError, match="m = 7"):
        selection.top(7)


def test_sets_to_fall_back_on() -> None:
    order = tuple("abcde")
    ranking = Ranking(("b", "e", "a", "d", "c"))
    assert deepest_sets(ranking, order, 2) == [("b", "e"), ("c", "e"), ("d", "e")]
    assert deepest_sets(ranking, order, 5) == [order]


@pytest.mark.parametrize("outside", [False, True])
def test_measured_costs_are_those_of_every_set(outside: bool) -> None:
    """FLOPs by the meter; with what is outside training, the backward reaches the input whatever is active."""
    torch.manual_seed(0)
    task = HumanVideoTask(small_dit(), Objective(), full_size=16)
    condition = {"reference": torch.randn(2, 16, 4, 4), "pose": torch.rand(2, 2, 3, 16, 16)}
    draw = Draw(torch.randn(2, 2, 16, 4, 4), torch.rand(2), torch.randn(2, 2, 16, 4, 4), condition)
    blocks = discover_blocks(task.model)
    order = list(blocks.names)
    measured = measure_costs(task, blocks, order, draw, 2, outside=outside, exact=True)
    assert all(p.grad is None and p.requires_grad for p in task.model.parameters())
    spatial = [name for name in order if name.startswith("blocks.")]
    temporal = [name for name in order if name.startswith("temporal.")]
    for active in (order, spatial[1::2], temporal, temporal[-1:], [spatial[2], temporal[-1]]):
        inside = {id(p) for name in active for p in blocks[name].parameters()}
        owned = {id(p) for block in blocks for p in block.parameters()}
        for parameter in task.model.parameters():
            parameter.requires_grad_(id(parameter) in inside or (outside and id(parameter) not in owned))
        with Meter() as meter:
            task.loss(draw).backward()
        assert measured.flops.of(active) == meter.flops, active
    alone = [measured.flops.alone[name] for name in spatial[:-1]]
    assert outside or alone == sorted(alone, reverse=True)
    costs = measured.of(order[0])
    assert costs.keys() == {f"{a}_{b}" for a in ("step", "added") for b in ("flops", "seconds", "bytes")}
    assert costs["step_seconds"] > 0 and costs["step_bytes"] > 0
    assert measured.spent > 0
