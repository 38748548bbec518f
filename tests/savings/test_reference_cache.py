"""Cached reference states equal computed ones bit for bit, and no change of a weight leaves a stale one."""

import json
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from entprog.config.load import ConfigWarning, read_config
from entprog.core.blocks import discover_blocks
from entprog.core.freeze import Freezer
from entprog.core.types import Draw
from entprog.diffusion.objective import Objective
from entprog.nets.dit import SIZES
from entprog.profiling.meter import Meter
from entprog.savings.reference_cache import ReferenceCache
from entprog.tasks.human_video.task import HumanVideoTask
from entprog.train.run import train
from entprog.train.state import EMA, Fills
from tiny import lines, small_dit, synthetic_data, tiny_config

KINDS = ["device", "host", "disk"]
IMAGES = torch.randn(6, 16, 8, 8, generator=torch.Generator().manual_seed(1))
STATE = 16 * 32 * 4  # bytes of one state: 16 tokens of width 32


class Rig:
    """A task of which blocks.2 and those above train, and a cache."""

    def __init__(self, tmp_path: Path, kind: str = "device", limit: int = 2**20, **options: Any) -> None:
        self.model = small_dit(**options)
        self.task = HumanVideoTask(self.model, Objective())
        self.warned: list[str] = []
        self.folder = tmp_path / "cache" if kind == "disk" else None
        self.kind, self.limit = kind, limit
        self.open()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2, fused=True)
        self.freezer = Freezer(self.model, discover_blocks(self.model), self.optimizer, outside=False)
        stack = "reference_blocks" if options.get("reference") == "separate" else "blocks"
        self.names = [f"{stack}.{i}" for i in range(3)]
        self.freezer.train_only([self.names[2], "blocks.3"])

    def open(self) -> None:
        self.cache = ReferenceCache(
            self.model,
            self.kind,
            self.limit,
            folder=self.folder,
            warn=self.warned.append,  # type: ignore[arg-type]
        )
        self.task.reference_cache = self.cache

    def states(self, *places: int) -> list[Tensor]:
        reference = IMAGES[list(places)]
        self.cache.prepare(reference)
        states = self.cache.states(reference)
        assert states is not None
        return states

    def right(self, *places: int, count: int = 3) -> bool:
        """Whether the cache gives what each image alone gives without it."""
        with torch.no_grad():
            slow = [self.model.reference_states(IMAGES[place : place + 1]) for place in places]
        states = self.states(*places)
        return len(states) == count and all(
            torch.equal(state, torch.cat([one[i] for one in slow])) for i, state in enumerate(states)
        )

    def train(self) -> None:
        self.task.loss(draw(0, 1)).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    @property
    def asked(self) -> tuple[int, int]:
        return self.cache.hits, self.cache.misses


def draw(*places: int) -> Draw:
    generator = torch.Generator().manual_seed(9)
    x, eps = torch.randn(2, len(places), 2, 16, 8, 8, generator=generator).unbind()
    return Draw(x, torch.rand(len(places), generator=generator), eps, {"reference": IMAGES[list(places)]})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reference", ["siamese", "separate"])
def test_hits_and_misses_equal_each_image_alone(kind: str, reference: str, tmp_path: Path) -> None:
    rig = Rig(tmp_path, kind, reference=reference)
    assert rig.right(0, 1) and rig.asked == (0, 2)
    assert rig.right(1, 2, 0, 1) and rig.asked == (3, 3)
    assert rig.cache.size == 3 * 3 * STATE
    rig.freezer.train_only(["blocks.3"])  # a longer prefix: computed from the known states
    assert rig.right(0, 1, 2, 3, count=4) and rig.asked == (3, 7)
    rig.freezer.train_only(rig.names[1:2])
    assert rig.right(0, 1, count=2) and rig.asked == (5, 7)


def test_what_is_computed_is_metered_once_for_each_form_of_it(tmp_path: Path) -> None:
    rig, plain = Rig(tmp_path), Rig(tmp_path)
    fills = rig.cache.computing = Fills()
    spent = []
    for active, places in (((2, 3), (0, 1, 2)), ((3,), (0, 1, 3)), ((3,), (2,)), ((2, 3), (1, 2))):
        for each in (rig, plain):
            each.freezer.train_only([f"blocks.{i}" for i in active])
        rig.states(*places)
        with Meter() as meter:
            plain.states(*places)
        flops, seconds = fills.taken()
        assert flops == meter.flops and (seconds > 0) == (flops > 0)
        spent.append(flops)
    assert spent[0] > spent[1] > spent[2] > 0 == spent[3]


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_are_those_of_the_plain_pass(kind: str, tmp_path: Path) -> None:
    rig = Rig(tmp_path, kind)

    def gradients(one: Draw, prepared: bool) -> list[Tensor]:
        rig.model.zero_grad(set_to_none=True)
        if prepared:
            rig.task.prepare(one)
        loss = rig.task.loss(one)
        loss.backward()
        return [loss.detach(), *(p.grad for p in rig.model.parameters() if p.grad is not None)]

    for _ in range(2):
        exact = zip(gradients(draw(0), False), gradients(draw(0), True), strict=True)
        assert all(torch.equal(a, b) for a, b in exact)
    for a, b in zip(gradients(draw(0, 1), False), gradients(draw(0, 1), True), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    with Meter() as plain:
        gradients(draw(0, 1), False)
    one = draw(0, 1)
    rig.task.prepare(one)
    with Meter() as cached:
        rig.task.loss(one).backward()
    assert cached.flops < plain.flops


def test_what_was_not_prepared_runs_in_full(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    one, other = draw(0), draw(1)
    rig.task.prepare(one)
    with torch.no_grad():
        alone = rig.model(other.x, other.tau, other.condition["reference"])
        assert torch.equal(rig.task.predict(other), alone)
        assert rig.cache.states(one.condition["reference"]) is None, "used up"
    rig.model.requires_grad_(True)
    rig.task.prepare(one)
    assert rig.cache.states(one.condition["reference"]) is None, "embeddings train"


class TestInvalidation:
    def test_one_weight_by_hand(self, tmp_path: Path) -> None:
        for name in ("patch_embed.weight", "tau_embed.mlp.2.bias", "blocks.0.mlp.up.weight"):
            rig = Rig(tmp_path)
            assert rig.right(0, 1)
            with torch.no_grad():
                rig.model.get_parameter(name).view(-1)[0] += 1
            assert rig.right(0, 1) and rig.asked == (0, 4), name
            assert rig.cache.size == 2 * 3 * STATE
        with torch.no_grad():  # above the prefix: nothing depends on it
            rig.model.get_parameter("blocks.3.mlp.up.weight").view(-1)[0] += 1
        assert rig.right(0, 1) and rig.asked == (2, 4)

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_loaded_checkpoint(self, kind: str, tmp_path: Path) -> None:
        rig = Rig(tmp_path, kind)
        before = {name: value.clone() for name, value in rig.model.state_dict().items()}
        assert rig.right(0, 1)
        rig.model.load_state_dict(small_dit(seed=5).state_dict())
        assert rig.right(0, 1) and rig.asked == (0, 4)
        rig.model.load_state_dict({name: value.clone() for name, value in rig.model.state_dict().items()})
        assert rig.right(0, 1) and rig.asked == (2, 4), "the same weights again"
        rig.model.load_state_dict(before)
        assert rig.right(0, 1)

    @pytest.mark.parametrize("kind", KINDS)
    def test_training_below(self, kind: str, tmp_path: Path) -> None:
        rig = Rig(tmp_path, kind)
        for active in (["blocks.2"], ["blocks.1"], ["blocks.3"], ["blocks.0"], ["blocks.2"]):
            rig.freezer.train_only(active)
            for _ in range(2):
                assert rig.right(0, 1, count=int(active[0][-1]) + 1), active
                rig.train()

    def test_averaged_weights_in_between(self, tmp_path: Path) -> None:
        rig = Rig(tmp_path)
        ema = EMA(rig.model, 0.9)
        ema.weights = {name: value + 0.1 for name, value in ema.weights.items()}
        assert rig.right(0, 1)
        with ema.applied(rig.model):
            pass
        assert rig.right(0, 1) and rig.asked == (2, 2), "the same weights came back"

    def test_size_and_precision(self, tmp_path: Path) -> None:
        rig = Rig(tmp_path)
        assert rig.right(0)
        small = IMAGES[:1, :, :4, :4].contiguous()
        rig.cache.prepare(small)
        assert rig.cache.states(small)[0].shape == (1, 4, 32)  # type: ignore[index]
        with torch.autocast("cpu", torch.bfloat16):
            rig.states(0)
        assert rig.asked == (0, 3) and rig.right(0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_limit_holds_and_the_least_recently_used_go(kind: str, tmp_path: Path) -> None:
    rig = Rig(tmp_path, kind, limit=2 * 3 * STATE + 1)
    for places, asked in (((0, 1), (0, 2)), ((0,), (1, 2)), ((2,), (1, 3)), ((0,), (2, 3)), ((1,), (2, 4))):
        assert rig.right(*places) and rig.asked == asked
        assert rig.cache.size <= rig.limit
    if rig.folder is not None:
        assert len(list(rig.folder.iterdir())) == 2
    small = Rig(tmp_path / "small", kind, limit=100)
    assert small.right(0) and small.right(0) and small.asked == (0, 2)
    assert (
        len(small.warned) == 1
        and "one reference takes 6144 bytes; raise train.reference_cache_bytes = 100" in small.warned[0]
    )


class TestDisk:
    def test_files_serve_the_next_sitting(self, tmp_path: Path) -> None:
        rig = Rig(tmp_path, "disk")
        assert rig.right(0, 1)
        rig.open()
        assert rig.right(0, 1, 2) and rig.asked == (2, 1)
        rig.cache.close()
        assert rig.folder is not None and not rig.folder.exists()

    def test_damaged_files_are_computed_again(self, tmp_path: Path) -> None:
        rig = Rig(tmp_path, "disk")
        assert rig.right(0, 1) and rig.folder is not None
        first, second = sorted(rig.folder.iterdir())
        first.write_bytes(first.read_bytes()[:40])
        second.unlink()
        assert rig.right(0, 1) and rig.asked == (0, 4) and not rig.warned
        first.write_bytes(b"nonsense")
        rig.open()
        assert rig.right(0, 1) and rig.asked == (1, 1)

    def test_a_folder_that_goes_away(self, tmp_path: Path) -> None:
        rig = Rig(tmp_path, "disk")
        assert rig.right(0, 1) and rig.folder is not None
        shutil.rmtree(rig.folder)
        for _ in range(2):
            assert rig.right(0, 1, 2)
        assert len(rig.warned) == 1 and "can't be written" in rig.warned[0] and "the same numbers" in rig.warned[0]
        rig.folder.write_text("a file in its place")
        rig.open()
        assert rig.right(0) and len(rig.warned) == 2 and "can't be made" in rig.warned[1]

    def test_a_full_disk(self, tmp_path: Path) -> None:
        rig = Rig(tmp_path, "disk")
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        try:
            for _ in range(2):
                assert rig.right(0, 1)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert len(rig.warned) == 1 and "can't be written" in rig.warned[0]
        assert rig.folder is not None and not list(rig.folder.iterdir())


def test_wrong_settings(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"reference_cache = 'gpu': choose from off, device"):
        Rig(tmp_path, "gpu")
    with pytest.warns(ConfigWarning, match=r'train.reference_cache = "host": next to no effect'):
        read_config(None, [("train.reference_cache", "host"), ("phases.video.steps", "0")])


@pytest.fixture
def small() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "nano", {"depth": 4, "width": 32, "heads": 2})
        yield


def test_a_run_is_the_same_wherever_the_cache_is_and_resumes(small: None, tmp_path: Path) -> None:
    data = synthetic_data(tmp_path / "data", sizes=(16,))

    def config(name: str, kind: str, **more: Any) -> Any:
        return tiny_config(
            tmp_path / name, data, phases__subject__steps=0, phases__video__steps=5, phases__pose__steps=5,
            schedule__name="fixed", schedule__options__m=[1], ranking__score="order", ranking__options__order="last",
            model__pose="blocks", freeze__inputs_every=0, train__checkpoints_total_limit=0,
            train__reference_cache=kind, train__validation_steps=3, train__ema_decay=0.9, **more,
        )  # fmt: skip

    runs = {kind: train(config(kind, kind, train__checkpointing_steps=2 if kind == "disk" else 0)) for kind in
            ("off", *KINDS)}  # fmt: skip
    rows = {kind: lines(run / "log.jsonl") for kind, run in runs.items()}
    losses = {kind: [(row["loss"], row["grad_norm"], row["flops"]) for row in logged] for kind, logged in rows.items()}
    assert losses["device"] == losses["host"] == losses["disk"]
    for plain, cached in zip(losses["off"], losses["disk"], strict=True):
        assert cached[0] == pytest.approx(plain[0], rel=1e-4) and cached[2] < plain[2]
    totals = {kind: json.loads((run / "totals.json").read_text()) for kind, run in runs.items()}
    assert totals["off"]["flops_cache"] == 0 < totals["disk"]["flops_cache"]
    assert totals["disk"]["flops"] == totals["host"]["flops"] <= totals["off"]["flops"]
    warned = [row for row in lines(runs["disk"] / "events.jsonl") if row["event"] == "reference_cache"]
    assert warned[-1]["hits"] > 0 and not (runs["disk"] / "reference-cache").exists()
    again = shutil.copytree(runs["disk"], tmp_path / "again", ignore=shutil.ignore_patterns("final", "totals.json"))
    train(config("again", "disk"), resume_from_checkpoint="checkpoint-2")
    assert [(r["loss"], r["grad_norm"], r["flops"]) for r in lines(again / "log.jsonl")] == losses["disk"]
