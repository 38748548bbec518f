"""What `entprog prepare` says at its end."""

import os

from entprog.prepare.batch import PrepareResult, counted_lines
from entprog.prepare.inputs import shown
from entprog.report.data_set import report_data_set

MOST = 12
"""Reasons that are printed; prepare.jsonl has all."""


def say_prepared(result: PrepareResult) -> None:
    """Write report.html of the data set, and print what it holds and why files were dropped.

    Under torchrun only the first process does.
    """
    if os.environ.get("RANK", "0") != "0":
        return
    if page := report_data_set(result.out):
        print(f"{page}: pictures of the clips and of what was dropped")
    windows = f"{result.windows} windows of {result.clips} clips"
    clips = f"{result.clips} clips, {result.frames} frames"
    files = f"{result.kept} files kept, {result.dropped} dropped"
    print(f"{shown(result.out)}: {windows if result.windows else clips}; {files}")
    for line in counted_lines(result.reasons, MOST):
        print(f"  {line}")
    if result.left_out:
        print("not prepared:")
        for line in counted_lines(result.left_out, MOST):
            print(f"  {line}")
