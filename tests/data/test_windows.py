"""Data set format 2: what is written comes back, in an order that is a pure function of (seed, position)."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from entprog.core.types import Shape
from entprog.data import window_writer as module
from entprog.data.shards import Shards
from entprog.data.window_writer import WindowWriter
from entprog.data.windows import STORED, Windows, WindowSamples, prompt_hash

CODEC = {"name": "AutoencoderKLWan-f8t4c4", "class": "AutoencoderKLWan", "hash": "0" * 16, "channels": 4, "factor": 8,
         "frames_factor": 4, "mean": [0.0] * 4, "std": [1.0] * 4, "tiling": False, "dtype": "float32"}  # fmt: skip
TEXT = {"class": "UMT5EncoderModel", "hash": "1" * 16}
SIZES = {"16x24": (2, 3), "24x16": (3, 2)}
K = 2


def tensors(number: int, size: str = "16x24", **more: Tensor) -> dict[str, Tensor]:
    h, w = SIZES[size]
    height, width = 8 * h, 8 * w
    generator = torch.Generator().manual_seed(number)
    return {
        "latents": torch.randn(2, 4, h, w, generator=generator),
        "pose": torch.rand(5, 18, 3, generator=generator),
        "reference": torch.randn(K, 1, 4, h, w, generator=generator),
        "first": torch.randn(K, 2, 4, h, w, generator=generator),
        "image": torch.randint(0, 256, (K, 3, height, width), dtype=torch.uint8, generator=generator),
        **more,
    }


def row(number: int, size: str = "16x24", **more: Any) -> dict[str, Any]:
    height, width = map(int, size.split("x"))
    fields = {
        "clip": f"c{number // 2}",
        "subject": f"c{number // 2}",
        "source": f"c{number // 2}.mp4",
        "start": 3 * number,
    }
    return {
        **fields,
        "split": "holdout" if number == 0 else "train",
        "frames": 5,
        "height": height,
        "width": width,
        **more,
    }


def caption(number: int) -> str:
    return ("", "a person dances", "a person walks")[number % 3]


def texts() -> dict[str, dict[str, Tensor]]:
    return {
        caption(n): {"embeds": torch.randn(2 + n, 6).bfloat16(), "mask": torch.ones(2 + n, dtype=torch.int64)}
        for n in range(3)
    }


def write(folder: Path, count: int = 7, sizes: tuple[str, ...] = ("16x24",), text: Any = TEXT) -> Path:
    writer = WindowWriter(folder, codec=CODEC, text=text, sizes=sizes, frames=5, fps=16.0)
    for number in range(count):
        size = sizes[number % len(sizes)]
        writer.add(tensors(number, size), caption=caption(number), **row(number, size))
    writer.close(texts() if text else None)
    return folder


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    windows = Windows(write(tmp_path / "d"))
    assert windows.about["codec"] == CODEC and windows.about["text"] == TEXT and windows.about["format"] == 2
    assert windows.sizes == ("16x24",) and windows.about["frames"] == 5 and windows.about["fps"] == 16.0
    assert windows.stored == ("latents", "pose", "reference", "first", "image") and len(windows.rows) == 7
    for number, found in enumerate(windows.rows):
        assert (found.clip, found.start, found.size, found.place) == (f"c{number // 2}", 3 * number, "16x24", number)
        assert found.caption == caption(number) and found.prompt == prompt_hash(caption(number))
        for name, value in windows.read(found).items():
            given = tensors(number)[name]
            assert torch.equal(value, given if given.dtype == torch.uint8 else given.to(STORED[name]).float()), name
            assert value.dtype == (torch.uint8 if name == "image" else torch.float32)
    assert list(windows.read(windows.rows[1], ["pose"])) == ["pose"] and windows.references(windows.rows[0]) == K
    one, both = windows.read(windows.rows[1], pick=1), windows.read(windows.rows[1])
    assert torch.equal(one["first"], both["first"][1]) and torch.equal(one["latents"], both["latents"])


def test_texts_by_prompt_unpadded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    windows = Windows(write(tmp_path / "d"))
    torch.manual_seed(0)
    for prompt, given in texts().items():
        found = windows.text(prompt_hash(prompt))
        assert torch.equal(found["embeds"], given["embeds"].float()) and found["mask"].dtype == torch.int64
    assert windows.text(prompt_hash(""))["embeds"].shape == (2, 6)
    with pytest.raises(ValueError, match="has no prompt ffff; prepare"):
        windows.text("ffff")
    assert Windows(write(tmp_path / "none", text=None)).text(prompt_hash("")) == {}
    assert not (tmp_path / "none" / "text.safetensors").exists()


def test_shards_hold_one_size_each_and_places_do_not_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARD_BYTES", 9_000)
    short = Windows(write(tmp_path / "short", 7, ("16x24", "24x16")))
    long = Windows(write(tmp_path / "long", 13, ("16x24", "24x16")))
    assert long.rows[:7] == short.rows and len({found.shard for found in long.rows}) > 3
    for shard in {found.shard for found in long.rows}:
        assert len({found.size for found in long.rows if found.shard == shard}) == 1
    write(tmp_path / "short", 13, ("16x24", "24x16"))  # over the shorter one
    for number, found in enumerate(short.rows):  # its index still holds
        assert torch.equal(Windows(tmp_path / "short").read(found)["pose"], tensors(number, found.size)["pose"])
    assert not list(tmp_path.rglob("*.partial"))


def test_no_index_before_the_end(tmp_path: Path) -> None:
    writer = WindowWriter(tmp_path / "d", codec=CODEC, text=TEXT, sizes=["16x24"], frames=5, fps=16.0)
    writer.add(tensors(1), caption="a person hops", **row(1))
    with pytest.raises(ValueError, match="texts: 1 prompts are not encoded \\(first 'a person hops'\\)"):
        writer.close(texts())
    with pytest.raises(ValueError, match="first ''"):
        writer.close({"a person hops": {"embeds": torch.ones(1, 2)}})
    assert all(name.endswith(".partial") for name in os.listdir(tmp_path / "d"))


@pytest.mark.parametrize(
    ("given", "fields", "message"),
    [
        ({"depth": torch.ones(1)}, {}, "tensors .*'depth'.*; give latents and pose, and others of"),
        ({"face": torch.ones(5, 3, 4, 4, dtype=torch.uint8)}, {}, r"'face'\], but the windows before have \['latents'"),
        ({}, {"height": 32}, "size 32x24 is not of the data set's sizes"),
    ],
)
def test_windows_that_do_not_belong(given: Any, fields: Any, message: str, tmp_path: Path) -> None:
    writer = WindowWriter(tmp_path, codec=CODEC, sizes=["16x24"], frames=5, fps=16.0)
    writer.add(tensors(0), **row(0))
    with pytest.raises(ValueError, match=message):
        writer.add(tensors(1, **given), **row(1, **fields))
    with pytest.raises(ValueError, match="give latents and pose"):
        writer.add({"latents": torch.ones(1)}, **row(1))


def stream(folder: Path, seed: int = 0, **options: Any) -> WindowSamples:
    return WindowSamples(Windows(folder), "train", seed, **options)


def test_every_window_once_an_epoch_in_an_order_of_its_own(tmp_path: Path) -> None:
    folder = write(tmp_path / "d")
    samples = stream(folder)
    assert len(samples) == 6
    orders = [tuple(samples.sample(6 * epoch + i)[0].place for i in range(6)) for epoch in range(4)]
    assert all(sorted(order) == [1, 2, 3, 4, 5, 6] for order in orders) and len(set(orders)) == 4
    assert orders[0] != tuple(stream(folder, 1).sample(i)[0].place for i in range(6))
    picks = [samples.sample(i)[1] for i in range(60)]
    assert {*picks} == {0, 1} and picks == [stream(folder).sample(i)[1] for i in range(60)]


def test_batches_are_a_pure_function_of_seed_and_position(tmp_path: Path) -> None:
    folder = write(tmp_path / "d")
    samples = stream(folder, 5)
    batch = samples.batch(4, Shape(16, 5, 4))
    assert np.array_equal(batch.positions, [4, 5, 6, 7]) and len(batch.text) == len(batch.rows) == 4
    assert batch.tensors["latents"].shape == (4, 2, 4, 2, 3) and batch.tensors["pose"].shape == (4, 5, 18, 3)
    assert batch.tensors["reference"].shape == (4, 1, 4, 2, 3) and batch.tensors["first"].shape == (4, 2, 4, 2, 3)
    assert batch.tensors["image"].shape == (4, 3, 16, 24) and batch.tensors["image"].dtype == torch.uint8
    alone = stream(folder, 5).batch(6, Shape(16, 5, 1))
    assert all(torch.equal(value[2:3], alone.tensors[name]) for name, value in batch.tensors.items())
    assert alone.rows[0] == batch.rows[2] and torch.equal(alone.text[0]["embeds"], batch.text[2]["embeds"])
    assert list(stream(folder, names=("latents",)).batch(0, Shape(16, 5, 1)).tensors) == ["latents"]


def test_size_picks_the_windows(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", 7, ("16x24", "24x16"))
    assert {found.size for found in stream(folder, size="24x16").rows} == {"24x16"}
    with pytest.raises(ValueError, match="resolution = '': it stores 16x24, 24x16; choose"):
        stream(folder)
    with pytest.raises(ValueError, match="resolution = '64x64': it stores"):
        stream(folder, size="64x64")
    with pytest.raises(ValueError, match="frames = 9: its windows have 5 frames"):
        stream(folder, size="24x16", frames=9)
    with pytest.raises(ValueError, match="no holdout window of size 24x16"):
        WindowSamples(Windows(folder), "holdout", size="24x16")


def test_the_wrong_format_is_refused_in_one_line(tmp_path: Path, tiny_data: Path) -> None:
    folder = write(tmp_path / "d")
    with pytest.raises(
        ValueError, match=r"format 2, windows for a pretrained model; prepare .* without --codec"
    ) as one:
        Shards(folder)
    with pytest.raises(ValueError, match=r"format 1, clips for task human_video; prepare .* with --codec") as two:
        Windows(tiny_data)
    assert "\n" not in f"{one.value}{two.value}"


def test_folders_that_are_not_whole(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no dataset.json and index.jsonl there; make them with: .* --codec FOLDER"):
        Windows(tmp_path)
    folder = write(tmp_path / "d")
    lines = (folder / "index.jsonl").read_text().splitlines()
    (folder / "index.jsonl").write_text(lines[0] + "\n{}\n")
    with pytest.raises(ValueError, match="line 2: not a window's row"):
        Windows(folder)
    (folder / "index.jsonl").write_text("")
    with pytest.raises(ValueError, match="the data set is empty"):
        Windows(folder)
    (folder / "index.jsonl").write_text("\n".join(lines))
    with pytest.raises(ValueError, match="'control' is not stored, only latents"):
        Windows(folder).read(Windows(folder).rows[0], ["control"])
    shard = folder / "shard-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"shard-00000.safetensors is truncated"):
        Windows(folder).read(Windows(folder).rows[0])
    shard.unlink()
    with pytest.raises(ValueError, match=r"1 files are missing \(first shard-00000"):
        Windows(folder)
    about = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**about, "format": 3}))
    with pytest.raises(ValueError, match="format 3, this version reads 2"):
        Windows(folder)
