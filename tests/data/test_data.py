"""Data: order and randomness as pure functions, shards on disk, clips with references, rendered people."""

import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from entprog.codecs.pca import PatchCodec
from entprog.config.schema import DataConfig
from entprog.core.types import Shape
from entprog.data import rendered
from entprog.data.clips import Clips
from entprog.data.posemap import draw_pose
from entprog.data.rendered import RenderedPeople, render_data_set, resized
from entprog.data.sampler import generator, locate, sample_noise, shuffled, stratified_tau
from entprog.data.shards import Shards, ShardWriter
from entprog.data.source import cache_folder, open_data
from entprog.files import write_atomically
from entprog.synthetic import render_clip
from tiny import PEOPLE, lines, render_tiny, synthetic_data

# --- sampler ---


def test_an_epoch_is_a_permutation_of_its_own() -> None:
    orders = [shuffled(3, epoch, 50).tolist() for epoch in range(4)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert orders[2] == shuffled(3, 2, 50).tolist() != shuffled(4, 2, 50).tolist()
    assert [locate(p, 5) for p in (0, 4, 5, 14)] == [(0, 0), (0, 4), (1, 0), (2, 4)]


def test_generators_of_different_keys_differ() -> None:
    keys = [(a, b, c) for a in range(3) for b in range(5) for c in range(20)]
    assert len({float(generator(*key).random()) for key in keys}) == len(keys)
    assert generator(1, 2).random() == generator(1, 2).random()


def test_noise_has_the_same_start_at_any_size_and_length() -> None:
    full = (16, 8, 8)
    whole = sample_noise(0, 11, 6, full, (8, 8))
    assert whole.dtype == np.float32 and whole.shape == (6, *full)
    assert np.array_equal(sample_noise(0, 11, 2, full, (8, 8)), whole[:2])
    assert np.array_equal(sample_noise(0, 11, 6, full, (4, 4)), whole[:, :, :4, :4])
    assert not np.array_equal(sample_noise(0, 12, 6, full, (8, 8)), whole)
    assert not np.array_equal(sample_noise(1, 11, 6, full, (8, 8)), whole)
    many = np.stack([sample_noise(0, p, 1, full, (8, 8)) for p in range(40)])
    assert abs(many.mean()) < 0.02 and abs(many.std() - 1) < 0.02


def test_times_are_spread_evenly_over_any_run_of_positions() -> None:
    assert stratified_tau(0, np.arange(5)).tolist()[2] == stratified_tau(0, np.array([2]))[0]
    for start, count in ((0, 8), (1000, 8), (123_457, 64)):
        tau = np.sort(stratified_tau(1, np.arange(start, start + count)))
        assert tau[0] >= 0 and tau[-1] < 1
        gaps = np.diff(np.append(tau, tau[0] + 1))
        assert gaps.max() < 2.7 / count, "the golden ratio leaves no gap beyond 2.6 of the mean"
    assert stratified_tau(0, np.arange(3))[0] != stratified_tau(1, np.arange(3))[0]


# --- shards ---


def fill(writer: ShardWriter, lengths: tuple[int, ...]) -> dict[str, tuple[torch.Tensor, np.ndarray]]:
    given = {}
    for k, frames in enumerate(lengths):
        latents = {size: torch.randn(frames, 16, size // 4, size // 4).half() for size in writer.sizes}
        pose = np.random.default_rng(k).random((frames, 18, 3)).astype(np.float32)
        row = {"subject": "0", "motion": str(k), "scene": "0", "source": "test", "split": "train"}
        writer.add(latents, pose, clip=f"c{k}", **row)
        given[f"c{k}"] = latents[16], pose
    return given


def test_what_is_written_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("entprog.data.shards.SHARD_BYTES", 20_000)  # several shards
    writer = ShardWriter(tmp_path, codec={"codec": "x", "codec_hash": "y"}, sizes=(16, 32), fps=10.0)
    given = fill(writer, (3, 5, 2, 9))
    assert not (tmp_path / "index.jsonl").exists(), "nothing counts before close"
    writer.close()
    shards = Shards(tmp_path)
    assert shards.sizes == (16, 32) and len(list(tmp_path.glob("shard-*.safetensors"))) > 1
    assert shards.about == {"format": 1, "codec": "x", "codec_hash": "y", "sizes": [16, 32], "fps": 10.0,
                            "clips": 4, "frames": 19}  # fmt: skip
    assert not list(tmp_path.glob("*.partial"))
    for row in shards.rows:
        latents, pose = given[row.clip]
        assert row.frames == len(pose) and row.fps == 10.0 and row.phase_hint is None
        assert torch.equal(shards.latents(row, 16, 0, row.frames), latents.float())
        assert torch.equal(shards.latents(row, 16, 1, 1), latents[1:2].float())
        assert np.array_equal(shards.pose(row, 1, 1), pose[1:2])
        assert shards.latents(row, 32, 0, 2).shape == (2, 16, 8, 8)
        for start, frames in ((0, row.frames + 1), (-1, 1), (row.frames, 1)):
            with pytest.raises(ValueError, match=f"it has {row.frames}"):
                shards.latents(row, 16, start, frames)
    with pytest.raises(ValueError, match=r"resolution = 64: the data set stores \[16, 32\]"):
        shards.latents(shards.rows[0], 64, 0, 1)


def test_what_is_no_data_set_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.path = .*no dataset\.json.*entprog prepare"):
        Shards(tmp_path / "none")
    with pytest.raises(ValueError, match=r"no dataset\.json"):
        Shards(tmp_path)
    writer = ShardWriter(tmp_path / "empty", codec={}, sizes=(16,), fps=1.0)
    writer.close()
    with pytest.raises(ValueError, match=r"the data set is empty; see prepare\.jsonl"):
        Shards(tmp_path / "empty")
    folder = synthetic_data(tmp_path / "other")
    about = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**about, "format": 3}))
    with pytest.raises(ValueError, match="format 3, this version reads 1; prepare it again"):
        Shards(folder)
    (folder / "dataset.json").write_text(json.dumps({**about, "codec_hash": "0123"}))
    with pytest.raises(ValueError, match="made by codec 0123"):
        open_data(DataConfig(path=str(folder)))
    assert Shards(folder).about["codec_hash"] == "0123"


def test_text_files_appear_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomically(path, "one")
    write_atomically(path, "two")
    assert path.read_text() == "two" and [p.name for p in tmp_path.iterdir()] == ["a.json"]


# --- clips ---


def test_a_batch_is_a_function_of_its_position(tiny_data: Path) -> None:
    clips = Clips(Shards(tiny_data), "train", seed=5, frames=3)
    whole = clips.batch(4, Shape(16, 3, 5))
    assert whole.latents.shape == (5, 3, 16, 4, 4) and whole.reference.shape == (5, 16, 4, 4)
    assert whole.pose.shape == (5, 3, 3, 16, 16) and whole.pose.dtype == torch.uint8
    assert whole.positions.tolist() == [4, 5, 6, 7, 8] and len(whole.clips) == 5
    fresh = Clips(Shards(tiny_data), "train", seed=5, frames=3)
    for k in (3, 0, 4, 1, 2):  # in any order, across the epoch's end at 6
        one = fresh.batch(4 + k, Shape(16, 3, 1))
        assert one.clips[0] == whole.clips[k] and one.positions[0] == 4 + k
        for field in ("latents", "reference", "pose"):
            assert torch.equal(getattr(one, field)[0], getattr(whole, field)[k])
    other = Clips(Shards(tiny_data), "train", seed=6, frames=3).batch(4, Shape(16, 3, 5))
    assert not torch.equal(other.latents, whole.latents)


def test_an_epoch_shows_each_clip_once(tiny_data: Path) -> None:
    clips = Clips(Shards(tiny_data), "train", frames=2)
    assert len(clips) == 6
    for epoch in range(3):
        assert len({clips.sample(6 * epoch + k, 2).row.clip for k in range(6)}) == 6
    starts = {clips.sample(p, 2).start for p in range(120)}
    assert starts == set(range(7)), "windows reach from the first frame to the last"


def test_the_reference_is_another_clip_of_the_same_person_and_scene(tiny_data: Path) -> None:
    clips = Clips(Shards(tiny_data), "train", frames=2)
    for position in range(24):
        sample = clips.sample(position, 2)
        assert sample.reference.clip != sample.row.clip
        assert (sample.reference.subject, sample.reference.scene) == (sample.row.subject, sample.row.scene)
        assert 0 <= sample.reference_frame < sample.reference.frames
        batch = clips.batch(position, Shape(16, 2, 1))
        expected = clips.shards.latents(sample.reference, 16, sample.reference_frame, 1)[0]
        assert torch.equal(batch.reference[0], expected)
        drawn = draw_pose(clips.shards.pose(sample.row, sample.start, 2), 16)
        assert np.array_equal(batch.pose[0].movedim(1, -1).numpy(), drawn)


def test_a_lonely_clip_is_its_own_reference(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, codec={}, sizes=(16,), fps=1.0)
    fill(writer, (4,))
    writer.close()
    clips = Clips(Shards(tmp_path), "train", frames=2)
    assert {clips.sample(p, 2).reference.clip for p in range(9)} == {"c0"}


def test_clips_too_short_for_a_phase_are_left_out(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, codec={}, sizes=(16,), fps=1.0)
    fill(writer, (2, 6, 4))
    writer.close()
    shards = Shards(tmp_path)
    assert [len(Clips(shards, "train", frames=n)) for n in (1, 3, 6)] == [3, 2, 1]
    assert Clips(shards, "train", frames=6).sample(3, 6).start == 0
    with pytest.raises(ValueError, match=r"no train clip in .* has 7 frames \(longest 6\)"):
        Clips(shards, "train", frames=7)
    with pytest.raises(ValueError, match=r"no holdout clip in .* has 1 frames \(longest 0\)"):
        Clips(shards, "holdout")


# --- rendered people ---


def test_splits_share_neither_people_nor_motions_nor_scenes(tiny_data: Path) -> None:
    jobs = [*RenderedPeople(subjects=50).jobs(), *RenderedPeople(subjects=50, seed=1).jobs()]
    rows = [{"split": s, "subject": p, "motion": m, "scene": c} for s, p, m, c in jobs]
    for chosen in (rows, lines(tiny_data / "index.jsonl")):
        for key in ("subject", "motion", "scene"):
            train, held = ({r[key] for r in chosen if r["split"] == split} for split in ("train", "holdout"))
            assert train and held and not train & held
        assert len({(r["split"], r["motion"]) for r in chosen}) == len(chosen), "every motion is its own"


def test_stored_latents_are_those_of_the_rendered_frames(tiny_data: Path) -> None:
    shards, codec = Shards(tiny_data), PatchCodec.default()
    assert len(shards.rows) == 10 and shards.about["codec_hash"] == codec.hash
    row = shards.rows[3]
    clip = render_clip(int(row.subject), int(row.motion), int(row.scene), frames=8, size=32, fps=12.0, domain="target")
    for size in (16, 32):
        expected = codec.encode(resized(clip.frames, size)).half().float()
        assert torch.equal(shards.latents(row, size, 0, 8), expected)
    assert np.array_equal(shards.pose(row, 0, 8), clip.keypoints)
    assert row.source == f"rendered:target:{row.subject}:{row.motion}:{row.scene}"


def test_resampling_averages(tiny_data: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    assert torch.equal(resized(frames, 32), torch.from_numpy(frames))
    flat = np.full((2, 32, 32, 3), 77, np.uint8)
    assert (resized(flat, 16) == 77).all() and resized(flat, 16).shape == (2, 16, 16, 3)
    assert resized(frames, 16).float().std() < torch.from_numpy(frames).float().std()


def test_rendering_is_cached_and_repeatable(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.stat().st_mtime_ns for path in tiny_data.iterdir()}
    assert render_tiny(tiny_data.parent) == tiny_data
    assert {path: path.stat().st_mtime_ns for path in tiny_data.iterdir()} == before
    again = render_tiny(tmp_path)
    for name in ("index.jsonl", "dataset.json"):
        assert (again / name).read_bytes() == (tiny_data / name).read_bytes()
    row = Shards(again).rows[-1]
    assert torch.equal(Shards(again).latents(row, 16, 0, 8), Shards(tiny_data).latents(row, 16, 0, 8))
    prints = {PEOPLE.fingerprint(PatchCodec.default()), RenderedPeople().fingerprint(PatchCodec.default())}
    assert len(prints) == 2 and all(len(name) == 12 for name in prints)
    monkeypatch.setenv("ENTPROG_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("ENTPROG_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_folder() == tmp_path / "x" / "entprog"


def test_open_data_renders_what_is_configured(tiny_data: Path) -> None:
    config = DataConfig(
        subjects=3, clips_per_subject=2, holdout=2, frames=8, sizes=(16, 32), cache=str(tiny_data.parent)
    )
    assert open_data(config, progress=False).folder == tiny_data
    assert open_data(DataConfig(path=str(tiny_data))).folder == tiny_data


def test_an_interrupted_rendering_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    render, count = rendered._render, []

    def failing(spec: RenderedPeople, job: tuple[str, int, int, int]) -> object:
        count.append(job)
        if len(count) == 4:
            raise KeyboardInterrupt
        return render(spec, job)

    monkeypatch.setattr(rendered, "_render", failing)
    with pytest.raises(KeyboardInterrupt):
        render_data_set(PEOPLE, tmp_path, workers=1, progress=False)
    assert not list(tmp_path.iterdir())


class Deadly:
    """Kills whoever unpickles it, as the kernel kills a worker that takes too much memory."""

    def __reduce__(self) -> tuple[object, ...]:
        return os._exit, (9,)


def test_a_killed_worker_is_told_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendered, "_render", Deadly())
    with pytest.raises(RuntimeError, match=r"worker died.*nothing was written.*data\.workers = 1"):
        render_data_set(PEOPLE, tmp_path, workers=2, progress=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_workers_change_nothing(tiny_data: Path, tmp_path: Path) -> None:
    folder = render_data_set(PEOPLE, tmp_path, workers=2, progress=False)
    for name in ("index.jsonl", "dataset.json", "shard-00000.safetensors"):
        assert (folder / name).read_bytes() == (tiny_data / name).read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subjects": 0}, r"data\.subjects = 0"),
        ({"frames": 0}, r"data\.frames = 0"),
        ({"sizes": (20,)}, r"data\.sizes = \[20\]: 20 is not a multiple of 8"),
        ({"sizes": (8,)}, "from 16 up"),
    ],
)
def test_settings_that_cannot_be(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RenderedPeople(**options)  # type: ignore[arg-type]


def test_a_data_set_may_be_moved(tiny_data: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(tiny_data, tmp_path / "moved")
    assert math.isclose(
        float(Clips(Shards(moved), "train").batch(0, Shape(16, 1, 2)).latents.sum()),
        float(Clips(Shards(tiny_data), "train").batch(0, Shape(16, 1, 2)).latents.sum()),
    )


def test_a_damaged_index_names_its_line(tmp_path: Path) -> None:
    for line in ("{", '{"clip": "a"}'):
        (tmp_path / "dataset.json").write_text('{"format": 1, "sizes": [32]}')
        (tmp_path / "index.jsonl").write_text(line + "\n")
        with pytest.raises(ValueError, match=r"index\.jsonl, line 1"):
            Shards(tmp_path)
