"""Optimizers by name, states only where something trains, and the step inside the backward pass."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from entprog.config.schema import TrainConfig
from entprog.core.blocks import discover_blocks
from entprog.core.freeze import Freezer, param_groups
from entprog.core.probe import Snapshot
from entprog.core.types import Draw
from entprog.optimizers._orthogonal import MuonAdamW, in_rows, orthogonalised
from entprog.savings.in_backward import InBackward, build_optimizer, release
from entprog.train.checkpoint import load_checkpoint, save_checkpoint
from entprog.train.state import load_optimizer_state, optimizer_state
from toy import ToyTask, toy_draws, toy_task

GALORE = "benchmarks.rivals.galore:Galore"

NAMES = ("adamw", "adamw8bit", "adafactor", GALORE, "muon")
RATE = 1e-2


def config(name: str, **options: Any) -> TrainConfig:
    if name == "adamw8bit":
        pytest.importorskip("torchao")
    if name == GALORE:
        options = {"optimizer_options": {"rank": 8, "update_proj_gap": 2}, **options}
    return TrainConfig(optimizer=name, adam_weight_decay=0.1, **options)  # type: ignore[arg-type]


def draw(seed: int = 0) -> Draw:
    return toy_draws(1, width=64, seed=seed)[0]


def setup(name: str, states: str = "keep", variant: str = "siamese", **options: Any) -> tuple[Any, ...]:
    """A model wide enough that its matrices are held in 8 bits, its optimizer and Freezer."""
    task = ToyTask(toy_task(4, variant, width=64, **options).model)
    blocks = discover_blocks(task.model)
    built = build_optimizer(config(name), param_groups(task.model, blocks, lr=RATE))
    return task, blocks, built, Freezer(task.model, blocks, built, states=states)  # type: ignore[arg-type]


def in_backward(name: str, task: ToyTask) -> InBackward:
    settings = config(name, optimizer_in_backward=True, max_grad_norm=0.0)
    built = build_optimizer(settings, param_groups(task.model, discover_blocks(task.model), lr=RATE))
    assert isinstance(built, InBackward)
    return built


def step(task: ToyTask, optimizer: torch.optim.Optimizer, seed: int = 0) -> None:
    task.loss(draw(seed)).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def weights(task: ToyTask) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in task.model.named_parameters()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_default_is_the_fused_adamw_as_before() -> None:
    ends = []
    for named in (True, False):
        task = toy_task(variant="siamese", width=64)
        groups = param_groups(task.model, discover_blocks(task.model), lr=RATE)
        if named:
            built = build_optimizer(TrainConfig(), groups)
        else:
            built = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, fused=True)
        for i in range(3):
            step(task, built, i)
        ends.append(weights(task))
    assert same(*ends)


def test_muon_is_that_of_torch_for_matrices_and_adamw_for_the_rest() -> None:
    """torch's own iterates in bfloat16: steps of matrices agree to that."""
    torch.manual_seed(0)
    ends = []
    for ours in (True, False):
        wide, tall, bias = (
            nn.Parameter(torch.linspace(-1, 1, size).reshape(shape))
            for size, shape in ((512, (16, 32)), (512, (64, 8)), (16, (16,)))
        )
        if ours:
            settings = TrainConfig(optimizer="muon", adam_weight_decay=0.1)
            groups = [{"name": "block", "params": [wide, tall, bias]}]
            optimizers = [build_optimizer(settings, [{**group, "lr": RATE} for group in groups])]
        else:
            about: dict[str, Any] = {"lr": RATE, "weight_decay": 0.1}
            optimizers = [
                torch.optim.Muon([wide, tall], adjust_lr_fn="match_rms_adamw", **about),
                torch.optim.AdamW([bias], **about),
            ]
        for i in range(4):
            for k, p in enumerate((wide, tall, bias)):
                p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(10 * i + k))
            for optimizer in optimizers:
                optimizer.step()
        ends.append((wide, tall, bias))
    for ours, theirs, near in zip(*ends, (2e-3, 2e-3, 1e-6), strict=True):
        assert (ours - theirs).abs().max() < near


def test_muon_steps_matrices_of_one_shape_together_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    def stepped() -> list[Tensor]:
        torch.manual_seed(0)
        matrices = [torch.nn.Parameter(torch.randn(shape)) for shape in [(8, 32), (64, 8), (8, 32), (64, 48)] * 3]
        groups = [{"params": matrices[:5], "orthogonal": True}, {"params": matrices[5:], "orthogonal": True, "lr": 0.3}]
        optimizer = MuonAdamW(groups, lr=0.1, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.01, rows=16)
        for _ in range(3):
            for matrix in matrices:
                matrix.grad = torch.randn_like(matrix)
            optimizer.step()
        return [matrix.detach() for matrix in matrices]

    together = stepped()
    monkeypatch.setattr("entprog.optimizers._orthogonal.TOGETHER", 0)  # one by one
    assert all(torch.equal(a, b) for a, b in zip(together, stepped(), strict=True))


def test_muon_takes_rows_as_matrices_of_their_own() -> None:
    matrix = torch.randn(96, 64, generator=torch.Generator().manual_seed(0))
    parts = in_rows(matrix, 32)
    assert parts.shape == (3, 32, 64)
    assert in_rows(matrix, 0).shape == in_rows(matrix, 64).shape == in_rows(matrix, 40).shape == (1, 96, 64)
    for part, whole in zip(orthogonalised(parts), parts, strict=True):
        assert torch.allclose(part, orthogonalised(whole[None])[0], atol=1e-5)
        values = torch.linalg.svdvals(part)
        assert values.min() > 0.6 and values.max() < 1.25
    task, _, built, _ = setup("muon")
    step(task, built)
    kept = {tuple(state) for state in built.state.values()}
    assert kept == {("momentum",), ("step", "exp_avg", "exp_avg_sq")}


def test_eight_bits_equal_torchao() -> None:
    pytest.importorskip("torchao")
    from torchao.optim import AdamW8bit

    ends = []
    for ours in (True, False):
        task, _, built, _ = setup("adamw8bit")
        if not ours:
            built = AdamW8bit(task.model.parameters(), lr=RATE, weight_decay=0.1)
        with torch.compiler.set_stance("force_eager"):
            for i in range(3):
                step(task, built, i)
        ends.append(weights(task))
    assert same(*ends)


@pytest.mark.parametrize("signed", [True, False])
def test_codes_from_tables_are_those_of_torchao(signed: bool) -> None:
    """For values of every size, those where one code ends and the next begins, and their neighbours."""
    pytest.importorskip("torchao")
    from torchao.optim.quant_utils import create_dynamic_map, quantize_8bit_with_qmap

    from entprog.optimizers._quantized import _Codes

    qmap = torch.tensor(list(create_dynamic_map(signed=signed)), dtype=torch.float32)
    least = -1.0 if signed else 0.0
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.rand(20_000, generator=generator) * 10.0**-power for power in range(9)]
    edges = torch.cat([qmap, (qmap[1:] + qmap[:-1]) / 2])
    beside = [torch.nextafter(edges, torch.tensor(bound)) for bound in (-2.0, 2.0)]
    values = torch.cat([*drawn, *(-d for d in drawn), edges, *beside, torch.tensor([0.0, -0.0])]).clamp(least, 1.0)
    assert torch.equal(_Codes(qmap)(values), quantize_8bit_with_qmap(values, qmap))


def test_eight_bits_take_a_quarter() -> None:
    sizes = {}
    for name in ("adamw", "adamw8bit"):
        task, _, built, _ = setup(name)
        step(task, built)
        state = built.state[task.model.blocks[0].mlp[0].weight]
        sizes[name] = sum(value.numel() * value.element_size() for value in state.values())
        assert all(type(value) is torch.Tensor for value in state.values())
    assert sizes["adamw8bit"] < 0.27 * sizes["adamw"]


@pytest.mark.parametrize("states", ["keep", "drop", "offload"])
@pytest.mark.parametrize("name", NAMES)
def test_blocks_that_never_trained_have_no_states(name: str, states: str, tmp_path: Any) -> None:
    """Nor do steps, freezing, snapshots, checkpoints and going on give them any."""
    task, _, built, freezer = setup(name, states)
    freezer.train_only(["blocks.2"])
    step(task, built)
    freezer.train_only(["blocks.2", "blocks.3"])
    snapshot = Snapshot.take(task.model, built)
    step(task, built, 1)
    snapshot.restore(task.model, built)
    save_checkpoint(tmp_path, 1, {"optimizer": optimizer_state(built, task.model), "freezer": freezer.state_dict()})
    loaded = load_checkpoint(tmp_path / "checkpoint-1")
    task, _, built, freezer = setup(name, states)
    freezer.load_state_dict(loaded["freezer"])
    load_optimizer_state(built, task.model, loaded["optimizer"])
    expected = {id(p) for n, p in task.model.named_parameters() if n.startswith("blocks.2.")} | {
        id(p) for n, p in task.model.named_parameters() if not n.startswith("blocks.")
    }
    assert {id(p) for p, state in built.state.items() if state} == expected


@pytest.mark.parametrize("states", ["keep", "drop", "offload"])
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_going_on_from_a_checkpoint_bit_for_bit(name: str, backward: bool, states: str, tmp_path: Any) -> None:
    def made() -> tuple[Any, ...]:
        task, blocks, built, freezer = setup(name)
        if backward:
            freezer.release()
            built = in_backward(name, task)
        freezer.release()
        return task, built, Freezer(task.model, blocks, built, states=states)  # type: ignore[arg-type]

    def later(task: ToyTask, built: torch.optim.Optimizer, freezer: Freezer) -> dict[str, torch.Tensor]:
        step(task, built, 5)
        freezer.train_only(["blocks.0", "blocks.3"])
        step(task, built, 6)
        step(task, built, 7)
        return weights(task)

    task, built, freezer = made()
    step(task, built)
    freezer.train_only(["blocks.1", "blocks.3"])
    step(task, built, 1)
    state = {
        "optimizer": optimizer_state(built, task.model),
        "freezer": freezer.state_dict(),
        "model": dict(task.model.state_dict()),
    }
    save_checkpoint(tmp_path, 2, state)
    expected = later(task, built, freezer)

    task, built, freezer = made()
    loaded = load_checkpoint(tmp_path / "checkpoint-2")
    task.model.load_state_dict(loaded["model"])
    freezer.load_state_dict(loaded["freezer"])
    load_optimizer_state(built, task.model, loaded["optimizer"])
    assert same(later(task, built, freezer), expected)


@pytest.mark.parametrize("checkpointing", [None, "not reentrant"])
@pytest.mark.parametrize("name", NAMES)
def test_stepping_in_the_backward_pass_equals_the_plain_step(name: str, checkpointing: str | None) -> None:
    """Weights that are used twice (the Siamese reference), blocks that freeze and unfreeze, a search's snapshot."""
    ends, norms = [], []
    for backward in (False, True):
        task, blocks, built, freezer = setup(name, checkpointing=checkpointing)
        freezer.release()
        if backward:
            built = in_backward(name, task)
        freezer = Freezer(task.model, blocks, built, states="drop")
        seen = []
        for i, active in enumerate((blocks.names, ("blocks.1",), ("blocks.1", "blocks.3"), blocks.names)):
            freezer.train_only(active)
            for group in built.param_groups:
                group["lr"] = RATE / (i + 1)
            if i == 2:
                snapshot = Snapshot.take(task.model, built)
                step(task, built, 9)
                seen.append(built.gradient_norm(task.model.parameters()) if backward else 0.0)
                snapshot.restore(task.model, built)
            task.loss(draw(i)).backward()
            present = [p for p in task.model.parameters() if p.grad is not None]
            assert not (backward and present)
            norm = built.gradient_norm(task.model.parameters()) if backward else nn.utils.clip_grad_norm_(present, 1e9)
            seen.append(float(norm))
            built.step()
            built.zero_grad(set_to_none=True)
        ends.append(weights(task))
        norms.append(seen)
    assert same(*ends)
    assert norms[0][:2] == norms[1][:2] and norms[0][3:] == norms[1][3:]


def test_frozen_and_released_parameters_are_not_stepped() -> None:
    task, blocks, _, freezer = setup("adamw")
    freezer.release()
    built = in_backward("adamw", task)
    freezer = Freezer(task.model, blocks, built)
    loss = task.loss(draw())
    freezer.train_only(["blocks.3"])
    before = weights(task)
    loss.backward()  # built while everything trained
    moved = {name for name, p in task.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved and not any(name.startswith(("blocks.0", "blocks.1", "blocks.2")) for name in moved)
    assert all(p.grad is None for p in task.model.parameters())
    release(built)
    before = weights(task)
    task.loss(draw()).backward()
    assert same(before, weights(task)) and task.model.blocks[3].query.weight.grad is not None


def test_gradients_are_gone_before_the_backward_pass_ends() -> None:
    task, _, _, freezer = setup("adamw", variant="plain")
    freezer.release()
    in_backward("adamw", task)
    most = 0

    def look(parameter: torch.Tensor) -> None:
        nonlocal most
        most = max(most, sum(p.grad is not None for p in task.model.parameters()))

    for parameter in task.model.parameters():
        parameter.register_post_accumulate_grad_hook(look)
    task.loss(draw()).backward()
    assert most == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gradient_accumulation_steps": 2, "max_grad_norm": 0.0}, "train.gradient_accumulation_steps = 2"),
        ({"max_grad_norm": 1.0}, "train.max_grad_norm = 1.0"),
        ({"max_grad_norm": 0.0, "mixed_precision": "fp16"}, "train.mixed_precision = 'fp16'"),
    ],
)
def test_what_needs_all_gradients_is_refused(options: dict[str, Any], words: str) -> None:
    groups = param_groups((task := toy_task()).model, discover_blocks(task.model), lr=RATE)
    with pytest.raises(ValueError, match=words):
        build_optimizer(TrainConfig(optimizer_in_backward=True, **options), groups)


def test_a_saved_state_is_a_copy() -> None:
    """What was saved does not move when training goes on."""
    task, _, built, _ = setup("adamw8bit")
    step(task, built)
    saved = copy.deepcopy(optimizer_state(built, task.model))
    load_optimizer_state(built, task.model, saved)
    kept = {k: {n: v.clone() for n, v in values.items()} for k, values in saved.items()}
    step(task, built, 1)
    assert all(torch.equal(saved[k][n], kept[k][n]) for k in kept for n in kept[k])
