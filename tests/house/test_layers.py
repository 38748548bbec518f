"""Who may import whom (DESIGN: every folder's arrows point down, none up), and where the tests of each folder are."""

import ast
import sys
from pathlib import Path

import pytest

import entprog

ROOT = Path(entprog.__file__).parent
TESTS = Path(__file__).parents[1]

FLOORS = (
    "__main__",
    "cli",
    "studio",
    "plan",
    "demo",
    "rank",
    "train",
    "evaluate",
    "sample",
    "export",
    "report",
    "integrations",
    "tasks",
    "prepare",
    "data",
    "synthetic",
    "metrics",
    "poses",
    "codecs",
    "diffusion",
    "methods",
    "schedules",
    "scores",
    "optimizers",
    "savings",
    "config",
    "toml",
    "profiling",
    "plugins",
    "nets",
    "files",
    "locks",
    "core",
)
"""The layers from the top down: each part imports itself and parts below it, nothing else of ours."""

OUTSIDE: dict[str, set[str]] = {
    "core": {"torch"},
    "scores": {"torch"},
    "schedules": {"torch"},
    "methods": {"torch", "peft"},
    "synthetic": {"numpy"},
    "plugins": set(),
    "config": {"pydantic", "tomli_w"},
    "toml": {"pydantic", "pydantic_core"},
    "report": set(),
}
"""Packages of others that a part may import beside the standard library."""


def imports(part: str) -> list[tuple[str, str]]:
    """(file, full module name) of everything that a folder or file of the package imports, anywhere in it."""
    place = ROOT / part
    files = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    found = []
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{file.name}: relative import"
                module = node.module or ""
                names = [f"{module}.{alias.name}" for alias in node.names] if module == "entprog" else [module]
            found += [(str(file.relative_to(ROOT)), name) for name in names]
    return found


@pytest.mark.parametrize("part", FLOORS)
def test_arrows_point_down(part: str) -> None:
    below = set(FLOORS[FLOORS.index(part) :])
    wrong = [
        f"{file} imports {name}"
        for file, name in imports(part)
        if name.startswith("entprog.") and name.split(".")[1] not in below
    ]
    assert not wrong, wrong


@pytest.mark.parametrize("part", OUTSIDE)
def test_foreign_packages_are_few(part: str) -> None:
    allowed = OUTSIDE[part] | {"entprog"} | set(sys.stdlib_module_names)
    wrong = [f"{file} imports {name}" for file, name in imports(part) if name.split(".")[0] not in allowed]
    assert not wrong, wrong


def test_every_part_has_a_floor() -> None:
    folders = {path.name for path in ROOT.iterdir() if (path / "__init__.py").is_file()}
    files = {path.stem for path in ROOT.glob("*.py")} - {"__init__"}
    assert folders | files == set(FLOORS)
    assert len(list(ROOT.glob("*.*"))) <= 6


def test_nobody_pickles() -> None:
    for path in [p.name for p in ROOT.iterdir() if p.is_dir() or p.suffix == ".py"]:
        for file, name in imports(path.removesuffix(".py")):
            assert name.split(".")[0] not in ("pickle", "dill", "joblib"), file
    for file in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) not in {("torch", "load"), ("torch", "save")}, file.name


def test_tests_mirror_the_package() -> None:
    """tests/<room>/ is for entprog/<room>; `house` for the repository as a whole, `benchmarks` for that folder."""
    tests = [file.relative_to(TESTS) for file in TESTS.rglob("test_*.py")]
    assert {file.parts[0] for file in tests} <= {*FLOORS, "house", "benchmarks"}
    rooms = {file.parent for file in tests} - {Path("house"), Path("benchmarks")}
    assert all(room != Path() and (ROOT / room).is_dir() for room in rooms), rooms
    assert len({file.name for file in tests}) == len(tests), "pytest imports test files by name"
