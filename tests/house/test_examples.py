"""What examples show runs, with the method's lines and without; tests/house/test_docs.py runs README and docs."""

import importlib.util
import re
from pathlib import Path

import pytest

import processes
from checkout import ONE_THREAD, ROOT

EXAMPLES = {
    "any_loop": ("diffusers",),
    "accelerate_loop": ("diffusers", "accelerate"),
    "diffusers_video": ("diffusers", "accelerate", "peft"),
    "lightning_loop": ("diffusers", "lightning"),
    "transformers_trainer": ("diffusers", "transformers", "accelerate"),
}
"""Example -> the packages that it needs."""

MARK = re.compile(r"  # \+(?: was: (?P<was>.*))?$")
"""The end of a line that the method adds, or changes from what it was."""


def text(name: str) -> str:
    return (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8")


def needs(name: str) -> None:
    for package in EXAMPLES[name]:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


def run(code: Path, folder: Path) -> str:
    """Its output, errors included in the assertion."""
    done = processes.run([code], env=ONE_THREAD, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def added(name: str) -> int:
    """Lines that the method adds to the example or changes in it."""
    return sum(MARK.search(line) is not None for line in text(name).splitlines())


def without_the_method(name: str) -> str:
    """The loop as it was: marked lines removed, changed ones back, `with` blocks of the method's own opened."""
    lines = []
    for line in text(name).splitlines():
        mark = MARK.search(line)
        indent = " " * (len(line) - len(line.lstrip()))
        if mark is None:
            lines.append(line)
        elif mark["was"]:
            lines.append(indent + mark["was"])
        elif line.lstrip().startswith("with method.step("):
            lines.append(f"{indent}if True:")
    return "\n".join(lines) + "\n"


def test_every_example_is_tested() -> None:
    assert {file.stem for file in (ROOT / "examples").glob("*.py")} == set(EXAMPLES)


def test_a_plain_loop_trains_by_stages(tmp_path: Path) -> None:
    shown = run(ROOT / "examples" / "any_loop.py", tmp_path)
    steps = re.findall(r"^step +(\d+)  (\d) of 6 blocks train  loss (\d\.\d+)$", shown, re.MULTILINE)
    assert [int(step) for step, _, _ in steps] == list(range(12))
    assert [int(m) for _, m, _ in steps] == [2] * 3 + [3] * 3 + [4] * 3 + [6] * 3


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name != "any_loop"])
def test_examples_run_to_the_end(name: str, tmp_path: Path) -> None:
    needs(name)
    shown = run(ROOT / "examples" / f"{name}.py", tmp_path)
    assert re.search(r"^entprog: method '\w+', \d+ blocks, 8 steps", shown, re.MULTILINE)
    if name == "transformers_trainer":
        assert len(re.findall(r"'loss'", shown)) >= 8
    else:
        assert re.findall(r"^step (\d) of 8  loss \d\.\d+$", shown, re.MULTILINE)[-1] == "8"


@pytest.mark.parametrize("name", EXAMPLES)
def test_marked_lines_are_all_that_is_added(name: str, tmp_path: Path) -> None:
    """Without them the loop knows nothing of entprog, and runs; docs/loops.md has their count."""
    plain = without_the_method(name)
    assert "entprog" not in plain.split('"""', 2)[2] and "method" not in plain.split('"""', 2)[2]
    page = (ROOT / "docs" / "loops.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if f"(../examples/{name}.py)" in line and line.startswith("|"))
    assert row.split("|")[2].strip() == str(added(name))
    needs(name)
    (tmp_path / "plain.py").write_text(plain, encoding="utf-8")
    run(tmp_path / "plain.py", tmp_path)
