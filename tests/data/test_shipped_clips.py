"""The real clips that the package ships: whole, small, attributed, and opened by data.domain = "clips"."""

import json
import tomllib
import warnings
from pathlib import Path

import pytest
import torch

from entprog.codecs.pca import PatchCodec
from entprog.config.load import ConfigWarning, config_of
from entprog.config.schema import DataConfig
from entprog.data.source import open_data, rendered_people, shipped_clips

ROOT = Path(__file__).parents[2]
LARGEST = 5_000_000


def test_the_clips_are_all_there() -> None:
    shards = open_data(DataConfig(domain="clips", subjects=3, frames=2))
    assert shards.folder == shipped_clips()
    assert [sum(row.split == split for row in shards.rows) for split in ("train", "holdout")] == [14, 6]
    assert shards.sizes == (64,) and {row.fps for row in shards.rows} == {12.0}
    assert shards.about["codec_hash"] == PatchCodec.default().hash
    assert {row.subject for row in shards.rows} == {f"signer {letter}" for letter in "ABCDE"}
    for row in shards.rows:
        assert row.frames >= 16
        latents, pose = shards.latents(row, 64, 0, row.frames), shards.pose(row, 0, row.frames)
        assert latents.shape == (row.frames, 16, 16, 16) and bool(torch.isfinite(latents).all())
        assert pose.shape == (row.frames, 18, 3) and (pose[..., 2] >= 0.5).mean() > 0.5


def test_they_are_small_and_hold_no_path_of_the_machine_that_made_them() -> None:
    files = sorted(shipped_clips().iterdir())
    assert [path.name for path in files] == ["dataset.json", "index.jsonl", "shard-00000.safetensors"]
    assert sum(path.stat().st_size for path in files) < LARGEST
    rows = [json.loads(line) for line in (shipped_clips() / "index.jsonl").read_text().splitlines()]
    assert all(row["source"].startswith("intel-iot-devkit/sample-videos/asl_gestures/") for row in rows)


def test_notice_names_each_with_author_source_licence_and_changes() -> None:
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    part = notice.partition("src/entprog/assets/clips")[2].partition("\n\n")[0]
    for row in open_data(DataConfig(domain="clips")).rows:
        assert f"{Path(row.source).name}" in part
    for words in ("Intel Corporation", "https://github.com/intel-iot-devkit/sample-videos", "CC BY 4.0", "Changed by"):
        assert words in part


def test_the_package_declares_them() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "assets/clips/*" in project["tool"]["setuptools"]["package-data"]["entprog"]


def test_keys_of_rendered_people_have_no_effect() -> None:
    with pytest.warns(ConfigWarning, match='data.subjects and 1 more: no effect, as data.domain = "clips"'):
        config_of({"data": {"domain": "clips", "subjects": 4, "seed": 1}})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = config_of({"data": {"domain": "clips"}, "evaluate": {"frames": 18}})  # longer than what is rendered
    assert not config.data.rendered
    with pytest.raises(ValueError, match="shipped videos; choose a domain that can be rendered"):
        rendered_people(config.data)
