"""Everything the engine saves, on a transformer and on a U-Net: a few runs that each combine several options."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from entprog.train.run import train
from pretrained_runs import Variant, prefix_is_exact, recipe, short_texts, task_of

pytestmark = pytest.mark.slow

TRANSFORMER, UNET = "wan-2.2-i2v", "svd"


def searching(estimator: str) -> dict[str, Any]:
    """Two stages of 5 steps, 4 of them a search between two block counts."""
    options = {"stages": 2, "search_steps": 4, "width": 2, "estimator": estimator}
    return {"schedule": {"name": "adaptive", "options": options}, "phases__video__steps": 10}


SHORT: dict[str, Any] = {"phases__video__steps": 4}

COMBINATIONS: dict[str, dict[str, Any]] = {
    "cei, probe, 8-bit states, bf16 storage, no pose": {
        "ranking__score": "cei", **searching("probe"), "train__optimizer": "adamw8bit", "freeze__storage": "bf16",
        "model__pose": "none",
    },
    "influence, supernet, Muon, int8 storage, reference frame": {
        "ranking__score": "influence", **searching("supernet"), "train__optimizer": "muon", "freeze__storage": "int8",
        "model__reference": "frame",
    },
    "skip_loss, per_byte, checkpointing, step in backward, EMA, offload": {
        "ranking__score": "skip_loss", "ranking__select": "per_byte", **SHORT, "train__gradient_checkpointing": True,
        "train__optimizer_in_backward": True, "train__max_grad_norm": 0.0, "train__ema_decay": 0.9,
        "freeze__storage": "offload",
    },
    "gradient, per_second, control latents, no reference, trained weights in bf16": {
        "ranking__select": "per_second", **SHORT, "model__pose": "input", "freeze__inputs_every": 1,
        "model__reference": "none", "model__weights": "bf16",
    },
    "mixed, budget": {"method": "mixed", "method_options__rank": 2, **SHORT, "train__memory_budget": "64MiB"},
    "lora": {"method": "lora", "method_options__rank": 2, **SHORT, "ranking": {}, "schedule": {}},
    "full": {"method": "full", **SHORT, "ranking": {}, "schedule": {}},
    "preset": {"preset": "entprog", "method_options__rank": 2, **SHORT, "phases__video__echo": 2,
               "phases__video__echo_window": 2, "ranking": {}, "schedule": {}},
}  # fmt: skip

LIKELY = {(TRANSFORMER, name) for name in list(COMBINATIONS)[:4]} | {(UNET, "mixed, budget"), (UNET, "lora")}
"""Run by `make test`; the other pairs are slow."""

RUNS = [
    pytest.param(variant, name, marks=() if (variant, name) in LIKELY else pytest.mark.slow)
    for variant in (TRANSFORMER, UNET)
    for name in COMBINATIONS
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with short_texts():
        yield tmp_path_factory.mktemp("savings")


@pytest.mark.parametrize(("variant", "name"), RUNS)
def test_a_run_with_these_savings_ends_with_a_moved_model(variant: str, name: str, folder: Path) -> None:
    changes = COMBINATIONS[name]
    run = train(
        recipe(Variant.make(variant, folder), folder / f"{variant}-{list(COMBINATIONS).index(name)}", **changes)
    )
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert len(rows) == changes["phases__video__steps"] and all(row["loss"] is not None for row in rows)
    assert load_file(str(run / "final" / "delta.safetensors"))
    assert (run / "final" / "ema.safetensors").is_file() == ("train__ema_decay" in changes)
    if "phases__video__echo" in changes:
        assert any(row["echo"] for row in rows) == (variant == TRANSFORMER)  # a U-Net has no prefix that can be cached


@pytest.mark.parametrize("variant", ["wan-2.2-i2v", "cogvideox-5b-i2v", "hunyuan-video"])
def test_gradients_with_the_cached_prefix_are_those_without(variant: str, folder: Path) -> None:
    made = Variant.make(variant, folder)
    assert prefix_is_exact(task_of(made), made)
