"""The study of real clips: its folds, its tables, and what its record must hold."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.runner.rate_sweep import best_by_bands
from benchmarks.studies import fill, real_clips, real_clips_page

SHOWN = {"l1": 0.02, "ssim": 0.9, "psnr": 25.0, "pck": 0.8, "background_l1": 0.01}


def line(arm: str, fold: str, seed: int, factor: float = 1.0, **more: Any) -> dict[str, Any]:
    metrics = {name: value * factor for name, value in SHOWN.items()}
    cost = {"flops": 2e12 * factor, "bytes_peak": 2**28, "core_seconds": 30.0 * factor}
    return {"kind": "run", "arm": arm, "fold": fold, "seed": seed, "bands": [0.3 * factor] * 5, "metrics": metrics} | (
        cost if arm != "untrained" else {}
    ) | more  # fmt: skip


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "real-clips.jsonl"
    monkeypatch.setattr(real_clips_page, "RECORD", path)
    return path


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_folds_hold_out_each_signer_once() -> None:
    assert sorted("".join(real_clips.FOLDS.values())) == list("ABCDE") and len(real_clips.FOLDS) == 4


def test_every_run_has_its_turn() -> None:
    runs = list(real_clips.order())
    assert len(runs) == len(set(runs)) == 4 * 3 * 5
    assert [seed for arm, _, seed in runs if arm == "full"] == [0] * 4 + [1] * 4 + [2] * 4


def test_differences_are_paired_by_fold_and_seed(record: Path) -> None:
    full = [line("full", fold, seed, 1 + k / 10) for k, fold in enumerate("AB") for seed in (0, 1)]
    lora = [line("lora", row["fold"], row["seed"], 1.1 * row["bands"][0] / 0.3) for row in full]
    entprog = [{**row, "arm": "entprog"} for row in full]
    write(record, [*full, *lora, *entprog[:3], line("untrained", "A", 0, copy={"metrics": SHOWN})])
    tables = real_clips_page.tables()
    differences = {row[0]: row for row in tables["differences"].rows}
    assert differences["LoRA 16, every block"][1:3] == ("3", "+10.0 ± 0.0")
    assert "full, AdamW" not in differences
    quality = {row[0]: row for row in tables["quality"].rows}
    assert quality["copy of the reference"][1:7] == ("1", *"-----")
    assert quality["full, AdamW"][1:3] == ("3", "0.3100 ± 0.0173")  # without the pair that the preset lacks
    costs = {row[0]: row for row in tables["costs"].rows}
    assert costs["LoRA 16, every block"][2] == "1.10" and "untrained base" not in costs


def test_the_error_of_a_difference_is_the_larger_of_folds_and_seeds() -> None:
    by_fold = {(fold, seed): float(k) for k, fold in enumerate("AB") for seed in (0, 1)}
    assert real_clips_page._difference(by_fold, 2) == "+0.50 ± 0.50"
    assert real_clips_page._difference({("A", 0): 1.0}, 1) == "+1.0"


def test_without_runs_there_are_no_tables(record: Path) -> None:
    assert real_clips_page.tables() == {}
    write(record, [{"kind": "prepare", "files": 20, "kept": 20}])
    assert real_clips_page.tables() == {}


def test_the_rate_is_chosen_with_each_band_alike(record: Path) -> None:
    low, high = [0.3, 0.1, 0.05, 0.02, 0.004], [0.28, 0.1, 0.05, 0.02, 0.005]
    assert math.fsum(high) < math.fsum(low)
    rows = [{"kind": "tune", "arm": "full", "learning_rate": rate, "bands": bands}
            for rate, bands in ((1e-4, low), (3e-4, high))]  # fmt: skip
    write(record, rows)
    assert best_by_bands(real_clips.records()) == {"full": 1e-4}


def test_the_picture_has_a_column_for_each_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real_clips_page, "PICTURE", tmp_path / "shown.gif")
    for arm in ("full", "lora"):
        (tmp_path / f"{arm}-A").mkdir()
        frames = np.random.default_rng(0).integers(0, 255, (3, 16, 16, 3)).astype(np.uint8)
        np.savez_compressed(tmp_path / f"{arm}-A" / "clips.npz", **{"yes/truth": frames, "yes/generated": frames})
    runs = {arm: Path(f"{arm}-{{fold}}") for arm in ("full", "lora")}
    real_clips_page.picture(tmp_path, runs, {"A": "yes"}, tile=32)
    with Image.open(tmp_path / "shown.gif") as image:
        assert image.size == (96, 46) and image.n_frames == 3


RECORDS = real_clips_page.records()


def test_all_files_were_kept() -> None:
    (row,) = [row for row in RECORDS if row["kind"] == "prepare"]
    assert row["files"] == row["kept"] == len(row["rows"]) == 20 == sum(row["signers"].values())


def test_the_record_is_whole_and_pairs() -> None:
    rows = [row for row in RECORDS if row["kind"] == "run"]
    keys = [(row["arm"], row["fold"], row["seed"]) for row in rows]
    assert len(keys) == len(set(keys)) and set(keys) <= set(real_clips.order())
    for row in rows:
        assert all(math.isfinite(value) and value > 0 for value in [*row["bands"], *row["metrics"].values()])
        assert len(row["per_clip"]) == {"A": 6, "B": 5, "C": 4, "D+E": 5}[row["fold"]]
    assert len({tuple(row["steps"]) for row in rows if row["arm"] != "untrained"}) == 1
    assert len({row["device"] for row in rows if "device" in row}) == 1


def test_the_picture_is_small() -> None:
    assert (fill.IMAGES / "real-clips.gif").stat().st_size < 1_000_000
