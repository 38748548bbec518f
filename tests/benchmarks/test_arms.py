"""The benchmark's arms: each resolves to a valid configuration of the demo's recipe."""

import tomllib
import warnings
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from entprog.config.checks import problems
from entprog.config.load import Reader
from entprog.config.presets import without_others_options
from entprog.config.schema import Config

ASSETS = files("entprog") / "assets"
ARMS: dict[str, dict[str, Any]] = tomllib.loads(
    (Path(__file__).parents[2] / "benchmarks" / "suites" / "arms.toml").read_text(encoding="utf-8")
)
NAMED = (
    "full", "full-saving", "full-cheap", "full-frames", "full-resolution", "full-batch", "lora-16", "lora-128", "lisa",
    "badam", "galore", "adafactor", "tread", "paper", "paper-linear", "paper-random", "probe", "descending",
    "per-second", "mixed", "workloads", "order-cei", "order-random", "order-first", "order-last", "order-reverse",
    "order-gradient", "order-snr",
)  # fmt: skip
"""What the protocol promises."""


def laid_over(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    both = {key for key in under.keys() & over.keys() if isinstance(under[key], dict) and isinstance(over[key], dict)}
    return {**under, **over, **{key: laid_over(under[key], over[key]) for key in both}}


def resolved(arm: dict[str, Any]) -> Config:
    recipe = tomllib.loads((ASSETS / "demo.toml").read_text(encoding="utf-8"))
    over = {key: value for key, value in arm.items() if key not in ("about", "lr_factor", "shares")}
    reader = Reader("arm")
    config = reader.config(reader.with_overrides(laid_over(without_others_options(recipe, over), over), []))
    found = [f"{finding.keys[0]}{finding.text}" for finding in problems(config, files=False)]
    assert not reader.problems and not found, [*reader.problems, *found]
    return config


@pytest.mark.parametrize("name", ARMS)
def test_an_arm_is_a_valid_run_of_the_demo(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resolved(ARMS[name])
    assert ARMS[name]["about"] and ARMS[name].get("lr_factor", 1.0) > 0


def test_the_library_holds_what_the_protocol_promises() -> None:
    assert set(NAMED) <= ARMS.keys()
    runs = {name: f"{resolved(arm)} {arm.get('shares')}" for name, arm in ARMS.items()}
    assert len(set(runs.values())) == len(ARMS), "no two are the same run"


def test_the_preset_is_the_arm_that_won() -> None:
    arm = resolved(ARMS["entprog-echo"])
    halved = {name: {"batch": 2} for name in ("subject", "pose")}  # batches are a recipe's, no preset's
    preset = resolved({"method": "entprog", "phases": halved})
    options = {**arm.method_options, "full": ["blocks.*.pose"]}  # the arm's base has new temporal blocks beside
    assert preset == replace(arm, preset="entprog", method_options=options)
