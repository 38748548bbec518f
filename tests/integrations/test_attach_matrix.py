"""`attach` on other people's models: those of diffusers, and structures of well-known code outside it."""

import copy
import inspect
import io
import json
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import entprog
from attach_matrix import SCORES, judged, quiet, ranked_and_trained
from checkout import ROOT
from denoisers import denoisers
from entprog.core.blocks import Blocks, discover_blocks
from entprog.core.skip import Skipper
from entprog.core.swap import swapped_forward
from entprog.integrations.skip_adapters import with_ready_adapters
from foreign_networks import FOREIGN

REPRESENTATIVE = (
    "DiTTransformer2DModel",  # a learned variance, an embedding that is used outside its block
    "FluxTransformer2DModel",  # two lists of blocks
    "HunyuanDiT2DModel",  # long skip connections
    "CosmosTransformer3DModel",  # a position embedding in every block
    "WanVACETransformer3DModel",  # side blocks
    "ZImageTransformer2DModel",  # samples in a list
    "UNet1DModel",  # whole levels as blocks
)
RECORD = ROOT / "benchmarks" / "results" / "attach-matrix.jsonl"


@pytest.mark.parametrize("score", ["gradient", "cei"])
@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_a_class_of_diffusers_trains_in_stages(name: str, score: str) -> None:
    case = denoisers()[name]
    model = case.model()
    ranked_and_trained(model, case.predictor(model), case.draw, score)


@pytest.mark.parametrize("score", ["gradient", "cei"])
@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_network_trains_in_stages(name: str, score: str) -> None:
    case = FOREIGN[name]
    model = case.model()
    ranked_and_trained(model, case.predictor(model), case.draw, score, blocks=case.blocks)


@pytest.mark.slow
@pytest.mark.parametrize("name", denoisers())
def test_every_class_of_diffusers_trains_in_stages_by_every_score(name: str) -> None:
    case = denoisers()[name]
    found = judged(case.model, case.predictor, case.draw)
    refused = name == "AnyFlowFARTransformer3DModel"
    assert all(("FlexAttention" in message) if refused else message == "ok" for message in found.values()), found


@pytest.mark.slow
@pytest.mark.parametrize("name", denoisers())
def test_skipping_a_block_is_running_it_with_zero_parameters(name: str) -> None:
    """Of blocks without an adapter, up to rounding; where the class has a backward or not."""
    case = denoisers()[name]
    model = case.model().eval()
    predict, given = case.predictor(model), case.draw(1)
    blocks = with_ready_adapters(discover_blocks(model))
    with torch.no_grad():
        whole = predict(given)
        for block in blocks:
            with Skipper(blocks) as skipper, skipper.skip(block.name):
                skipped = predict(given)
            assert not torch.equal(skipped, whole), f"{block.name} has no effect"
            if block.name not in blocks.adapters:
                zeroed = copy.deepcopy(block.module)
                for parameter in zeroed.parameters():
                    parameter.zero_()
                with swapped_forward(block.module, zeroed.forward):
                    torch.testing.assert_close(skipped, predict(given), rtol=0, atol=1e-5, msg=block.name)


def test_the_record_has_every_class_and_nearly_all_are_right() -> None:
    rows = [json.loads(line) for line in RECORD.read_text(encoding="utf-8").splitlines()]
    assert [row["class"] for row in rows] == [*denoisers(), *FOREIGN]
    assert all(set(row["scores"]) == set(SCORES) for row in rows)
    wrong = {row["class"]: row["scores"] for row in rows if set(row["scores"].values()) != {"ok"}}
    assert len(denoisers()) >= 68 and len(wrong) <= 2
    assert all("; " in message for scores in wrong.values() for message in scores.values())  # the remedy


def test_what_names_to_give_where_blocks_change_the_shape() -> None:
    case = FOREIGN["ConvNeXt, timm"]
    found = judged(case.model, case.predictor, case.draw)
    assert found["gradient"] == found["order"] == "ok"
    assert "name other blocks (blocks='stages.*.blocks.*')" in found["cei"]


class TestLevels:
    """Whole levels of U-Nets: skipped, they are the level without what its residual branches add."""

    ENDS = ("conv2", "conv_out.group_norm", "resnet_blocks.3.projection", "resnet_blocks.3.down_sample",
            "attention.to_out.0", "feed_forward.2", "proj_out")  # fmt: skip

    @pytest.mark.parametrize("name", ["UNet1DModel", "Kandinsky3UNet", "UNetControlNetXSModel"])
    def test_a_skipped_level(self, name: str) -> None:
        case = denoisers()[name]
        model = case.model().eval()
        blocks = with_ready_adapters(discover_blocks(model, ["down_blocks.*", "up_blocks.*"]))
        assert set(blocks.adapters) == set(blocks.names)
        calls = inputs_of(blocks, lambda: case.predictor(model)(case.draw(1)))
        with torch.no_grad():
            for block in blocks:
                plain = copy.deepcopy(block.module)
                zeroed = [m for n, m in plain.named_modules() if n.endswith(self.ENDS) or "ctrl_to_base." in n]
                assert any(p.any() for module in zeroed for p in module.parameters())
                for parameter in (p for module in zeroed for p in module.parameters()):
                    parameter.zero_()
                expected = plain(**copy.deepcopy(calls[block.name]))
                found = blocks.adapters[block.name](copy.deepcopy(calls[block.name]))
                assert not torch.equal(first(expected), first(block.module(**copy.deepcopy(calls[block.name]))))
                torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def inputs_of(blocks: Blocks, run: Callable[[], Any]) -> dict[str, dict[str, Any]]:
    """Arguments by name of each block's call."""
    found: dict[str, dict[str, Any]] = {}

    def note(name: str) -> Any:
        def before(module: nn.Module, args: Any, kwargs: Any) -> None:
            bound = inspect.signature(module.forward).bind(*args, **kwargs).arguments
            found[name] = copy.deepcopy(dict(bound))

        return before

    handles = [b.module.register_forward_pre_hook(note(b.name), with_kwargs=True) for b in blocks]
    with torch.no_grad():
        run()
    for handle in handles:
        handle.remove()
    return found


def first(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x).tanh()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.start, self.blocks, self.end = nn.Linear(8, 8), nn.ModuleList(Residual() for _ in range(3)), Residual()

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(x)
        for block in self.blocks:
            x = block(x)
        return self.end(x)


def draw(seed: int) -> entprog.Draw:
    generator = torch.Generator().manual_seed(seed)
    x, target = torch.randn(2, 4, 8, generator=generator)
    return entprog.Draw(x, torch.rand(4, generator=generator), target)


class TestCompiled:
    @pytest.mark.parametrize("score", ["gradient", "cei"])
    def test_attach_neither_compiles_nor_warns(self, score: str) -> None:
        torch._dynamo.reset()
        inner = Net()
        model = torch.compile(inner, backend="eager")
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        before = dict(torch._dynamo.utils.counters["frames"])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            entprog.attach(
                model, optimizer, steps=3, predict=lambda d: model(d.x), probe=[draw(1)], score=score, quiet=True,
                schedule_options={"stages": 2},
            ).release()  # fmt: skip
        assert dict(torch._dynamo.utils.counters["frames"]) == before
        ranked_and_trained(model, lambda d: model(d.x), draw, score)
        assert torch._dynamo.utils.counters["frames"] != before


class TestQuantized:
    @pytest.mark.parametrize("score", SCORES)
    def test_int8_weights_of_torchao_with_adapters(self, score: str) -> None:
        """Every score ranks them: weights are zeroed as plain tensors, and those without a gradient count as zero."""
        torchao = pytest.importorskip("torchao.quantization")
        peft = pytest.importorskip("peft")
        model = Net()
        torchao.quantize_(model.blocks, torchao.Int8WeightOnlyConfig())
        weights = [block.inner.weight.dequantize() for block in model.blocks]
        model.requires_grad_(False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # merging is not tried here
            peft.inject_adapter_in_model(
                peft.LoraConfig(r=2, target_modules=["inner"], init_lora_weights="gaussian"), model
            )
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        with quiet():
            method = entprog.attach(
                model, optimizer, steps=2, predict=lambda d: model(d.x), probe=[draw(1), draw(2)], score=score,
                quiet=True, schedule="fixed", schedule_options={"m": (1,)},
            )  # fmt: skip
        before = {name: p.detach().clone() for name, p in model.named_parameters() if "lora" in name}
        with method.step(0) as plan:
            (model(draw(3).x) - draw(3).target).square().mean().backward()
            optimizer.step()
        moved = {name for name, value in before.items() if not torch.equal(model.get_parameter(name), value)}
        assert moved and all(name.startswith((*plan.active, "end.")) for name in moved)
        after = [block.inner.base_layer.weight.dequantize() for block in model.blocks]
        assert all(map(torch.equal, weights, after))


class TestAttention:
    def test_flex_attention_on_the_cpu_is_refused(self) -> None:
        case = denoisers()["AnyFlowFARTransformer3DModel"]
        model = case.model()
        with pytest.raises(ValueError, match=r"FlexAttention has no backward on the CPU.*move the model to a GPU"):
            ranked_and_trained(model, case.predictor(model), case.draw, "order")

    def test_a_probe_of_inference_tensors_is_ranked(self) -> None:
        model = Net()
        with torch.inference_mode():
            probe = [draw(1)]
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        method = entprog.attach(
            model, optimizer, steps=8, predict=lambda d: model(d.x), probe=probe, score="cei", quiet=True
        )
        assert len(method.rankings[0].names) == 3


class TestGroupNorm:
    """In torch 2.13 its backward on the CPU ends the process for inputs in channels_last that need no gradient."""

    class Normed(nn.Module):
        def __init__(self, width: int = 8) -> None:
            super().__init__()
            self.norm, self.conv = nn.GroupNorm(2, width), nn.Conv2d(width, width, 1)

        def forward(self, x: Tensor) -> Tensor:
            return (x + self.conv(self.norm(x))).contiguous(memory_format=torch.channels_last)

    class Levels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.blocks = nn.ModuleList(TestGroupNorm.Normed() for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = block(x)
            return x

    @staticmethod
    def image(seed: int) -> entprog.Draw:
        generator = torch.Generator().manual_seed(seed)
        x, target = torch.randn(2, 2, 8, 4, 4, generator=generator)
        return entprog.Draw(x.contiguous(memory_format=torch.channels_last), torch.rand(2), target)

    def test_it_trains_and_copies_and_files_are_of_the_plain_class(self) -> None:
        model = self.Levels()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        method = entprog.attach(
            model, optimizer, steps=2, predict=lambda d: model(d.x), probe=[self.image(1)], quiet=True,
            schedule="fixed", schedule_options={"m": (1,)},
        )  # fmt: skip
        norm = model.blocks[2].norm
        assert isinstance(norm, nn.GroupNorm) and type(norm) is not nn.GroupNorm
        assert type(copy.deepcopy(model).blocks[2].norm) is nn.GroupNorm
        with method.step(0):
            (model(self.image(2).x) - self.image(2).target).square().mean().backward()
            optimizer.step()
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=False)
        assert type(loaded.blocks[2].norm) is nn.GroupNorm
        x = self.image(3).x
        torch.testing.assert_close(loaded(x), model(x))
        method.release()
        assert type(norm) is nn.GroupNorm
