"""Checkpoints: what goes in comes out, whole or not at all."""

import json
import textwrap
from pathlib import Path

import pytest
import torch

import processes
from entprog.train.checkpoint import checkpoints, find_checkpoint, load_checkpoint, prune, save_checkpoint

STATE = {
    "step": 7, "rate": 1e-5, "label": "a", "on": True, "nothing": None, "empty": {}, "list": [1, None, {"x": 2.5}],
    "weights": {"a/b.c": torch.randn(3, 4), "half": torch.randn(2).half(), "scalar": torch.tensor(3)},
    "deep": [{"t": torch.arange(5)}, [torch.zeros(0)]],
    "random": torch.get_rng_state(),
}  # fmt: skip


def equal(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(equal, a, b))
    return a == b and type(a) is type(b)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 7, STATE)
    assert path == tmp_path / "checkpoint-7"
    assert sorted(p.name for p in path.iterdir()) == ["complete", "state.json", "state.safetensors"]
    loaded = load_checkpoint(path)
    assert loaded.pop("format") == 3 and equal(loaded, STATE)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-7"], "nothing else is left"


def test_views_of_one_tensor_are_saved_each(tmp_path: Path) -> None:
    whole = torch.arange(6.0).view(2, 3)
    state = load_checkpoint(save_checkpoint(tmp_path, 0, {"a": whole, "b": whole[0], "c": whole.T, "d": [whole]}))
    assert equal([state["a"], state["b"], state["c"], state["d"][0]], [whole, whole[0], whole.T, whole])


def test_a_checkpoint_is_replaced(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 3, {"value": 1})
    save_checkpoint(tmp_path, 3, {"value": 2})
    assert load_checkpoint(tmp_path / "checkpoint-3")["value"] == 2


def test_a_replacement_that_was_killed_halfway_loses_nothing(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 3, {"value": 1})
    path.rename(tmp_path / ".checkpoint-3.old")  # killed between the two renames
    assert load_checkpoint(find_checkpoint(tmp_path, "latest"))["value"] == 1
    path.rename(tmp_path / ".checkpoint-3.old")
    save_checkpoint(tmp_path, 3, {"value": 2})
    assert load_checkpoint(path)["value"] == 2
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-3"]


def test_what_a_killed_run_left_half_written_goes_with_the_next_checkpoint(tmp_path: Path) -> None:
    left = tmp_path / ".checkpoint-5.partial"
    left.mkdir()
    (left / "state.safetensors").write_bytes(b"half")
    save_checkpoint(tmp_path, 7, STATE)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-7"]


def test_what_is_neither_tensor_nor_plain_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="'/a/0': set is neither a tensor nor plain"):
        save_checkpoint(tmp_path, 0, {"a": [{1}]})
    with pytest.raises(TypeError, match="keys must be strings"):
        save_checkpoint(tmp_path, 0, {"a": {1: 2}})


def test_the_latest_is_the_last_complete_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"resume_from_checkpoint = 'latest': no complete checkpoint"):
        find_checkpoint(tmp_path, "latest")
    for step in (9, 100, 20):
        save_checkpoint(tmp_path, step, {"step": step})
    (tmp_path / "checkpoint-300").mkdir()
    (tmp_path / "checkpoint-old").mkdir()
    (tmp_path / "checkpoint-old" / "complete").touch()
    assert [p.name for p in checkpoints(tmp_path)] == ["checkpoint-9", "checkpoint-20", "checkpoint-100"]
    assert find_checkpoint(tmp_path, "latest").name == "checkpoint-100"
    assert find_checkpoint(tmp_path, "checkpoint-9") == tmp_path / "checkpoint-9"
    assert find_checkpoint(Path("elsewhere"), str(tmp_path / "checkpoint-9")) == tmp_path / "checkpoint-9"
    with pytest.raises(ValueError, match="'checkpoint-10': no such folder"):
        find_checkpoint(tmp_path, "checkpoint-10")
    with pytest.raises(ValueError, match="no complete checkpoint of entprog there"):
        load_checkpoint(tmp_path / "checkpoint-300")


def test_old_ones_are_pruned(tmp_path: Path) -> None:
    for step in (9, 100, 20):
        save_checkpoint(tmp_path, step, {})
    prune(tmp_path, 0)
    assert len(checkpoints(tmp_path)) == 3
    prune(tmp_path, 2)
    assert [p.name for p in checkpoints(tmp_path)] == ["checkpoint-20", "checkpoint-100"]
    prune(tmp_path, 5)
    assert len(checkpoints(tmp_path)) == 2


def test_damage_is_told(tmp_path: Path) -> None:
    def fresh() -> Path:
        return save_checkpoint(tmp_path, 1, STATE)

    for size in (0, 7, 200, -1):
        tensors = fresh() / "state.safetensors"
        tensors.write_bytes(tensors.read_bytes()[:size])
        with pytest.raises(ValueError, match=r"truncated or damaged.*name an earlier checkpoint"):
            load_checkpoint(tmp_path / "checkpoint-1")
    plain = fresh() / "state.json"
    plain.write_text(plain.read_text()[:-20])
    with pytest.raises(ValueError, match="truncated or damaged"):
        load_checkpoint(tmp_path / "checkpoint-1")
    plain = fresh() / "state.json"
    plain.write_text(json.dumps({**json.loads(plain.read_text()), "format": 99}))
    with pytest.raises(ValueError, match="not in format 3 of this version"):
        load_checkpoint(tmp_path / "checkpoint-1")
    plain.write_text("[]")
    with pytest.raises(ValueError, match="not in format 3"):
        load_checkpoint(tmp_path / "checkpoint-1")
    plain = fresh() / "state.json"
    plain.write_text(plain.read_text().replace("/weights/half", "/weights/none"))
    with pytest.raises(ValueError, match=r"damaged, no tensor '/weights/none'"):
        load_checkpoint(tmp_path / "checkpoint-1")
    (fresh() / "state.safetensors").unlink()
    with pytest.raises(ValueError, match="truncated or damaged"):
        load_checkpoint(tmp_path / "checkpoint-1")


def test_a_full_disk_leaves_earlier_checkpoints_intact(tmp_path: Path) -> None:
    """A limit on file sizes simulates a full disk: writing fails half way, as with no space left."""
    code = textwrap.dedent("""
        import resource, signal, sys
        from pathlib import Path
        import torch
        from entprog.train.checkpoint import checkpoints, load_checkpoint, save_checkpoint

        run = Path(sys.argv[1])
        save_checkpoint(run, 1, {"weights": torch.arange(100.0)})
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        for step in (1, 2):  # replacing one, and adding one
            try:
                save_checkpoint(run, step, {"weights": torch.zeros(100_000)})
            except OSError as error:
                print(error)
        print([p.name for p in run.iterdir()], load_checkpoint(run / "checkpoint-1")["weights"].sum())
    """)
    done = processes.run(["-c", code, tmp_path])
    assert done.returncode == 0, done.stderr
    first, second, left = done.stdout.splitlines()
    for step, message in ((1, first), (2, second)):
        assert message.startswith(f"checkpoint-{step} could not be written to {tmp_path}")
        assert "earlier checkpoints are intact" in message and "--resume-from-checkpoint latest" in message
    assert left == "['checkpoint-1'] tensor(4950.)"
