"""What `attach` can be asked for: methods, presets, storage, sets by cost, order, and what it says it saves."""

import time

import pytest
import torch
from torch import nn

import entprog


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inner(x).tanh()


class Backwards(nn.Module):
    """Blocks that are declared in the reverse of the order in which they run."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.entrance, self.head = nn.Linear(8, 8), nn.Linear(8, 8)
        self.blocks = nn.ModuleList(Residual() for _ in range(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.entrance(x)
        for block in reversed(self.blocks):
            x = block(x)
        return self.head(x)


def draw(seed: int) -> entprog.Draw:
    generator = torch.Generator().manual_seed(seed)
    return entprog.Draw(torch.randn(4, 8, generator=generator), torch.rand(4), torch.randn(4, 8, generator=generator))


def attached(steps=8, **options):
    model = Backwards()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    method = entprog.attach(
        model, optimizer, steps=steps, predict=lambda d: model(d.x), probe=[draw(0)], quiet=True, **options
    )
    return model, optimizer, method


def trained(model, optimizer, method, steps=8):
    """Names of the plain weights that moved."""
    plain = Backwards().state_dict()  # those of every model here, before frozen ones are stored in fewer bytes
    for i in range(steps):
        one = draw(i + 1)
        with method.step(i):
            (model(one.x) - one.target).pow(2).mean().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    method.finish()
    method.release()
    assert plain.keys() == model.state_dict().keys()
    return {name for name, value in model.state_dict().items() if not torch.equal(value, plain[name])}


def blocks_of(names) -> set[str]:
    return {".".join(name.split(".")[:2]) for name in names if name.startswith("blocks.")}


@pytest.mark.parametrize("method", ["progressive", "lora", "mixed", "full", "entprog.methods.full:Full"])
def test_every_method_trains_every_block_in_the_end(method):
    assert blocks_of(trained(*attached(method=method))) == {f"blocks.{i}" for i in range(6)}


def test_the_preset_trains_adapters_of_the_last_blocks_that_run():
    moved = trained(*attached(preset="entprog"))
    assert moved == {"blocks.1.inner.weight", "blocks.0.inner.weight", "head.weight", "head.bias"}


def test_blocks_are_in_the_order_of_execution():
    _, _, method = attached(score="order", score_options={"order": "last"})
    assert method.plan(0).active == ("blocks.1", "blocks.0")


def test_stored_weights_come_back_exactly():
    options = {"score": "order", "score_options": {"order": "last"}, "inputs_every": 0, "storage": "int8"}
    moved = trained(*attached(schedule="fixed", schedule_options={"m": (2,)}, **options))
    assert blocks_of(moved) == {"blocks.0", "blocks.1"}


def test_sets_by_cost_go_less_deep():
    def lowest(select):
        _, _, method = attached(select=select, schedule="fixed", schedule_options={"m": (2,)}, inputs_every=0)
        return min(method.context.blocks.names.index(name) for name in method.plan(0).active)

    assert lowest("per_flop") >= lowest("importance")


def test_the_summary_says_what_is_not_saved():
    _, _, method = attached()
    assert "steps 6-7: 6 of 6 blocks train, backward through 6" in method.summary
    assert "not saved: memory where every block trains (steps 6-7): it is that of full" in method.summary
    assert "inputs_every=0" in method.summary
    _, _, method = attached(schedule="fixed", schedule_options={"m": (2,)})
    assert "not saved: most activations, since the backward goes through every block" in method.summary
    _, _, method = attached(preset="entprog")
    assert "2 of 6 blocks with adapters, backward through 2" in method.summary and "not saved" not in method.summary


def test_what_the_summary_says_of_memory_is_so():
    """Where every block trains a step needs what full fine-tuning needs; elsewhere less, but most activations stay."""

    def needed(**options):
        model, optimizer, method = attached(**options)
        own, kept, found = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}, []

        def keep(tensor):
            if (place := tensor.untyped_storage().data_ptr()) not in own:
                kept[place] = tensor  # held, so that no other tensor gets the same place
            return tensor

        for i in range(8):
            kept.clear()
            with method.step(i), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                model(draw(i).x).square().mean().backward()
                gradients = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
                optimizer.step()
                optimizer.zero_grad()
            states = sum(v.nbytes for state in optimizer.state.values() for v in state.values() if v.dim())
            found.append((sum(t.untyped_storage().nbytes() for t in kept.values()), gradients, states))
        return found

    stages, full = needed(), needed(method="full")
    assert stages[-1] == full[-1]
    assert all(part < whole for part, whole in zip(stages[0], full[0], strict=True))
    assert stages[0][0] > 0.5 * full[0][0]


def test_a_step_outside_a_search_takes_no_time_of_its_own():
    """Entering, leaving and the optimizer's hook take less than 1 % of a step of 50 ms."""
    model, optimizer, method = attached(steps=1000, schedule="fixed", schedule_options={"m": (2,)})
    for block in (*model.blocks, model.entrance, model.head):  # nothing to do for the optimizer but its hook
        block.zero_grad(set_to_none=True)
    took = []
    for i in range(200):
        start = time.process_time()
        with method.step(i):
            optimizer.step()
        took.append(time.process_time() - start)
    assert sorted(took)[100] < 0.01 * 0.05


def test_a_scheduler_that_would_not_know_the_adapters_is_refused():
    model = Backwards()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)

    def attach(**options):
        return entprog.attach(
            model, optimizer, steps=2, predict=lambda d: model(d.x), probe=[draw(0)], method="lora", **options
        )

    with pytest.raises(ValueError, match="make it after attach"):
        attach()
    attach(method_options={"lr_factor": 1})
    assert len(optimizer.param_groups) == 1


def test_all_wrong_choices_are_named_at_once():
    with pytest.raises(ValueError) as raised:
        attached(method="lorra", storage="int9", select="per_byte", schedule="linnear")
    for part in ("did you mean 'lora'", "storage = 'int9'", "select = 'per_byte'", "did you mean 'linear'"):
        assert part in str(raised.value)
    with pytest.raises(ValueError, match="preset = 'papper'"):
        attached(preset="papper")


def test_a_probe_of_diffusers_schedulers():
    diffusers = pytest.importorskip("diffusers")
    clean, text = torch.randn(2, 3, 4), torch.randn(2, 5)
    for kind, target in (("epsilon", None), ("sample", clean), ("v_prediction", None)):
        scheduler = diffusers.DDPMScheduler(prediction_type=kind)
        seen = {}

        def model(x, timestep, text, size, seen=seen):
            seen |= {"timestep": timestep, "text": text, "size": size}
            return (torch.cat([x, x], 1),)

        predict, probe = entprog.make_probe(model, scheduler, clean, draws=3, text=text, size=7)
        again = entprog.make_probe(model, scheduler, clean, draws=3, text=text, size=7)[1]
        assert len(probe) == 3 and all(torch.equal(a.x, b.x) for a, b in zip(probe, again, strict=True))
        assert sorted(float(tau) for one in probe for tau in one.tau) == pytest.approx(
            [(k + 0.5) / 6 for k in range(6)]
        )
        assert predict(probe[0]).shape == clean.shape and seen["size"] == 7 and torch.equal(seen["text"], text)
        if target is not None:
            assert torch.equal(probe[0].target, target)
    _, flow = entprog.make_probe(model, diffusers.FlowMatchEulerDiscreteScheduler(), clean, text=text, size=7)
    level = flow[0].tau.view(-1, 1, 1)
    assert torch.allclose(flow[0].x, clean + level * flow[0].target, atol=1e-6)
    assert torch.equal(flow[0].condition["timestep"], flow[0].tau * 1000)
