"""What every plugin of a kind must do, whoever wrote it: one check a kind, by the plugin's name."""

import math
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from entprog.config.load import config_of
from entprog.config.schema import Config
from entprog.core.blocks import discover_blocks
from entprog.core.types import AdamOptions, Ranking, Shape, Workload
from entprog.metrics.base import NetworkMetric, Skipped
from entprog.plugins import describe, find, lacking, load, problems
from entprog.poses.base import FOUND_THRESHOLD, Track
from entprog.profiling.states import expected_state_bytes
from entprog.synthetic import render_clip
from loops import Rig
from pretrained_runs import Variant
from toy import toy_draws, toy_task


def declared(kind: str, name: str) -> None:
    """A frozen dataclass with a summary, whose fields are options with defaults; it has what its kind needs."""
    plugin, about = load(kind, name), describe(kind, name)
    assert about.summary and all(not option.required for option in about.options)
    assert {o.name: o.default for o in about.options} == {o.name: getattr(plugin, o.name) for o in about.options}
    assert not lacking(kind, find(kind, name)) and not problems(kind, name, {})
    if kind != "task":  # a task is its own working object
        with pytest.raises(FrozenInstanceError):
            setattr(plugin, about.options[0].name if about.options else "anything", None)
        assert plugin == load(kind, name)


def score(name: str) -> None:
    """One finite importance for each block, the same each time; nothing of the model changes."""
    task = toy_task(4)
    blocks = discover_blocks(task.model)
    before = [p.detach().clone() for p in task.model.parameters()]
    scores = load("score", name).score(task, blocks, toy_draws(3))
    assert tuple(scores.values) == blocks.names and all(map(math.isfinite, scores.values.values()))
    assert set(scores.ranking().names) == set(blocks.names)
    assert scores == load("score", name).score(task, blocks, toy_draws(3))
    assert scores.stderr.keys() <= scores.values.keys()
    assert all(torch.equal(a, b) for a, b in zip(before, task.model.parameters(), strict=True))


def schedule(name: str) -> None:
    """Candidates of every stage: different, the cheapest first, from the ranking's top, at shapes that it names."""
    plugin, shape = load("schedule", name), Shape(32, 4, 2)
    assert plugin.stages >= 1 and plugin.search_steps >= 0 and plugin.estimator in ("none", "supernet", "probe")
    order, last = Ranking(tuple(f"b{i}" for i in range(12))), None
    for stage in range(plugin.stages):
        found = plugin.candidates(stage, order, shape, last)
        assert found and found == plugin.candidates(stage, order, shape, last)
        assert all(workload.active and (workload.shape or shape) in plugin.shapes(shape) for workload in found)
        assert len(found) == 1 or plugin.estimator != "none"
        last = found[0]


def method(name: str) -> None:
    """Trains exactly what it plans, returns the same plan twice, and continues from its saved state bit for bit."""
    ranked = load("method", name).ranked
    about: dict[str, Any] = {"method": name, "total": 8, "schedule": load("schedule", "linear", stages=2)}
    if not ranked:
        about |= {"schedule": None, "ranking": None}
    if getattr(load("method", name), "noise_edges", ()):  # only our own loop can draw from bands of noise levels
        about["shape"] = Shape(64, 1, 4)
    whole, cut = Rig(**about), Rig(**about)
    assert whole.method.plan(3) == whole.method.plan(3) and isinstance(whole.method.plan(3).workload, Workload)
    whole.run(checked=False)
    cut.run(0, 5, checked=False)
    state = cut.method.state_dict()
    cut.method.load_state_dict(state)
    cut.run(5, 8, checked=False)
    assert whole.losses == cut.losses and whole.method.search_flops == cut.method.search_flops
    whole.method.finish()
    whole.method.freezer.release()


def optimizer(name: str) -> None:
    """Moves what has a gradient; its states are plain tensors, in the bytes that it declares."""
    plugin = load("optimizer", name)
    parameter = nn.Parameter(torch.randn(64, 96, generator=torch.Generator().manual_seed(0)))
    built = plugin.build([{"name": "blocks.0", "params": [parameter], "lr": 1e-2}], AdamOptions())
    expected = expected_state_bytes(built, built.param_groups[0], parameter)
    before = parameter.detach().clone()
    parameter.grad = torch.ones_like(parameter)
    built.step()
    assert not torch.equal(before, parameter)
    real = [state.untyped_storage().nbytes() for state in built.state[parameter].values()]
    assert sorted(expected) == sorted(real) and plugin.state_bytes(parameter, "block") == sum(real)


def metric(name: str) -> None:
    """Numbers over all clips taken, or the reason why there are none."""
    plugin = load("metric", name)
    if isinstance(plugin, NetworkMetric):
        try:
            plugin.open()
        except Skipped as reason:  # its weights are not here
            assert f"evaluate.metric_options.{name}.weights" in str(reason)
        return
    people = [render_clip(3, 5, k, frames=2, size=96, domain="target").frames for k in (2, 3)]
    clips = torch.from_numpy(np.stack(people)).movedim(-1, -3).float() / 255
    plugin.update(clips, clips)
    values = plugin.compute()
    assert values and all(isinstance(value, float) for value in values.values())


def codec(name: str, **options: Any) -> None:
    """Frames to latents of the declared size and back."""
    found = load("codec", name, **options).open()
    frames = np.random.default_rng(0).integers(0, 256, (1 + found.frames_factor, 32, 32, 3), dtype=np.uint8)
    latents = found.encode(frames)
    assert latents.shape == (2, found.channels, 32 // found.factor, 32 // found.factor) and found.name and found.hash
    back = found.decode(latents)
    assert back.shape == (1 + found.frames_factor, 3, 32, 32) and back.min() >= 0 and back.max() <= 1


def pose(name: str, **options: Any) -> None:
    """Keypoints of single pictures and of a video, in the form of the contract; none where nobody is."""
    estimator = load("pose", name, **options).open("cpu")
    frames = render_clip(3, 5, 2, frames=2, size=128, domain="target").frames
    nobody = np.full_like(frames, 90)
    for given in (frames, nobody):
        keypoints, score = estimator.single(torch.from_numpy(given))
        assert keypoints.shape == (2, 18, 3) and score.shape == (2,) and bool(torch.isfinite(keypoints).all())
        assert bool((score >= FOUND_THRESHOLD).all()) == (given is frames)
    followed = tracked(estimator, frames, None)
    assert followed.found.all() and (followed.keypoints[:, 1, :2] > 1).all(), "keypoints of a track are in pixels"
    lost = tracked(estimator, nobody, None)
    assert not lost.found.any() and not lost.keypoints.any()


def tracked(estimator: Any, frames: np.ndarray, source: Path | None) -> Track:
    """The track of a few frames, of the shapes of the contract."""
    tracker = estimator.tracker(source)
    body = [tracker.step(frame, index=i, restart=False) for i, frame in enumerate(frames)]
    track: Track = tracker.result()
    assert track.keypoints.shape == (len(frames), 18, 3) and track.keypoints.dtype == np.float32
    assert np.array_equal(np.stack(body), track.keypoints)
    assert track.score.shape == track.people.shape == (len(frames),) and track.found.dtype == bool
    assert track.hands is None or track.hands.shape == (len(frames), 42, 3)
    assert track.face is None or track.face.shape == (len(frames), 68, 3)
    assert (track.keypoints[..., 2] >= 0).all() and (track.keypoints[..., 2] <= 1).all()
    assert len(estimator.tracker(source).result().keypoints) == 0
    return track


def task(name: str) -> None:
    """Draws that are a pure function of (seed, position), and a loss of each sample whose mean is the loss."""
    tree: dict[str, Any] = {
        "task": name, "device": "cpu", "train": {"mixed_precision": "no"}, "evaluate": {"clips": 0},
        "schedule": {"name": "linear", "options": {"stages": 1}}, "phases": {"only": {"steps": 1, "blocks": "all"}},
    }  # fmt: skip
    with TemporaryDirectory() as folder:
        if name == "pretrained":  # a model and a data set of files
            variant = Variant.make("wan-2.2-i2v", Path(folder))
            tree |= {"model": {"pretrained": str(variant.model)}, "data": {"path": str(variant.data)}}
            tree["phases"]["only"] |= {"resolution": variant.size, "frames": variant.frames, "batch": 4}
        else:
            tree |= {"model": {"init": "scratch"}, "data": {"domain": "clips"}}
        task_of(config_of(tree))


def task_of(config: Config) -> None:
    phase = config.phases["only"]
    shape = Shape.of(phase.sides, phase.frames, 4)
    built = load("task", config.task).build(config)
    assert len(built.blocks(phase)) > 0
    built.check(config)
    built.enter(phase)
    samples = built.samples("train", phase.frames, 0)
    draw = built.draw(samples.batch(2, shape), shape, 7, dropout=0.0)
    alone = built.draw(samples.batch(3, replace(shape, batch=1)), replace(shape, batch=1), 7, dropout=0.0)
    assert all(torch.equal(value[1:2], alone.tensors()[key]) for key, value in draw.tensors().items())
    with torch.no_grad():
        loss, losses = built.reading(draw)
        assert built.predict(draw).shape == draw.target.shape
        assert float(built.loss(draw)) == pytest.approx(loss) and loss == pytest.approx(sum(losses) / 4, rel=1e-4)
        known = built.prefix(draw)
        assert torch.equal(built.predict(known), built.predict(draw))
    built.leave()


CHECKS = {
    "score": score, "schedule": schedule, "method": method, "optimizer": optimizer, "metric": metric, "codec": codec,
    "pose": pose, "task": task,
}  # fmt: skip
