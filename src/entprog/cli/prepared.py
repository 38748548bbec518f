"""What `entprog prepare` says at its end."""

import os

from entprog.prepare.folder import PrepareResult
from entprog.prepare.inputs import shown
from entprog.report.data_set import report_data_set


def say_prepared(result: PrepareResult) -> None:
    """Print what the data set holds and why files were dropped, and write its report.html.

    Under torchrun only the first process does.
    """
    if os.environ.get("RANK", "0") != "0":
        return
    windows = f"{result.windows} windows of {result.clips} clips"
    clips = f"{result.clips} clips, {result.frames} frames"
    files = f"{result.kept} files kept, {result.dropped} dropped"
    print(f"{shown(result.out)}: {windows if result.windows else clips}; {files}")
    for reason, count in result.reasons.items():
        print(f"  {count} x {reason}")
    if result.left_out:
        print("not prepared:")
        for reason, count in result.left_out.items():
            print(f"  {count} x {reason}")
    if page := report_data_set(result.out):
        print(f"  pictures of the clips and of what was dropped: {page}")
