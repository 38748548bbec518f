"""What every family of pretrained models must show, on every tiny pipeline; docs/models.md lists what is shown here.

The claims about runs are checked at full length by tools/measure_families.py, and here on one variant of each kind of
network; on all variants in `make check`.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from entprog.tasks.pretrained.families import families
from entprog.tasks.pretrained.folder import read_configs
from pretrained_runs import (
    Variant,
    adapters_change_nothing,
    frozen_stays,
    resumes,
    short_texts,
    skip_error,
    step_cost,
    task_of,
    x0_error,
)
from tiny_pipelines import pipelines, saved

LEADING = ("wan-2.2-i2v", "cogvideox-5b-i2v", "svd", "hunyuan-video", "ltx-video")
"""Variants that train in `make test`."""


def slow(name: str):  # type: ignore[no-untyped-def]
    return pytest.param(name, marks=pytest.mark.slow)


TRAINED = [pytest.param(name, marks=() if name in LEADING else pytest.mark.slow) for name in pipelines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the data sets of the variants lie; HunyuanVideo 1.5 has short texts."""
    with short_texts():
        yield tmp_path_factory.mktemp("families")


def test_every_family_has_a_tiny_pipeline() -> None:
    shown = {read_configs(saved(name)).network["_class_name"] for name in pipelines()}
    assert shown == set(families())


@pytest.mark.parametrize("name", pipelines())
def test_noise_adapters_skipping_and_truncation(name: str, folder: Path) -> None:
    """x0 within 1e-5; new adapters change no bit; a skipped block is one that is not there; a third costs a fraction.

    One loaded network for all.
    """
    variant = Variant.make(name, folder)
    task = task_of(variant, model__dtype="float32")
    assert x0_error(task, variant) <= 1e-5
    assert adapters_change_nothing(task, variant)
    assert skip_error(task, variant) == 0
    third, full = (step_cost(task, variant, share) for share in (1 / 3, 1))
    assert third.flops <= 0.65 * full.flops
    assert third.peak <= 0.6 * full.peak


@pytest.mark.parametrize("name", TRAINED)
def test_frozen_weights_keep_their_bits_over_a_stage_change(name: str, folder: Path) -> None:
    assert frozen_stays(Variant.make(name, folder), folder / f"{name}-frozen", steps=4)


@pytest.mark.parametrize("name", [p for p in TRAINED if "svd" not in p.values] + [slow("svd")])
def test_a_run_goes_on_bit_for_bit_from_within_a_search(name: str, folder: Path) -> None:
    assert resumes(Variant.make(name, folder), folder / f"{name}-resumed", steps=10)
