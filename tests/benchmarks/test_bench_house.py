"""The benchmark's own house: outside the package, its rooms in order, no circle, each file name once."""

import ast
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOUSE = ROOT / "benchmarks"

FLOORS = ("studies", "__main__", "command", "tables", "runner", "rivals")
"""From the top floor down: each part imports itself and what stands below it."""


def imported(file: Path) -> set[str]:
    """The modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{file}: relative import"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def name_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts)


FILES = sorted(file for file in HOUSE.rglob("*.py") if file.name != "__init__.py")


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_arrows_point_down(file: Path) -> None:
    part = file.relative_to(HOUSE).with_suffix("").parts[0]
    below = FLOORS[FLOORS.index(part) :]
    ours = {name for name in imported(file) if name.startswith("benchmarks.")}
    assert not [name for name in ours if name.split(".")[1] not in below]


def test_no_module_imports_itself_in_a_circle() -> None:
    names = {name_of(file) for file in FILES}
    arrows = {name_of(file): imported(file) & names for file in FILES}
    while free := [name for name, needed in arrows.items() if not needed & arrows.keys()]:
        for name in free:
            del arrows[name]
    assert not arrows, f"a circle among {sorted(arrows)}"


def test_file_names_are_unique() -> None:
    """Also against the package's."""
    places = [*FILES, *(ROOT / "src").rglob("*.py")]
    counts = Counter(file.name for file in places if file.name not in ("__init__.py", "__main__.py"))
    ours = {file.name for file in FILES}
    assert not [name for name, count in counts.items() if count > 1 and name in ours]


def test_files_are_short() -> None:
    assert not [file for file in FILES if len(file.read_text(encoding="utf-8").splitlines()) > 400]


def test_the_package_knows_nothing_of_the_benchmark() -> None:
    for file in (ROOT / "src").rglob("*.py"):
        assert not [name for name in imported(file) if name.split(".")[0] == "benchmarks"], file


def test_the_wheel_holds_the_package_alone() -> None:
    setuptools = pytest.importorskip("setuptools")
    packages = setuptools.find_packages(where=str(ROOT / "src"))
    assert "entprog" in packages
    assert all(name.split(".")[0] == "entprog" for name in packages)
    assert 'where = ["src"]' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
