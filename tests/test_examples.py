"""What documentation and examples show runs."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def blocks(language: str) -> list[str]:
    """Fenced blocks of the README in a language."""
    text = README.read_text(encoding="utf-8") if README.is_file() else ""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands() -> list[list[str]]:
    """Lines of the README's console blocks that call entprog, each as its words."""
    found = []
    for block in [*blocks("console"), *blocks("bash"), *blocks("sh")]:
        for line in block.replace("\\\n", " ").splitlines():
            line = line.strip().removeprefix("$ ")
            if line.startswith("entprog "):
                found.append(shlex.split(line, comments=True))
    return found


def test_a_foreign_loop_trains_by_stages() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "any_loop.py")],
        capture_output=True, text=True, check=False, env=ONE_THREAD,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    steps = re.findall(r"^step +(\d+)  (\d) of 6 blocks train  loss (\d\.\d+)$", done.stdout, re.MULTILINE)
    assert [int(step) for step, _, _ in steps] == list(range(12))
    assert [int(m) for _, m, _ in steps] == [2] * 3 + [3] * 3 + [4] * 3 + [6] * 3


@pytest.mark.skipif(not README.is_file(), reason="no README.md")
@pytest.mark.parametrize("words", {tuple(words[:2]): words for words in commands()}.values(), ids=lambda w: w[1])
def test_commands_of_the_readme_exist(words: list[str]) -> None:
    """The command is known, and so is each of its options that is no dotted key of a recipe."""
    done = subprocess.run(
        [sys.executable, "-m", "entprog", words[1], "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    same = [other for other in commands() if other[1] == words[1]]
    options = {word.split("=")[0] for other in same for word in other[2:] if word.startswith("--")}
    for option in options:
        assert option in done.stdout or "." in option or f"--{option[2:].replace('_', '-')}" in done.stdout, option


@pytest.mark.skipif(not README.is_file(), reason="no README.md")
@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: code.strip().splitlines()[0][:40])
def test_python_of_the_readme_runs(code: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path,
        env=ONE_THREAD,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
