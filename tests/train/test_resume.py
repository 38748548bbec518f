"""A run that was stopped ends like one that was not, bit for bit."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from entprog.config.schema import Config
from entprog.nets.dit import SIZES
from entprog.train.log import RunLog
from entprog.train.run import train
from tiny import lines, same, synthetic_data, tiny_config

LISA = "benchmarks.rivals.lisa:Lisa"
BADAM = "benchmarks.rivals.badam:Badam"
GALORE = "benchmarks.rivals.galore:Galore"

KINDS: dict[str, dict[str, Any]] = {
    # Two stages of five steps a phase, the first four of each searched; ranked again for the second.
    "supernet": {
        "schedule__name": "adaptive", "schedule__options__stages": 2, "schedule__options__search_steps": 4,
        "ranking__score": "gradient", "ranking__again": True, "freeze__states": "offload",
    },
    # Three candidates of two steps each, then two steps of the winner.
    "probe": {
        "schedule__name": "adaptive", "schedule__options__stages": 1, "schedule__options__search_steps": 6,
        "schedule__options__estimator": "probe", "ranking__score": "gradient",
    },
    # Half of the blocks at two sizes and all of them, drawn at random for six steps, then four steps of one.
    "sizes": {
        "schedule__name": "loops:Sizes", "schedule__options__estimator": "supernet",
        "schedule__options__search_steps": 6, "ranking__score": "gradient",
    },
    # Two block counts at two sizes in batches of two or three, one step each; what trains is weighed by its cost.
    "workloads": {
        "schedule__name": "adaptive", "schedule__options__stages": 1, "schedule__options__search_steps": 8,
        "schedule__options__estimator": "probe", "schedule__options__width": 2, "schedule__options__tokens": [0.5, 1.0],
        "schedule__options__batches": [2, 3], "ranking__select": "per_second", "ranking__score": "gradient",
    },
    "full": {"method": "full"},
    # Turns of two steps, the last cut short, and one frame before two.
    "lisa": {"method": LISA, "method_options__every": 2, "method_options__frames": [2, 0]},
    # Inputs in the first block's turn only, and states that are dropped at each switch.
    "badam": {"method": BADAM, "method_options__every": 2, "method_options__order": "ascending"},
    "galore": {
        "method": "full", "train__optimizer": GALORE,
        "train__optimizer_options__rank": 4, "train__optimizer_options__update_proj_gap": 3,
    },
    "muon": {"method": "lora", "method_options__rank": 4,
        "train__optimizer": "muon", "train__optimizer_options__rows": 8},
    # States of 8 bits, stepped in the backward pass.
    "backward": {
        "schedule__options__stages": 2, "ranking__score": "gradient", "freeze__states": "drop",
        "train__optimizer": "adamw8bit", "train__optimizer_in_backward": True, "train__max_grad_norm": 0.0,
        "train__gradient_checkpointing": True,
    },
}  # fmt: skip
STEPS = {
    "supernet": 10, "probe": 8, "sizes": 10, "workloads": 10, "full": 5, "lisa": 5, "badam": 5, "galore": 4,
    "muon": 4, "backward": 4,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def four_blocks() -> Iterator[None]:
    """The size "nano" with four spatial blocks of width 32: fewer than `small_nano`, as each kind is searched anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "nano", {"depth": 4, "width": 32, "heads": 2})
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_data(tmp_path_factory.mktemp("latents") / "data", sizes=(8, 16))


def config(kind: str, run: Path, data: Path, **more: Any) -> Config:
    return tiny_config(
        run, data, train__ema_decay=0.95, train__checkpoints_total_limit=0, train__lr_scheduler="cosine",
        model__condition_dropout=0.3, phases__pose__steps=STEPS[kind], phases__video__steps=STEPS[kind],
        phases__subject__steps=0, train__validation_steps=6, **KINDS[kind], **more,
    )  # fmt: skip


@pytest.fixture(scope="module", params=list(KINDS))
def whole(request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A kind of run and one of it that was never stopped, with a checkpoint of every step."""
    if KINDS[request.param].get("train__optimizer") == "adamw8bit":
        pytest.importorskip("torchao")
    run = tmp_path_factory.mktemp(request.param) / "run"
    train(config(request.param, run, data, train__checkpointing_steps=1))
    searched = any(row["searching"] for row in lines(run / "log.jsonl"))
    assert searched == (request.param in ("supernet", "probe", "sizes", "workloads"))
    return request.param, run


@pytest.mark.parametrize("where", [1, 2, *(pytest.param(more, marks=pytest.mark.slow) for more in (3, 6, 0))])
def test_going_on_from_any_checkpoint(where: int, whole: tuple[str, Path], data: Path, tmp_path: Path) -> None:
    """In and after searches, at the end of the first phase (0), and in the second (2 beyond it)."""
    kind, reference = whole
    step = {0: STEPS[kind], 2: STEPS[kind] + 2}.get(where, min(where, STEPS[kind] - 1))
    run = shutil.copytree(reference, tmp_path / "run", ignore=shutil.ignore_patterns("final", "totals.json"))
    train(config(kind, run, data), resume_from_checkpoint=f"checkpoint-{step}")
    same(reference, run)


def test_stopped_again_and_again(
    whole: tuple[str, Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a signal in the middle of a step: it is finished and saved, and the next sitting goes on."""
    kind, reference = whole
    run, line = tmp_path / "run", RunLog.line
    for number, stop in enumerate((2, STEPS[kind] - 1, STEPS[kind] + 2, None)):

        def stopping(self: RunLog, row: dict[str, Any], stop: int | None = stop) -> None:
            line(self, row)
            if row["step"] == stop:
                os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(RunLog, "line", stopping)
        resume = "latest" if number else None
        if stop is None:
            train(config(kind, run, data), resume_from_checkpoint=resume)
        else:
            with pytest.raises(SystemExit) as ended:
                train(config(kind, run, data), resume_from_checkpoint=resume)
            assert ended.value.code == 143 and (run / f"checkpoint-{stop + 1}" / "complete").is_file()
    same(reference, run)
    assert [row["event"] for row in lines(run / "events.jsonl")].count("resume") == 3


def test_a_torn_log_is_mended(whole: tuple[str, Path], data: Path, tmp_path: Path) -> None:
    """A killed run leaves lines beyond its last checkpoint, and half a line."""
    kind, reference = whole
    if kind != "full":
        pytest.skip("once is enough")
    run = shutil.copytree(reference, tmp_path / "run")
    for number in range(4, 2 * STEPS[kind] + 1):
        shutil.rmtree(run / f"checkpoint-{number}")
    kept = (run / "log.jsonl").read_text().splitlines(keepends=True)
    (run / "log.jsonl").write_text("".join(kept[:5]) + kept[5][:30])
    train(config(kind, run, data), resume_from_checkpoint="latest")
    same(reference, run)
