"""README and docs: every example runs or is parsed, every link and picture exists, and the front page is short."""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.run import get_args_parser as torchrun_options

import processes
from benchmarks.__main__ import app as bench_app
from checkout import ONE_THREAD, ROOT
from entprog.cli.app import app, main
from entprog.cli.overrides import OVERRIDING, with_overrides_set
from entprog.config.load import read_config
from entprog.tasks.pretrained import families
from example_models import Example, write_inputs
from tiny_windows import write_windows

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LOG = ROOT / "docs" / "lab.md"
"""The dated log keeps the commands and names of its day."""
LIVING = [page for page in PAGES if page != LOG]

BANNED = (
    r"stands? before the blocks", r"what stands", r"learn(t|ed) by heart", r"\bbeneath\b", r"\bin the place of\b",
    r"\bRoom\b", r"\bAverages\b", r"\bSetting\b", r"\btold\b", r"\bmine\b", r"an arm whose point",
)  # fmt: skip
"""Wordings that the project replaced by terms of the field (docs/index.md has the terms)."""


def fenced(page: Path, *languages: str) -> list[str]:
    """Fenced code of a page in one of the languages, in order."""
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```(?:{'|'.join(languages)})\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[list[str]]:
    """Commands of a page's console blocks, each as its words, without comments."""
    lines = [line for block in fenced(page, "console") for line in block.replace("\\\n", " ").splitlines()]
    split = [shlex.split(line.strip().removeprefix("$ "), comments=True) for line in lines]
    return [words for words in split if words]


ALL_COMMANDS = [(page, words) for page in LIVING for words in commands(page)]


def named(value: object) -> str:
    return value.name if isinstance(value, Path) else " ".join(value)[:60] if isinstance(value, list) else str(value)


def prose(page: Path) -> str:
    """A page without fenced code and without generated tables."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"<!-- table .*?<!-- end -->", "", text, flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ +(.+)$", prose(page), re.MULTILINE)
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", head).replace("`", "").lower().strip() for head in heads]
    return {re.sub(r"[^\w\- ]", "", head).replace(" ", "-") for head in plain}


def words(text: str) -> list[str]:
    return [word for word in text.split() if re.search(r"\w", word)]


def test_the_front_page_is_short() -> None:
    """At most 1000 words, code and tables included."""
    assert len(words((ROOT / "README.md").read_text(encoding="utf-8"))) <= 1000


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_and_pictures_exist(page: Path) -> None:
    missing = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            missing.append(target)
    assert not missing


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert not [
        page.name for page in (ROOT / "docs").glob("*.md") if page.name != "index.md" and f"({page.name})" not in index
    ]


@pytest.mark.parametrize("page", LIVING, ids=named)
def test_terms_are_the_field_s_own(page: Path) -> None:
    found = [pattern for pattern in BANNED if re.search(pattern, prose(page))]
    assert not found


@pytest.mark.parametrize(("page", "command"), ALL_COMMANDS, ids=named)
def test_commands_are_those_of_the_program(
    page: Path, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command and its options exist, its keys are a recipe's, and the recipes that it names are there."""
    write_files(page, tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    if command[0] == "torchrun":
        launcher, command = command[: command.index("-m")], command[command.index("-m") + 1 :]
        torchrun_options().parse_args([*launcher[1:], "script"])
    if command[0] == "entprog":
        tokens = command[1:]
        app.parse_args(with_overrides_set(tokens), print_error=False, exit_on_error=False)
        recipes = [token for token in tokens if token.startswith("recipes/")]
        assert all((ROOT / recipe).is_file() for recipe in recipes)
        if tokens[0] in OVERRIDING and recipes:
            rewritten = with_overrides_set(tokens)
            over = [tuple(t.removeprefix("--set=").split("=", 1)) for t in rewritten if t.startswith("--set=")]
            read_config(ROOT / recipes[0], over, planned=True)  # planned: the data set need not be there
    elif command[:3] == ["python", "-m", "benchmarks"]:
        bench_app.parse_args(command[3:], print_error=False, exit_on_error=False)
        assert (ROOT / "benchmarks" / "suites" / f"{command[3]}.toml").is_file()
    elif command[:2] == ["python", "-m"] and command[2].startswith("benchmarks."):
        assert (ROOT / (command[2].replace(".", "/") + ".py")).is_file()
    elif command[0] == "make":
        assert re.search(rf"^{command[1]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    else:
        assert command[0] in {"pip", "python"}, f"{page.name}: nothing checks {shlex.join(command)}"
        assert command[0] != "python" or (ROOT / command[1]).is_file()


def write_files(page: Path, folder: Path) -> set[str]:
    """The files that a page shows: blocks that begin with `# name`."""
    names = set()
    for code in fenced(page, "python", "toml"):
        if name := re.match(r"# (\w+\.(?:py|toml))\n", code):
            (folder / name[1]).write_text(code, encoding="utf-8")
            names.add(name[1])
    return names


def runs(arguments: list[str], folder: Path) -> None:
    done = processes.run(arguments, env=ONE_THREAD, cwd=folder)
    assert done.returncode == 0, f"{arguments[-1]}\n{done.stderr}"


def named_in_a_command(page: Path, file: str) -> bool:
    """Whether a command of the page uses a file that it shows, by its name or as a plugin's module."""
    stem = file.removesuffix(".py")
    shown = "".join(fenced(page, "toml"))
    return f"{stem}:" in shown or any(word.startswith((file, f"{stem}:")) for words in commands(page) for word in words)


def pretrained_recipes(page: Path) -> dict[str, str]:
    """The recipes for pretrained models that a page shows, by file name."""
    found = {}
    for text in fenced(page, "toml"):
        name = re.match(r"# (\w+\.toml)\n", text)
        if name and tomllib.loads(text).get("task") == "pretrained":
            found[name[1]] = text
    return found


PRETRAINED = [
    pytest.param(page, name, marks=[pytest.mark.slow] if name in ("wan.toml", "cogvideox.toml", "sana.toml") else [])
    for page in LIVING
    for name in pretrained_recipes(page)
]


@pytest.mark.parametrize("page", [page for page in PAGES if fenced(page, "python")], ids=named)
def test_python_runs(page: Path, tmp_path: Path) -> None:
    """Blocks run in order in one folder; a block that begins with `# name` is that file; commands that name it run."""
    files = write_files(page, tmp_path) - pretrained_recipes(page).keys()
    for code in fenced(page, "python"):
        if not any(code.startswith(f"# {name}\n") and named_in_a_command(page, name) for name in files):
            runs(["-c", code], tmp_path)
    for words in commands(page):
        if files & set(words):
            runs(["-m", *words], tmp_path)


@pytest.mark.parametrize(("page", "name"), PRETRAINED, ids=named)
def test_examples_of_pretrained_models_run(
    page: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recipe and commands run in order, on a tiny pipeline in the place of the model (tests/example_models.py).

    The commands of a recipe are those that name it, its data or its run. Where none prepares the data, it is random.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    text = pretrained_recipes(page)[name]
    recipe: dict[str, Any] = tomllib.loads(text)
    data, run = recipe["data"]["path"], recipe["output_dir"]
    own = [words for words in commands(page) if {name, data, run} & set(words)]
    example = Example.of(text, recipe["model"]["pretrained"], own, tmp_path / "model")
    write_files(page, tmp_path)
    (tmp_path / name).write_text(example.recipe, encoding="utf-8")
    write_inputs(tmp_path)
    if not any(words[1] == "prepare" for words in own):
        phase = tomllib.loads(example.recipe)["phases"]["video"]
        height, width = map(int, phase["resolution"].split("x"))
        # A family of the page's own is found by its class where its file lies in the folder of families.
        monkeypatch.setattr(families, "__path__", [*families.__path__, str(tmp_path)])
        write_windows(tmp_path / data, example.model, frames=phase["frames"], sides=(height, width))
    for words in example.commands:
        main(words[1:])
    assert (tmp_path / run / "final" / "delta.safetensors").is_file()


def test_the_results_of_the_front_page_are_those_of_the_benchmark() -> None:
    """The README's rows are in the table that docs/benchmarks.md opens with, which another test holds to records."""
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    whole = page.split("<!-- table creatures-at-length: in short -->")[1].split("<!-- end -->")[0]
    front = re.search(
        r"^\| training \|.*?\n\n", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    assert front

    def cells(text: str) -> list[list[str]]:
        return [[cell.strip(" *") for cell in line.strip("| ").split("|")] for line in text.strip().splitlines()]

    (head, _, *rows), (shown, _, *quoted) = cells(whole), cells(front[0])
    known = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert len(quoted) >= 4 and {"time", "peak", "PSNR, dB", "SSIM", "mean loss, %"} <= set(shown)
    for row in quoted:
        assert dict(zip(shown, row, strict=True)) == {name: known[row[0]][name] for name in shown}, row[0]
