"""Recipes: everything wrong is told at once, in one line each; what is right reads back equal."""

import dataclasses
from pathlib import Path

import pytest

from entprog.cli.printed_recipe import recipe as recipe_of_defaults
from entprog.config import reference
from entprog.config.load import read_config, write_config
from entprog.config.presets import value_of
from entprog.config.schema import PUBLISHED, Config, PhaseConfig
from entprog.toml.values import outside
from entprog.train.run_folder import RESUMABLE, differences
from recipes import problems

SHIPPED = Path(__file__).parents[2]


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Writes a recipe beside the test and returns its path, short as the user would type it."""
    monkeypatch.chdir(tmp_path)

    def write(text: str | bytes, name: str = "recipe.toml") -> Path:
        path = Path(name)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_no_recipe_gives_the_defaults():
    assert read_config(None) == Config()


def test_values_reach_their_fields_with_the_types_of_the_fields(recipe):
    config = read_config(
        recipe(
            'output_dir = "runs/a"\n[data]\nsizes = [64]\n[train]\nmax_grad_norm = 2\nseed = 7\n'
            '[ranking]\nscore = "gradient"\n[ranking.options]\n[phases.pose]\nlearning_rate = 1\n'
        )
    )
    assert (config.output_dir, config.data.sizes, config.train.seed) == ("runs/a", (64,), 7)
    assert config.train.max_grad_norm == 2.0 and isinstance(config.train.max_grad_norm, float)
    assert isinstance(config.phases["pose"].learning_rate, float)


def test_all_problems_are_told_at_once(recipe):
    path = recipe(
        'metod = "full"\n[train]\nlearning_rat = 1\nseed = "x"\nmax_grad_norm = -1\n'
        '[modl]\n[model]\nsize = "nao"\n[phases.pose]\nframes = true\nbatch = 0\n[ranking]\nscore = "cej"\n'
    )
    told = problems(path, {"sample.seed": "-3", "phases.pos.steps": "4"})
    assert told[:11] == [
        "--phases.pos.steps: the recipe has no such phase, it runs pose; did you mean pose?",
        "recipe.toml: metod: unknown key; did you mean method?",
        "recipe.toml: train.learning_rat: unknown key; did you mean phases.pose.learning_rate?",
        "recipe.toml: train.seed = 'x': expected an integer",
        "recipe.toml: train.max_grad_norm = -1: must be at least 0",
        "recipe.toml: modl: unknown key; did you mean model?",
        'recipe.toml: model.size = \'nao\': expected one of "nano", "s", "b", "xl"; did you mean "nano"?',
        "--sample.seed = -3: must be at least 0 and at most 4294967295",
        "recipe.toml: phases.pose.frames = true: expected an integer",
        "recipe.toml: phases.pose.batch = 0: must be at least 1",
        told[10],
    ]
    assert len(told) == 11 and told[10].startswith(
        "recipe.toml: ranking.score = 'cej': no score 'cej'; did you mean 'cei'?"
    )


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("[train]\nlr_schedular = 1", "train.lr_scheduler"),
        ("seed = 1", "train.seed"),
        ("[train]\ntrain_batch_size = 1", "phases.subject.batch"),
        ("max_train_steps = 1", "phases.subject.steps"),
        ("lr = 1", "phases.subject.learning_rate"),
        ("[sampel]\nseed = 1", "sample"),
        ("[data]\nsise = [32]", "data.sizes"),
        ("[phases.pose]\nresolutoin = 64", "phases.pose.resolution"),
        ("guidance_scale = 2", "sample.guidance_scale"),
    ],
)
def test_unknown_keys_name_what_was_meant(recipe, written, meant):
    (line,) = problems(recipe(written))
    assert "unknown key; did you mean" in line and meant in line


def test_a_key_like_no_other_is_named_without_a_guess(recipe):
    assert problems(recipe("zzqqxx = 1")) == ["recipe.toml: zzqqxx: unknown key"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[train]\nseed = 1.5", "train.seed = 1.5: expected an integer"),
        ("[train]\nseed = true", "train.seed = true: expected an integer"),
        ("[train]\nseed = 2026-01-01", "train.seed = 2026-01-01: expected an integer"),
        ("[train]\nmax_grad_norm = true", "train.max_grad_norm = true: expected a number"),
        ('[train]\nmax_grad_norm = "1"', "train.max_grad_norm = '1': expected a number"),
        ("[train]\nmax_grad_norm = nan", "train.max_grad_norm = nan: must be a finite number"),
        ("[train]\nmax_grad_norm = inf", "train.max_grad_norm = inf: must be a finite number"),
        (f"[train]\nmax_grad_norm = 1{'0' * 400}", None),
        ("[train]\ngradient_checkpointing = 1", "train.gradient_checkpointing = 1: expected true or false"),
        ("[data]\nsizes = 32", "data.sizes = 32: expected a list of integers"),
        ("[data]\nsizes = [32, '64']", "data.sizes = [32, '64']: expected a list of integers"),
        ("[evaluate]\nmetrics = 'l1'", "evaluate.metrics = 'l1': expected a list of texts"),
        ("label = 3", "label = 3: expected text"),
        ("train = 3", "train = 3: expected a table, [train]"),
        ("phases = 3", "phases = 3: expected tables, such as [phases.pose]"),
        ("[phases]\nsteps = 3", "phases.steps = 3: expected a table, such as [phases.pose]"),
        ("[ranking]\noptions = 3", "ranking.options = 3: expected a table"),
        ("[model]\nsize = 3", 'model.size = 3: expected one of "nano", "s", "b", "xl"'),
        ("[phases.'../up']\nsteps = 1", "phases.../up: a phase names a folder; use letters, digits, - and _"),
    ],
)
def test_wrong_types(recipe, text, line):
    told = problems(recipe(text))
    assert len(told) == 1
    assert told[0] == f"recipe.toml: {line}" if line else told[0].endswith("too large a number")


@pytest.mark.parametrize(
    ("dotted", "good", "bad"),
    [
        ("train.adam_beta1", "0", "1"),
        ("train.adam_beta2", "0.99", "-0.1"),
        ("train.ema_decay", "0.9999", "1.0"),
        ("train.adam_epsilon", "1e-6", "0"),
        ("model.condition_dropout", "0", "1"),
        ("phases.pose.learning_rate", "1e-9", "0"),
        ("phases.pose.batch", "1", "0"),
        ("train.gradient_accumulation_steps", "2", "0"),
        ("train.checkpointing_steps", "0", "-1"),
        ("sample.num_inference_steps", "1", "1001"),
        ("data.sizes", "[16,64]", "[8,64]"),
    ],
)
def test_ranges(dotted, good, bad):
    read_config(None, {dotted: good})
    told = problems(None, {dotted: bad})
    assert told[0].startswith(f"--{dotted} = ") and "must be " in told[0]


def test_every_number_has_a_range_that_holds_for_its_default():
    for dotted, key in reference.KEYS.items():
        interval = reference.limit(dotted)
        assert interval is not None or key.kind not in (int, float), dotted
        value = getattr(PhaseConfig(), dotted[9:]) if dotted.startswith("phases.*.") else value_of(Config(), dotted)
        if interval is not None:
            assert outside(value, interval) is None, dotted


def test_a_number_outside_its_range_is_refused_in_code_too():
    assert dataclasses.replace(Config().train, seed=3).seed == 3
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        dataclasses.replace(Config().train, seed=-1)


# Files that are no recipe


def test_a_byte_order_mark_tabs_and_crlf_are_fine(recipe):
    text = '\ufefflabel\t=\t"a"\r\n[train]\r\n\tseed\t= 3\t# three\r\n'
    config = read_config(recipe(text))
    assert (config.label, config.train.seed) == ("a", 3)


def test_syntax_errors_have_their_line(recipe):
    assert problems(recipe("[train]\nseed = \n")) == ["recipe.toml: line 2, column 8: Invalid value"]
    (twice,) = problems(recipe("[train]\nseed = 1\nseed = 2\n"))
    assert twice.startswith("recipe.toml: line 3") and "overwrite" in twice
    (end,) = problems(recipe('label = "a'))
    assert end.startswith("recipe.toml: ")


@pytest.mark.parametrize(
    "data",
    [
        bytes(range(256)),
        b"label = 'a'\0",
        "label = 'ü'".encode("latin-1"),
        'label = "a"'.encode("utf-16"),
        b"#" * 1_000_001,
        b"a = " + b"[" * 100_000,
        b"a = " + b"9" * 5000,
    ],
    ids=["binary", "nul", "latin-1", "utf-16", "large", "deep", "digits"],
)
def test_files_that_are_no_recipe_give_one_line(recipe, data):
    (line,) = problems(recipe(data))
    assert line.startswith("recipe.toml: ")


def test_an_empty_file_is_a_recipe(recipe):
    assert read_config(recipe("")) == Config()


def test_missing_file_and_folder(recipe):
    recipe("")
    assert problems(Path("recpie.toml")) == ["recpie.toml: no such file; did you mean recipe.toml?"]
    assert problems(Path("nowhere/x.toml")) == ["nowhere/x.toml: no such file"]
    Path("run").mkdir()
    assert problems(Path("run")) == ["run: is a folder, not a recipe; give a TOML file"]
    Path("run/config.toml").touch()
    assert problems(Path("run")) == ["run: is a folder; did you mean run/config.toml?"]
    assert problems(Path("recipe.toml/x")) == ["recipe.toml/x: can't be read: Not a directory"]


# Presets, phases, overrides


def test_a_preset_lies_under_the_recipe(recipe):
    config = read_config(
        recipe('preset = "paper"\n[ranking.options]\nsigma = "conditions"\n[schedule.options]\nstages = 2')
    )
    assert config.ranking.options == {"entropy": "gaussian", "sigma": "conditions"}
    assert config.schedule.options == {"estimator": "supernet", "stages": 2}


def test_a_preset_gives_no_options_to_a_plugin_it_did_not_name(recipe):
    config = read_config(recipe('preset = "paper"\n[schedule]\nname = "linear"'), {"ranking.score": "gradient"})
    assert config.ranking.options == {} and config.schedule.options == {}
    assert read_config(None, {"preset": '"paper"'}).ranking.options != {}


def test_options_stay_with_the_plugin_they_were_written_for(recipe):
    path = recipe(
        'method = "lora"\n[method_options]\nrank = 4\n[schedule.options]\nstages = 3\nsearch_steps = 9\n'
        '[ranking]\nscore = "order"\n[ranking.options]\norder = "last"'
    )
    config = read_config(path, {"method": "progressive", "schedule.name": "linear", "ranking.score": "cei"})
    assert config.method_options == config.schedule.options == config.ranking.options == {}
    same = read_config(path, {"method": "progressive", "schedule.name": "adaptive", "ranking.options.order": "first"})
    assert same.schedule.options == {"stages": 3, "search_steps": 9} and same.ranking.options == {"order": "first"}
    own = read_config(path, {"method": "progressive", "schedule.name": "linear", "schedule.options.stages": "2"})
    assert own.schedule.options == {"stages": 2}


def test_a_preset_brings_its_method(recipe):
    pytest.importorskip("peft")
    config = read_config(recipe("[train]\nlr_warmup_steps = 0"), {"preset": "entprog"})
    assert (config.method, config.freeze.storage, config.train.reference_cache) == ("lora", "bf16", "disk")
    assert (config.method_options["m"], config.method_options["inputs"]) == (0.34, "never")
    assert config.train.optimizer == "muon"
    short = read_config(recipe('method = "entprog"\n[train]\nlr_warmup_steps = 0'))
    assert short == config == read_config(recipe("[train]\nlr_warmup_steps = 0"), {"method": "entprog"})
    assert read_config(recipe('preset = "paper"\n[train]\nlr_warmup_steps = 0'), {"method": "entprog"}) == config
    assert "method = 'entprg': did you mean 'entprog'?" in problems(recipe('method = "entprg"'))[0]
    told = problems(recipe('method = "entprog"\npreset = "paper"'))
    assert "method = 'entprog': brings a preset of its own; leave out preset = 'paper'" in told[0]
    other = read_config(recipe('preset = "entprog"\n[train]\nreference_cache = "off"'), {"method": "full"})
    assert (other.method, other.method_options, other.train.reference_cache) == ("full", {}, "off")
    assert not other.phases["subject"].gradient_checkpointing


def test_a_preset_recomputes_in_phases_of_single_frames(recipe):
    pytest.importorskip("peft")

    def recompute(text, over=()):
        config = read_config(recipe(f'method = "entprog"\n[train]\nlr_warmup_steps = 0\n{text}'), dict(over))
        return {name: phase.gradient_checkpointing for name, phase in config.phases.items()}

    assert recompute("") == {"subject": True, "pose": True, "video": False}
    own = "[phases.video]\n[phases.pose]\nframes = 2\n[phases.mine]\n[phases.other]\ngradient_checkpointing = false\n"
    found = recompute(own)
    assert list(found.items()) == [("video", False), ("pose", False), ("mine", True), ("other", False)]
    assert recompute(own, {"phases.pose.frames": "1"})["pose"]
    assert problems(recipe('method = "entprog"\n[phases]\npose = 3'))  # said, not a traceback


def test_unknown_preset(recipe):
    assert 'did you mean "paper"?' in problems(recipe('preset = "papre"'))[0]


def test_phases_run_in_the_order_of_the_file_and_start_from_the_published(recipe):
    config = read_config(
        recipe("[phases.video]\nsteps = 400\n[phases.extra]\nsteps = 300\n[phases.subject]\nbatch = 4")
    )
    assert list(config.phases) == ["video", "extra", "subject"]
    assert config.phases["video"] == dataclasses.replace(PUBLISHED["video"], steps=400)
    assert config.phases["extra"] == PhaseConfig(steps=300)
    assert config.phases["subject"].pose is False


def test_a_recipe_without_phases_runs_the_published(recipe):
    config = read_config(recipe("[train]\nseed = 1"), [("phases.video.steps", "500")])
    assert list(config.phases) == list(PUBLISHED)
    assert config.phases["video"].steps == 500 and config.phases["pose"] == PUBLISHED["pose"]


def test_overrides_are_toml_or_text(recipe):
    path = recipe('label = "a"\n[train]\nseed = 1\n[phases.pose]\nsteps = 400')
    config = read_config(
        path,
        [
            ("train.seed", "2"),
            ("train.seed", "3"),
            ("label", "2024"),
            ("output-dir", "runs/x y"),
            ("train.gradient-checkpointing", "True"),
            ("data.sizes", "64,32"),
            ("evaluate.metrics", "l1"),
            ("phases.pose.learning-rate", "1e-4"),
            ("ranking.score", "cei"),
            ("ranking.options.skip", "both"),
            ("ranking.options.samples", "8"),
            ("model.size", '"nano"'),
        ],
    )
    assert config.train.seed == 3 and config.label == "2024" and config.output_dir == "runs/x y"
    assert config.train.gradient_checkpointing and config.data.sizes == (64, 32)
    assert config.evaluate.metrics == ("l1",) and config.phases["pose"].learning_rate == 1e-4
    assert config.ranking.options == {"skip": "both", "samples": 8}


def test_wrong_overrides_name_the_option(recipe):
    path = recipe("[train]\nseed = 1")
    assert problems(path, {"train.seed": "three"}) == ["--train.seed = 'three': expected an integer"]
    assert problems(path, {"train.sed": "3"}) == ["--train.sed: unknown key; did you mean train.seed?"]
    assert problems(path, {"train.seed.x": "3"}) == ["--train.seed.x: train.seed is no table"]
    assert problems(path, {"train": "3"}) == ["--train = 3: expected a table, [train]"]
    assert problems(path, {"data.sizes": "32,x"}) == ["--data.sizes = '32,x': expected a list of integers"]
    (line,) = problems(path, {"train.seed": "3\nlabel = 4"})
    assert line.endswith("expected an integer")


# Writing and comparing


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"preset": "paper", "ranking.score": "gradient", "label": 'a "b" \\ ü', "train.max_grad_norm": "1e-9"},
        {"preset": "paper", "ranking.options.skip": "both", "data.sizes": "64", "ranking.pattern": "blocks.*,head"},
    ],
)
def test_written_configurations_read_back_equal(recipe, overrides):
    config = read_config(None, overrides)
    assert read_config(recipe(write_config(config))) == config


def test_phases_keep_their_order_when_written(recipe):
    config = read_config(recipe("[phases.video]\nsteps = 400\n[phases.a]\nsteps = 400\n[phases.subject]\nsteps = 400"))
    again = read_config(recipe(write_config(config)))
    assert again == config and list(again.phases) == ["video", "a", "subject"]


def test_the_printed_recipe_is_the_default_one(recipe):
    text = recipe_of_defaults()
    assert read_config(recipe(text)) == Config()
    assert all(len(line) <= 100 for line in text.splitlines())
    for dotted in reference.dotted_keys():
        assert f"\n{dotted.rpartition('.')[2]} = " in f"\n{text}", dotted


@pytest.mark.parametrize("path", sorted([*SHIPPED.glob("recipes/*.toml"), *SHIPPED.glob("src/entprog/assets/*.toml")]))
def test_recipes_that_come_with_entprog_are_right(path):
    read_config(path, resolved=True)


def test_every_key_is_explained():
    lines = recipe_of_defaults().splitlines()
    for dotted in reference.dotted_keys():
        place = next(i for i, line in enumerate(lines) if line.startswith(f"{dotted.rpartition('.')[2]} = "))
        assert lines[place - 1].startswith("#") and len(lines[place - 1]) > 3, dotted


def test_differences_between_configurations():
    a = read_config(None)
    assert differences(a, a) == []
    b = read_config(None, {"train.seed": "1", "label": "b", "ranking.options.norm": "l2", "phases.pose.steps": "0"})
    assert differences(a, b) == [
        "label: '' -> 'b'",
        "ranking.options: {} -> (not set)",
        "phases.pose.steps: 200000 -> 0",
        "train.seed: 0 -> 1",
        "ranking.options.norm: (not set) -> 'l2'",
    ]
    turned = dataclasses.replace(a, phases=dict(reversed(a.phases.items())))
    assert differences(a, turned) == ["phases: ['subject', 'pose', 'video'] -> ['video', 'pose', 'subject']"]


def test_what_may_differ_on_resume():
    a = read_config(None)
    b = read_config(None, {"label": "b", "sample.seed": "4", "train.validation_steps": "5", "evaluate.clips": "3"})
    assert len(differences(a, b)) == 4 and differences(a, b, RESUMABLE) == []
    assert differences(a, read_config(None, {"train.threads": "1"}), RESUMABLE) == ["train.threads: 0 -> 1"]
    known = {*reference.dotted_keys(), *reference.hints(Config)}
    assert set(RESUMABLE) <= known
