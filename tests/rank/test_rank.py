"""`entprog rank` prints what `entprog train` records."""

import json
from pathlib import Path

import pytest

from entprog.rank.show_ranking import rank
from entprog.train.run import train
from tiny import synthetic_data, tiny_config


def printed(text: str) -> dict[str, list[str]]:
    """Block -> importance, GFLOP and MiB as `entprog rank` shows them."""
    rows = [line.split() for line in text.splitlines()]
    rows = [row for row in rows if len(row) == 9 and row[0].isdigit()]
    return {row[1]: [row[2], row[6], row[8]] for row in rows}


@pytest.mark.usefixtures("small_nano")
def test_rank_prints_what_train_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where only the phase recomputes activations, and in a phase that freezes what is outside its blocks."""
    data = synthetic_data(tmp_path / "data", sizes=(16, 32))
    config = tiny_config(
        tmp_path / "run", data, phases__video__gradient_checkpointing=True, phases__subject__steps=0,
        phases__pose__steps=0,
        ranking__score="skip_loss",
    )  # fmt: skip
    train(config)
    capsys.readouterr()
    rank(config)
    phases = capsys.readouterr().out.split("\nphase ")[1:]
    assert [text.split(":")[0] for text in phases] == ["video"]
    for folder, text in zip(("1-video",), phases, strict=True):
        table = json.loads((tmp_path / "run" / folder / "scores.json").read_text())
        shown = printed(text)
        assert list(shown) == table["order"]
        for name, (importance, gflop, mib) in shown.items():
            cost = table["cost"][name]
            assert importance == f"{table['values'][name]:.4g}"
            assert (gflop, mib) == (f"{cost['step_flops'] / 1e9:.4g}", f"{cost['step_bytes'] / 2**20:.4g}")
    with pytest.raises(ValueError, match="phase = 'none'"):
        rank(config, phase="none")
