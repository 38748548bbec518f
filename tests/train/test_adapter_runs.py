"""Runs with LoRA, mixed rank or coarse frozen weights end in plain weights, and resume exactly."""

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from entprog.nets.dit import SIZES, VideoDiT, build_dit
from entprog.tasks.human_video.build import load_weights
from entprog.train.run import train
from tiny import lines, same, synthetic_data, tiny_config

pytest.importorskip("peft")


STAGED = {"schedule__options__stages": 2, "ranking__score": "gradient"}
ARMS: dict[str, dict[str, Any]] = {
    "lora": {"method": "lora", "method_options__rank": 4},
    "last": {"method": "lora", "method_options__rank": 4, "method_options__m": 0.5, "method_options__inputs": "never"},
    "images": {
        "method": "lora", "method_options__rank": 4, "method_options__m": 0.5, "method_options__m_images": 0,
        "phases__pose__gradient_checkpointing": True,
    },
    "mixed": {"method": "mixed", "method_options__rank": 4, "freeze__storage": "int8", **STAGED},
    "nf4": {"freeze__storage": "nf4", **STAGED},
}  # fmt: skip


@pytest.mark.parametrize("arm", ARMS)
def test_a_run_ends_in_plain_weights_and_resumes(arm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "nano", {"depth": 4, "width": 32, "heads": 2})
    data = synthetic_data(tmp_path / "data")

    def made(run: Path, every: int) -> Any:
        return tiny_config(
            run, data, train__ema_decay=0.9, phases__subject__steps=0,
            phases__pose__steps=2, phases__video__steps=4, train__checkpointing_steps=every,
            train__checkpoints_total_limit=0, **ARMS[arm],
        )  # fmt: skip

    reference = train(made(tmp_path / "whole", 0))
    run = train(made(tmp_path / "parts", 1))
    for later in run.glob("checkpoint-[456]"):
        (later / "complete").unlink()
    train(made(run, 1), resume_from_checkpoint="latest")
    same(reference, run)
    model = build_dit("nano")
    load_weights(model, run / "final" / "model.safetensors")
    assert load_file(str(run / "final" / "ema.safetensors")).keys() == model.state_dict().keys()
    assert lines(run / "log.jsonl")[-1]["step"] == 5


def test_depth_and_recomputation_by_phase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "nano", {"depth": 4, "width": 32, "heads": 2})
    data = synthetic_data(tmp_path / "data")
    usual = {"method": "lora", "method_options__m": 0.5, "phases__subject__steps": 0, "phases__pose__steps": 1,
             "phases__video__steps": 1}  # fmt: skip
    apart = {"method_options__m_images": 0, "phases__pose__gradient_checkpointing": True}
    plain = lines(train(tiny_config(tmp_path / "plain", data, **usual)) / "log.jsonl")
    deep = lines(train(tiny_config(tmp_path / "deep", data, **usual, **apart)) / "log.jsonl")
    assert [row["m"] for row in deep] == [2 * plain[0]["m"], plain[1]["m"]]
    assert deep[0]["bytes_live"]["activations"] < plain[0]["bytes_live"]["activations"]
    assert deep[0]["flops"] > 4 / 3 * plain[0]["flops"] and deep[1]["flops"] == plain[1]["flops"]


def test_new_blocks_that_rest_are_left_out_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A temporal block below the lowest adapter is the identity for the whole phase: the same run for less."""
    monkeypatch.setitem(SIZES, "nano", {"depth": 4, "width": 32, "heads": 2})
    data = synthetic_data(tmp_path / "data")
    usual = {"phases__subject__steps": 0, "phases__pose__steps": 1, "phases__video__steps": 3,
             "freeze__storage": "bf16", **ARMS["last"]}  # fmt: skip
    less = train(tiny_config(tmp_path / "less", data, **usual))
    monkeypatch.setattr(VideoDiT, "idle_temporal", lambda model: frozenset())
    whole = train(tiny_config(tmp_path / "whole", data, **usual))
    ours, all_of_it = (load_file(str(run / "final" / "model.safetensors")) for run in (less, whole))
    assert all(tensor.equal(all_of_it[name]) for name, tensor in ours.items())
    rows = list(zip(lines(less / "log.jsonl"), lines(whole / "log.jsonl"), strict=True))
    assert all(a["loss"] == b["loss"] for a, b in rows)
    assert [a["flops"] < b["flops"] for a, b in rows] == [False, True, True, True]
