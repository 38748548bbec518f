"""docs/paper.md: the paper's memory and speed columns by accounting; its table of ours is what the plan says."""

import re
from pathlib import Path

import pytest

from entprog.config.load import read_config
from entprog.plan.estimate import Planner
from entprog.plan.orders import spread, suffix
from entprog.plan.simulator import Step
from entprog.profiling.hardware import find_device

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
ORDERS = {"suffix": suffix, "spread": spread}
BLOCKS = 14


def shown() -> dict[tuple[str, int], tuple[str, str]]:
    """The page's table of active blocks: (order, m) -> gigabytes and speed as they are written there."""
    table = PAGE.split("<!-- accounting -->")[1].split("<!-- end -->")[0]
    found = {}
    for line in table.strip().splitlines()[2:]:
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        for order, (gigabytes, speed) in zip(ORDERS, (cells[1:3], cells[3:5]), strict=True):
            if gigabytes:
                found[order, int(cells[0])] = (gigabytes, speed.removesuffix("x"))
    return found


class Accounts:
    """Steps of the video phase in the setting that the page's commands give, one plan for all of them."""

    def __init__(self) -> None:
        command = PAGE.split("```console\n")[1].split("\n```")[0]
        assert command.startswith("entprog plan recipes/paper.toml --device a100 ")
        over = dict(re.findall(r"--(phases\.\S+|train\.\S+) (\S+)", command))
        config = read_config(ROOT / "recipes" / "paper.toml", over, planned=True)
        self.planner = Planner(config, find_device("a100"))
        phase = config.phases["video"]
        self.blocks, self.case = self.planner.simulator.subject.family(phase.blocks), self.planner.case(phase)
        self.steps: dict[tuple[str, int], Step] = {}
        assert len(self.blocks) == BLOCKS and config.preset == "paper" and phase.frames == 10
        assert phase.batch == 4 and self.case.precision == "bf16" and not self.case.checkpointing

    def step(self, order: str, m: int) -> Step:
        key = ("" if m == BLOCKS else order, m)
        if key not in self.steps:
            self.steps[key] = self.planner.step(self.case, ORDERS[order](self.blocks).top(m))
        return self.steps[key]

    def gigabytes(self, order: str, m: int) -> float:
        return self.step(order, m).peak / 1e9

    def speed(self, order: str, *counts: int) -> float:
        """How many times faster than full fine-tuning equally long stages of so many blocks are."""
        clock = self.planner.clock
        full = clock.seconds(self.step(order, BLOCKS))
        return len(counts) * full / sum(clock.seconds(self.step(order, m)) for m in counts)


@pytest.fixture(scope="module")
def accounts() -> Accounts:
    return Accounts()


def test_the_page_shows_what_the_plan_says(accounts: Accounts) -> None:
    written = shown()
    assert {("suffix", m) for m in (1, 5, 8, 10, 14)} | {("spread", 5), ("spread", 8)} <= written.keys()
    found = {key: (f"{accounts.gigabytes(*key):.1f}", f"{accounts.speed(*key):.2f}") for key in written}
    assert found == written


def test_full_and_the_first_row_are_the_paper_s(accounts: Accounts) -> None:
    """72 GB within 1 %; 44 GB and 1.52x within 5 %, for the last 5, 5, 8, 8 of 14 blocks."""
    assert accounts.gigabytes("suffix", BLOCKS) == pytest.approx(72, rel=0.01)
    assert accounts.gigabytes("suffix", 8) == pytest.approx(44, rel=0.05)
    assert accounts.gigabytes("suffix", 10) == pytest.approx(53, rel=0.02)
    assert accounts.speed("suffix", 5, 5, 8, 8) == pytest.approx(1.52, rel=0.05)


def test_scattered_blocks_save_next_to_nothing(accounts: Accounts) -> None:
    assert 62 < accounts.gigabytes("spread", 5) < accounts.gigabytes("spread", 8) < 69
    assert 1 < accounts.speed("spread", 8) < accounts.speed("spread", 5) < 1.05


def test_what_the_page_calls_unexplained_is_not_reached(accounts: Accounts) -> None:
    """2.11x by equal shares, and 2.17x with ten blocks in the last of four stages: not with one block before that."""
    assert accounts.speed("suffix", 4, 7, 10, 14) == pytest.approx(1.35, abs=0.01)
    assert accounts.speed("spread", 5, 5, 8, 8) == pytest.approx(1.03, abs=0.01)
    assert accounts.speed("suffix", 1, 1, 1, 10) == pytest.approx(2.11, abs=0.01)
