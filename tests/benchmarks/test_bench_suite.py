"""Suites of the benchmark: everything wrong is reported at once, and the protocol is enforced."""

from pathlib import Path
from typing import Any

import pytest

from bench_suites import suite, tree
from benchmarks.__main__ import main
from benchmarks.runner.results_file import only_runner
from benchmarks.runner.suite_file import read_suite, suite_of, suites
from benchmarks.tables import protocol
from entprog.config.load import ConfigError


def problems(**over: Any) -> list[str]:
    with pytest.raises(ConfigError) as error:
        suite_of(tree(**over), "small")
    return error.value.problems


def test_everything_wrong_is_reported_at_once() -> None:
    found = problems(
        seeds=[0, 0], bugets=[1.0], rates=[2.0, 1.0, 0.5], arms=["full", "linaer"], exam={"clip": 3},
        tuning={"pilot": 2.0}, caps=["lots"],
    )  # fmt: skip
    text = "\n".join(found)
    for words in (
        "seeds = [0, 0]: has a value twice", "bugets: unknown key; did you mean budgets?",
        "rates = [2.0, 1.0, 0.5]: give factors in ascending order", "no arm 'linaer'; did you mean 'linear'?",
        "exam.clip: unknown key; did you mean clips?", "tuning.pilot = 2.0: must be above 0 and at most 1",
        "caps: 'lots'",
    ):  # fmt: skip
        assert words in text
    assert all("\n" not in line for line in found)


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ({"seeds": [0, 1]}, "at least 3"),
        ({"rates": [1.0, 2.0]}, "at least 3"),
        ({"exam": {"clips": 63}}, "at least 64"),
        ({"recipe": {"evaluate": {"clips": 16}}}, "at least 64"),
        ({"recipe": {"train": {"lr_scheduler": "constant"}}}, "must decay"),
        ({"recipe": {"device": "auto"}}, "name it"),
        ({"recipe": {"train": {"mixed_precision": "auto"}}}, "name it"),
        ({"exam": {"data": {"seed": 0}}}, "four sets of people that must differ"),
        ({"people_by_seed": True, "exam": {"data": {"seed": 200}}}, "four sets of people that must differ"),
        (
            {"people_by_seed": True, "tuning": {"seeds": [7, 8], "data": {"seed": 100}}},
            "100 more for each",
        ),
        ({"people_by_seed": True, "recipe": {"data": {"path": "clips"}}}, "a folder has one set of people"),
        ({"tuning": {"seeds": []}}, "tuning.seeds = []: give at least one"),
        ({"tuning": {"seeds": [4, 4]}}, "none of them twice"),
        ({"exam": {"data": {"seed": 3, "holdout": 31}}}, "exam.clips = 64 need more"),
        ({"reference": "paper"}, "must be one of arms"),
        ({"recipe": {"phases": 3}}, "needs phases"),
        ({"recipe": {"phases": {"pose": {"steps": "x"}}}}, "an integer"),
        ({"recipe": {"phases": {"pose": {"steps": 0}, "video": {"steps": 0}}}}, "no phase has any steps"),
        ({"recipe": {"train": 3}}, "must decay"),
        ({"longer": {"paper": [2.0]}}, "longer.paper: must be one of arms"),
        ({"longer": {"full": 2.0}}, "longer.full = 2.0: expected a list of numbers"),
        ({"longer": {"full": [1.0]}}, "that budgets does not have"),
        ({"define": {"linear": {"lr_factor": 0}}}, "lr_factor = 0: expected a number above 0"),
        ({"define": {"linear": {"shares": {"pose": 0.5, "video": 0.4}}}}, "shares = "),
        ({"define": {"linear": {"schedule": {"nam": "x"}}}}, "arm linear: schedule.nam: unknown key"),
        ({"define": {"linear": {"method": "linear"}}}, "arm linear: method"),
    ],
)
def test_the_protocol_is_enforced(over: dict[str, Any], words: str) -> None:
    assert any(words in line for line in problems(**over)), problems(**over)


def test_a_smoke_test_may_do_without() -> None:
    small = suite(smoke=True, seeds=[0], rates=[1.0], exam={"clips": 4}, recipe={"evaluate": {"clips": 4}})
    assert "no number here means anything" in protocol.protocol_lines(small)[0]


def test_an_arm_is_laid_over_the_recipe() -> None:
    small = suite(define={"linear": {"phases": {"*": {"batch": 4}, "video": {"frames": 2}}}})
    config = small.config("linear", steps={"pose": 7, "video": 5}, factor=0.5, seed=9)
    assert config.method == "progressive" and config.schedule.options == {"stages": 2}
    assert [(p.steps, p.batch, p.frames) for p in config.phases.values()] == [(7, 4, 1), (5, 4, 2)]
    assert [p.learning_rate for p in config.phases.values()] == [5e-4, 1e-3]
    assert config.train.seed == 9 and config.train.validation_steps == 3 and config.evaluate.clips == 0
    assert config.data.seed == 0 and small.config("linear", tuning=True).data.seed == 1
    assert small.exam_data().seed == 3 and small.exam_data(tuning=True).seed == 2
    full = small.config("full")
    assert full.method == "full" and full.phases["pose"].batch == 2


@pytest.mark.parametrize("name", suites())
def test_shipped_suites_are_sound(name: str) -> None:
    found = read_suite(name)
    assert found.settings.about and found.settings.reference in found.settings.arms
    assert protocol.protocol_lines(found)


def test_a_suite_like_another(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text('like = "smoke"\narms = ["full"]\n[recipe.phases.pose]\nsteps = 3\n')
    own, smoke = read_suite(str(tmp_path / "own.toml")), read_suite("smoke")
    assert (own.name, own.settings.arms, own.steps) == ("own", ("full",), {**smoke.steps, "pose": 3})
    assert own.exam == smoke.exam and own.recipe["data"] == smoke.recipe["data"]
    (tmp_path / "long.toml").write_text(f'like = "{tmp_path / "own.toml"}"\nlonger = {{ full = [4.0] }}\n')
    (tmp_path / "other.toml").write_text(f'like = "{tmp_path / "long.toml"}"\narms = ["lora-16"]\nlonger = {{}}\n'
                                         'reference = "lora-16"\n')  # fmt: skip
    assert read_suite(str(tmp_path / "long.toml")).budgets("full")[-1] == 4.0
    assert read_suite(str(tmp_path / "other.toml")).settings.longer == {}
    (tmp_path / "round.toml").write_text(f'like = "{tmp_path / "round.toml"}"\n')
    for name, words in ((str(tmp_path / "round.toml"), "leads back to itself"), ("smoke ", "did you mean smoke?")):
        with pytest.raises(ConfigError, match=words):
            read_suite(name)


def test_the_command_says_what_is_wrong(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for argv, words in (
        (["smok"], "did you mean smoke?"),
        ([str(tmp_path / "none.toml")], "no such file"),
        (["smoke", "--arms", "ful"], "did you mean full?"),
        (["smoke", "--seeds", "7"], "the suite's are 0"),
        (["smoke", "--minutes", "-1"], "at least 0"),
        (["smoke", "--minutes", "soon"], "Invalid value for --minutes"),
        (["smoke", "--only-report", "--results", str(tmp_path)], "smoke: no records in"),
        ([], "SUITE"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(argv)
        said = capsys.readouterr().err
        assert stopped.value.code == 2 and words in said and said.count("\n") == 1


def test_help_shows_how_to_call_it(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    text = capsys.readouterr().out
    assert "python -m benchmarks nano --minutes 50" in text and "--only-report" in text


def test_a_suite_that_another_process_runs_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    results, runs = tmp_path / "results", tmp_path / "runs"
    with only_runner("smoke", results, runs / "smoke"), pytest.raises(SystemExit) as stopped:
        main(["smoke", "--results", str(results), "--runs", str(runs)])
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and "smoke: another process runs this suite" in said and said.count("\n") == 1
