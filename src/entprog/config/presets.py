"""What lies under a recipe's own keys, and what its keys were once called."""

from collections.abc import Mapping
from operator import attrgetter
from typing import Any

from entprog import plugins
from entprog.config.reference import PLUGINS
from entprog.config.schema import PUBLISHED, Config, PhaseConfig
from entprog.toml.trees import at, laid_over, value_at, without

PRESETS: dict[str, dict[str, Any]] = {
    "": {},
    "entprog": {
        "method": "lora",
        "method_options": {
            "rank": 16, "alpha": 16, "lr_factor": 10.0, "m": 0.34, "m_images": 0, "inputs": "never",
            "full": ["blocks.*.pose"],
        },
        "model": {"pose": "blocks"},
        "freeze": {"storage": "bf16"},
        "train": {
            "reference_cache": "disk", "echo_cache": "disk", "optimizer": "muon", "optimizer_options": {"rows": 32},
        },
    },
    "paper": {
        "ranking": {"score": "cei", "options": {"entropy": "gaussian", "sigma": "elements"}},
        "schedule": {"name": "adaptive", "options": {"estimator": "supernet"}},
    },
}  # fmt: skip
"""Values that a preset puts under the recipe's own (the recipe's keys win)."""

IMAGES: dict[str, dict[str, Any]] = {"entprog": {"gradient_checkpointing": True}}
"""Likewise for each phase of single frames, as long as the method is the preset's."""

CLIPS: dict[str, dict[str, Any]] = {"entprog": {"echo": 4, "echo_window": 64}}
"""And for each phase of clips."""

RENAMED = {
    "model.backbone": "model.pretrained", "schedule.frozen_storage": "freeze.storage",
    "schedule.states": "freeze.states", "schedule.outside": "freeze.outside",
    "schedule.outside_every": "freeze.inputs_every", "schedule.select": "ranking.select",
    "schedule.cost": "train.cost_unit",
    "train.muon_momentum": "train.optimizer_options.momentum", "train.muon_rows": "train.optimizer_options.rows",
    "train.galore_rank": "train.optimizer_options.rank", "train.galore_scale": "train.optimizer_options.scale",
    "train.galore_update_proj_gap": "train.optimizer_options.update_proj_gap",
}  # fmt: skip
"""What keys were once called -> what they are called now."""

ALSO = {"model.backbone": ', with task = "pretrained"'}
"""What else to set with the present key."""

MOVED = {
    "method": {"lisa": "benchmarks.rivals.lisa:Lisa", "badam": "benchmarks.rivals.badam:Badam"},
    "optimizer": {"galore": "benchmarks.rivals.galore:Galore"},
}
"""Plugins that came with the package once: kind -> name -> what they are called now."""


def under(preset: str, tree: Mapping[str, Any]) -> dict[str, Any]:
    """What a preset puts under a recipe: no options for a plugin in whose place the recipe names another."""
    values = PRESETS.get(preset, {})
    for plugin in PLUGINS:
        own = value_at(values, plugin.name)
        if own is not None and value_at(tree, plugin.name) not in (None, own):
            values = without(values, plugin.options)
    if "method_options" in values:
        phases = tree["phases"] if isinstance(tree.get("phases"), dict) else {}
        kinds = {name: IMAGES if _frames(name, table) == 1 else CLIPS for name, table in phases.items()}
        values = {**values, "phases": {name: kind.get(preset, {}) for name, kind in kinds.items()}}
    return values


def of_task(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of the task that a recipe names, those of "phases.*" for each phase."""
    task = tree.get("task", value_of(Config(), "task"))
    try:
        values = (
            dict(plugins.declared("task", task, "defaults", lambda recipe: {})(tree)) if isinstance(task, str) else {}
        )
    except (ValueError, ImportError):  # said by checks.py
        return {}
    phase, phases = values.pop("phases.*", {}), tree.get("phases")
    tables = [name for name, table in phases.items() if isinstance(table, dict)] if isinstance(phases, dict) else []
    return values | ({"phases": dict.fromkeys(tables, phase)} if phase else {})


def _frames(phase: str, table: Any) -> Any:
    start = PUBLISHED.get(phase, PhaseConfig()).frames
    return table.get("frames", start) if isinstance(table, dict) else start


def without_others_options(tree: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """The tree of a recipe, less the options of each plugin in whose place `over` names another."""
    for plugin in PLUGINS:
        now, before = value_at(over, plugin.name), value_at(tree, plugin.name)
        started = value_of(Config(), plugin.name) if before is None else before
        if plugin.options and isinstance(now, str) and now != started:  # metrics have a table each, which stay
            tree = without(tree, plugin.options)
    return tree


def modernised(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree of an older version's configuration, each key by its present name.

    What was set for another plugin than the one that is named had no effect, and goes.
    """
    for key in PLUGINS:
        if now := moved(key.plugin, value_at(tree, key.name)):
            tree = laid_over(tree, at(key.name, now))
    for old, new in RENAMED.items():
        if (value := value_at(tree, old)) is not None:
            tree = without(tree, old)
            kept = value_at(tree, new) is None and _taken(tree, new)
            tree = laid_over(tree, at(new, value)) if kept else tree
    return tree


def moved(kind: str, name: Any) -> str:
    """What a plugin is called now that no longer comes with the package; empty for all others."""
    return MOVED.get(kind, {}).get(name, "") if isinstance(name, str) and name not in plugins.names(kind) else ""


def _taken(tree: dict[str, Any], dotted: str) -> bool:
    """Whether a key is one of ours, or an option of the plugin that the tree names."""
    table, _, option = dotted.rpartition(".")
    for key in PLUGINS:
        if key.options == table:
            name = value_at(tree, key.name) or value_of(Config(), key.name)
            return option in {known.name for known in plugins.describe(key.plugin, name).options}
    return True


def value_of(config: Config, dotted: str) -> Any:
    """The value of a key that belongs to no phase."""
    return attrgetter(dotted)(config)
