"""The weights that all arms of a suite start from, where it makes its own."""

import shutil
from dataclasses import replace
from pathlib import Path

from filelock import FileLock
from tqdm import tqdm

from benchmarks.runner.address import address, weights
from benchmarks.runner.exam import read_status
from benchmarks.runner.suite import Suite
from entprog.config.schema import Config
from entprog.train.checkpoint import checkpoints
from entprog.train.run import train


def finish(config: Config, command: str = "") -> None:
    """Train a run to its end, from its last checkpoint if it has one; nothing where it is there already.

    Raises:
        NotFinite: it diverged.
    """
    run = Path(config.output_dir)
    if read_status(run) == "finished" and (run / "final" / "model.safetensors").is_file():
        return
    resume = "latest" if checkpoints(run) else None
    if resume is None:
        shutil.rmtree(run, ignore_errors=True)
    train(config, resume_from_checkpoint=resume, command=command)


def final_weights(run: Path) -> Path:
    """The weights that a run ended with, averaged ones where it kept them."""
    averaged = run / "final" / "ema.safetensors"
    return averaged if averaged.is_file() else run / "final" / "model.safetensors"


def base_weights(suite: Suite, runs: Path, *, recorded: str = "", command: str = "") -> Path | None:
    """The path of the weights that all arms start from; None where the configuration names them.

    Made by this suite or by another. Where there is only their record, as in a fresh clone, they are trained again: the
    same bits on the same kind of processor, other rounding elsewhere. A run's record says which it
    started from, and runs from different ones are never paired (`analyse.difference`).

    Args:
        runs: the suite's folder for run folders.
        recorded: SHA-256 of the weights by their record.
    """
    if not suite.base:
        return None
    config = suite.base_config()
    name = address(config, {})
    beside = (final_weights(folder) for folder in (runs / name, *runs.parent.glob(f"*/{name}")))
    found = next((path for path in beside if path.is_file()), None)
    if found is not None:
        return found
    runs.mkdir(parents=True, exist_ok=True)
    tqdm.write(f"{suite.name}: only the record of the weights to start from is here; training them again")
    with FileLock(runs / f"{name}.lock"):  # another call may be at it
        finish(replace(config, output_dir=str(runs / name)), command)
    path = final_weights(runs / name)
    if recorded and weights("", str(path)) != recorded:
        tqdm.write(f"{suite.name}: they differ from the recorded ones by the rounding of another processor")
    return path


def started_from(config: Config, base: Path | None) -> Config:
    """The configuration with these weights to start from; as it is where there are none."""
    return config if base is None else replace(config, model=replace(config.model, init=str(base)))
