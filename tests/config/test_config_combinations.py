"""Keys that are wrong together, or without effect."""

import warnings
from pathlib import Path

import pytest

from entprog.config.load import ConfigError, ConfigWarning, read_config, updated
from entprog.config.schema import PUBLISHED, SampleConfig
from recipes import problems

BACKWARD = {"train.optimizer_in_backward": "true", "train.max_grad_norm": "0"}


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Writes a recipe beside the test and returns its path, short as the user would type it."""
    monkeypatch.chdir(tmp_path)

    def write(text: str | bytes, name: str = "recipe.toml") -> Path:
        path = Path(name)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"phases.pose.resolution": "96"}, ["phases.pose.resolution = 96", "data.sizes = [32, 64]"]),
        ({"phases.pose.resolution": "60"}, ["phases.pose.resolution = 60", "no multiple of 8"]),
        ({"data.sizes": "32,32,64"}, ["data.sizes", "twice"]),
        ({"data.sizes": "32,60,64"}, ["data.sizes", "60 is no multiple of 8"]),
        ({"phases.video.frames": "17"}, ["phases.video.frames = 17", "data.frames = 16"]),
        ({"evaluate.resolution": "48"}, ["evaluate.resolution = 48", "data.sizes = [32, 64]"]),
        ({"evaluate.frames": "17"}, ["evaluate.frames = 17", "data.frames = 16"]),
        ({"phases.video.frames": "1"}, ["phases.video.blocks", "at least 2 frames"]),
        ({"phases.pose.batch": "65"}, ["phases.pose.batch = 65", "64 clips"]),
        (
            {"model.reference": "none", "ranking.score": "cei", "ranking.options.skip": "both"},
            ["ranking.options.skip", 'skip = "denoising"'],
        ),
        ({"model.size": "s"}, ["model.init", '"nano"', 'model.size = "s"']),
        ({"model.init": ""}, ["model.init"]),
        ({"model.init": "nowhere.safetensors"}, ["model.init", "no such file"]),
        ({"data.path": "nowhere"}, ["data.path", "entprog prepare VIDEOS nowhere"]),
        ({"train.lr_scheduler": "cosine", "train.lr_warmup_steps": "60000"}, ["lr_warmup_steps = 60000", "subject"]),
        ({"train.mixed_precision": "fp16", "device": "cpu"}, ["mixed_precision", "bf16"]),
        ({**BACKWARD, "train.max_grad_norm": "1"}, ["optimizer_in_backward = true", "max_grad_norm = 1; set that"]),
        ({**BACKWARD, "train.gradient_accumulation_steps": "2"}, ["gradient_accumulation_steps = 2; set that to 1"]),
        ({**BACKWARD, "train.mixed_precision": "fp16"}, ["optimizer_in_backward = true", 'mixed_precision = "fp16"']),
        ({"freeze.storage": "nf4", "train.compile": "blocks"}, ["freeze.storage", 'compile = "blocks"']),
        ({"sample.weights": "ema"}, ["sample.weights", "train.ema_decay = 0"]),
        ({"device": "gpu"}, ["device", '"cuda:N"']),
        ({"output_dir": ""}, ["output_dir"]),
        ({"schedule.options.stages": "0"}, ["schedule.options", "stages = 0"]),
        ({"schedule.options.stagse": "3"}, ["schedule.options", "did you mean 'stages'"]),
        ({"schedule.name": "adaptve"}, ["schedule.name", "did you mean 'adaptive'"]),
        ({"method": "ful"}, ["method", "did you mean 'full'"]),
        ({"evaluate.metrics": "l1,psrn"}, ["evaluate.metrics[1]", "did you mean 'psnr'"]),
        ({"ranking.score": "no.such.module:Score"}, ["ranking.score", "no.such"] ),
        ({"ranking.score": "..:x"}, ["ranking.score", '"package.module:Class"']),
        ({"schedule.name": "entprog.scores.cei:CEI"}, ["schedule.name", "CEI has no stages"]),
        ({"ranking.score": "cei", "ranking.options.entropy": "knnn"}, ["ranking.options", "entropy", "'knn'"]),
    ],
)  # fmt: skip
def test_impossible_combinations(tmp_path, monkeypatch, overrides, words):
    monkeypatch.chdir(tmp_path)
    told = problems(None, overrides)
    assert len(told) == 1 and all(word in told[0] for word in words), told


def test_poses_for_a_model_without(recipe):
    told = problems(None, {"model.pose": "none"})
    assert [line.split(" ")[0] for line in told] == ["phases.pose.pose", "phases.video.pose"]


def test_stages_and_searches_fit_into_each_phase(recipe):
    path = recipe(
        "[phases.pose]\nsteps = 3\n[phases.video]\nsteps = 40\n[schedule.options]\nstages = 4\nsearch_steps = 10"
    )
    few, short = problems(path)
    assert few.startswith("recipe.toml: phases.pose.steps = 3: fewer than the 4 stages")
    assert (
        short.startswith("recipe.toml: phases.video.steps = 40: each of 4 stages has 10 steps")
        and "search_steps = 10" in short
    )
    read_config(path, {"method": "full"})
    read_config(path, {"schedule.options.search_steps": "9", "phases.pose.steps": "0"})


def test_nothing_to_run():
    told = problems(None, {f"phases.{name}.steps": "0" for name in PUBLISHED})
    assert told == ["--phases: no phase has steps; give at least one phase with steps above 0"]


def test_nothing_follows_from_a_value_that_was_not_understood(recipe):
    assert problems(recipe("[data]\nsizes = 'all'\n[phases.pose]\nresolution = 96")) == [
        "recipe.toml: data.sizes = 'all': expected a list of integers"
    ]


def test_phases_left_out_are_not_checked():
    config = read_config(None, {"phases.pose.steps": "0", "phases.pose.resolution": "48"})
    assert config.phases["pose"].steps == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[train]\nlr_warmup_steps = 3", 'train.lr_warmup_steps = 3: no effect with lr_scheduler = "constant"'),
        ("[train]\nvalidation_clips = 3\n[phases.subject]", "train.validation_clips = 3: no effect"),
        ("[data]\npath = '.'\nsubjects = 3\nseed = 2", "data.subjects and 1 more: no effect, as data.path"),
        ("[model]\nreference = 'none'\nreference_gradient = true", "model.reference_gradient: no effect"),
        ("method = 'full'\n[ranking]\nsamples = 8", 'ranking.samples: no effect, as method = "full"'),
        (
            "[train]\noptimizer = 'adafactor'\nadam_beta1 = 0.8",
            'train.adam_beta1: no effect with optimizer = "adafactor"',
        ),
        ("[train]\noptimizer_in_backward = true\nmax_grad_norm = 0", "saves next to no memory without"),
        ("[phases.vidoe]\nsteps = 100", "phases.vidoe: starts from general values; did you mean phases.video?"),
    ],
)
def test_settings_without_effect_are_warned_of(recipe, text, words):
    path = recipe(text)
    with pytest.warns(ConfigWarning) as caught:
        read_config(path)
    assert len(caught) == 1 and str(caught[0].message).startswith("recipe.toml: ") and words in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_config(path, resolved=True)


def test_comparing_with_full_training_is_no_mistake(recipe):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_config(recipe("[ranking]\nsamples = 8"), {"method": "full"}).method == "full"


def test_a_finished_run_reads_where_its_data_is_gone(recipe):
    path = recipe("[data]\npath = 'gone'\n[model]\ninit = 'gone.safetensors'")
    assert len(problems(path)) == 2
    assert read_config(path, resolved=True).data.path == "gone"


def test_values_that_code_lays_over_a_table_are_refused_in_the_same_words():
    assert updated(SampleConfig(), "sample", {"seed": 3, "scheduler": None}) == SampleConfig(seed=3)
    with pytest.raises(ConfigError) as error:
        updated(SampleConfig(), "sample", {"seed": -1, "scheduler": "euler"})
    assert error.value.problems == [
        "sample.seed = -1: must be at least 0 and at most 4294967295",
        'sample.scheduler = \'euler\': expected one of "ddim", "ddpm", "dpm++", "native"',
    ]
