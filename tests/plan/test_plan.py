"""`entprog plan`: composed from what differs, it equals the whole; and it says what is wrong."""

import json
from pathlib import Path

import pytest
import torch

from entprog.cli.app import main
from entprog.config.load import config_of, read_config
from entprog.config.schema import Config, ModelConfig
from entprog.core.types import Draw, Shape
from entprog.diffusion.objective import Objective
from entprog.plan.compose import compose, shortened_to, windows
from entprog.plan.estimate import Planner
from entprog.plan.largest import search
from entprog.plan.orders import rankings, spread, suffix
from entprog.plan.roofline import Clock, precision_on
from entprog.plan.simulator import Simulator
from entprog.profiling.hardware import DEVICES, find_device
from entprog.profiling.meter import Meter
from entprog.profiling.step_costs import adamw
from entprog.profiling.subject import Case
from entprog.tasks.human_video.build import build_model
from entprog.tasks.human_video.plan_subject import HumanVideoSubject
from entprog.tasks.human_video.task import HumanVideoTask
from tiny_pipelines import saved

RECIPE = Path(__file__).parents[2] / "recipes" / "wan-14b-80gb.toml"
TINY = Shape(16, 2, 2)


@pytest.mark.parametrize("m", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_units_that_repeat_are_composed_exactly(m: int) -> None:
    simulator = Simulator(HumanVideoSubject(Config(), depth=20))
    names = simulator.subject.family("all")
    case = Case(TINY, outside=False, checkpointing=m == 3)
    active = suffix(names).top(m) if m == 3 else spread(names).top(m)
    short, whole = simulator.timeline(case, active), simulator.whole(case, active)
    assert short.peak == whole.peak and short.at_peak == whole.at_peak
    assert short.operations == whole.operations
    assert short.left == whole.left and short.left["activations"] == 0


@pytest.mark.parametrize("active", [("blocks.10", "blocks.11"), ("blocks.0", "temporal.3")])
def test_bytes_and_flops_of_a_step_that_runs(active: tuple[str, ...]) -> None:
    step = Simulator(HumanVideoSubject(Config())).step(Case(TINY, outside=False), active)
    task = HumanVideoTask(build_model(ModelConfig()), Objective())
    for name, parameter in task.model.named_parameters():
        parameter.requires_grad_(name.startswith(tuple(f"{block}." for block in active)))
    blocks = [parameter for parameter in task.model.parameters() if parameter.requires_grad]
    with Meter(task.model, torch.optim.AdamW(blocks)) as meter:
        batch = torch.zeros(2, 2, 16, 4, 4), torch.zeros(2, 16, 4, 4), torch.zeros(2, 2, 3, 16, 16, dtype=torch.uint8)
        condition = {"reference": torch.zeros(2, 16, 4, 4), "pose": torch.zeros(2, 2, 3, 16, 16)}
        draw = Draw(torch.zeros(2, 2, 16, 4, 4), torch.zeros(2), torch.zeros(2, 2, 16, 4, 4), condition)
        task.loss(draw).backward()
        del batch
    assert step.trained == sum(parameter.numel() for parameter in blocks)
    assert step.flops == meter.cost().flops
    assert step.peak == pytest.approx(meter.peak, rel=0.01)
    assert step.by_category["optimizer"] == meter.at_peak["optimizer"] == sum(map(adamw, blocks))


def test_windows_of_a_long_network_need_few_units() -> None:
    labels = [("block", (i >= 30,), (i > 30,)) for i in range(40)]
    places = shortened_to(labels)
    assert len(places) <= 8 and {windows(labels)[i] for i in places} == set(windows(labels))
    assert places[0] == 0 and places[-1] == 39


def test_one_simulation_serves_every_count_of_blocks() -> None:
    from entprog.tasks.pretrained.plan_subject import PretrainedSubject

    tree = {"task": "pretrained", "model": {"pretrained": str(saved("wan-2.1-t2v")), "reference": "none"}}
    simulator = Simulator(PretrainedSubject(config_of(tree, planned=True, quiet=True), depth=12))
    names = simulator.subject.family("all")
    case = Case(Shape(32, 5, 1), outside=False, checkpointing=True, precision="bf16", fused=True)
    steps = [simulator.step(case, suffix(names).top(m)) for m in (4, 6, 8)]
    assert simulator.simulated == 1
    assert [step.lowest for step in steps] == [12 - 4, 12 - 6, 12 - 8]
    assert steps[0].peak < steps[1].peak < steps[2].peak and steps[0].flops < steps[1].flops < steps[2].flops
    whole = simulator.whole(case, suffix(names).top(6))
    assert steps[1].flops == sum(operation.flops * count for operation, count in whole.operations.items())
    assert simulator.timeline(case, suffix(names).top(6)).peak == whole.peak


def test_orders_are_bounds_and_files(tmp_path: Path) -> None:
    names = [f"blocks.{i}" for i in range(8)]
    assert suffix(names).top(2) == ("blocks.7", "blocks.6")
    assert spread(names).top(3)[:2] == ("blocks.0", "blocks.7") and set(spread(names).names) == set(names)
    file = tmp_path / "scores.json"
    file.write_text(json.dumps({"order": ["elsewhere.1", *names[::-1]]}))
    assert list(rankings(str(file), names, "pose")) == ["scores.json"]
    assert rankings(str(file), names, "pose")["scores.json"] == suffix(names)
    text = tmp_path / "order.txt"
    text.write_text("blocks.0\nblocks.1\n")
    with pytest.raises(ValueError, match=r"lacks 6 of the 8 blocks of phase pose, such as blocks\.2"):
        rankings(str(text), names, "pose")
    with pytest.raises(ValueError, match="no such file"):
        rankings("sufix", names, "pose")


def test_devices_by_name() -> None:
    assert find_device("H100").memory > 79 * 2**30
    assert find_device("4090", "12GiB").memory == 12 * 2**30
    assert find_device("cpu").memory > 0
    with pytest.raises(ValueError, match=r"did you mean h100\?.* choose one of h200, h100"):
        find_device("h10")
    with pytest.raises(ValueError, match="--memory 'much': expected a size such as 24GiB"):
        find_device("t4", "much")
    assert precision_on(DEVICES["t4"], "auto") == "no"
    with pytest.raises(ValueError, match="has none; choose fp16"):
        precision_on(DEVICES["t4"], "bf16")


def test_seconds_follow_the_roofline() -> None:
    simulator = Simulator(HumanVideoSubject(Config()))
    step = simulator.step(Case(TINY, outside=False, precision="bf16", fused=True), ("blocks.11",))
    assert 0 < Clock(DEVICES["h100"]).seconds(step) <= Clock(DEVICES["a100"]).seconds(step) < 1
    with pytest.raises(ValueError, match="has no bfloat16"):
        Clock(DEVICES["t4"]).seconds(step)


@pytest.mark.parametrize("limit", [0, 1, 7, 63, 100])
def test_search_finds_the_last_that_fits(limit: int) -> None:
    assert search(lambda place: (place + 1.5) / (limit + 2), 0, 100, 20) == limit
    assert search(lambda place: 2.0, 0, 100, 20) is None


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(["plan", *words])
    assert stopped.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("entprog: ")]
    return line


def test_bad_input_is_one_clear_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "did you mean h100?" in refused(capsys, str(RECIPE), "--device", "h1000")
    assert "no such file" in refused(capsys, str(tmp_path / "none.toml"))
    line = refused(capsys, str(RECIPE), "--device", "h100", "--phases.video.resolution", "472")
    assert "no multiple of 16" in line and "choose 480" in line
    line = refused(capsys, str(RECIPE), "--device", "h100", "--phases.video.frames", "80")
    assert "frames = 80" in line and "choose 77 or 81" in line
    line = refused(capsys, str(RECIPE), "--device", "h100", "--model.backbone", "wan-2.1-14b")
    assert line.endswith('--model.backbone: is model.pretrained now, with task = "pretrained"')
    line = refused(capsys, str(RECIPE), "--device", "h100", "--phases.video.blocks", "temporal")
    assert "a pretrained model has one kind of blocks" in line


def test_token_shares_outside_are_refused() -> None:
    for share in (0.0, 1.5):
        with pytest.raises(ValueError, match="above 0 and at most 1"):
            Shape(16, 1, 1, tokens=share)


@pytest.mark.slow
def test_a_plan_on_screen_and_in_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures, picture = tmp_path / "plan.json", tmp_path / "plan.svg"
    main([
        "plan", "--device", "4090", "--memory", "1150MiB", "--json", str(figures), "--picture", str(picture),
        "--order", "suffix", "--phases.subject.steps", "0", "--phases.pose.steps", "0", "--phases.video.frames", "2",
        "--phases.video.resolution", "32",
    ])  # fmt: skip
    said = capsys.readouterr().out
    assert "estimate, not calibrated" in said and "phase video" in said and "LoRA rank 16" in said
    plan = json.loads(figures.read_text())
    (phase,) = plan["phases"]
    rows = {row["kind"]: row for row in phase["rows"]}
    assert rows["full-saving"]["peak"] < rows["full"]["peak"] and all(row["fits"] for row in phase["rows"])
    for row in phase["rows"]:
        assert sum(row["bytes"].values()) == row["peak"] and row["seconds"] > 0
    assert {each["what"] for each in phase["largest"]} == {"m", "frames", "resolution"}
    assert picture.read_text().startswith("<svg") and "126 MiB usable" in picture.read_text()


@pytest.mark.slow
def test_the_readme_shows_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    readme = (RECIPE.parent.parent / "README.md").read_text(encoding="utf-8")
    shown = readme.partition("```text\nphase video")[2].partition("```")[0]
    main(["plan", "--device", "4090"])
    assert f"phase video{shown}" in capsys.readouterr().out


@pytest.mark.slow
def test_wan_14b_is_planned_in_a_minute_and_two_gigabytes(capsys: pytest.CaptureFixture[str]) -> None:
    import resource

    main(["plan", str(RECIPE), "--device", "h100"])
    assert "14.4 G parameters" in capsys.readouterr().out
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 2e6


def test_a_timeline_keeps_what_is_there_all_the_time() -> None:
    simulator = Simulator(HumanVideoSubject(Config()))
    labels = simulator.labels(("blocks.11",))
    recording = simulator.recording(Case(TINY, outside=False), ("blocks.11",))
    bare, laden = (compose(recording, labels, static) for static in ({}, {"weights": 1000}))
    assert laden.peak == bare.peak + 1000 and laden.at_peak["weights"] == 1000


@pytest.mark.parametrize(
    ("overrides", "rows", "share"),
    [
        ({"method": "full"}, 0, (1.0, 1.0)),
        ({"method": "full", "method_options.resolution": "[0.5, 0]"}, 2, (0.55, 0.7)),
        ({"method": "lora", "method_options.rank": "4"}, 1, (0.5, 1.1)),
        ({"method": "benchmarks.rivals.lisa:Lisa", "method_options.every": "6"}, 2, (0.6, 0.9)),
        ({"method": "benchmarks.rivals.badam:Badam", "method_options.inputs": "never"}, 2, (0.4, 0.75)),
    ],
)
@pytest.mark.slow
def test_rivals_are_planned(overrides: dict[str, str], rows: int, share: tuple[float, float]) -> None:
    """Each cost of a turn or stage counts for its steps; what is shown are the extremes of each size."""
    phases = {
        "phases.subject.steps": "0", "phases.video.steps": "0", "phases.pose.steps": "24", "phases.pose.batch": "2",
        "phases.pose.resolution": "64",
    }  # fmt: skip
    planner = Planner(read_config(None, {**phases, **overrides}, planned=True), find_device("cpu"))
    (phase,) = planner.phases()
    full = next(row for row in phase.rows if row.kind == "full")
    shown = [row for row in phase.rows if row.kind == "stage"]
    assert len(shown) == rows and phase.flops[0] == phase.flops[1]
    low, high = share
    assert low <= phase.flops[0] / (full.flops * full.steps) <= high
    if overrides["method"] == "lora":
        assert shown[0].trained < 0.5 * full.trained
