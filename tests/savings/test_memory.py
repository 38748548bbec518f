"""A memory budget: what is simulated is what is measured, and every stage fits or is refused."""

from pathlib import Path
from typing import Any

import pytest

from entprog.profiling.meter import StepCost
from entprog.profiling.units import parse_bytes, written_bytes
from entprog.savings.options import Option, fit, ways
from entprog.train.run import train
from recipes import problems
from tiny import lines, synthetic_data, tiny_config

LISA = "benchmarks.rivals.lisa:Lisa"
BADAM = "benchmarks.rivals.badam:Badam"
GALORE = "benchmarks.rivals.galore:Galore"


def test_sizes_are_read_and_written() -> None:
    assert parse_bytes("24GiB") == 24 * 2**30 and parse_bytes(" 1.5 gb") == 15 * 10**8 and parse_bytes("") is None
    for text in ("24", "GiB", "-1GiB", "0B", "24 G", "lots"):
        with pytest.raises(ValueError, match="expected a size such as 24GiB"):
            parse_bytes(text)
    assert [written_bytes(n) for n in (12, 3 * 2**20, 24 * 2**30, 5000)] == ["12 B", "3 MiB", "24 GiB", "4.88 KiB"]
    assert any("train.memory_budget" in line for line in problems(None, [("train.memory_budget", "much")]))


def test_the_first_way_that_fits() -> None:
    options = ways(("a",), 4)
    assert [(o.checkpointing, o.pieces) for o in options] == [(c, n) for c in (False, True) for n in (1, 2, 4)]
    assert all(o.checkpointing for o in ways(("a",), 4, checkpointing=True))
    asked = []

    def measure(option: Option) -> StepCost:
        asked.append(option)
        return StepCost(1, 100 // option.pieces // (1 + option.checkpointing))

    found = fit(options, measure, 60)
    assert found.fits and found.option == options[1] and asked == options[:2] and found.tried == (
        (options[0], 100), (options[1], 50),
    )  # fmt: skip
    assert fit(options, measure, 60, reserved=20).option == options[2]
    none = fit(options, measure, 5)
    assert not none.fits and none.option == options[5] and none.cost.peak == 12


pytestmark = pytest.mark.usefixtures("small_nano")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_data(tmp_path_factory.mktemp("latents") / "data", sizes=(32,))


def run(folder: Path, data: Path, **more: Any) -> list[dict[str, Any]]:
    settings = {
        "phases__subject__steps": 0, "phases__video__steps": 0, "phases__pose__steps": 3, "phases__pose__batch": 4,
        "phases__pose__frames": 4, "phases__pose__resolution": 32, "phases__pose__blocks": "all",
        "schedule__options__stages": 1,
        "ranking__score": "gradient", "model__condition_dropout": 0.0, **more,
    }  # fmt: skip
    return lines(train(tiny_config(folder, data, **settings)) / "log.jsonl")


@pytest.mark.slow
def test_every_stage_fits(data: Path, tmp_path: Path) -> None:
    """In pieces, and checkpointed: the same training, in less memory, as simulated."""
    plain = run(tmp_path / "plain", data)
    peak = plain[1]["bytes_peak"]
    for name, share in (("cut", 0.75), ("checkpointed", 0.35)):
        budget = int(peak * share) + 1_000_000  # the fixed draws are in memory, too
        rows = run(tmp_path / name, data, train__memory_budget=f"{budget}B")
        (fitted,) = (row for row in lines(tmp_path / name / "events.jsonl") if row["event"] == "fit")
        assert fitted["checkpointing"] == (name == "checkpointed") and (fitted["pieces"] > 1 or fitted["checkpointing"])
        simulated = fitted["bytes_peak"] - fitted["bytes_reserved"]
        assert fitted["bytes_peak"] <= budget and rows[0]["bytes_peak"] == pytest.approx(simulated, rel=0.03)
        assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in plain], rel=1e-3)
        assert [row["m"] for row in rows] == [row["m"] for row in plain]


@pytest.mark.slow
def test_what_fits_in_no_way_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train\.memory_budget = '1KiB': the weights alone take"):
        run(tmp_path / "a", data, train__memory_budget="1KiB")
    with pytest.raises(
        ValueError, match=r"stage 0 with 9 of 9 blocks, 4 frames of 32 px in batches of 4 takes at least"
    ):
        run(tmp_path / "b", data, train__memory_budget="3.5MiB")


@pytest.mark.parametrize(
    "options",
    [
        {"method": "lora", "method_options__rank": 4},
        {"method": "mixed", "method_options__rank": 4, "schedule__options__stages": 2, "phases__pose__steps": 4},
        {
            "method": LISA,
            "method_options__every": 2,
            "method_options__frames": [2, 0],
            "phases__pose__steps": 4,
        },
        {"method": BADAM, "method_options__every": 1, "method_options__order": "ascending"},
        {"method": "full", "train__optimizer": GALORE, "train__optimizer_options__rank": 4},
    ],
    ids=["lora", "mixed", "lisa", "badam", "galore"],
)
@pytest.mark.slow
def test_rivals_fit_as_simulated(options: dict[str, Any], data: Path, tmp_path: Path) -> None:
    """Adapters, turns and projected states are simulated, too."""
    if options["method"] in ("lora", "mixed"):
        pytest.importorskip("peft")
    rows = run(tmp_path / "run", data, train__memory_budget="1GiB", **options)
    fitted = [row for row in lines(tmp_path / "run" / "events.jsonl") if row["event"] == "fit"]
    simulated = {(row["m"], row["frames"]): row["bytes_peak"] - row["bytes_reserved"] for row in fitted}
    assert fitted and not any(row["checkpointing"] for row in fitted)
    for row in rows:
        assert row["bytes_peak"] <= 1.05 * simulated[row["m"], row["frames"]], row
    most = max(rows, key=lambda row: row["bytes_peak"])
    assert most["bytes_peak"] >= 0.75 * simulated[most["m"], most["frames"]]
