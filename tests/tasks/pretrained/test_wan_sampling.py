"""Sampling of the pretrained task against diffusers' own pipelines of Wan."""

from pathlib import Path
from typing import Any

import pytest
import torch

from entprog.config.load import config_of
from entprog.config.schema import SampleConfig
from entprog.tasks.pretrained.generate import denoise
from entprog.tasks.pretrained.task import PretrainedTask, build_task
from tiny_pipelines import saved
from wan_calls import FRAMES, STEPS, USES, captured, condition

SETTINGS = SampleConfig(num_inference_steps=STEPS, guidance_scale=2.0)


def task_of(name: str, folder: Path, **model: Any) -> PretrainedTask:
    """The task of a recipe whose data set is never opened."""
    use = USES[name]
    given = {
        "pretrained": str(saved(use.folder)),
        "pose": use.pose,
        "reference": use.reference,
        "dtype": "float32",
    } | model
    size = {"resolution": "{}x{}".format(*use.sides), "frames": FRAMES}
    config = config_of(
        {
            "task": "pretrained", "model": given, "method": "full",
            "phases": {"video": {**size, "steps": 8, "batch": 2}}, "evaluate": {"clips": 0, **size},
            "train": {"mixed_precision": "no", "threads": 1},
        },
        planned=True,
    )  # fmt: skip
    return build_task(config)


@pytest.mark.parametrize(("name", "component"), [(name, "") for name in USES] + [("wan-2.2-i2v", "transformer_2")])
def test_the_task_ends_where_the_pipeline_does(name: str, component: str, tmp_path: Path) -> None:
    """From the same noise, text and conditions; whichever expert trains, the other one is loaded for its part."""
    task, done = task_of(name, tmp_path, component=component), captured(name)
    noise = done.calls[0].arguments["hidden_states"][:, : task.family.channels].transpose(1, 2)
    given, free = (condition(name, call.arguments["encoder_hidden_states"]) for call in done.calls[:2])
    for key in set(task.family.unguided) & set(free):
        free[key] = task.family.nothing(key, free)
    found = denoise(task, noise, given, free, SETTINGS)
    front = task.family.leading(reference=USES[name].reference)
    torch.testing.assert_close(found[:, front:], done.latents, rtol=0, atol=1e-5)


def test_both_experts_are_held_in_the_precision_of_frozen_weights(tmp_path: Path) -> None:
    """bfloat16 weights with float32 computation, where there is no autocast: near what float32 weights give."""
    name = "wan-2.2-i2v"
    task, done = task_of(name, tmp_path, dtype="bf16"), captured(name)
    noise = done.calls[0].arguments["hidden_states"][:, : task.family.channels].transpose(1, 2)
    found = denoise(task, noise, condition(name, done.calls[0].arguments["encoder_hidden_states"]), None, SETTINGS)
    assert found.dtype == torch.float32 and found.isfinite().all()
    types = [{p.dtype for p in network.parameters()} for network in (task.model, task.network_at(0.0))]
    assert types == [{torch.float32, torch.bfloat16}] * 2


def test_an_expert_that_does_not_train_stays_as_it_was_given(tmp_path: Path) -> None:
    task = task_of("wan-2.2-t2v-a14b", tmp_path, component="transformer_2")
    assert task.network_at(100.0) is task.model
    other = task.network_at(900.0)
    assert other is not task.model and other is task.network_at(999.0)
    assert not any(parameter.requires_grad for parameter in other.parameters())
    assert "transformer_2" not in dict(task.model.named_modules()) and all(
        parameter is not theirs for parameter in task.model.parameters() for theirs in other.parameters()
    )
