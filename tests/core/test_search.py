"""The two estimators: convergence efficiency by hand, probes from equal starts, and their arithmetic."""

import math

import pytest
import torch

from entprog.core.bands import band_means, mean_log
from entprog.core.probe import Snapshot, few_pairs, paired_gain, probe_choice, watched_gain
from entprog.core.supernet import convergence_efficiency, supernet_candidate
from entprog.core.types import Shape, Trial, Workload
from loops import DRAWS, HOLDOUT, Rig, Sizes, adaptive, weights


def trial(m: int, after: float, *, flops: float = 1.0, seconds: float = 1.0, before: float = 0.0, error: float = 0.0):
    return Trial(0, 0, work(m), seconds, flops, before, after, error)


def work(m: int) -> Workload:
    return Workload(tuple(f"b{i}" for i in range(m)))


def by_m(values: dict[Workload, float]) -> dict[int, float]:
    return {len(workload.active): value for workload, value in values.items()}


# --- the supernet ---


def test_convergence_efficiency_by_hand() -> None:
    trials = [
        trial(2, 1.00, flops=5, seconds=1), trial(4, 0.95, flops=9, seconds=2), trial(2, 0.90, flops=5, seconds=3),
        trial(4, 0.91, flops=9, seconds=2), trial(2, 0.70, flops=5, seconds=4), trial(6, 0.10, flops=13),
    ]  # fmt: skip
    by_flops = by_m(convergence_efficiency(trials, "flops"))
    # -((.90 - 1.00) + (.70 - .90)) / (5 + 5): first less last, and the first trial's cost is left out
    assert by_flops == {2: pytest.approx(0.30 / 10), 4: pytest.approx(0.04 / 9)}
    assert by_m(convergence_efficiency(trials, "seconds")) == {2: pytest.approx(0.30 / 7), 4: pytest.approx(0.04 / 2)}
    telescoped = [*trials[:2], trial(2, 5.0, flops=5), *trials[4:5]]
    # only the first and the last reading count
    assert by_m(convergence_efficiency(telescoped, "flops"))[2] == pytest.approx(by_flops[2])
    assert convergence_efficiency([], "flops") == {}


def test_a_worse_loss_is_a_negative_efficiency() -> None:
    assert convergence_efficiency([trial(1, 1.0), trial(1, 1.5)], "flops") == {work(1): -0.5}


def test_candidates_are_drawn_alike_every_time() -> None:
    candidates = (work(1), work(2), work(4))
    drawn = [supernet_candidate(3, step, candidates) for step in range(300)]
    assert drawn == [supernet_candidate(3, step, candidates) for step in range(300)]
    assert all(70 < drawn.count(workload) < 130 for workload in candidates)
    assert drawn != [supernet_candidate(4, step, candidates) for step in range(300)]


def test_the_supernet_charges_its_readings_and_records_every_step() -> None:
    rig = Rig(schedule=adaptive("supernet", stages=2, search_steps=6), total=20)
    rig.run()
    trials = [values for name, values in rig.events if name == "trial"]
    choices = [values for name, values in rig.events if name == "choice"]
    searching = [info for info in rig.infos if info.searching]
    assert len(trials) == len(searching) and [t["m"] for t in trials] == [info.m for info in searching]
    assert not any(info.discardable for info in rig.infos)
    assert rig.method.search_flops == 7.0 * len(trials)
    first = [t for t in rig.method.trials if t.stage == 0]
    assert choices[0]["efficiency"] == {str(m): v for m, v in by_m(convergence_efficiency(first, "flops")).items()}
    assert [info.m for info in rig.infos if info.stage == 0 and not info.searching] == [choices[0]["m"]] * 4
    with torch.no_grad():
        last = sum(float(rig.task.loss(draw)) for draw in HOLDOUT) / len(HOLDOUT)
    assert math.isfinite(last) and all(t["loss_after"] > 0 for t in trials)


# --- the probe ---


def test_paired_gain_by_hand() -> None:
    assert paired_gain([1.0, 2.0, 3.0], [0.5, 1.0, 3.0]) == (0.5, pytest.approx(0.5 / math.sqrt(3)))
    assert paired_gain([1.0], [0.5]) == (0.5, math.inf)


def test_a_gain_by_bands_and_its_error() -> None:
    tau = [0.1, 0.15, 0.5, 0.55, 0.58]
    before, after = [2.0, 4.0, 0.1, 0.2, 0.3], [1.0, 4.0, 0.1, 0.1, 0.1]
    gain, error = watched_gain(before, after, tau, "bands")
    assert gain == pytest.approx((math.log(3 / 2.5) + math.log(0.2 / 0.1)) / 2)
    low = paired_gain([2 / 3, 4 / 3], [1 / 2.5, 4 / 2.5])[1]
    middle = paired_gain([0.5, 1.0, 1.5], [1.0, 1.0, 1.0])[1]
    assert error == pytest.approx(math.hypot(low, middle) / 2)
    assert watched_gain(before, after, tau, "mean") == paired_gain(before, after)
    assert math.isinf(watched_gain(before[1:], after[1:], tau[1:], "bands")[1]), "one sample in a band"


def test_the_error_by_bands_is_that_of_many_trials() -> None:
    """Against the spread of the gain over drawn samples."""
    torch.manual_seed(0)
    tau = [(k + 0.5) / 40 for k in range(40)]
    scale = torch.tensor([2.0 - 1.9 * t for t in tau])
    found = []
    for _ in range(400):
        before = scale * (1 + 0.3 * torch.rand(40))
        after = before * (0.9 + 0.1 * torch.rand(40))
        found.append(watched_gain(before.tolist(), after.tolist(), tau, "bands"))
    gains, errors = zip(*found, strict=True)
    spread = float(torch.tensor(gains).std())
    assert sum(errors) / len(errors) == pytest.approx(spread, rel=0.15)


def test_few_pairs_are_said() -> None:
    assert "over 8 pairs" in few_pairs(8, [0.5] * 8, "mean") and not few_pairs(24, [0.5] * 24, "mean")
    assert "a single holdout sample" in few_pairs(25, [0.1, *[0.5] * 24], "bands")
    assert not few_pairs(25, [0.1, *[0.5] * 24], "mean")


@pytest.mark.parametrize("estimator", ["supernet", "probe"])
def test_a_search_may_watch_the_bands(estimator: str) -> None:
    """Readings are the mean log over bands of the same samples; training itself does not change."""
    mean, bands = (
        Rig(schedule=adaptive(estimator, stages=1, search_steps=6), total=8, watch=watch) for watch in ("mean", "bands")
    )
    steps = 2 if estimator == "probe" else 1
    for rig in (mean, bands):
        rig.run(0, steps, checked=False)
    with torch.no_grad():
        each = [loss for draw in HOLDOUT for loss in bands.task.losses(draw).tolist()]
    levels = [tau for draw in HOLDOUT for tau in draw.tau.tolist()]
    one, other = mean.method.trials[0], bands.method.trials[0]
    assert one.loss_after == pytest.approx(sum(each) / len(each))
    assert other.loss_after == pytest.approx(mean_log(band_means(each, levels)))
    assert mean.losses == bands.losses


def test_the_larger_candidate_wins_within_two_errors() -> None:
    small = trial(2, 0.5, before=1.0, flops=2, error=0.01)
    assert probe_choice([small, trial(4, 0.30, before=1.0, flops=4, error=0.2)], "flops")[0] == work(4)
    chosen, rates = probe_choice([small, trial(4, 0.30, before=1.0, flops=4, error=0.01)], "flops")
    assert chosen == work(2) and by_m(rates) == {2: pytest.approx(0.25), 4: pytest.approx(0.175)}
    assert probe_choice([small, trial(4, 0.0, before=1.0, flops=4)], "flops")[0] == work(4), "equal: the larger"
    unsure = trial(2, 0.5, before=1.0, error=math.inf)
    assert probe_choice([unsure, trial(4, 0.9, before=1.0)], "flops")[0] == work(4)


def test_larger_means_more_flops_whatever_the_blocks() -> None:
    """Of two shapes of the same blocks the dearer one is the larger, also where it was the faster."""
    small, large = (Workload(("a", "b"), Shape(side, 1, 2)) for side in (32, 64))
    trials = [
        Trial(0, 0, large, 1.0, 8.0, 1.0, 0.6, 0.1),
        Trial(0, 1, small, 2.0, 2.0, 1.0, 0.8, 0.1),
        Trial(0, 2, Workload(("a", "b", "c"), Shape(32, 1, 2)), 3.0, 3.0, 1.0, 0.8, 0.1),
    ]
    for cost in ("flops", "seconds"):
        chosen, rates = probe_choice(trials, cost)
        assert chosen == large and len(rates) == 3
    assert list(convergence_efficiency([*trials, *trials], "flops"))[::2] == [small, large]


def test_a_snapshot_comes_back_bit_for_bit() -> None:
    rig = Rig(schedule=None, total=10, method="full")
    rig.run(0, 2)
    taken = Snapshot.take(rig.task.model, rig.optimizer)
    before, states = weights(rig.task), rig.optimizer_states()
    rig.run(2, 6)
    assert any(not torch.equal(before[n], w) for n, w in weights(rig.task).items())
    for snapshot in (taken, Snapshot.from_state(taken.state_dict())):
        snapshot.restore(rig.task.model, rig.optimizer)
        assert all(torch.equal(before[n], w) for n, w in weights(rig.task).items())
        now = rig.optimizer_states()
        assert now.keys() == states.keys() and all(torch.equal(states[k], now[k]) for k in states)
        rig.run(6, 8)  # what was restored is a copy: training it leaves the snapshot alone


def test_a_snapshot_drops_states_that_were_not_there() -> None:
    rig = Rig(schedule=None, total=4, method="full")
    taken = Snapshot.take(rig.task.model, rig.optimizer)
    rig.run(0, 2)
    taken.restore(rig.task.model, rig.optimizer)
    assert not rig.optimizer_states() and all(p.grad is None for p in rig.task.model.parameters())


def test_every_candidate_replays_the_same_steps_from_the_same_start() -> None:
    """The whole probe by hand: each candidate trained alone in a fresh rig, the winner's end kept."""
    rig = Rig(schedule=adaptive("probe", stages=1, search_steps=9), total=14)
    assert [rig.method.plan(i).replays for i in range(14)] == [0, 1, 2, 0, 1, 2, 0, 1, 2, 9, 10, 11, 12, 13]
    assert [len(rig.method.plan(i).workload.active) for i in range(9)] == [1] * 3 + [2] * 3 + [4] * 3
    rig.run(0, 9)
    assert all(info.searching and info.discardable for info in rig.infos)
    alone = {}
    for m in (1, 2, 4):
        plain = Rig(schedule=None, total=3, method="full")
        frozen = set(plain.blocks.names) - set(rig.ranking.top(m))
        for name in frozen:
            for parameter in plain.blocks[name].parameters():
                parameter.requires_grad_(False)
        with torch.no_grad():
            before = [loss for draw in HOLDOUT for loss in plain.task.losses(draw).tolist()]
        plain.plain_steps(0, 3)
        with torch.no_grad():
            after = [loss for draw in HOLDOUT for loss in plain.task.losses(draw).tolist()]
            alone[m] = weights(plain.task), before, after, plain
    for made, (m, (_, before, after, _)) in zip(rig.method.trials, alone.items(), strict=True):
        assert len(made.workload.active) == m and made.flops == 3 * m
        assert (made.gain, made.gain_stderr) == pytest.approx(paired_gain(before, after))
    assert rig.method.chosen[0] == probe_choice(rig.method.trials, "flops")[0]
    chosen = len(rig.method.chosen[0].active)
    kept, _, _, plain = alone[chosen]
    assert all(torch.equal(kept[name], value) for name, value in weights(rig.task).items())
    assert rig.method.search_flops == 7.0 * 4 + sum(t.flops for t in rig.method.trials if t.flops != 3 * chosen)
    rig.run(9, 14)
    plain.plain_steps(9, 14)
    expected = weights(plain.task)
    assert all(torch.equal(expected[name], value) for name, value in weights(rig.task).items())


def test_a_probe_pairs_samples_where_the_task_tells_them() -> None:
    """The same gain as by draws, of as many pairs as there are samples; few are warned of, once."""
    by_draw, by_sample, enough = (
        Rig(schedule=adaptive("probe", stages=2, search_steps=6), total=18, **holdout)
        for holdout in ({}, {}, {"holdout": HOLDOUT * 3})
    )
    by_draw.task.losses = lambda draw: by_draw.task.loss(draw).reshape(1)  # as a loss of the user's own tells
    for rig in (by_draw, by_sample, enough):
        rig.run(0, 6, checked=False)
    for a, b in zip(by_draw.method.trials, by_sample.method.trials, strict=True):
        assert (a.loss_before, a.gain) == (pytest.approx(b.loss_before), pytest.approx(b.gain, abs=1e-6))
        assert a.gain_stderr != b.gain_stderr > 0
    for rig, pairs in ((by_draw, 4), (by_sample, 8), (enough, 24)):
        rig.run(6, 18, checked=False)
        warned = [values for name, values in rig.events if name == "warning"]
        assert [values["sign"] for values in warned] == (["probe"] if pairs < 24 else [])
        assert all(f"over {pairs} pairs" in values["message"] for values in warned)


def test_one_sample_alone_leaves_the_larger() -> None:
    rig = Rig(schedule=adaptive("probe", stages=1, search_steps=6), total=8, holdout=[HOLDOUT[0].first(1)])
    rig.run(checked=False)
    assert all(math.isinf(made.gain_stderr) for made in rig.method.trials) and len(rig.method.chosen[0].active) == 4


def test_search_steps_that_do_not_divide_are_spent_on_training() -> None:
    rig = Rig(schedule=adaptive("probe", stages=1, search_steps=11), total=14)
    rig.run()
    assert [info.searching for info in rig.infos] == [True] * 9 + [False] * 5


def test_later_stages_search_from_the_last_choice() -> None:
    for estimator in ("supernet", "probe"):
        rig = Rig(schedule=adaptive(estimator, stages=3, search_steps=6), total=30)
        rig.run()
        chosen = [len(workload.active) for workload in rig.method.chosen]
        assert len(chosen) == 3 and chosen == sorted(chosen)
        for stage, last in enumerate([None, *rig.method.chosen[:-1]]):
            tried = {t["m"] for n, t in rig.events if n == "trial" and t["stage"] == stage}
            allowed = {len(w.active) for w in rig.setting.schedule.candidates(stage, rig.ranking, None, last)}
            assert tried <= allowed and (len(tried) > 1) == (len(allowed) > 1)


@pytest.mark.parametrize("estimator", ["supernet", "probe"])
def test_equal_counts_at_two_sizes_are_two_candidates(estimator: str) -> None:
    shape = Shape(32, 2, 2)
    rig = Rig(schedule=Sizes(estimator), total=18, shape=shape, flops=lambda w: w.shape.resolution * len(w.active))
    assert rig.method.plan(12).workload.shape == Shape(16, 2, 2), "before the choice: the cheapest"
    rig.run()
    labels = {"2@16px", "2@32px", "4@32px"}
    tried = {t["candidate"]: t["workload"] for name, t in rig.events if name == "trial"}
    assert set(tried) <= labels and {w["shape"]["resolution"] for w in tried.values()} == {16, 32}
    assert len({w["active"] for name, w in tried.items() if name.startswith("2@")}) == 1
    (choice,) = (values for name, values in rig.events if name == "choice")
    made = rig.method.chosen[0]
    assert choice["efficiency"].keys() <= labels and choice["m"] == len(made.active)
    assert choice["candidate"] == f"{len(made.active)}@{made.shape.resolution}px"
    assert all(rig.method.plan(i).workload == made for i in range(12, 18))
    losers = sum(t.flops for t in rig.method.trials if t.workload != made) if estimator == "probe" else 0
    readings = 4 if estimator == "probe" else 12
    assert rig.method.search_flops == 7.0 * readings + losers


def test_training_draws_are_none_of_the_holdout() -> None:
    assert not any(torch.equal(a.x, b.x) for a in DRAWS for b in HOLDOUT)
