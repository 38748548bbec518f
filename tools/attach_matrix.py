"""What `attach` makes of every denoiser of tests/denoisers and every network of tests/foreign_networks.py, recorded.

python tools/attach_matrix.py            all of them
python tools/attach_matrix.py WORD...    those whose name has one of these words; the lines of the others stay

Each is ranked by every score and trained three steps with a change of stage. The record is
benchmarks/results/attach-matrix.jsonl, a line a class: by score "ok", or the message. A process each, so that a crash
is a line, too. About five minutes on one core.
"""

import json
import multiprocessing
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from attach_matrix import judged, quiet  # noqa: E402
from denoisers import Denoiser, denoisers  # noqa: E402
from entprog.core.blocks import discover_blocks  # noqa: E402
from entprog.files import write_atomically  # noqa: E402
from foreign_networks import FOREIGN, Foreign  # noqa: E402

RECORD = ROOT / "benchmarks" / "results" / "attach-matrix.jsonl"


def main(words: Sequence[str]) -> None:
    cases: dict[str, Denoiser | Foreign] = {**denoisers(), **FOREIGN}
    rows = {row["class"]: row for row in recorded()}
    for name in cases:
        if words and not any(word in name for word in words):
            continue
        rows[name] = in_its_own_process(name)
        print(name, wrong(rows[name]) or "ok", flush=True)
        ordered = [rows[each] for each in cases if each in rows]
        write_atomically(RECORD, "".join(json.dumps(row) + "\n" for row in ordered))
    for kind, names in (("classes of diffusers", denoisers()), ("foreign networks", FOREIGN)):
        found = [rows[name] for name in names if name in rows]
        print(f"{sum(not wrong(row) for row in found)} of {len(found)} {kind} right by every score")


def recorded() -> list[dict[str, Any]]:
    """The lines of the record."""
    return [json.loads(line) for line in RECORD.read_text(encoding="utf-8").splitlines()] if RECORD.is_file() else []


def wrong(row: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with a class, by score."""
    return {score: message for score, message in row["scores"].items() if message != "ok"}


def in_its_own_process(name: str) -> dict[str, Any]:
    """The line of a class."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(name, sender))
    process.start()
    sender.close()
    try:
        row: dict[str, Any] = receiver.recv()
    except EOFError:
        process.join()
        row = {"class": name, "scores": {"all": f"the process ended with exit code {process.exitcode}"}}
    process.join()
    return row


def _measure(name: str, sender: Any) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    case = denoisers().get(name) or FOREIGN[name]
    named = getattr(case, "blocks", None)
    start = time.perf_counter()
    scores = judged(case.model, case.predictor, case.draw, blocks=named)
    seconds = time.perf_counter() - start
    model = case.model()
    with quiet():
        blocks = discover_blocks(model, named)
    total = sum(p.numel() for p in model.parameters())
    sender.send({
        "class": name, "blocks": len(blocks), "named": named, "parameters": total,
        "in_blocks": round(sum(p.numel() for block in blocks for p in block.parameters()) / total, 3),
        "scores": scores, "seconds": round(seconds, 1),
        "versions": {"torch": torch.__version__, "diffusers": diffusers.__version__},
    })  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
