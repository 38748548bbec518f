"""Scores: what they measure, that the fast way is the slow one, and that they leave no trace."""

import json
import math

import pytest
import torch

from entprog.core import entropy
from entprog.core.blocks import Block, Blocks, discover_blocks
from entprog.core.statistics import mean_and_error, ranks, spearman
from entprog.core.types import Draw
from entprog.integrations.custom_loop import _UsersTask
from entprog.plugins import load, names
from entprog.profiling.meter import Meter
from toy import siamese_role, toy_draws, toy_task


def setup(depth=4, variant="plain"):
    task = toy_task(depth, variant)
    return task, discover_blocks(task.model, role=siamese_role if variant == "siamese" else None)


@pytest.mark.parametrize("name", names("score"))
@pytest.mark.parametrize("variant", ["plain", "tuple", "siamese"])
def test_every_score_scores_every_block_and_leaves_no_trace(name, variant):
    task, blocks = setup(variant=variant)
    task.model.train()
    task.model.blocks[1].eval()
    task.model.blocks[2].requires_grad_(False)
    task.model.inlet.weight.grad = torch.ones_like(task.model.inlet.weight)
    flags = [(p.requires_grad, p.grad) for p in task.model.parameters()]
    modes = [m.training for m in task.model.modules()]
    before = [p.detach().clone() for p in task.model.parameters()]
    draws = toy_draws(3)
    scores = load("score", name).score(task, blocks, draws)
    assert tuple(scores.values) == blocks.names and all(math.isfinite(v) for v in scores.values.values())
    assert scores == load("score", name).score(task, blocks, draws)
    assert scores.samples in (0, 12), "samples that were read, or 0 for a score that reads none"
    if scores.samples:
        assert scores.stderr.keys() == scores.values.keys() and min(scores.stderr.values()) > 0
    now = [(p.requires_grad, p.grad) for p in task.model.parameters()]
    assert all(a[0] == b[0] and a[1] is b[1] for a, b in zip(flags, now, strict=True))
    assert modes == [m.training for m in task.model.modules()]
    assert all(torch.equal(a, b) for a, b in zip(before, task.model.parameters(), strict=True))
    assert not any("forward" in m.__dict__ for m in task.model.modules())


@pytest.mark.parametrize("variant", ["plain", "tuple", "siamese"])
@pytest.mark.parametrize(
    "options",
    [{}, {"entropy": "histogram"}, {"entropy": "knn"}, {"sigma": "conditions"}, {"skip": "both"}],
    ids=str,
)
def test_fast_cei_is_the_slow_cei(variant, options):
    task, blocks = setup(variant=variant)
    draws = toy_draws(2)
    fast, slow = (load("score", "cei", fast=fast, **options).score(task, blocks, draws) for fast in (True, False))
    assert fast == slow
    if options.get("skip", "denoising") == "denoising":
        rises = [load("score", "skip_loss", fast=fast).score(task, blocks, draws) for fast in (True, False)]
        assert rises[0] == rises[1]


@torch.no_grad()
def test_cei_is_the_published_formula():
    task, blocks = setup()
    draws = toy_draws(2)
    scores = load("score", "cei").score(task, blocks, draws)
    logs = []
    for draw in draws:
        whole = task.predict(draw)
        original = task.model.blocks[2].forward
        task.model.blocks[2].forward = lambda x, emb: x
        skipped = task.predict(draw)
        task.model.blocks[2].forward = original
        logs += [math.log(float(s.std() / w.std())) for s, w in zip(skipped, whole, strict=True)]
    del task.model.blocks[2].forward
    assert scores.values["blocks.2"] == pytest.approx(sum(logs) / 8, abs=1e-6)
    assert scores.stderr["blocks.2"] == pytest.approx(torch.tensor(logs).std().item() / 8**0.5, abs=1e-6)


@torch.no_grad()
def test_sigma_over_conditions_is_the_spread_over_conditions_of_one_input():
    task, blocks = setup()
    draw = toy_draws(1, size=3)[0]
    scores = load("score", "cei", sigma="conditions", conditions=3).score(task, blocks, [draw])

    def log_sigma():
        shifted = [task.predict(draw.with_condition_of(i)) for i in range(3)]
        return torch.stack(shifted).double().std(0).log().mean()

    whole = log_sigma()
    task.model.blocks[1].forward = lambda x, emb: x
    expected = float(log_sigma() - whole)
    del task.model.blocks[1].forward
    assert scores.values["blocks.1"] == pytest.approx(expected, abs=1e-6)


def test_tau_range_sample_count_and_early_stop():
    task, blocks = setup()
    draws = toy_draws(8, size=8)
    inside = sum(int(((d.tau >= 0.3) & (d.tau <= 0.6)).sum()) for d in draws)
    scores = load("score", "cei", tau_min=0.3, tau_max=0.6).score(task, blocks, draws)
    assert scores.samples == inside < 64
    kept = [Draw(d.x[k], d.tau[k], d.target[k], {"reference": d.condition["reference"][k]}) for d in draws
            for k in [(d.tau >= 0.3) & (d.tau <= 0.6)]]  # fmt: skip
    assert scores == load("score", "cei").score(task, blocks, kept)
    for name in ("cei", "skip_loss", "influence", "gradient"):
        with pytest.raises(ValueError, match=r"no sample has tau in \[2.0, 3.0\]: they are in"):
            load("score", name, tau_min=2.0, tau_max=3.0).score(task, blocks, draws)
        assert load("score", name, samples=11).score(task, blocks, draws).samples == 11
    with pytest.raises(ValueError, match="there are no draws"):
        load("score", "cei").score(task, blocks, [])
    stopped = load("score", "cei", stable=0.01).score(task, blocks, draws)
    assert stopped.samples == 32 and "stopped at 32 samples" in stopped.notes[0]
    assert load("score", "cei", stable=0.9999999).score(task, blocks, draws).samples >= 32
    one = load("score", "cei", samples=1).score(task, blocks, draws)
    assert one.samples == 1 and not one.stderr


def test_reference_pass():
    task, blocks = setup(variant="siamese")
    draws = toy_draws(1)
    by_pass = {
        skip: load("score", "cei", skip=skip).score(task, blocks, draws) for skip in ("denoising", "reference", "both")
    }
    assert len({scores.values["blocks.1"] for scores in by_pass.values()}) == 3
    # The last reference call feeds nothing: skipping it changes nothing.
    assert by_pass["reference"].values["blocks.3"] == 0
    plain, plain_blocks = setup()
    for name, option in (("cei", "skip"), ("skip_loss", "skip"), ("influence", "calls")):
        with pytest.raises(ValueError, match=f'{option} = "reference", but no block call'):
            load("score", name, **{option: "reference"}).score(plain, plain_blocks, draws)
    assert "same as" in load("score", "cei", skip="both").score(plain, plain_blocks, draws).notes[0]


def test_cei_refuses_what_has_no_meaning():
    with pytest.raises(ValueError, match="gaussian form only"):
        load("score", "cei", entropy="knn", sigma="conditions")
    with pytest.raises(ValueError, match="rank correlation between 0 and 1"):
        load("score", "cei", stable=1.0)
    task, blocks = setup()
    with pytest.raises(ValueError, match="at least 2 samples"):
        load("score", "cei", sigma="conditions").score(task, blocks, toy_draws(1, size=1))


@pytest.mark.parametrize("name", ["cei", "skip_loss", "influence", "gradient"])
def test_predictions_that_are_not_finite_give_no_order(name):
    task, blocks = setup()
    with torch.no_grad():
        task.model.inlet.weight[0, 0] = math.nan
    with pytest.raises(ValueError, match=r"'blocks\.0'.*not finite"):
        load("score", name).score(task, blocks, toy_draws(2))


@pytest.mark.parametrize("name", ["cei", "skip_loss", "influence", "gradient"])
def test_scores_of_a_model_that_runs_in_bf16(name):
    task, blocks = setup()
    plain = load("score", name).score(task, blocks, toy_draws(4)).values
    forward = task.model.forward
    task.model.forward = lambda *args, **kwargs: cast_forward(forward, *args, **kwargs)
    cast = load("score", name).score(task, blocks, toy_draws(4)).values
    assert list(cast.values()) == pytest.approx(list(plain.values()), rel=0.1, abs=0.02)


def cast_forward(forward, *args, **kwargs):
    with torch.autocast("cpu", torch.bfloat16):
        return forward(*args, **kwargs).float()


def test_a_model_without_condition_has_no_sigma_over_conditions():
    task, blocks = setup()
    bare = [Draw(d.x, d.tau, d.target) for d in toy_draws(1)]
    with pytest.raises(ValueError, match="a model with a condition"):
        load("score", "cei", sigma="conditions").score(task, blocks, bare)


def test_a_block_that_is_never_called_is_noted():
    task, blocks = setup()
    task.model.spare = toy_task(1).model.blocks[0]
    more = Blocks([*blocks, Block("spare", task.model.spare)])
    for name in ("cei", "skip_loss", "influence", "gradient"):
        scores = load("score", name).score(task, more, toy_draws(2))
        assert scores.values["spare"] == 0
        if name != "gradient":
            assert scores.notes == ("never called, so without effect: spare",)


def test_skip_loss_and_influence_are_what_they_say():
    task, blocks = setup()
    draw = toy_draws(1)[0]
    rises = load("score", "skip_loss").score(task, blocks, [draw]).values
    influences = load("score", "influence").score(task, blocks, [draw]).values
    seen = {}
    block = task.model.blocks[2]
    handle = block.register_forward_hook(lambda m, args, output: seen.update(x=args[0], y=output))
    with torch.no_grad():
        whole = task.loss(draw)
        handle.remove()
        block.forward = lambda x, emb: x
        assert rises["blocks.2"] == pytest.approx(float(task.loss(draw) - whole), abs=1e-7)
        del block.forward
    cosine = torch.cosine_similarity(seen["x"], seen["y"], dim=-1).mean()
    assert influences["blocks.2"] == pytest.approx(1 - float(cosine), abs=1e-6)


def test_gradient_norms_against_plain_backward():
    task, blocks = setup()
    draws = toy_draws(3)
    gradients = []
    for draw in draws:
        task.model.zero_grad(set_to_none=True)
        task.loss(draw).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in task.model.blocks[1].parameters()]))
    task.model.zero_grad(set_to_none=True)
    g = torch.stack(gradients).double()
    expected = {
        "l1": g.abs().mean(1).mean(),
        "l2": g.square().mean(1).sqrt().mean(),
        "fisher": g.square().mean(),
        "snr": torch.where(g.mean(0) == 0, 0, g.mean(0).abs() / g.std(0)).mean(),
    }
    for norm, value in expected.items():
        scores = load("score", "gradient", norm=norm).score(task, blocks, draws)
        assert scores.values["blocks.1"] == pytest.approx(float(value), rel=1e-4)
        assert bool(scores.stderr) == (norm != "snr")
    with pytest.raises(ValueError, match="at least 2 draws"):
        load("score", "gradient", norm="snr").score(task, blocks, draws[:1])


def test_gradients_never_lie_in_memory_together():
    model = torch.nn.Sequential(*(torch.nn.Linear(128, 128) for _ in range(8)))  # heavy weights, hardly any activations
    task, blocks = (
        _UsersTask(model, lambda draw: model(draw.x), None),
        Blocks([Block(str(i), m) for i, m in enumerate(model)]),
    )
    draw = Draw(torch.randn(2, 128), torch.rand(2), torch.randn(2, 128))
    with Meter(model) as plain:
        torch.autograd.grad(task.loss(draw), list(model.parameters()))
    with Meter(model) as scored:
        load("score", "gradient").score(task, blocks, [draw])
    assert scored.flops == plain.flops
    assert scored.peak < plain.peak - 0.5 * sum(p.nbytes for p in model.parameters())


def test_orders(tmp_path):
    task, blocks = setup()
    draws = toy_draws(2)

    def order(**options):
        return load("score", "order", **options).score(task, blocks, draws).ranking().names

    assert order(order="first") == blocks.names and order(order="last") == blocks.names[::-1]
    assert order(seed=1) == order(seed=1) and len({order(seed=i) for i in range(8)}) > 1
    ranking = load("score", "gradient").score(task, blocks, draws).ranking().names
    assert order(order="reverse", of="gradient") == ranking[::-1]
    saved = tmp_path / "scores.json"
    saved.write_text(json.dumps({"order": list(ranking)}))
    assert order(order="file", path=str(saved)) == ranking
    lines = tmp_path / "order.txt"
    lines.write_text("\ufeff" + "\r\n".join(ranking[::-1]) + "\n")
    assert order(order="file", path=str(lines)) == ranking[::-1]
    lines.write_text("blocks.0\nblocks.7\n")
    with pytest.raises(ValueError, match=r"missing \['blocks.1', 'blocks.2', 'blocks.3'\], unknown \['blocks.7'\]"):
        order(order="file", path=str(lines))
    saved.write_text("[1]")
    with pytest.raises(ValueError, match='no JSON object with "order"'):
        order(order="file", path=str(saved))
    with pytest.raises(ValueError, match="No such file"):
        order(order="file", path=str(tmp_path / "none"))
    with pytest.raises(ValueError, match="go together"):
        order(order="file")
    with pytest.raises(ValueError, match="no such score"):
        order(order="reverse", of="ceii")


def test_entropies_of_known_distributions():
    torch.manual_seed(0)
    normal, uniform = torch.randn(3, 20000) * 2, torch.rand(3, 20000) * 5
    of_normal = 0.5 * math.log(2 * math.pi * math.e * 4)
    for form in (entropy.gaussian, entropy.histogram, entropy.knn):
        assert form(normal).tolist() == pytest.approx([of_normal] * 3, abs=0.03)
        # All move by log 3 when the values are scaled by 3.
        assert (form(normal * 3) - form(normal)).tolist() == pytest.approx([math.log(3)] * 3, abs=1e-3)
        assert torch.isfinite(form(torch.zeros(2, 50))).all()
    for form in (entropy.histogram, entropy.knn):
        assert form(uniform).tolist() == pytest.approx([math.log(5)] * 3, abs=0.03)
    few = torch.randn(1, 12, dtype=torch.float64)
    distances = (few[0][:, None] - few[0][None]).abs().sort(1).values[:, 3]
    slow = torch.special.digamma(torch.tensor([12.0, 3.0], dtype=torch.float64))
    assert entropy.knn(few).item() == pytest.approx(
        float(slow[0] - slow[1]) + math.log(2) + float(distances.log().mean()), abs=1e-9
    )
    with pytest.raises(ValueError, match="more than k = 3"):
        entropy.knn(torch.randn(2, 3))


def test_statistics():
    assert ranks([3.0, 1.0, 3.0, 2.0]) == [2.5, 0.0, 2.5, 1.0]
    assert spearman([1, 2, 3, 4], [10, 20, 30, 25]) == pytest.approx(0.8)
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1) and spearman([1, 1, 1], [1, 2, 3]) == 0
    with pytest.raises(ValueError, match="two equal lengths"):
        spearman([1], [1])
    mean, error = mean_and_error([1.0, 2.0, 3.0, 6.0])
    assert (mean, error) == (3.0, pytest.approx(torch.tensor([1.0, 2, 3, 6]).std().item() / 2))
    assert mean_and_error([1.0, 4.0], [2.0, 1.0])[0] == 2.0 and mean_and_error([5.0]) == (5.0, math.inf)
