"""Schedules over workloads: sizes by stage and by search, places in the data, and what can't be."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from entprog.core.types import Ranking, Shape, Workload
from entprog.data.clips import Clips
from entprog.data.shards import Shards
from entprog.diffusion.objective import Objective
from entprog.nets.layers import grid_codes
from entprog.nets.routing import put_tokens, take_tokens
from entprog.plugins import load
from entprog.tasks.human_video.task import HumanVideoTask
from entprog.train.position import Position
from recipes import problems
from tiny import small_dit, synthetic_data

FULL = Shape(64, 10, 4)


def ranking(total: int = 12) -> Ranking:
    return Ranking(tuple(f"b{i}" for i in range(total)))


def candidates(schedule: Any, stage: int = 0, last: Workload | None = None, shape: Shape = FULL):
    return [(len(w.active), w.shape) for w in schedule.candidates(stage, ranking(), shape, last)]


# --- what schedules name ---


def test_sizes_by_stage() -> None:
    schedule = load(
        "schedule", "fixed", m=[12, 12, 6], resolution=[32, 64, 128], frames=[2, 4, 10], tokens=[0.5, 1.0, 1.0],
        batch=[8, 4, 4],
    )  # fmt: skip
    assert [candidates(schedule, stage)[0] for stage in range(3)] == [
        (12, Shape(32, 2, 8, 0.5)), (12, Shape(64, 4, 4)), (6, FULL),
    ]  # fmt: skip
    assert schedule.shapes(FULL) == (Shape(32, 2, 8, 0.5), Shape(64, 4, 4), FULL)
    still = Shape(64, 1, 4)
    assert candidates(schedule, 2, shape=still) == [(6, still)], "never beyond the phase's own"
    for name in ("linear", "descending"):
        assert candidates(load("schedule", name, stages=2, frames=[2, 9]), 1)[0][1] == Shape(64, 9, 4)


def test_a_search_over_the_product() -> None:
    schedule = load("schedule", "adaptive", width=2, resolutions=[32, 64], frames=[2, 10], estimator="probe")
    found = candidates(schedule)
    assert len(found) == 8 and {m for m, _ in found} == {6, 12}
    work = [s.resolution**2 * s.frames * (1 + m / 6) for m, s in found]
    assert work == sorted(work), "the cheapest first"
    assert candidates(load("schedule", "adaptive", resolutions=[64, 64, 128]))[0][1] == FULL, "capped, once"
    last = Workload(ranking().top(6), Shape(64, 2, 4))
    assert {(m, s.resolution, s.frames) for m, s in candidates(schedule, 1, last)} == {
        (m, 64, frames) for m in (6, 12) for frames in (2, 10)
    }  # fmt: skip


def test_without_sizes_it_is_the_published_search() -> None:
    assert candidates(load("schedule", "adaptive")) == [(4, FULL), (8, FULL), (12, FULL)]
    assert [w.shape for w in load("schedule", "adaptive").candidates(0, ranking(), None, None)] == [None] * 3


def test_candidates_by_hand() -> None:
    by_hand = [{"m": 0.5, "resolution": 32}, {"frames": 2, "tokens": 0.5, "batch": 8}, {}]
    schedule = load("schedule", "adaptive", workloads=by_hand, estimator="probe")
    assert candidates(schedule) == [(6, Shape(32, 10, 4)), (12, Shape(64, 2, 8, 0.5)), (12, FULL)]
    assert candidates(schedule, 1, Workload(ranking().top(6), Shape(32, 10, 4))) == [(6, Shape(32, 10, 4)), (12, FULL)]
    gone = Workload(ranking().top(12), Shape(64, 11, 4))
    assert candidates(schedule, 1, gone) == [(12, gone.shape)], "what is trained may always go on"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fixed", {"m": [1, 2], "frames": [2]}, r"schedule\.options\.frames = \[2\]: give one value for each of the 2"),
        ("linear", {"stages": 1, "tokens": [0.0]}, r"options\.tokens = \[0\.0\]: 0 is not a share of the tokens"),
        ("adaptive", {"tokens": [0.5, 1.5]}, r"options\.tokens = \[0\.5, 1\.5\]: 1\.5 is not a share of the tokens"),
        ("adaptive", {"resolutions": [0]}, r"options\.resolutions = \[0\]: 0 can't be; give whole numbers"),
        ("adaptive", {"batches": [-1]}, r"options\.batches = \[-1\]: -1 can't be"),
        ("adaptive", {"workloads": [{"size": 3}]}, r"workloads\[0\] has no 'size'; choose from m, resolution"),
        ("adaptive", {"workloads": [{"m": 1.5}]}, r"workloads\[0\]\.m = 1\.5: a count, or below 1 a share"),
        ("adaptive", {"workloads": [{"tokens": 0}]}, r"workloads\[0\]\.tokens = \[0\]: 0 is not a share"),
        ("adaptive", {"workloads": [{"frames": "2"}]}, r"workloads\[0\]\.frames = '2': must be a number"),
        ("adaptive", {"workloads": [{}], "frames": [2]}, r"options\.frames: no effect with workloads"),
    ],
)
def test_options_that_cannot_be(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load("schedule", name, **options)


def test_a_foreign_loop_has_no_sizes() -> None:
    for schedule in (
        load("schedule", "adaptive", frames=[2]), load("schedule", "linear", stages=1, frames=[2]),
        load("schedule", "adaptive", workloads=[{"frames": 2}]),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="sizes can only change where our own loop draws the batches"):
            schedule.candidates(0, ranking(), None, None)


@pytest.mark.parametrize("values", [{"tokens": 0.0}, {"tokens": 1.1}, {"frames": 0}, {"batch": 0}, {"resolution": -8}])
def test_a_shape_is_possible(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        Shape(**{"resolution": 16, "frames": 1, "batch": 1, **values})


def test_a_recipe_tells_all_sizes_that_it_cannot_have(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        "[data]\nsubjects = 4\nsizes = [32, 64]\n[schedule.options]\nresolutions = [20, 48, 64]\nbatches = [64]\n"
        "frames = [1, 10]\n[phases.subject]\nbatch = 2\n[phases.video]\nbatch = 2\nresolution = 32\n"
    )
    found = "\n".join(problems(recipe))
    assert "resolution 20 of phase subject is no multiple of 8 (patch 2 x codec 4)" in found
    assert "resolution 48 of phase subject is not among data.sizes = [32, 64]" in found
    assert "resolution 48 of phase video" not in found, "capped at the phase's own"
    assert "batch 64 of phase subject is larger than the data set" in found
    assert "1 frame in phase video, whose temporal blocks need at least 2" in found


# --- places in the data ---


def test_positions_count_samples() -> None:
    """Four steps; a probe of two candidates with two and three samples a step; two more of the winner."""
    batches = [2, 2, 2, 2, 2, 2, 3, 3, 3, 3]
    replays = [0, 1, 2, 3, 4, 5, 4, 5, 8, 9]
    expected = [0, 2, 4, 6, 8, 10, 8, 11, 18, 21]
    position = Position()
    for i, (replayed, place) in enumerate(zip(replays, expected, strict=True)):
        again = Position()
        again.load_state_dict(position.state_dict())
        assert again.of(i, replayed) == place
        assert position.of(i, replayed) == place
        position.took(i, replayed, place, batches[i], searching=4 <= i < 8)


def test_equal_batches_begin_at_the_step_times_the_batch() -> None:
    position = Position()
    for i, replayed in enumerate([0, 1, 0, 1, 0, 1, 6, 7, 8, 9, 8, 9, 12]):
        assert position.of(i, replayed) == 4 * replayed
        position.took(i, replayed, 4 * replayed, 4, searching=i not in (6, 7, 12))


# --- sizes seen by the model ---


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Clips:
    return Clips(Shards(synthetic_data(tmp_path_factory.mktemp("data") / "d", sizes=(16, 32))), "train", frames=3)


def task(**options: Any) -> HumanVideoTask:
    return HumanVideoTask(small_dit(**options), Objective(), full_size=32)


def test_every_size_shows_the_same_places_of_the_same_picture(clips: Clips) -> None:
    """A token of the small grid has the codes nearest to those of the four that lie there in the large one."""
    small, large = (grid_codes(side, side, 32, 8.0, torch.device("cpu")) for side in (4, 8))
    parent = torch.cdist(large, small).argmin(1).view(8, 8)
    assert torch.equal(parent, (torch.arange(8)[:, None] // 2 * 4 + torch.arange(8) // 2))
    both = [clips.batch(5, Shape(side, 2, 3)) for side in (16, 32)]
    assert both[0].clips == both[1].clips and np.array_equal(both[0].positions, both[1].positions)


def test_a_smaller_picture_is_given_as_much_signal() -> None:
    noising = Objective()
    tau = torch.linspace(0.1, 0.9, 17)
    assert torch.equal(noising.steps(noising.shifted(tau, 1.0)), noising.steps(tau))

    def log_ratio(at: torch.Tensor) -> torch.Tensor:
        one = noising.add(torch.ones(len(at), 1), torch.zeros(len(at), 1), at)[:, 0].double().square()
        return torch.log(one / (1 - one))

    gained = log_ratio(noising.shifted(tau, 2.0)) - log_ratio(tau)
    assert torch.allclose(gained, torch.full_like(gained, np.log(4)), atol=0.05)
    assert bool((noising.shifted(tau, 2.0) < tau).all()) and bool((noising.shifted(tau, 0.5) > tau).all())


def test_noise_is_shifted_only_when_asked_for(clips: Clips) -> None:
    plain = task()
    half, full = Shape(16, 1, 2), Shape(32, 1, 2)
    draws = {side: plain.draw(clips.batch(0, s), s, 3) for side, s in ((16, half), (32, full))}
    assert torch.equal(draws[16].tau, draws[32].tau)
    plain.neutral = 32
    assert torch.equal(plain.draw(clips.batch(0, full), full, 3).tau, draws[32].tau)
    assert bool((plain.draw(clips.batch(0, half), half, 3).tau < draws[16].tau).all())


# --- token routing ---


def test_tokens_are_put_back_where_they_were() -> None:
    x, places = torch.randn(2, 3, 6, 4), torch.tensor([[0, 2, 5], [1, 2, 3]])
    part = take_tokens(x, places)
    assert torch.equal(part[1, 2], x[1, 2, [1, 2, 3]]) and torch.equal(put_tokens(x, part, places), x)
    put = put_tokens(x, part + 1, places)
    moved = (put - x).abs().amax(-1) > 0.5
    assert all(moved[b, f].nonzero().flatten().tolist() == places[b].tolist() for b in range(2) for f in range(3))


def test_a_share_of_the_tokens_passes_the_middle_by(clips: Clips) -> None:
    """Against the slow reference: each block written out, the tokens cut by hand."""
    some = task(pose="blocks")
    shape = Shape(16, 2, 2, 0.5)
    draw = some.draw(clips.batch(4, shape), shape, 3)
    places = draw.places
    assert places.shape == (2, 2) and bool((places[:, 0] < places[:, 1]).all())
    model, seen = some.model, {}
    assert model.routed_span() == (1, 3)
    for name, block in [*model.blocks.named_children(), *((f"t{k}", b) for k, b in model.temporal.named_children())]:
        block.register_forward_hook(lambda b, args, out, name=name: seen.setdefault(name, []).append((args[0], out)))
    states = model.reference_states(draw.condition["reference"])
    seen.clear()
    found = model(draw.x, draw.tau, None, draw.condition["pose"], reference_states=states, places=places)
    assert [seen[name][0][0].shape[2] for name in ("0", "1", "t0", "2", "3", "t1")] == [4, 2, 2, 2, 4, 4]
    entered, left = seen["0"][0][1], seen["3"][0][0]
    for sample in range(2):
        inside = places[sample].tolist()
        outside = [k for k in range(4) if k not in inside]
        assert torch.equal(left[sample, :, outside], entered[sample, :, outside]), "unchanged beside the middle"
        assert torch.equal(left[sample, :, inside], seen["2"][0][1][sample])
        assert torch.equal(seen["1"][0][0][sample], entered[sample, :, inside]), "the same places in all frames"
    assert torch.equal(found, some.predict(draw))
    loss = some.loss(draw)
    loss.backward()
    assert all(p.grad is not None for p in model.blocks.parameters())


def test_routing_follows_from_seed_and_position(clips: Clips) -> None:
    some = task()

    def places(position: int, batch: int, tokens: float, seed: int = 3) -> torch.Tensor:
        shape = Shape(32, 1, batch, tokens)
        return some.draw(clips.batch(position, shape), shape, seed).places

    assert torch.equal(places(0, 4, 0.5)[2:], places(2, 2, 0.5)), "whatever the batch"
    assert not torch.equal(places(0, 4, 0.5), places(0, 4, 0.5, seed=4))
    few, many = places(0, 1, 0.25)[0].tolist(), places(0, 1, 0.75)[0].tolist()
    assert len(few) == 4 and len(many) == 12 and set(few) < set(many)
    assert places(0, 1, 0.001).shape == (1, 1), "one at least"
    shape = Shape(32, 1, 2)
    assert "places" not in some.draw(clips.batch(0, shape), shape, 3).condition


def test_all_tokens_are_no_routing(clips: Clips) -> None:
    some, shape = task(), Shape(16, 2, 2)
    draw = some.draw(clips.batch(0, shape), shape, 3)
    every = torch.arange(4).expand(2, 4)
    condition = draw.condition
    routed = some.model(draw.x, draw.tau, condition["reference"], condition["pose"], places=every)
    assert torch.equal(routed, some.predict(draw))


def test_what_cannot_be_routed_or_cut(clips: Clips) -> None:
    shallow, shape = task(depth=2), Shape(16, 1, 1, 0.5)
    with pytest.raises(ValueError, match="a network of 2 spatial blocks has no middle"):
        shallow.predict(shallow.draw(clips.batch(0, shape), shape, 0))
    with pytest.raises(ValueError, match=r"resolution = 12: must be a multiple of 8 \(codec 4 x patch\)"):
        shallow.draw(clips.batch(0, shape), Shape(12, 1, 1), 0)
