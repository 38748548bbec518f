"""The command line: help that teaches, errors in one line each, exit codes."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from entprog import plugins
from entprog.cli.app import app, main
from entprog.cli.errors import plain_errors
from entprog.cli.printed_recipe import recipe
from entprog.config.load import read_config
from entprog.config.schema import Config
from fake_run import make_run

COMMANDS = ("demo", "prepare", "plan", "rank", "train", "sample", "evaluate", "export", "report", "studio")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty working folder, and a terminal of 80 columns."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("ENTPROG_DEBUG", raising=False)
    return tmp_path


def failed(capsys, *argv: str) -> list[str]:
    """Lines on stderr of a command that must fail as the user's mistake."""
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2
    told = capsys.readouterr()
    assert told.out == ""
    lines = told.err.splitlines()
    assert lines and all(line.startswith("entprog: ") for line in lines)
    return [line.removeprefix("entprog: ") for line in lines]


def helped(capsys, *argv: str) -> str:
    main([*argv, "--help"])
    return capsys.readouterr().out


def test_help_shows_the_way_through(capsys):
    told = helped(capsys)
    places = [told.index(f"│ {command} ") for command in COMMANDS]
    assert places == sorted(places)
    assert "entprog demo" in told and "entprog train --keys" in told
    main([])
    assert capsys.readouterr().out == told


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_has_an_example_and_explains_every_option(capsys, command):
    told = helped(capsys, command)
    assert f"    entprog {command} " in told
    assert max(map(len, told.splitlines())) <= 80
    for argument in app[command].assemble_argument_collection(parse_docstring=True):
        assert argument.parameter.help, argument.name


def test_help_of_train_explains_recipes_and_overrides(capsys):
    told = helped(capsys, "train")
    for words in ("TOML", "--train.seed 3", "entprog train --keys", "--resume-from-checkpoint latest"):
        assert words in told


def test_help_names_every_method_and_preset(capsys):
    told = " ".join(helped(capsys, "train").replace("│", " ").split())
    for name in (*plugins.names("method"), "entprog", "paper"):
        assert f'"{name}"' in told, name


def test_keys_name_every_plugin(capsys):
    main(["train", "--keys"])
    told = capsys.readouterr().out
    for kind in ("method", "score", "schedule", "optimizer", "metric", "task"):
        wanted = f'{", ".join(plugins.names(kind))}, or package.module:Class (plugin kind "{kind}")'
        assert wanted in " ".join(told.replace("\n#", " ").split()), kind


def test_keys_are_a_recipe(capsys, tmp_path):
    main(["train", "--keys"])
    told = capsys.readouterr().out
    assert recipe() in told
    Path("recipe.toml").write_text(told)
    assert read_config("recipe.toml") == Config()


def test_version(capsys):
    main(["--version"])
    assert capsys.readouterr().out.startswith("entprog ")


def test_help_needs_neither_torch_nor_diffusers():
    code = (
        "import sys\nfrom entprog.cli.app import main\nmain(['--help'])\n"
        "main(['train', '--help'])\nmain(['train', '--keys'])\n"
        "heavy = {'torch', 'numpy', 'diffusers', 'av', 'PIL'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    source = str(Path(sys.modules["entprog"].__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": source}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_module_is_the_command(capsys):
    done = subprocess.run(
        [sys.executable, "-m", "entprog", "train", "nowhere.toml"],
        env={**os.environ, "PYTHONPATH": str(Path(sys.modules["entprog"].__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "entprog: nowhere.toml: no such file\n"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["trian"], '"train"'),
        (["train"], "--keys"),
        (["train", "r.toml", "extra"], "extra"),
        (["train", "r.toml", "--resume-from-checkpont", "latest"], "--resume-from-checkpoint"),
        (["train", "r.toml", "--seed", "3"], "--train.seed"),
        (["train", "r.toml", "--learning-rate", "3"], "--phases.NAME.learning_rate"),
        (["train", "r.toml", "--out-dir", "x"], "--output-dir"),
        (["train", "r.toml", "--train.sed", "3"], "did you mean train.seed?"),
        (["train", "r.toml", "--method", "ful"], "did you mean 'full'?"),
        (["train", "r.toml", "--set", "train.seed"], "--train.seed = '': expected an integer"),
        (["rank", "r.toml", "--train.seed=x"], "--train.seed = 'x': expected an integer"),
        (["rank"], "RECIPE"),
        (["prepare", "a"], "INPUTS"),
        (["prepare", "a", "b", "--people", "larges"], '"largest"'),
        (["prepare", "a", "b", "--sizes", "32,big"], "--sizes 'big'"),
        (["prepare", "nowhere", "out"], "nowhere"),
        (["sample", "runs/a", "--reference", "x.png"], "--drive"),
        (["sample", "runs/a", "--reference", "x", "--drive", "y", "--out", "z", "--seed", "x"], "--seed"),
        (
            ["sample", "runs/a", "--reference", "x", "--drive", "y", "--out", "z", "--num-inference-steps", "0"],
            "--num-inference-steps 0: must be at least 1",
        ),
        (["sample", "runs/a", "--reference", "x", "--drive", "y", "--out", "z"], "runs/a"),
        (["evaluate", "runs/a"], "runs/a"),
        (["rank", "r.toml", "--phase", "pos"], "subject, pose, video"),
        (["evaluate", "runs/a", "--clip", "3"], "--clips"),
        (["export", "runs/a", "out", "--as", "diffuser"], "did you mean diffusers?"),
        (["export", "runs/a", "out", "--as", "lora"], "runs/a"),
        (["export", "runs/a", "out"], "--as"),
        (["report"], "RUNS"),
        (["report", "nowhere"], "nowhere"),
        (["demo", "--ot", "x"], "--out"),
    ],
)
def test_mistakes_are_told_with_what_was_meant(capsys, argv, words):
    Path("r.toml").write_text("[train]\nseed = 1\n")
    assert any(words in line for line in failed(capsys, *argv))


def test_all_problems_of_a_recipe_one_line_each(capsys):
    Path("r.toml").write_text("[train]\nsed = 1\nthreads = -1\n")
    assert failed(capsys, "train", "r.toml", "--train.seed", "x", "--train.gradient_checkpointing") == [
        "r.toml: train.sed: unknown key; did you mean train.seed?",
        "r.toml: train.threads = -1: must be at least 0",
        "--train.seed = 'x': expected an integer",
    ]


def test_overrides_in_all_their_forms(capsys):
    Path("r.toml").write_text("")
    written = [
        "--train.seed=-1",
        "--data.sizes",
        "[32, x]",
        "--set",
        "sample.seed=-2",
        "--train.gradient-checkpointing",
    ]
    told = failed(capsys, "train", "r.toml", *written, "--label", "a.b", "--train.ema_decay", "-1")
    assert [line.split(" ")[0] for line in sorted(told)] == [
        "--data.sizes", "--sample.seed", "--train.ema_decay", "--train.seed",
    ]  # fmt: skip


def test_debug_shows_where_it_came_from(monkeypatch):
    monkeypatch.setenv("ENTPROG_DEBUG", "1")
    with pytest.raises(ValueError, match="no such file"):
        main(["train", "nowhere.toml"])


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError("a rendering worker died"), "a rendering worker died"),
        (FileExistsError(errno.EEXIST, "File exists", "runs/a"), "runs/a: File exists"),
        (PermissionError(errno.EACCES, "Permission denied", "secret"), "secret: Permission denied"),
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/a"),
            "runs/a: No space left on device; free some space and run it again",
        ),
        (OSError("cannot decode"), "cannot decode"),
        (ValueError("one\n\ntwo"), "one\nentprog: two"),
        (ValueError(), "ValueError"),
    ],
)
def test_errors_that_the_user_can_mend(capsys, error, line):
    with pytest.raises(SystemExit) as stopped, plain_errors():
        raise error
    assert stopped.value.code == 2 and capsys.readouterr().err == f"entprog: {line}\n"


def test_interrupted(capsys):
    with pytest.raises(SystemExit) as stopped, plain_errors():
        raise KeyboardInterrupt
    assert stopped.value.code == 130 and capsys.readouterr().err == "entprog: stopped\n"


def test_mistakes_of_ours_keep_their_traceback():
    with pytest.raises(TypeError), plain_errors():
        raise TypeError("ours")


def test_warnings_about_settings_are_one_line(capsys):
    Path("r.toml").write_text("[train]\nlr_warmup_steps = 3\n")
    with plain_errors():
        read_config("r.toml")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("entprog: warning: r.toml: train.lr_warmup_steps = 3: no effect")


def test_report_of_runs(capsys, tmp_path):
    run = make_run(tmp_path / "run")
    main(["report", str(run or tmp_path / "run"), "--out", "page.html"])
    assert capsys.readouterr().out == "page.html\n"
    assert Path("page.html").read_text().startswith("<!")


def test_plugins_beside_the_recipe_are_found(capsys):
    Path("my_plugin_beside.py").write_text(
        "from dataclasses import dataclass\n@dataclass(frozen=True)\n"
        "class Mine:\n    width: int = 1\n    score: int = 1\n"
    )
    Path("r.toml").write_text('[ranking]\nscore = "my_plugin_beside:Mine"\n[ranking.options]\nwidht = 2\n')
    (line,) = failed(capsys, "train", "r.toml")
    assert "did you mean 'width'" in line
    sys.modules.pop("my_plugin_beside")


def test_an_existing_run_is_never_overwritten(capsys):
    Path("r.toml").write_text('output_dir = "run"\n')
    Path("run").mkdir()
    Path("run/run.json").write_text(json.dumps({"status": "finished"}))
    (line,) = failed(capsys, "train", "r.toml")
    assert "run" in line and "exists" in line
    assert [path.name for path in Path("run").iterdir()] == ["run.json"]
