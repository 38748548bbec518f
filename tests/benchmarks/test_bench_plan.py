"""Which runs a suite needs: addresses, costs, sweeps and the order, on literal records."""

import json
from dataclasses import asdict, replace
from typing import Any

import pytest

from bench_suites import FLOPS, record_of, suite
from benchmarks.runner.address import FORMER, NUMERICS, address, differing
from benchmarks.runner.phase_cost import PhaseCost
from benchmarks.runner.rate_sweep import sweep
from benchmarks.runner.run_plan import EQUAL_STEPS, Plan, PlannedRun, plan
from benchmarks.runner.run_record import Record
from benchmarks.runner.suite import Suite
from entprog.config.schema import Config, RankingConfig


def test_an_address_holds_what_numbers_follow_from() -> None:
    small = suite()
    config = small.config("linear")
    same = address(config, {})
    for key, value in (("output_dir", "elsewhere"), ("label", "x")):
        assert address(replace(config, **{key: value}), {}) == same
    train = replace(config.train, checkpointing_steps=7, report_to="tensorboard", checkpoints_total_limit=3)
    assert address(replace(config, train=train), {}) == same
    assert address(replace(config, data=replace(config.data, workers=3, cache="x")), {}) == same
    video = replace(config.phases["video"], steps=21)
    others = [
        address(config, {"clips": 4}),
        address(replace(config, train=replace(config.train, seed=1)), {}),
        address(replace(config, train=replace(config.train, threads=2)), {}),
        address(replace(config, phases={**config.phases, "video": video}), {}),
        address(replace(config, phases=dict(reversed(config.phases.items()))), {}),
        address(replace(config, data=replace(config.data, seed=5)), {}),
        address(replace(config, model=replace(config.model, init="base")), {}),
        address(small.config("full"), {}),
        address(small.config("linear", factor=2.0), {}),
    ]
    assert len({same, *others}) == 1 + len(others)


def test_addresses_do_not_move() -> None:
    """They name the records that are there: what moves them makes every run anew (then raise NUMERICS on purpose)."""
    assert (NUMERICS, address(suite().config("last"), {"clips": 1})) == (1, "d9924682167e9609")


def test_a_new_key_at_its_default_moves_no_address() -> None:
    assert differing(Config()) == {"ranking.score": "gradient"}  # the default was another when records were begun
    assert differing(replace(Config(), ranking=RankingConfig(score="cei"))) == {}
    assert differing(replace(Config(), method="full")) == {"method": "full"}  # which ranks nothing


def test_defaults_are_those_that_addresses_were_made_with() -> None:
    """A default that changes changes what an address means: raise NUMERICS with it, or name the old one in FORMER."""
    train = asdict(Config().train)
    known = {
        "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8, "adam_weight_decay": 0.01, "ema_decay": 0.0,
        "max_grad_norm": 1.0, "lr_warmup_steps": 0, "lr_span": "phase", "optimizer": "adamw", "holdout_clips": 32,
    }  # fmt: skip
    assert {key: train[key] for key in known} == known
    model = {"size": "nano", "init": "base", "reference": "siamese", "pose": "input", "condition_dropout": 0.1}
    assert {key: getattr(Config().model, key) for key in model} == model
    assert FORMER == {"ranking.score": "cei"}
    assert (Config().schedule.name, Config().freeze.inputs_every) == ("adaptive", 1)


def test_steps_that_a_budget_buys() -> None:
    plain = PhaseCost(fixed=0.0, searching=((0, 0.0),), each=(10.0,))
    assert [plain.steps(budget) for budget in (9.0, 10.0, 19.0, 1000.0)] == [0, 1, 1, 100]
    # Two stages of 4 and 10 FLOPs a step, scoring of 7; the first searches 3 steps of 5 each.
    staged = PhaseCost(fixed=7.0, searching=((3, 15.0), (0, 0.0)), each=(4.0, 10.0))
    assert staged.total(10) == 7 + 15 + 2 * 4 + 5 * 10
    assert staged.total(11) == 7 + 15 + 3 * 4 + 5 * 10  # the odd step is the first stage's
    assert staged.steps(staged.total(10)) == 10 and staged.steps(staged.total(10) - 1) == 9


def test_a_sweep_goes_on_until_the_best_lies_inside() -> None:
    begin = (0.5, 1.0, 2.0)
    assert sweep(begin, {}, 4).missing == begin
    inside = sweep(begin, {0.5: 3.0, 1.0: 1.0, 2.0: 2.0}, 4)
    assert (inside.missing, inside.best, inside.interior) == ((), 1.0, True)
    down = {0.5: 1.0, 1.0: 2.0, 2.0: float("inf")}
    assert sweep(begin, down, 4).missing == (0.25,)
    assert sweep(begin, {**down, 0.25: 1.5}, 4).best == 0.5
    up = {0.5: 3.0, 1.0: 2.0, 2.0: 1.0, 4.0: 0.5}
    assert sweep(begin, up, 4).missing == (8.0,)
    at_end = sweep(begin, up, 1)
    assert (at_end.best, at_end.interior) == (4.0, False)
    nowhere = sweep(begin, dict.fromkeys((0.5, 1.0, 2.0, 0.25, 0.125), float("inf")), 2)
    assert nowhere.best == 0.125 and not nowhere.interior
    assert sweep((1.0,), {}, 4).best == 1.0


LOSSES = {"full": {1.0: 0.5}, "linear": {8.0: 0.4}, "last": {0.25: 0.3}}
"""The loss of each arm's best rate; of any other it is higher the farther it is from that."""


def loss_of(run: PlannedRun) -> float:
    ((best, loss),) = LOSSES[run.arm].items()
    ratio = run.factor / best
    return loss + max(ratio, 1 / ratio) - 1


def finished(small: Suite, **options: Any) -> tuple[Plan, dict[str, Record], list[PlannedRun]]:
    """Makes literal records until none is missing; the order in which they were made, too."""
    records: dict[str, Record] = {}
    made = []
    while (planned := plan(small, records, **options)).missing:
        run = planned.missing[0]
        records[run.address] = record_of(run, loss_of(run))
        made.append(run)
        assert len(made) < 100
    return planned, records, made


def test_runs_come_in_turns() -> None:
    planned, _, made = finished(suite())
    kinds = [run.kind for run in made]
    assert kinds == sorted(kinds, key=("pilot", "tune", "final").index)
    assert [run.arm for run in made[:3]] == ["full", "linear", "last"]
    tunes = [run for run in made if run.kind == "tune"]
    assert [run.arm for run in tunes[:6]] == ["full", "linear", "last"] * 2
    # The best of `linear` is 8 times the recipe's rates, 4 its centre; that of `last` lies two below its first.
    factors = {arm: sorted(run.factor for run in tunes if run.arm == arm) for arm in FLOPS}
    assert factors == {"full": [0.5, 1, 2], "linear": [1, 2, 4, 8, 16], "last": [0.125, 0.25, 0.5, 1, 2]}
    assert all(planned.sweeps[arm, 1.0].interior for arm in FLOPS)
    finals = [run for run in made if run.kind == "final"]
    bought = {run.address for (_, budget, _), run in planned.finals.items() if budget != EQUAL_STEPS}
    last = [run.address not in bought for run in finals]
    assert last == sorted(last) and sum(last) == 6  # equal steps come after equal cost
    for some in (finals[: -sum(last)], finals[-sum(last) :]):
        assert [run.seed for run in some] == sorted(run.seed for run in some)
    assert [run.arm for run in finals[:3]] == ["full", "linear", "last"]
    assert {run.factor for run in finals if run.arm == "linear"} == {8.0}
    assert planned.ahead == 0 and planned.done == pytest.approx(sum(run.weight for run in made))


def test_people_are_never_mixed() -> None:
    _, _, made = finished(suite())
    for run in made:
        assert run.config.data.seed == (0 if run.kind == "final" else 1)
        assert (run.exam.seed if run.exam else None) == {"pilot": None, "tune": 2, "final": 3}[run.kind]


def test_each_seed_may_have_people_of_its_own() -> None:
    small = suite(people_by_seed=True, tuning={"seeds": [1000, 1001]})
    planned, _, made = finished(small)
    people = {(run.kind, run.seed): run.config.data.seed for run in made}
    assert people == {
        ("pilot", 1000): 1, ("tune", 1000): 1, ("tune", 1001): 101,
        ("final", 0): 0, ("final", 1): 100, ("final", 2): 200,
    }  # fmt: skip
    assert {run.exam.seed for run in planned.finals.values() if run.exam} == {3}  # all are examined on the same
    alone = suite()
    assert {run.address for run in made if run.seed in (0, 1000)} <= {run.address for run in finished(alone)[2]}


def test_a_rate_is_judged_by_its_mean_over_the_sweeps_seeds() -> None:
    small = suite(arms=["full"], tuning={"seeds": [1000, 1001, 1002]}, rates=[0.5, 1.0, 2.0])
    losses = {(1000, 0.5): 1.0, (1001, 0.5): 9.0, (1002, 0.5): 8.0}  # the first alone would have it
    records: dict[str, Record] = {}
    while (planned := plan(small, records)).missing:
        assert planned.ahead > 0
        for run in planned.missing:
            records[run.address] = record_of(run, losses.get((run.seed, run.factor), 1.0 + run.factor))
    state = planned.sweeps["full", small.tuning.budgets[0]]
    assert state.best == 1.0 and state.losses[0.5] == pytest.approx(6.0)
    assert {run.factor for run in planned.finals.values()} == {1.0}


def test_budgets_are_met_in_exact_cost() -> None:
    small = suite()
    planned, _, _ = finished(small)
    for (arm, budget, _), run in planned.finals.items():
        if budget == EQUAL_STEPS:
            assert run.steps == small.steps
            continue
        for name, own, reference in zip(small.steps, FLOPS[arm], FLOPS["full"], strict=True):
            wanted = budget * small.steps[name] * reference
            assert wanted - own < run.steps[name] * own <= wanted
    # At equal steps the reference's run is that of its full budget, so it is made once.
    assert planned.finals["full", 1.0, 0].address == planned.finals["full", EQUAL_STEPS, 0].address
    assert len({run.address for run in planned.finals.values()}) == 3 * (2 + 3 + 3)


def test_an_arm_with_shares_splits_the_whole_budget() -> None:
    planned, _, _ = finished(suite(define={"last": {"shares": {"pose": 0.25, "video": 0.75}}}))
    whole = 40 * 100.0 + 20 * 300.0
    assert planned.finals["last", 0.5, 0].steps == {
        "pose": 0.25 * 0.5 * whole // 50,
        "video": 0.75 * 0.5 * whole // 200,
    }
    assert ("last", EQUAL_STEPS, 0) not in planned.finals  # its steps are its own
    assert planned.finals["linear", EQUAL_STEPS, 0].steps == {"pose": 40, "video": 20}


def test_equal_steps_may_be_a_share_of_the_recipes() -> None:
    planned, _, _ = finished(suite(equal_steps=0.5))
    assert planned.finals["last", EQUAL_STEPS, 1].steps == {"pose": 20, "video": 10}
    assert planned.finals["full", 0.5, 0].address == planned.finals["full", EQUAL_STEPS, 0].address
    alone, _, _ = finished(suite(budgets=[], equal_steps=1.0))
    assert {budget for _, budget, _ in alone.finals} == {EQUAL_STEPS} and len(alone.finals) == 9


def test_single_arms_run_longer() -> None:
    small = suite(longer={"full": [2.0]})
    planned, _, _ = finished(small)
    assert planned.finals["full", 2.0, 1].steps == {name: 2 * count for name, count in small.steps.items()}
    assert {arm for arm, budget, _ in planned.finals if budget == 2.0} == {"full"}
    assert sorted(budget for arm, budget in planned.sweeps if arm == "full") == [1.0, 2.0]  # with a sweep of its own
    shorter, _, _ = finished(suite())
    assert planned.finals["last", 1.0, 0].address == shorter.finals["last", 1.0, 0].address


def test_finals_wait_for_no_sweep_but_their_own() -> None:
    _, records, _ = finished(suite())
    longer = plan(suite(longer={"full": [2.0]}), records)
    assert {run.kind for run in longer.missing} == {"tune"} and longer.ahead == pytest.approx(3 * 2.0 + 1.0 + 3 * 2.0)
    assert {budget for arm, budget, _ in longer.finals if arm == "full"} == {0.5, 1.0, EQUAL_STEPS}


def test_one_arm_and_one_seed() -> None:
    small = suite()
    _, records, made = finished(small, arms=["last"], seeds=[1])
    assert {run.arm for run in made if run.kind != "pilot"} == {"last"}
    assert {run.arm for run in made if run.kind == "pilot"} == {"full", "last"}  # the reference is the unit
    assert {run.seed for run in made if run.kind == "final"} == {1}
    rest = plan(small, records)
    done = {run.address for run in made}
    assert done.isdisjoint(run.address for run in rest.missing)


def test_what_diverged_or_is_too_dear_is_left_out_with_a_word() -> None:
    small = suite(define={"linear": {"schedule": {"options": {"stages": 10}}}})  # needs 20 steps a phase
    first = plan(small, {})
    records = {run.address: record_of(run) for run in first.missing}
    pilot = next(run for run in first.missing if run.arm == "last")
    records[pilot.address] = record_of(pilot, status="diverged")
    planned = plan(small, records)
    assert any("last: its pilot diverged" in note for note in planned.notes)
    while planned.missing:
        run = planned.missing[0]
        records[run.address] = record_of(run, loss_of(run))
        planned = plan(small, records)
    assert any("linear: 0.5 x the reference's cost allows too few steps in video" in note for note in planned.notes)
    assert ("linear", 0.5, 0) not in planned.finals and ("linear", 1.0, 0) in planned.finals
    assert not any(arm == "last" for arm, _, _ in planned.finals)


def test_an_arm_that_is_too_dear_for_the_sweep_is_tuned_where_it_can_run() -> None:
    costly = {"linear": {"schedule": {"options": {"stages": 10}}}}  # needs 20 steps a phase
    planned, _, _ = finished(suite(define=costly, tuning={"budgets": [0.5]}))
    assert sorted(planned.sweeps) == [("full", 0.5), ("last", 0.5), ("linear", 1.0)]
    assert {budget for arm, budget, _ in planned.finals if arm == "linear"} == {1.0, EQUAL_STEPS}


def test_a_plan_is_a_pure_function() -> None:
    small = suite()
    _, records, _ = finished(small)
    some = dict(list(records.items())[:8])
    again = json.loads(json.dumps(dict(reversed(some.items()))))
    one, other = plan(small, some), plan(small, again)
    assert [run.address for run in one.missing] == [run.address for run in other.missing]
