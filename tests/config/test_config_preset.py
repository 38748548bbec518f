"""`method = "entprog"` by itself trains what it should, and a recipe that takes that away is refused."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from entprog.config.load import ConfigWarning, config_of, parsed, read_config
from entprog.config.presets import PRESETS
from entprog.config.schema import Config
from entprog.files import save_weights
from entprog.nets.dit import SIZES, build_dit
from entprog.tasks.human_video.build import load_weights
from entprog.toml.trees import laid_over
from entprog.train.run import train
from recipes import problems
from tiny import opened, synthetic_data

pytest.importorskip("peft")

SHIPPED = Path(__file__).parents[2] / "recipes" / "entprog.toml"
QUIET = {"train": {"threads": 1, "mixed_precision": "no", "holdout_clips": 2}, "evaluate": {"clips": 0}}


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A network of four blocks, weights of it whose pose adapter is at the input, and synthetic clips."""
    monkeypatch.setitem(SIZES, "nano", {"depth": 4, "width": 32, "heads": 2})
    save_weights(opened(build_dit("nano", pose="input")).state_dict(), tmp_path / "base.safetensors")
    return {
        "output_dir": str(tmp_path / "run"), "device": "cpu", "model": {"init": str(tmp_path / "base.safetensors")},
        "data": {"path": str(synthetic_data(tmp_path / "data"))}, **QUIET,
    }  # fmt: skip


def adapters(weights: dict) -> dict:
    return {name: tensor for name, tensor in weights.items() if name.startswith("blocks.") and ".pose." in name}


def test_pose_adapters_of_the_blocks_that_train_move(small):
    size = {"resolution": 16, "batch": 2, "learning_rate": 1e-2}
    phases = {"pose": {**size, "steps": 3}, "video": {**size, "steps": 3, "frames": 3, "blocks": "all", "echo": 2}}
    run = train(config_of({**small, "method": "entprog", "phases": phases}, quiet=True))
    weights = load_file(str(run / "final" / "model.safetensors"))
    moved = {name.split(".pose.")[0] for name, tensor in adapters(weights).items() if tensor.abs().max() > 0}
    assert moved == {f"blocks.{i}" for i in range(4)}, "new adapters start at zero, and image phases train all blocks"
    whole = build_dit("nano", pose="blocks")
    load_weights(whole, run / "final" / "model.safetensors")
    assert adapters(weights).keys() == adapters(whole.state_dict()).keys()


def test_in_clips_the_adapters_of_the_last_third_move(small):
    video = {"resolution": 16, "batch": 2, "steps": 3, "frames": 3, "blocks": "all", "learning_rate": 1e-2}
    run = train(config_of({**small, "method": "entprog", "phases": {"video": video}}, quiet=True))
    weights = load_file(str(run / "final" / "model.safetensors"))
    moved = {name.split(".pose.")[0] for name, tensor in adapters(weights).items() if tensor.abs().max() > 0}
    assert moved == {"blocks.3"}, "of four blocks and one temporal the last two have adapters"


def test_the_shipped_recipe_trains(small):
    tree = parsed(SHIPPED)
    assert read_config(SHIPPED, resolved=True).preset == "entprog"
    few = {"steps": 2, "resolution": 16, "batch": 2}
    phases = {name: {**few, "frames": 3} if name == "video" else few for name in tree["phases"]}
    less = laid_over(small, {"phases": phases, "train": {"lr_warmup_steps": 0}})
    run = train(config_of(laid_over(tree, less), quiet=True))
    assert (run / "final" / "model.safetensors").is_file()


def test_a_new_pose_adapter_that_would_never_train_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = Path("recipe.toml")
    recipe.write_text('method = "entprog"\n[model]\npose = "input"\nfresh = ["pose"]\n')
    never = 'model.pose = "input": the new adapter (model.fresh) never trains, as'
    assert problems(recipe) == [f'recipe.toml: {never} method_options.inputs = "never"; set model.pose = "blocks"']
    said = problems(None, {"model.fresh": "pose", "freeze.inputs_every": "0"})
    assert said == [f'{never} freeze.inputs_every = 0; set model.pose = "blocks"']
    assert "freeze.outside = false" in problems(None, {"model.fresh": "pose", "freeze.outside": "false"})[0]
    assert read_config(None, {"model.fresh": "pose"}).model.pose == "input"
    recipe.write_text('method = "entprog"\n[model]\npose = "input"\n')
    with pytest.warns(ConfigWarning, match='model.pose = "input": its adapter stays as model.init has it'):
        read_config(recipe)


def test_presets_are_those_of_the_schema():
    for name in PRESETS:
        assert config_of({"preset": name}, planned=True, quiet=True).preset == name
    assert config_of({}, planned=True) == Config()
