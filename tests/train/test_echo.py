"""Echoes: each sample trains several steps; what frozen blocks made of it is computed once, exactly."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.runner.phase_cost import PhaseCost
from benchmarks.runner.run_record import of_run
from entprog.config.load import ConfigError, ConfigWarning
from entprog.tasks.human_video.task import HumanVideoTask
from entprog.train.position import Position
from entprog.train.run import train
from tiny import lines, tiny_config

LAST: dict[str, Any] = {
    "method": "lora", "method_options__m": 0.34, "method_options__m_images": 0, "method_options__inputs": "never",
    "method_options__full": ["blocks.*.pose", "temporal.*"], "model__pose": "blocks",
    "train__reference_cache": "device",
    "phases__subject__steps": 0, "phases__pose__steps": 2, "phases__video__steps": 14,
    "phases__video__echo": 3, "phases__video__echo_window": 2,
}  # fmt: skip


pytestmark = pytest.mark.usefixtures("small_nano")


@pytest.fixture(scope="module")
def kept(small_nano: None, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tiny_config(tmp_path_factory.mktemp("echo") / "kept", tiny_data, **LAST))


def rows(run: Path) -> list[dict[str, Any]]:
    return [row for row in lines(run / "log.jsonl") if row["phase"].endswith("-video")]


def events(run: Path) -> list[dict[str, Any]]:
    return lines(run / "events.jsonl")


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in rows(run)]


def test_each_window_comes_again() -> None:
    position = Position(echo=3, window=2)
    firsts = []
    for i in range(10):
        firsts.append(position.of(i, i))
        position.took(i, i, firsts[-1], 4)
    assert firsts == [0, 4, 0, 4, 0, 4, 8, 12, 8, 12]
    assert [i for i in range(10) if position.echoes(i)] == [2, 3, 4, 5, 8, 9]


def test_what_is_kept_changes_no_number(
    kept: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HumanVideoTask, "prefix", lambda task, draw: draw)
    anew = train(tiny_config(tmp_path / "anew", tiny_data, **LAST))
    assert losses(kept) == losses(anew)
    assert (kept / "final" / "model.safetensors").read_bytes() == (anew / "final" / "model.safetensors").read_bytes()
    first, second = rows(kept), rows(anew)
    assert [row["echo"] for row in first] == [i % 6 >= 2 for i in range(14)]
    assert not any(row["echo"] for row in second)
    new = {row["flops"] for row in first if not row["echo"]}
    assert max(new) == pytest.approx(min(row["flops"] for row in second), rel=0.05)  # the embedding of tau runs twice
    assert max(row["flops"] for row in first if row["echo"]) < 0.8 * min(new)


def test_the_preset_echoes_exactly(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preset: dict[str, Any] = {
        "method": "entprog", "model__pose": "blocks", "model__fresh": ["pose", "temporal"],
        "phases__subject__steps": 0, "phases__pose__steps": 2, "phases__video__steps": 6,
        "phases__video__echo_window": 2,
    }  # fmt: skip
    usual = train(tiny_config(tmp_path / "usual", tiny_data, **preset))
    monkeypatch.setattr(HumanVideoTask, "prefix", lambda task, draw: draw)
    anew = train(tiny_config(tmp_path / "anew", tiny_data, **preset))
    assert [row["echo"] for row in rows(usual)] == [False, False, True, True, True, True]
    assert losses(usual) == losses(anew)
    assert (usual / "final" / "model.safetensors").read_bytes() == (anew / "final" / "model.safetensors").read_bytes()


def test_the_disk_takes_the_memory(kept: Path, tiny_data: Path, tmp_path: Path) -> None:
    disk = train(tiny_config(tmp_path / "disk", tiny_data, **LAST, train__echo_cache="disk"))
    assert losses(disk) == losses(kept)
    assert not list(disk.rglob("echo-cache"))
    state = 2 * 3 * 4 * 32 * 4  # samples, frames, tokens, width, bytes
    peaks = [{row["echo"]: row["bytes_peak"] for row in rows(run)}[False] for run in (kept, disk)]
    assert peaks[0] - peaks[1] == pytest.approx(2 * state, abs=state)


def test_a_full_disk_costs_time_only(
    kept: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("entprog.savings.prefix_cache.save_tensors", full)
    run = train(tiny_config(tmp_path / "full", tiny_data, **LAST, train__echo_cache="disk"))
    assert losses(run) == losses(kept)
    assert (run / "events.jsonl").read_text(encoding="utf-8").count("is off from now on") == 1


def test_files_taken_away_are_computed_and_charged(kept: Path, tiny_data: Path, tmp_path: Path) -> None:
    config = tiny_config(tmp_path / "gone", tiny_data, **LAST, train__echo_cache="disk")

    def take_away() -> None:
        for file in (tmp_path / "gone").rglob("echo-cache/*"):
            file.unlink()

    run = train(config, after_step=take_away)
    assert losses(run) == losses(kept)
    assert not any(row["echo"] for row in rows(run))
    assert len({row["flops"] for row in rows(run)}) == 1


def test_goes_on_in_the_middle_of_a_window(kept: Path, tiny_data: Path, tmp_path: Path) -> None:
    config = tiny_config(tmp_path / "cut", tiny_data, **LAST, train__checkpointing_steps=7)
    calls = {"left": 8}

    def stop() -> None:
        calls["left"] -= 1
        if not calls["left"]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, after_step=stop)
    train(config, resume_from_checkpoint="latest")
    assert losses(tmp_path / "cut") == losses(kept)


def test_what_waits_is_reserved_under_a_memory_budget(kept: Path, tiny_data: Path, tmp_path: Path) -> None:
    peak = max(row["bytes_peak"] for row in rows(kept))
    tight: dict[str, Any] = {
        **LAST, "train__reference_cache": "off", "train__memory_budget": f"{4 * peak // 1024}KiB",
        "phases__subject__steps": 0, "phases__pose__steps": 0,
    }  # fmt: skip
    runs = {
        where: train(tiny_config(tmp_path / where, tiny_data, **tight, train__echo_cache=where))
        for where in ("host", "disk")
    }
    reserved = {
        where: next(event["bytes_reserved"] for event in events(run) if event["event"] == "fit")
        for where, run in runs.items()
    }
    state = 2 * 3 * 4 * 32 * 4  # samples, frames, tokens, width, bytes
    assert reserved["host"] - reserved["disk"] == 2 * state
    assert max(row["bytes_peak"] for row in rows(runs["host"])) < 4 * peak
    assert [row["echo"] for row in rows(runs["host"])] == [i % 6 >= 2 for i in range(14)]


def test_a_record_tells_both_kinds_of_steps(kept: Path) -> None:
    phase = of_run(kept, {}, None)["phases"]["video"]
    (stage,) = phase["stages"]
    assert phase["echo"] == [3, 2] and stage["flops_echo"] < stage["flops_step"]
    assert PhaseCost.of(phase).total(14) == pytest.approx(phase["flops"])
    assert "echo" not in of_run(kept, {}, None)["phases"]["pose"]


def test_a_budget_buys_new_and_old_samples() -> None:
    cost = PhaseCost(0.0, ((0, 0.0),), (10.0,), (4.0,), (3, 2))
    assert [cost.total(steps) for steps in (1, 2, 3, 6, 7)] == [10, 20, 24, 36, 46]
    assert cost.steps(36) == 6


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"phases__video__echo_window": 5}, "no sample trains a second time"),
        ({"train__echo_cache": "disk"}, "no phase has an echo above 1"),
        (
            {"method": "full", "phases__video__outside": True, "phases__video__echo": 2},
            "repeats samples and saves nothing",
        ),
    ],
)
def test_settings_without_effect_are_told(
    tiny_data: Path, tmp_path: Path, overrides: dict[str, Any], said: str
) -> None:
    with pytest.warns(ConfigWarning, match=said):
        tiny_config(tmp_path / "idle", tiny_data, **overrides)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"phases__video__echo": 0}, "phases.video.echo = 0"),
        ({"phases__video__echo_window": 0}, "phases.video.echo_window = 0"),
        ({"train__echo_cache": "ram"}, "train.echo_cache"),
        (
            {"phases__video__echo": 2, "schedule__name": "adaptive", "phases__video__steps": 200,
             "phases__subject__steps": 200, "phases__pose__steps": 200},
            "phases.video.echo = 2: schedule 'adaptive' searches",
        ),
    ],
)  # fmt: skip
def test_bad_settings_are_told(tiny_data: Path, tmp_path: Path, overrides: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        tiny_config(tmp_path / "bad", tiny_data, **overrides)
