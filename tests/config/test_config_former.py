"""Recipes and run folders of older versions: one line for each old key, or read."""

from pathlib import Path

import pytest

from entprog import plugins
from entprog.config.load import read_config, write_config
from entprog.config.presets import ALSO, MOVED, RENAMED, modernised
from entprog.config.reference import dotted_keys
from entprog.toml.trees import at, value_at
from recipes import problems

OLD = """
method = "full"
[model]
backbone = ""
[schedule]
frozen_storage = "bf16"
states = "drop"
outside = false
outside_every = 3
select = "per_byte"
cost = "flops"
[train]
optimizer = "muon"
muon_momentum = 0.9
muon_rows = 32
galore_rank = 128
galore_update_proj_gap = 200
galore_scale = 0.25
"""


@pytest.fixture
def old(tmp_path, monkeypatch):
    """A recipe with every former key."""
    monkeypatch.chdir(tmp_path)
    path = Path("recipe.toml")
    path.write_text(OLD)
    return path


def test_each_former_key_gives_one_line_with_the_present_one(old):
    assert problems(old) == [f"recipe.toml: {key}: is {now} now{ALSO.get(key, '')}" for key, now in RENAMED.items()]
    assert problems(None, {"schedule.cost": "flops"}) == ["--schedule.cost: is train.cost_unit now"]
    assert "recipe.toml: schedule.frozen_storage: is freeze.storage now" in problems(old)


def test_a_finished_run_of_an_older_version_is_read(old):
    config = read_config(old, resolved=True)
    freeze = config.freeze
    assert (freeze.storage, freeze.states, freeze.outside, freeze.inputs_every) == ("bf16", "drop", False, 3)
    assert (config.ranking.select, config.train.cost_unit) == ("per_byte", "flops")
    assert config.train.optimizer_options == {"momentum": 0.9, "rows": 32}, "what other optimizers had goes"
    old.write_text(write_config(config))
    assert read_config(old, resolved=True) == config


def test_former_keys_lead_to_keys_that_are_there():
    optimizers = {*plugins.names("optimizer"), *MOVED["optimizer"].values()}
    taken = {option.name for name in optimizers for option in plugins.describe("optimizer", name).options}
    for former, now in RENAMED.items():
        table, _, option = now.rpartition(".")
        assert now in dotted_keys() or (table == "train.optimizer_options" and option in taken), now
        assert former not in dotted_keys()
        assert value_at(at(former, 1), former) == 1


def test_plugins_that_left_the_package_are_named_by_their_new_place(old, monkeypatch):
    names = plugins.names
    monkeypatch.setattr(plugins, "names", lambda kind: [name for name in names(kind) if name not in ("lisa", "galore")])
    old.write_text('method = "lisa"\n[train]\noptimizer = "galore"\n')
    assert problems(old) == [
        "recipe.toml: method = 'lisa': is 'benchmarks.rivals.lisa:Lisa' now, and comes with the repository only",
        "recipe.toml: train.optimizer = 'galore': is 'benchmarks.rivals.galore:Galore' now, "
        "and comes with the repository only",
    ]
    tree = modernised({"method": "lisa", "train": {"optimizer": "adamw", "muon_rows": 32}})
    assert tree == {"method": "benchmarks.rivals.lisa:Lisa", "train": {"optimizer": "adamw"}}
