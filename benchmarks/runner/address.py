"""The address of a run: a hash of everything that its numbers depend on, and of nothing else."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from entprog import plugins
from entprog.codecs.pca import PatchCodec
from entprog.config.schema import Config, DataConfig, PhaseConfig
from entprog.data.source import rendered_people
from entprog.toml.trees import leaves

NUMERICS = 1
"""Raise it when a change moves the numbers of runs whose configuration stays (CHANGELOG, Numerics), or when a default
of a key or of a plugin's option changes: older records then no longer count as these runs."""

FORMER = {"ranking.score": "cei"}
"""Defaults that have changed since NUMERICS was last raised, with their values then. A key counts for an address where
it differs from these."""

FORMER_KEYS = {
    "freeze.storage": "schedule.frozen_storage",
    "freeze.states": "schedule.states",
    "freeze.outside": "schedule.outside",
    "freeze.inputs_every": "schedule.outside_every",
    "ranking.select": "schedule.select",
    "train.cost_unit": "schedule.cost",
    "train.optimizer_options.rows": "train.muon_rows",
    "train.optimizer_options.momentum": "train.muon_momentum",
    "train.optimizer_options.rank": "train.galore_rank",
    "train.optimizer_options.update_proj_gap": "train.galore_update_proj_gap",
    "train.optimizer_options.scale": "train.galore_scale",
}
"""What a key was called when NUMERICS was last raised; addresses go by the former names."""

FORMER_VALUES = {
    "benchmarks.rivals.lisa:Lisa": "lisa",
    "benchmarks.rivals.badam:Badam": "badam",
    "benchmarks.rivals.galore:Galore": "galore",
}
"""What a plugin was called then: addresses go by the former names."""

NOT_NUMBERS = (
    "output_dir",
    "label",
    "data.workers",
    "data.cache",
    "train.checkpointing_steps",
    "train.checkpoints_total_limit",
    "train.report_to",
)
"""Keys that no number depends on."""


def address(config: Config, exam: Mapping[str, Any], base: str = "") -> str:
    """Sixteen hex digits for a run and its exam; `base` is the hash of weights that the configuration does not name.

    Only keys that differ from their defaults count, so that a new key with a default that changes nothing leaves
    every address as it is.
    """
    content = {
        "numerics": NUMERICS,
        "config": differing(config),
        "phases": {name: _differing(asdict(phase), asdict(PhaseConfig())) for name, phase in config.phases.items()},
        "order": [name for name, phase in config.phases.items() if phase.steps],
        "exam": dict(exam),
        "data": people(config.data),
        "base": base or weights(config.model.size, config.model.init),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def differing(config: Config) -> dict[str, Any]:
    """Dotted keys that differ from their defaults, those of phases and those that no number depends on left out."""
    own, default = dict(leaves(asdict(config))), {**dict(leaves(asdict(Config()))), **FORMER}
    optimizer = plugins.describe("optimizer", config.train.optimizer)
    default |= {f"train.optimizer_options.{option.name}": option.default for option in optimizer.options}
    if not plugins.ranked(config.method):  # no number depends on the score then
        own["ranking.score"] = FORMER["ranking.score"]
    return {
        FORMER_KEYS.get(key, key): FORMER_VALUES.get(value, value) if isinstance(value, str) else value
        for key, value in own.items()
        if not key.startswith("phases.") and key not in NOT_NUMBERS and (key not in default or default[key] != value)
    }


def people(data: DataConfig) -> str:
    """A short name of exactly this data: the fingerprint of rendered people, or the hash of a folder's index."""
    if not data.path:
        return rendered_people(data).fingerprint(PatchCodec.default())
    index = Path(data.path) / "index.jsonl"
    if not index.is_file():
        raise ValueError(f"data.path = {data.path!r}: no prepared data set there")
    return _hash(index)[:12]


def weights(size: str, init: str) -> str:
    """The SHA-256 of the weights that training starts from; "scratch" for none."""
    if init == "scratch":
        return init
    if init == "base":
        with as_file(files("entprog") / "assets" / f"base-{size}.safetensors") as path:
            return _hash(path)
    path = Path(init)
    return _hash(path / "model.safetensors" if path.is_dir() else path)


@cache
def _hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _differing(own: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in own.items() if default[key] != value}
