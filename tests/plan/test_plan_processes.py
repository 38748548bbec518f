"""`entprog plan --gpus`: a process's bytes and traffic are those of FSDP2 under a process group that only pretends."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.tensor import Shard, distribute_tensor

from entprog.cli.app import main
from entprog.config.load import config_of, read_config
from entprog.config.schema import Config
from entprog.core.processes import BUCKET, largest_bucket
from entprog.core.types import AdamOptions, Shape
from entprog.optimizers.adamw import AdamW
from entprog.optimizers.adamw8bit import Adamw8bit
from entprog.optimizers.muon import Muon
from entprog.plan import planning
from entprog.plan.estimate import Planner
from entprog.plan.inventory import Tensors, weighed
from entprog.plan.orders import spread, suffix
from entprog.plan.processes import Processes
from entprog.plan.rows import PhasePlan, Plan, Process, Row
from entprog.plan.screen import text
from entprog.plan.sharded import divided, padded, replicated_step, ring, sharded_step
from entprog.plan.simulator import Simulator
from entprog.profiling.hardware import find_device
from entprog.profiling.meter import Meter
from entprog.profiling.subject import Case
from entprog.tasks.human_video.plan_subject import HumanVideoSubject
from entprog.tasks.pretrained.plan_subject import PretrainedSubject
from fake_processes import Carried, fake_group, mesh_of, metered_process
from tiny_pipelines import saved

RECIPES = Path(__file__).parents[2] / "recipes"
WORLD = 8
REST = Case(Shape(16, 2, 2), inputs=False)
CASES: dict[str, Case] = {
    "plain": replace(REST, inputs=True),
    "no outside": replace(REST, outside=False),
    "inputs rest": REST,
    "recomputed": replace(REST, checkpointing=True),
    "bf16": replace(REST, precision="bf16"),
    "accumulated": replace(REST, accumulation=2),
}


@pytest.fixture(scope="module")
def group() -> Iterator[None]:
    with fake_group(WORLD):
        yield


def agree(simulator: Simulator, case: Case, active: tuple[str, ...], copies: int = 1, **more: Any) -> int:
    """Compares a planned process with a metered one; returns the bytes of gradients that it reduces and divides."""
    shards = WORLD // copies
    chosen = {"adapted": more.get("adapted", ()), "optimizer": more.get("plugin")}
    planned = sharded_step(simulator, case, active, shards=shards, copies=copies, **chosen)
    meter, carried = metered_process(simulator.subject, case, active, shards=shards, copies=copies, **more)
    assert planned.peak == pytest.approx(meter.peak, rel=0.005)  # the issue asks for 3 %
    assert planned.by_category["weights"] == pytest.approx(meter.at_peak["weights"], rel=0.05)
    assert planned.by_category["optimizer"] == meter.at_peak["optimizer"]
    assert planned.carried["all_gather"] == carried["allgather_base"]
    assert planned.carried["reduce_scatter"] == carried["reduce_scatter_base"]
    assert planned.carried["all_reduce"] == carried["allreduce"]
    return planned.carried["reduce_scatter"]


@pytest.mark.parametrize(
    ("name", "copies"), [("recomputed", 1), pytest.param("plain", 1, marks=pytest.mark.slow), ("inputs rest", 2)]
)
def test_a_process_of_our_network(group: None, name: str, copies: int) -> None:
    simulator = Simulator(HumanVideoSubject(Config(), depth=2))
    agree(simulator, CASES[name], suffix(simulator.subject.family("all")).top(1), copies)


@pytest.mark.parametrize(("name", "copies", "full"), [("recomputed", 1, ""), ("accumulated", 2, "mlp")])
def test_adapters_are_whole_in_each_process(group: None, name: str, copies: int, full: str) -> None:
    simulator = Simulator(HumanVideoSubject(Config(), depth=2))
    names = simulator.subject.family("all")
    case = replace(CASES[name], low_rank=256, spared=(f"*.*.{full}",) if full else ())
    spared = {block: simulator.inventory.spared(block, case.spared) for block in names}
    assert all(spared.values()) == bool(full)
    reduced = agree(simulator, case, (), copies, adapted=names, spared=spared)
    assert (reduced > 0) == case.outside  # heads, and what is spared

    alone = simulator.static(case, (), names)[1]
    planned = sharded_step(simulator, case, (), shards=WORLD // copies, copies=copies, adapted=names)
    adapters = weighed(simulator.trained(case, (), names)[1])
    assert adapters < planned.by_category["weights"] < alone["weights"]
    assert planned.by_category["gradients"] >= adapters
    between = planned.carried["all_reduce"] - adapters
    assert between == (reduced // 4 if copies == 2 else 0)
    sent = 2 * (1 - 1 / WORLD) * adapters + 2 * (1 - 1 / copies) * between
    assert planned.traffic["all_reduce"] == pytest.approx(sent, abs=1)


@pytest.mark.parametrize("name", ["recomputed", "accumulated"])
def test_whole_copies_average_their_gradients(group: None, name: str) -> None:
    simulator = Simulator(HumanVideoSubject(Config(), depth=2))
    names, case = simulator.subject.family("all"), CASES[name]
    planned = replicated_step(simulator, case, names, processes=WORLD)
    meter, carried = metered_process(simulator.subject, case, names, shards=1)
    assert planned.peak == pytest.approx(meter.peak, rel=0.005)
    assert planned.by_category["gathered"] == pytest.approx(meter.at_peak["temporaries"], rel=0.05)
    assert 0 < planned.by_category["gathered"] <= 4 * BUCKET
    assert planned.carried["all_reduce"] == carried["allreduce"]


def test_bytes_of_the_largest_bucket() -> None:
    assert largest_bucket([]) == 0
    assert largest_bucket([(10, 4, 3), (5, 2, 1)]) == 120
    assert largest_bucket([(BUCKET // 2, 4, 5)]) == 4 * BUCKET
    assert largest_bucket([(3 * BUCKET, 4, 1), (7, 4, 2)]) == 12 * BUCKET  # one that is larger goes alone


@pytest.mark.parametrize("copies", [1, 2])
def test_muon_gathers_its_matrices(group: None, copies: int) -> None:
    simulator = Simulator(HumanVideoSubject(Config(), depth=2))
    top, case = suffix(simulator.subject.family("all")).top(1), CASES["recomputed"]
    agree(simulator, case, top, copies, plugin=Muon())
    shards = {"shards": WORLD // copies, "copies": copies}
    plain, muon = (sharded_step(simulator, case, top, **shards, optimizer=each) for each in (AdamW(), Muon()))
    whole = simulator.inventory.whole(top[0])
    matrices = {kind: times for kind, times in whole.items() if len(kind.shape) == 2}
    assert muon.carried["all_gather"] - plain.carried["all_gather"] == weighed(padded(matrices, WORLD // copies))  # type: ignore[arg-type]


def test_8_bit_states_are_divided(group: None) -> None:
    pytest.importorskip("torchao")
    real = {"params": [nn.Parameter(torch.zeros(1))], "lr": 1e-3, "name": "blocks.0"}
    Adamw8bit().build([real], AdamOptions(0.9, 0.999, 1e-8, 0.01))  # torchao computes its tables once
    simulator = Simulator(HumanVideoSubject(Config(), depth=2))
    top, case = suffix(simulator.subject.family("all")).top(1), CASES["recomputed"]
    agree(simulator, case, top, plugin=Adamw8bit())
    held = [sharded_step(simulator, case, top, shards=WORLD, optimizer=each) for each in (Adamw8bit(), AdamW())]
    assert held[0].by_category["optimizer"] < 0.6 * held[1].by_category["optimizer"]


@pytest.mark.parametrize("rows", [0, 32])
@pytest.mark.parametrize(
    "shapes",
    [
        [(128, 64)],
        [(64, 128), (128, 64), (64,)],
        [(512, 512)] * 3,
        [(30, 64)] * 3,
        [(480, 160), (320, 160), (160, 320)],
    ],
)
def test_bytes_of_a_step_of_muon(group: None, shapes: list[tuple[int, ...]], rows: int) -> None:
    """To the byte, with matrices that wait for others and with rows that can't be divided evenly."""
    mesh, net = mesh_of(WORLD), nn.Module()
    for i, shape in enumerate(shapes):
        whole = distribute_tensor(torch.randn(shape), mesh, [Shard(0)], src_data_rank=None)
        net.register_parameter(f"p{i}", nn.Parameter(whole))
    for p in net.parameters():
        p.grad = torch.ones_like(p.detach())
    plugin = Muon(rows=rows)
    params = {"params": list(net.parameters()), "lr": 1e-3, "name": "blocks.0"}
    optimizer = plugin.build([params], AdamOptions(0.9, 0.999, 1e-8, 0.01))
    optimizer.step()
    with Meter(net, optimizer) as meter, Carried() as carried:
        optimizer.step()
    planned = plugin.gathering([(shape, 4, "block") for shape in shapes], shards=WORLD, cuda=False)
    assert planned == (meter.at_peak["temporaries"], carried.bytes["allgather_base"])


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CASES))
def test_every_stage_of_our_network(group: None, name: str) -> None:
    simulator = Simulator(HumanVideoSubject(Config()))
    names = simulator.subject.family("all")
    top = suffix(names).top(len(names) // 3)
    third = agree(simulator, CASES[name], top)
    agree(simulator, CASES[name], spread(names).top(len(names) // 3))
    full = agree(simulator, CASES[name], names)
    assert third <= 0.4 * full
    if name == "inputs rest":
        rest = [block for block in names if block not in top]
        resting = {block: simulator.inventory.adapters(block, 16, ()) for block in top}
        agree(simulator, replace(CASES[name], low_rank=16), top, adapted=rest, resting=resting)


def tiny_wan(dtype: str) -> Config:
    model = {"pretrained": str(saved("wan-2.1-t2v")), "reference": "none", "dtype": dtype}
    phases = {"video": {"steps": 400, "batch": 8, "resolution": 32, "frames": 5}}
    return config_of({"task": "pretrained", "model": model, "phases": phases}, planned=True, quiet=True)


@pytest.mark.slow
@pytest.mark.parametrize("order", ["suffix", "spread", "full"])
def test_every_stage_of_a_tiny_wan(group: None, order: str) -> None:
    simulator = Simulator(PretrainedSubject(tiny_wan("float32"), depth=6))
    names = simulator.subject.family("all")
    orders = {"suffix": suffix(names).top(2), "spread": spread(names).top(2), "full": names}
    case = Case(Shape(32, 5, 1), inputs=order == "full", checkpointing=True, precision="bf16", fused=True)
    agree(simulator, case, orders[order])


@pytest.mark.slow
def test_every_stage_of_wan_and_its_traffic(group: None) -> None:
    """Wan 2.1 1.3B on clips of 81 frames at 480x832: with the last third reduce-scatter carries .33 of full's."""
    given = [("model.dtype", "float32"), ("phases.video.batch", "8")]
    planner = Planner(read_config(RECIPES / "wan-1.3b-24gb.toml", given, planned=True), find_device("4090"))
    names = planner.subject.family("all")
    case = planner.case(planner.config.phases["video"])
    case = replace(case, shape=replace(case.shape, batch=1))
    reduced = {
        "third": agree(planner.simulator, case, suffix(names).top(10)),
        "half": agree(planner.simulator, case, spread(names).top(15)),
        "full": agree(planner.simulator, replace(case, inputs=True), names),
    }
    assert reduced["third"] / reduced["full"] == pytest.approx(0.328, abs=0.001)


def test_the_top_third_reduces_a_third() -> None:
    simulator = Simulator(HumanVideoSubject(Config()))
    names = simulator.subject.family("all")
    top, all_of_them = (
        weighed(padded(simulator.static(CASES["plain"], suffix(names).top(m))[0], WORLD))
        for m in (len(names) // 3, len(names))
    )
    assert top <= 0.4 * all_of_them


def test_parts_and_rings() -> None:
    held = {Tensors((10, 3), 4): 2, Tensors((1,), 4): 1}
    assert divided(held, 8) == {Tensors((2, 3), 4): 2, Tensors((1,), 4): 1}  # type: ignore[arg-type]
    assert padded(held, 8) == {Tensors((16, 3), 4): 2, Tensors((8,), 4): 1}  # type: ignore[arg-type]
    carried = {"all_gather": 80, "reduce_scatter": 40, "all_reduce": 10}
    assert ring(carried, 4, 2) == {"all_gather": 60, "reduce_scatter": 30, "all_reduce": 10}
    assert ring(carried, 1, 8) == {"all_gather": 0, "reduce_scatter": 0, "all_reduce": 18}


def row(**more: Any) -> Row:
    process = Process(1, 7, {"weights": 7}, False, {}, {"all_gather": 2048, "reduce_scatter": 1024, "all_reduce": 0})
    known: dict[str, Any] = {
        "phase": "pose", "kind": "stage", "stages": (1,), "order": "", "m": 2, "shape": Shape(32, 2, 8), "trained": 5,
        "lowest": 4, "steps": 10, "peak": 9, "bytes": {"weights": 9}, "fits": True, "flops": 10**9, "seconds": 0.1,
        "process": process,
    }  # fmt: skip
    return Row(**{**known, **more})


def test_processes_on_screen() -> None:
    settings = Config().phases["pose"]
    rows = [row(), row(kind="full", process=None)]
    phase = PhasePlan("pose", settings, ("blocks.0",), rows)
    spread = {"gpus": 8, "shard": True, "replicate": 2}
    plan = Plan("net", 5, find_device("4090"), "bf16", False, [phase], processes=spread)
    lines = text(plan).splitlines()
    place = next(i for i, words in enumerate(lines) if words.startswith("each of 8 processes"))
    assert "sharded by block over 4, 2 copies" in lines[place]
    heads, only, after = lines[place + 1 : place + 4]
    assert "all-gather/step" in heads and "reduce-scatter/step" in heads and "all-reduce" not in heads
    assert "NO" in only and "2 KiB" in only and "1 KiB" in only and after.startswith("in all")
    assert plan.plain()["phases"][0]["rows"][0]["process"]["traffic"]["all_gather"] == 2048


@pytest.mark.slow
def test_a_spread_plan_on_screen_and_in_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for search in ("largest_m", "largest_shape"):  # what fits one device takes longest, and is the same
        monkeypatch.setattr(planning, search, lambda *_: [])
    file = tmp_path / "plan.json"
    main(["plan", *_recipe(tmp_path), "--gpus", "4", "--json", str(file)])
    words = capsys.readouterr().out
    assert "each of 4 processes, the whole network on each" in words and "all-reduce/step" in words
    found = json.loads(file.read_text())
    assert found["processes"] == {"gpus": 4, "shard": False, "replicate": 1}
    for row in found["phases"][0]["rows"]:
        process = row["process"]
        assert process["batch"] == 1 and process["peak"] == sum(process["bytes"].values())
        assert process["peak"] - process["bytes"]["gathered"] < row["peak"]  # but for copies of gradients on their way
        assert process["bytes"]["weights"] == row["bytes"]["weights"]
        assert process["traffic"]["all_reduce"] == pytest.approx(1.5 * 4 * row["trained"])


def _recipe(folder: Path, *more: str) -> list[str]:
    recipe = folder / "recipe.toml"
    recipe.write_text(
        "[schedule]\nname = 'fixed'\noptions = {m = [0.34]}\n"
        "[phases.pose]\nsteps = 300\nresolution = 32\nframes = 2\nbatch = 4\n"
    )
    return [str(recipe), "--device", "4090", "--order", "suffix", *more]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--gpus", "3"], "phases.pose.batch = 4: can't be divided evenly over --gpus 3; choose a batch of 3 or 6, or"),
        (["--gpus", "8"], "choose a batch of 8, or --gpus 1, 2 or 4"),
        (["--gpus", "0"], "--gpus 0: give 1 or more"),
        (["--gpus", "4", "--replicate", "2"], "--replicate 2: makes copies of shards; add --shard"),
        (["--gpus", "4", "--shard", "--replicate", "3"], "--replicate 3: does not divide --gpus 4; choose 1 or 2"),
        (["--gpus", "2", "--shard", "--replicate", "2"], "each copy is on one GPU"),
        (["--shard"], "--shard: says how several processes share; give --gpus, too"),
        (["--gpus", "2", "--shard", "--freeze.storage", "int8"], 'freeze.storage = "int8": can\'t be sharded yet'),
        (["--gpus", "2", "--shard", "--train.optimizer", "adafactor"], 'train.optimizer = "adafactor": can\'t step'),
        (
            ["--gpus", "2", "--train.optimizer_in_backward", "true", "--train.max_grad_norm", "0"],
            "train.optimizer_in_backward = true",
        ),
    ],
)
def test_what_cannot_be_spread_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["plan", *_recipe(tmp_path), *given])
    words = capsys.readouterr().err
    assert left.value.code == 2 and said in words and "Traceback" not in words


@pytest.mark.slow
def test_weights_that_change_type_are_refused() -> None:
    config = tiny_wan("bf16")
    with pytest.raises(ValueError, match=r'model\.dtype = "bf16": weights that change type'):
        Planner(config, find_device("4090"), Processes(8, shard=True))
