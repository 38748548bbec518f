"""Plugins: listed without import, loaded by name, options checked."""

import subprocess
import sys
import textwrap
from dataclasses import FrozenInstanceError

import pytest

import entprog.scores
from entprog.plugins import describe, find, load, names, problems

KINDS = ("score", "schedule", "method", "metric", "task")


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of the user's own with a plugin of every kind of option."""
    (tmp_path / "mine.py").write_text(
        textwrap.dedent('''
            from dataclasses import dataclass, field
            from pathlib import Path
            from typing import Literal

            __all__ = ["Mine"]

            @dataclass(frozen=True)
            class Mine:
                """Mine alone.

                More.
                """

                size: int
                rate: float = 0.5
                flag: bool = False
                text: str | None = None
                mode: Literal["fast", "slow"] = "fast"
                pair: tuple[int, float] = (1, 2.0)
                many: tuple[str, ...] = ()
                either: int | float = 1
                where: Path = Path(".")
                listed: list[int] = field(default_factory=list)

            class NoDataclass:
                pass
        ''')
    )
    (tmp_path / "broken.py").write_text("import there_is_no_such_module\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "mine:Mine"
    sys.modules.pop("mine", None)


def test_names_lists_without_importing():
    code = (
        "import sys; from entprog.plugins import names; assert 'cei' in names('score'), names('score');"
        "assert not [m for m in sys.modules if m.startswith('entprog.scores') or m == 'torch']"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert {"cei", "gradient", "influence", "order", "skip_loss"} <= set(names("score"))
    for kind in KINDS:
        assert not any(name.startswith("_") for name in names(kind))
    with pytest.raises(ValueError, match="did you mean 'score'"):
        names("scores")


@pytest.mark.parametrize("name", names("score"))
def test_every_score_keeps_the_contract(name):
    plugin = load("score", name)
    about = describe("score", name)
    assert about.summary and all(not option.required for option in about.options)
    assert {o.name: o.default for o in about.options} == {o.name: getattr(plugin, o.name) for o in about.options}
    with pytest.raises(FrozenInstanceError):
        setattr(plugin, about.options[0].name if about.options else "anything", None)
    assert plugin == load("score", name)


def test_a_new_file_is_a_new_name(tmp_path, monkeypatch):
    (tmp_path / "shortest.py").write_text(
        "from dataclasses import dataclass\n__all__ = ['Shortest']\n@dataclass(frozen=True)\nclass Shortest: ...\n"
    )
    (tmp_path / "_helper.py").write_text("")
    folders = [*entprog.scores.__path__, str(tmp_path)]
    monkeypatch.setattr(entprog.scores, "__path__", folders)
    monkeypatch.setattr(entprog.scores.__spec__, "submodule_search_locations", folders)
    assert "shortest" in names("score") and "_helper" not in names("score")
    assert type(load("score", "shortest")).__name__ == "Shortest"
    sys.modules.pop("entprog.scores.shortest", None)


def test_own_class_and_conversions(own):
    built = load(
        "score",
        own,
        size=3,
        rate=1,
        pair=[4, 5],
        many=["a", "b"],
        either=2,
        where="x/y",
        listed=[1],
        text="t",
    )
    assert (built.rate, type(built.rate)) == (1.0, float)
    assert built.pair == (4, 5.0) and built.many == ("a", "b") and built.where.name == "y"
    assert type(built.either) is int and built.text == "t"
    assert load("score", own, size=1, text=None).text is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(size="3"), "size = '3' is a str; it must be int"),
        (dict(size=True), "size = True is a bool; it must be int"),
        (dict(size=1, rate="1"), "must be float"),
        (dict(size=1, flag=1), "must be bool"),
        (dict(size=1, text=4), r"must be str \| None"),
        (dict(size=1, mode="fats"), r"must be 'fast' \| 'slow'"),
        (dict(size=1, pair=[1]), r"must be tuple\[int, float\]"),
        (dict(size=1, many="abc"), r"must be tuple\[str, \.\.\.\]"),
        (dict(size=1, listed=[1.5]), r"must be list\[int\]"),
        (dict(size=1, rtae=1.0), "no option 'rtae'; did you mean 'rate'"),
        (dict(), r"needs the option 'size' \(int\)"),
    ],
)
def test_wrong_options_are_told(own, options, message):
    with pytest.raises(ValueError, match=message):
        load("score", own, **options)
    assert len(problems("score", own, options)) == 1
    assert len(problems("score", own, {**options, "zzz": 1})) == 2


def test_wrong_names_are_told(own):
    with pytest.raises(ValueError, match=r"no score 'ceii'; did you mean 'cei'\? \(choose from cei, gradient"):
        load("score", "ceii")
    with pytest.raises(ValueError, match="no module 'mien'"):
        load("score", "mien:Mine")
    with pytest.raises(ValueError, match="mine has no 'Mina'; did you mean 'Mine'"):
        load("score", "mine:Mina")
    with pytest.raises(ValueError, match="not a dataclass"):
        load("score", "mine:NoDataclass")
    with pytest.raises(ModuleNotFoundError, match="there_is_no_such_module"):
        load("score", "broken:Broken")
    assert problems("score", "ceii", {}) and not problems("score", "cei", {"samples": 4})
    assert "stable = 7" in problems("score", "cei", {"stable": 7.0})[0]


def test_describe_tells_options_and_summary(own):
    about = describe("score", own)
    assert about.summary == "Mine alone." and find("score", own).__name__ == "Mine"
    assert [(o.name, o.type, o.default, o.required) for o in about.options[:4]] == [
        ("size", "int", None, True),
        ("rate", "float", 0.5, False),
        ("flag", "bool", False, False),
        ("text", "str | None", None, False),
    ]
    assert about.options[-1].default == []
    assert next(o for o in describe("score", "cei").options if o.name == "skip").type == (
        "'denoising' | 'reference' | 'both'"
    )
