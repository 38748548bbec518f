"""Open a finished run: its configuration, and its task with the trained weights."""

from dataclasses import replace
from pathlib import Path

from entprog import plugins
from entprog.config.load import read_config
from entprog.config.schema import Config
from entprog.profiling.device import pick_device
from entprog.tasks.base import Task, TaskPlugin

__all__ = ["build_task", "open_run", "task_plugin"]


def task_plugin(config: Config) -> TaskPlugin:
    """The plugin that `task` names, with its options."""
    plugin: TaskPlugin = plugins.load("task", config.task, **config.task_options)
    return plugin


def build_task(config: Config, weights: str = "") -> Task:
    """The task of a configuration on its device; `weights`: a file of trained ones."""
    return task_plugin(config).build(config, weights)


def open_run(run: Path, weights: str = "auto", device: str = "", data: str = "") -> tuple[Config, Task]:
    """Configuration and task of a finished run.

    Args:
        weights: "model", "ema", or "auto": EMA weights where the run kept them.
        device: where the task goes; empty for the run's own. A run trained in fp16 on a CUDA device uses the precision
            "auto" elsewhere.
        data: folder of the data set; empty for the run's own.

    Raises:
        ValueError: no run, not finished, EMA weights requested that it does not have, or no such device.
    """
    final = run / "final"
    if not (run / "config.toml").is_file():
        raise ValueError(f"run = {str(run)!r}: no config.toml there; give a folder made by entprog train")
    config = read_config(run / "config.toml", resolved=True)
    trained = final / task_plugin(config).weights_file
    if not trained.is_file():
        raise ValueError(
            f"run = {str(run)!r}: it has no final weights yet; finish it with --resume-from-checkpoint latest"
        )
    if device and device != config.device:
        half = config.train.mixed_precision == "fp16" and pick_device(device).type == "cpu"
        precision = "auto" if half else config.train.mixed_precision
        config = replace(config, device=device, train=replace(config.train, mixed_precision=precision))
    if data:
        config = replace(config, data=replace(config.data, path=data))
    averaged = final / "ema.safetensors"
    if weights == "ema" and not averaged.is_file():
        raise ValueError(f"weights = 'ema': {run} has no EMA weights; set train.ema_decay, or choose model")
    chosen = averaged if averaged.is_file() and weights != "model" else trained
    task = build_task(config, str(chosen))
    task.model.eval()
    return config, task
