"""What `entprog prepare` says at its end."""

from entprog.prepare.folder import PrepareResult
from entprog.report.data_set import report_data_set


def say_prepared(result: PrepareResult) -> None:
    """Print what the data set holds and why files were dropped, and write its report.html."""
    if page := report_data_set(result.out):
        print(f"{page}: pictures of the clips and of what was dropped")
    windows = f"{result.windows} windows of {result.clips} clips"
    clips = f"{result.clips} clips, {result.frames} frames"
    files = f"{result.kept} files kept, {result.dropped} dropped"
    print(f"{result.out}: {windows if result.windows else clips}; {files}")
    for reason, count in result.reasons.items():
        print(f"  {count} x {reason}")
