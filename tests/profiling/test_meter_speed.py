"""The meter's quick inner loop against the plain one that says the same: every figure of whole runs, to the byte."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import flop_registry

from entprog.profiling import operations
from entprog.profiling.ledger import Ledger, tensors
from entprog.train.run import train
from tiny import lines, synthetic_data, tiny_config

RUNS: dict[str, dict[str, Any]] = {
    "full, accumulated": {"method": "full", "train__gradient_accumulation_steps": 2, "train__ema_decay": 0.9},
    "progressive, recomputed": {"ranking__score": "cei", "train__gradient_checkpointing": True},
    "lora, bf16": {"method": "lora", "train__mixed_precision": "bf16"},
    "mixed, muon": {"method": "mixed", "ranking__score": "cei", "train__optimizer": "muon"},
    "frozen storage, 8-bit states": {
        "ranking__score": "order", "freeze__storage": "int8", "train__optimizer": "adamw8bit",
    },
    "prefix and reference cache": {
        "ranking__score": "order", "ranking__options__order": "last", "freeze__outside": False,
        "phases__pose__echo": 2, "train__reference_cache": "host",
    },
    "optimizer in the backward pass": {"method": "full", "train__optimizer_in_backward": True,
                                       "train__max_grad_norm": 0},
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_data(tmp_path_factory.mktemp("speed") / "data")


def slowly(ledger: Ledger, values: Iterable[Any], *, pending: bool = False) -> None:
    """What `Ledger.add_all` does, one tensor after the other."""
    for tensor in tensors(list(values)):
        ledger.add(tensor, pending=pending)


def figures(folder: Path, data: Path, options: dict[str, Any]) -> list[Any]:
    run = train(
        tiny_config(
            folder, data, phases__subject__steps=0, phases__video__steps=0, phases__pose__steps=4,
            phases__pose__blocks="all", phases__pose__frames=2, **options,
        )
    )  # fmt: skip
    steps = [
        [row[k] for k in ("flops", "bytes_peak", "bytes_live", "loss", "echo")] for row in lines(run / "log.jsonl")
    ]
    ranked = [[e["flops"], e["bytes_peak"]] for e in lines(run / "events.jsonl") if "order" in e and "bytes_peak" in e]
    return steps + ranked


pytestmark = pytest.mark.usefixtures("small_nano")

SLOW = ("progressive, recomputed", "mixed, muon", "frozen storage, 8-bit states")


@pytest.mark.parametrize("kind", [pytest.param(k, marks=pytest.mark.slow) if k in SLOW else k for k in RUNS])
def test_the_quick_loop_counts_what_the_plain_one_does(
    kind: str, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "8-bit" in kind:
        pytest.importorskip("torchao")
    quick = figures(tmp_path / "quick", data, RUNS[kind])
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "add_all", slowly)
        for operation, formula in flop_registry.items():
            patch.setitem(operations.FORMULAS, operation, formula)
        assert figures(tmp_path / "plain", data, RUNS[kind]) == quick
    assert len({str(row[2]) for row in quick if len(row) == 5}) >= 1 + ("cache" in kind)


def test_nested_values_of_every_kind_are_found() -> None:
    ledger, kept = Ledger("cpu", 1), [torch.zeros(size) for size in (1, 2, 4, 8, 16, 32)]
    a, b, c, d, e, f = kept
    ledger.add_all((a, [3, 4], [None, b], {"x": [c], "y": (d, 5)}, (6, e), "z", None, torch.nn.Parameter(f)))
    assert sum(ledger.live().values()) == 4 * 63
    f.resize_(64)
    ledger.add_all([[f]])
    assert sum(ledger.live().values()) == 4 * (31 + 64)
