"""Metrics over networks: stand-ins of the published call conventions, slow references, and reasons to skip."""

import hashlib
import io
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from entprog import plugins
from entprog.metrics import lpips as lpips_module
from entprog.metrics._collected import resized, rounded, windows
from entprog.metrics._distance import distance
from entprog.metrics._resnet3d import ResNet3D, build
from entprog.metrics._weights import Source, Weights, _download
from entprog.metrics.base import Skipped
from entprog.metrics.csim import face
from networks import StandInFace, StandInI3D, StandInInception, saved


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nets")
    saved(StandInI3D(), folder / "i3d.pt")
    saved(StandInInception(), folder / "inception.pt")
    saved(StandInFace(), folder / "face.pt")
    return folder


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENTPROG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ENTPROG_OFFLINE", "1")


def clips(seed: int, count: int = 2, frames: int = 18, side: int = 16) -> Tensor:
    return torch.rand(count, frames, 3, side, side, generator=torch.Generator().manual_seed(seed))


def slow_distance(a: np.ndarray, b: np.ndarray) -> float:
    """The formula as it is written: covariances, and the root of their product by eigenvalues, in double precision."""
    mean = np.square(a.mean(0) - b.mean(0)).sum()
    one, other = (np.cov(rows, rowvar=False) for rows in (a, b))
    values, vectors = np.linalg.eigh(one)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    inner = np.linalg.eigvalsh(root @ other @ root).clip(0)
    return float(mean + np.trace(one) + np.trace(other) - 2 * np.sqrt(inner).sum())


@pytest.mark.parametrize(("rows", "dimensions"), [(60, 5), (20, 20), (6, 30), (2, 8)])
def test_distance_is_that_of_the_slow_reference(rows: int, dimensions: int) -> None:
    draw = np.random.default_rng(rows)
    a = draw.standard_normal((rows, dimensions)) @ draw.standard_normal((dimensions, dimensions))
    b = draw.standard_normal((rows + 3, dimensions)) + 1
    assert distance(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(slow_distance(a, b), rel=1e-6)


def test_bicubic_is_pillows() -> None:
    frames = clips(0, 1, 1, 40)[0] * 255
    for side in (112, 24):
        channels = [Image.fromarray(plane.numpy(), "F").resize((side, side), Image.BICUBIC) for plane in frames[0]]
        theirs = torch.from_numpy(np.stack([np.asarray(channel) for channel in channels]))
        torch.testing.assert_close(resized(frames, (side, side), "bicubic")[0], theirs, atol=2e-3, rtol=0)


def test_windows_are_all_that_begin_at_multiples_of_the_stride() -> None:
    clip = torch.arange(7.0).view(7, 1, 1, 1).expand(7, 3, 2, 2)
    assert windows(clip, 4, 1)[:, 0, :, 0, 0].tolist() == [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6]]
    assert windows(clip, 3, 2)[:, 2, :, 1, 1].tolist() == [[0, 1, 2], [2, 3, 4], [4, 5, 6]]
    assert windows(clip, 7, 5).shape == (1, 3, 7, 2, 2)


@pytest.mark.parametrize("resize", ["network", "bicubic"])
def test_fvd_is_the_distance_of_the_networks_features(nets: Path, resize: str) -> None:
    fake, real = clips(1), clips(2) * 0.5
    metric = plugins.load("metric", "fvd", weights=str(nets / "i3d.pt"), resize=resize)
    metric.open()
    for i in range(2):
        metric.update(fake[i : i + 1], real[i : i + 1])
    network, sides = StandInI3D(), []
    for side in (fake, real):
        rows = []
        for clip in side:
            for start in range(3):
                part = (clip[start : start + 16] * 255).round()
                if resize == "bicubic":
                    part = resized(part, (224, 224), "bicubic") / 127.5 - 1
                own = resize == "network"
                rows.append(network(part.movedim(0, 1)[None], rescale=own, resize=own, return_features=True)[0])
        sides.append(torch.stack(rows).double().numpy())
    assert metric.compute()["fvd"] == pytest.approx(slow_distance(*sides), rel=1e-3, abs=1e-6)
    said = metric.details()["fvd"]
    digest = hashlib.sha256((nets / "i3d.pt").read_bytes()).hexdigest()
    assert said["windows"] == 6 and digest in said["network"] and "NOT the published file" in said["network"]
    assert said["window"] == "16 frames, all" and "224x224" in said["resize"]
    assert "biased upwards" in said["note"], "6 windows of 9 features"


def test_equal_clips_give_0_and_frozen_ones_do_not(nets: Path) -> None:
    real = clips(3)
    for name, file in (("fvd", "i3d.pt"), ("fid", "inception.pt")):
        values = []
        for fake in (real, real[:, :1].expand_as(real)):
            metric = plugins.load("metric", name, weights=str(nets / file))
            metric.update(fake, real)
            values.append(metric.compute()[name])
        assert abs(values[0]) < 1e-6 < values[1]


def test_fid_is_the_distance_of_all_frames(nets: Path) -> None:
    fake, real = clips(4, frames=3), clips(5, frames=3)
    metric = plugins.load("metric", "fid", weights=str(nets / "inception.pt"))
    metric.update(fake, real)
    network = StandInInception()
    sides = [
        network(
            nn.functional.interpolate(rounded(side.flatten(0, 1)), (299, 299), mode="bilinear"), return_features=True
        )
        .double()
        .numpy()
        for side in (fake, real)
    ]
    assert metric.compute()["fid"] == pytest.approx(slow_distance(*sides), rel=1e-4)
    assert metric.details()["fid"]["frames"] == 6


@pytest.mark.parametrize(
    ("count", "frames", "reason"),
    [
        (1, 16, "1 windows of 16 frames in 1 clips; a covariance needs 2 or more: raise evaluate.frames"),
        (3, 10, r"0 windows of 16 frames in 3 clips; 3 of 3 clips are too short \(the shortest has 10 frames\)"),
        (1, 1, "0 windows"),
    ],
)
def test_too_few_or_too_short_clips_are_a_reason(nets: Path, count: int, frames: int, reason: str) -> None:
    metric = plugins.load("metric", "fvd", weights=str(nets / "i3d.pt"))
    shown = clips(0, count, frames)
    metric.update(shown, shown)
    with pytest.raises(Skipped, match=reason):
        metric.compute()


def test_clips_of_different_length_count_by_their_windows(nets: Path) -> None:
    metric = plugins.load("metric", "fvd", weights=str(nets / "i3d.pt"), frames=10, stride=10)
    for frames in (9, 10, 25):
        metric.update(clips(frames, 1, frames), clips(frames + 1, 1, frames))
    assert metric.compute()["fvd"] > 0
    said = metric.details()["fvd"]
    assert said["windows"] == 3 and "1 of 3 clips are too short (the shortest has 9 frames)" in said["left out"]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"frames": 8}, "I3D needs 9 or more"), ({"stride": 0}, "give 1 or more"), ({"resize": "nearest"}, "resize")],
)
def test_wrong_options_of_fvd(options: dict[str, Any], message: str) -> None:
    assert any(message in text for text in plugins.problems("metric", "fvd", options))


def test_values_that_are_not_finite_and_black_frames(nets: Path) -> None:
    broken, black = clips(6), torch.zeros(2, 16, 3, 16, 16)
    broken[0, 3, 0, 0, 0] = torch.nan
    for name, file in (("fvd", "i3d.pt"), ("fid", "inception.pt")):
        metric = plugins.load("metric", name, weights=str(nets / file))
        metric.update(broken, clips(7))
        assert np.isnan(metric.compute()[name])
        metric = plugins.load("metric", name, weights=str(nets / file))
        metric.update(black, black)
        assert metric.compute()[name] == pytest.approx(0, abs=1e-9)
    psnr = plugins.load("metric", "psnr")
    psnr.update(black, black)
    assert psnr.compute() == {"psnr": 100.0}
    assert psnr.details() == {"psnr": {"at the bound": "32 of 32 frames count 100 dB"}}
    with pytest.raises(Skipped, match="not finite"):
        plugins.load("metric", "disco").update(broken, broken)


def broken_file(folder: Path) -> str:
    (folder / "text.pt").write_text("no network")
    return str(folder / "text.pt")


@pytest.mark.parametrize("name", ["fvd", "fid", "fid_vid", "lpips", "csim"])
def test_what_cannot_be_opened_is_a_reason(name: str, tmp_path: Path, nets: Path) -> None:
    option = f"evaluate.metric_options.{name}"
    tries: dict[str, dict[str, Any]] = {
        f"{option}.weights": {},
        "no such file": {"weights": str(tmp_path / "nowhere.pt")},
        "no ": {"weights": broken_file(tmp_path)},
        f"but {option}.hash = 'abc'": {"weights": str(nets / "i3d.pt"), "hash": "abc"},
    }
    for words, options in tries.items():
        with pytest.raises(Skipped) as found:
            plugins.load("metric", name, **options).open()
        assert words in str(found.value) and "\n" not in str(found.value)
    if name != "csim":
        with pytest.raises(Skipped, match=r"ENTPROG_OFFLINE forbids downloads; download .*(docs/metrics|https://)"):
            plugins.load("metric", name).open()


def test_a_network_of_another_call_convention_is_a_reason(nets: Path) -> None:
    metric = plugins.load("metric", "fvd", weights=str(nets / "face.pt"))
    metric.open()
    with pytest.raises(Skipped, match=r"cannot be called as network\(clips"):
        metric.update(clips(0), clips(1))


def test_the_cache_is_checked_and_the_hash_option_too(tmp_path: Path, nets: Path) -> None:
    there = tmp_path / "cache" / "metrics" / "i3d_torchscript.pt"
    there.parent.mkdir(parents=True)
    there.write_bytes((nets / "i3d.pt").read_bytes())
    with pytest.raises(Skipped, match=r"that of the published file is bec6519f.*delete it"):
        plugins.load("metric", "fvd").open()
    digest = hashlib.sha256(there.read_bytes()).hexdigest()
    for hash in (digest, digest[:12].upper()):
        plugins.load("metric", "fvd", weights=str(there), hash=hash).open()
    source = Source("i3d_torchscript.pt", (), digest)
    assert Weights.find("fvd", source, None, "").published is True
    assert "(the published file)" in Weights.find("fvd", source, None, "").said


class Answer(io.BytesIO):
    def __enter__(self) -> "Answer":
        return self


def test_weights_are_fetched_once_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENTPROG_OFFLINE", "0")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    asked: list[str] = []

    def answers(url: str, timeout: float) -> Answer:
        asked.append(url)
        if "down" in url:
            raise urllib.error.URLError("no route")
        return Answer(b"other" if "wrong" in url else b"weights")

    monkeypatch.setattr(urllib.request, "urlopen", answers)
    digest = hashlib.sha256(b"weights").hexdigest()
    urls = ("https://down.org/w.pt", "https://wrong.org/w.pt", "https://good.org/w.pt")
    for _ in range(2):
        assert Weights.find("fvd", Source("w.pt", urls, digest), None, "").published
    assert asked == list(urls), "the second time it is in the cache"
    assert [path.name for path in (tmp_path / "cache" / "metrics").iterdir()] == ["w.pt"]
    with pytest.raises(Skipped, match=r"down.org: .*no route.*wrong.org: sent a file with sha256"):
        Weights.find("fvd", Source("v.pt", urls[:2], digest), None, "")
    assert Weights.find("fvd", Source("u.pt", urls[2:]), None, "").published is None, "nothing to compare with"
    with pytest.raises(Skipped):
        _download(urls[1], tmp_path / "x", digest)


@pytest.mark.parametrize("kind", ["resnet-50", "resnext-101"])
def test_the_3d_networks_are_those_of_the_published_checkpoints(kind: Any) -> None:
    with torch.device("meta"):
        network = ResNet3D(kind)
        assert network(torch.zeros(1, 3, 16, 112, 112)).shape == (1, 2048)
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    middle = (64, 64, 3, 3, 3) if kind == "resnet-50" else (128, 4, 3, 3, 3)
    assert shapes["layer1.0.conv2.weight"] == middle and shapes["layer1.0.downsample.0.weight"][0] == 256
    assert f"layer3.{5 if kind == 'resnet-50' else 22}.bn3.running_var" in shapes
    assert shapes["layer4.2.conv3.weight"][0] == 2048 and "layer1.1.downsample.0.weight" not in shapes
    with pytest.raises(ValueError, match="no weights of a 3D"):
        build(kind, {"conv1.weight": torch.zeros(1)})


def test_fid_vid_reads_a_checkpoint_with_its_optimizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from entprog.metrics import _resnet3d

    monkeypatch.setattr(_resnet3d, "WIDTHS", (4, 4, 4, 4))
    monkeypatch.setitem(_resnet3d.KINDS, "resnet-50", ((1, 1, 1, 1), 2, 1))
    torch.manual_seed(0)
    network = ResNet3D("resnet-50").eval()
    tensors = {f"module.{k}": v for k, v in network.state_dict().items() if "num_batches" not in k}
    stored = {"epoch": 3, "arch": "resnet-50", "state_dict": tensors | {"module.fc.weight": torch.zeros(400, 8)}}
    torch.save(stored, tmp_path / "r.pth", _use_new_zipfile_serialization=False)  # as in 2018
    fake, real = clips(8, side=20), clips(9, side=20)
    metric = plugins.load("metric", "fid_vid", weights=str(tmp_path / "r.pth"))
    metric.open()
    metric.update(fake, real)
    mean = torch.tensor([114.7748, 107.7354, 99.4750]).view(3, 1, 1)
    sides = []
    for side in (fake, real):
        frames = resized((side.flatten(0, 1) * 255).round(), (112, 112), "bicubic").unflatten(0, (2, 18)) - mean
        parts = torch.stack([clip[i : i + 16].movedim(0, 1) for clip in frames for i in range(3)])
        with torch.no_grad():
            sides.append(network(parts).double().numpy())
    assert metric.compute()["fid_vid"] == pytest.approx(slow_distance(*sides), rel=1e-3)
    said = metric.details()["fid_vid"]
    assert "3D resnet-50" in said["network"] and "no published checksum" in said["network"] and said["windows"] == 6


@pytest.mark.parametrize("net", ["vgg", "alex"])
def test_lpips_is_that_of_torchmetrics(net: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = pytest.importorskip("torchmetrics.functional.image.lpips")
    torch.manual_seed(0)
    features, _ = lpips_module.backbone(net)
    tensors = {f"features.{name}": value for name, value in features.state_dict().items()}
    torch.save(tensors | {"classifier.0.weight": torch.zeros(2)}, tmp_path / "net.pth")
    monkeypatch.setattr(theirs, "_get_tv_model_features", lambda *_, **__: features)
    slow = theirs._LPIPS(net=net, pnet_rand=True)
    fake, real = clips(10, frames=2, side=64), clips(11, frames=2, side=64)
    for scaled in (True, False):
        metric = plugins.load("metric", "lpips", weights=str(tmp_path / "net.pth"), net=net, scaled=scaled)
        metric.open()
        metric.update(fake, real)
        a, b = ((2 * side - 1 if scaled else side).flatten(0, 1) for side in (fake, real))
        assert metric.compute()["lpips"] == pytest.approx(slow(a, b).mean().item(), rel=1e-4)
        assert ("unscaled" in metric.details()["lpips"]["pixels"]) is not scaled
    equal = plugins.load("metric", "lpips", weights=str(tmp_path / "net.pth"), net=net)
    equal.update(real, real)
    assert equal.compute()["lpips"] == 0
    with pytest.raises(Skipped, match=r"frames of 8x8 px.*raise evaluate\.resolution"):
        equal.update(real[..., :8, :8], real[..., :8, :8])


def head(x: float, y: float, size: float = 0.1, confidence: float = 1.0) -> Tensor:
    keypoints = torch.zeros(18, 3)
    for point, shift in {0: 0.0, 14: -0.5, 15: 0.5, 16: -1.0, 17: 1.0}.items():
        keypoints[point] = torch.tensor([x + shift * size, y, confidence])
    return keypoints


def test_csim_compares_faces_where_the_keypoints_say(nets: Path) -> None:
    real, other = clips(12, 1, 4, 96), clips(13, 1, 4, 96)
    keypoints = torch.stack([head(0.5, 0.5), head(0.5, 0.5), head(0.5, 0.5, 0.015), head(0.5, 0.5, 0.1, 0.2)])[None]
    values = []
    for fake in (real, other):
        metric = plugins.load("metric", "csim", weights=str(nets / "face.pt"))
        metric.update_posed(fake, real, keypoints)
        values.append(metric.compute()["csim"])
        assert metric.details()["csim"]["frames with a face"] == "2 of 4", "one is too small, one is not seen"
    assert values[0] == pytest.approx(1) and values[1] < 0.99
    elsewhere = real.clone()
    elsewhere[..., :20] = 0  # left of the face
    metric = plugins.load("metric", "csim", weights=str(nets / "face.pt"))
    metric.update_posed(elsewhere, real, keypoints)
    assert metric.compute()["csim"] == pytest.approx(1)
    nobody = plugins.load("metric", "csim", weights=str(nets / "face.pt"))
    nobody.update_posed(real, real, torch.zeros_like(keypoints))
    with pytest.raises(Skipped, match="no face to be seen in 4 frames"):
        nobody.compute()
    with pytest.raises(Skipped, match="keypoints"):
        nobody.update(real, real)


@pytest.mark.parametrize(
    ("keypoints", "place"),
    [
        (head(0.5, 0.5), (24, 34, 56, 66)),
        (head(0.0, 0.0), (0, 0, 16, 16)),
        (head(1.0, 1.0), (64, 84, 80, 100)),
        (head(5.0, 0.5), None),
        (head(float("nan"), 0.5), None),
    ],
)
def test_the_faces_square_ends_at_the_frame(keypoints: Tensor, place: tuple[int, ...] | None) -> None:
    """The ears are .2 of 80 px apart: the square has twice that a side."""
    assert face(keypoints, 100, 80) == place


def test_networks_draw_no_random_numbers(nets: Path, tmp_path: Path) -> None:
    features, _ = lpips_module.backbone("alex")
    torch.save({f"features.{k}": v for k, v in features.state_dict().items()}, tmp_path / "net.pth")
    state = torch.random.get_rng_state()
    makers: list[Callable[[], Any]] = [
        lambda: plugins.load("metric", "lpips", weights=str(tmp_path / "net.pth"), net="alex"),
        lambda: plugins.load("metric", "fvd", weights=str(nets / "i3d.pt")),
    ]
    for maker in makers:
        metric = maker()
        metric.open()
        metric.update(clips(0, side=64), clips(1, side=64))
        assert metric.compute().keys() <= metric.details().keys() and metric == maker()
    assert torch.equal(state, torch.random.get_rng_state())
