"""An adapter in one operation with its layer, against the two written out."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from entprog.core.blocks import Block, Blocks
from entprog.methods._low_rank import put_on
from entprog.profiling.meter import Meter
from entprog.savings._mixed_layers import mix
from entprog.savings.adapters import adapted_layers
from entprog.savings.frozen_storage import FrozenStorage
from entprog.savings.low_rank_product import low_rank_product, takes

ROWS, IN, OUT, RANK = (3, 5), 24, 40, 4


def layer(kind: str) -> tuple[nn.Linear, FrozenStorage | None]:
    """A frozen layer: plain, with a bfloat16 weight, or held by a storage of that kind."""
    base = nn.Linear(IN, OUT)
    base.requires_grad_(False)
    if kind == "low":
        base.weight.data = base.weight.data.bfloat16()
        assert mix(base)
    storage = None
    if kind not in ("plain", "low"):
        storage = FrozenStorage([Block("block", nn.Sequential(base))], kind)  # type: ignore[arg-type]
        storage.follow()
        assert storage.held
    return base, storage


def written_out(x: Tensor, base: nn.Linear, a: Tensor, b: Tensor, scale: float) -> Tensor:
    return base(x) + functional.linear(functional.linear(x, a), b) * scale


@pytest.mark.parametrize("kind", ["plain", "low", "bf16", "int8", "offload"])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_value_and_gradients_are_those_of_the_written_out_form(kind: str, autocast: bool, scale: float) -> None:
    torch.manual_seed(0)
    base, _ = layer(kind)
    x, out = torch.randn(*ROWS, IN), torch.randn(*ROWS, OUT)
    a, b = torch.randn(RANK, IN), torch.randn(OUT, RANK)
    found = []
    for product in (written_out, low_rank_product):
        inputs = [each.clone().requires_grad_() for each in (x, a, b)]
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            assert takes(base, inputs[0])
            y = product(inputs[0], base, inputs[1], inputs[2], scale)
        y.backward(out.to(y.dtype))
        found.append([y.detach(), *(each.grad for each in inputs)])
    for expected, got in zip(*found, strict=True):
        assert expected is not None and got is not None and got.dtype == expected.dtype
        close = {"rtol": 0.05, "atol": 0.3} if autocast else {"rtol": 1e-5, "atol": 1e-4}
        torch.testing.assert_close(got, expected, **close)


def test_an_adapter_of_zero_changes_no_bit() -> None:
    base, _ = layer("plain")
    x = torch.randn(*ROWS, IN)
    assert torch.equal(low_rank_product(x, base, torch.randn(RANK, IN), torch.zeros(OUT, RANK), 2.0), base(x))


def test_flops_are_the_same() -> None:
    """In a smaller peak of memory."""
    base, _ = layer("plain")
    base.register_parameter("a", nn.Parameter(torch.randn(RANK, IN)))
    base.register_parameter("b", nn.Parameter(torch.randn(OUT, RANK)))
    costs = []
    for product in (written_out, low_rank_product):
        x = torch.randn(*ROWS, IN, requires_grad=True)
        with Meter(base) as meter:
            product(x, base, base.a, base.b, 2.0).sum().backward()
        base.zero_grad(set_to_none=True)
        costs.append(meter.cost())
    assert costs[0].flops == costs[1].flops > 0
    assert costs[1].peak < costs[0].peak


def test_what_it_cannot_compute_is_left_to_the_layer() -> None:
    base, _ = layer("plain")
    assert not takes(base, torch.zeros(1, IN, dtype=torch.float64))
    assert not takes(nn.Conv1d(IN, OUT, 1), torch.zeros(1, IN))
    base.weight.requires_grad_(True)
    assert not takes(base, torch.zeros(1, IN))


def test_a_held_layer_that_is_asked_to_train_is_refused() -> None:
    base, storage = layer("int8")
    assert storage is not None
    base.bias.requires_grad_(True)
    assert not takes(base, torch.zeros(1, IN))  # its own forward says what is wrong
    with pytest.raises(ValueError, match="set to train"):
        base(torch.zeros(1, IN))


def test_layers_of_peft_use_it_by_any_name_of_their_input() -> None:
    pytest.importorskip("peft")
    model = nn.Module()
    model.block = nn.Sequential(nn.Linear(IN, OUT))
    model.requires_grad_(False)
    put_on(model, Blocks([Block("block", model.block)]), rank=RANK, alpha=2 * RANK, seed=0)
    (adapted,) = adapted_layers(model).values()
    nn.init.normal_(adapted.lora_B["default"].weight)
    x = torch.randn(*ROWS, IN)
    expected = written_out(
        x, adapted.base_layer, adapted.lora_A["default"].weight, adapted.lora_B["default"].weight, 2.0
    )
    torch.testing.assert_close(adapted(x), expected)
    assert torch.equal(adapted(input=x), adapted(x))
    adapted.enable_adapters(False)
    assert torch.equal(adapted(x), adapted.base_layer(x))
