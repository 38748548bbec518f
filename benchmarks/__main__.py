"""`python -m benchmarks SUITE`, from the root of the repository: the comparison of methods."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from benchmarks.command import bench as run_suite
from entprog.cli.errors import plain_errors
from entprog.cli.overrides import integers, listed


def bench(
    suite: str,
    /,
    *,
    arms: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = (),
    seeds: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = (),
    minutes: float = 0.0,
    results: Path = Path("benchmarks/results"),
    runs: Path = Path("runs/bench"),
    calibrate: Annotated[bool, Parameter(negative=())] = False,
    only_report: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Compare ways of training under one protocol.

    Makes the runs of a suite that have no record yet (for each arm a pilot that
    measures its steps, the sweep of its learning rate, then every seed at every
    budget), then tables, pictures and a page from all records.
    Stop it at any time; the same command continues where it stopped, bit for bit.

        python -m benchmarks smoke
        python -m benchmarks nano --minutes 50
        python -m benchmarks nano --arms lora-16 --seeds 0
        python -m benchmarks nano --calibrate
        python -m benchmarks nano --only-report

    Args:
        suite: the name of a shipped suite, or a TOML file.
        arms: only these arms of the suite; repeat it, or list them with commas.
        seeds: only these seeds.
        minutes: stop after that time, in the middle of a run if need be; 0 for no limit.
        results: folder of the records, one file a suite.
        runs: run folders, sample clips, tables, pictures and the page go to a folder of the suite's name in it.
        calibrate: no runs; time the steps of all arms in turns, for times that can be compared.
        only_report: no runs; tables, pictures and page from the records.
    """
    command = ["python", "-m", "benchmarks", suite, *(f"--{key}={value}" for key, value in (
        ("arms", ",".join(arms)), ("seeds", ",".join(seeds)),
    ) if value)]  # fmt: skip
    run_suite(
        suite, arms=listed(arms), seeds=integers("seeds", seeds), minutes=minutes, results=results, runs=runs,
        calibrate=calibrate, only_report=only_report, command=shlex.join(command),
    )  # fmt: skip


app = App(
    name="python -m benchmarks",
    help_format="plaintext",
    exit_on_error=False,
    print_error=False,
    verbose=False,
    suppress_keyboard_interrupt=False,
    result_action="return_value",
)
app.default(bench)


def main(argv: list[str] | None = None) -> None:
    """Run the command line; each problem is one line on stderr, exit code 2."""
    with plain_errors():
        app(sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    main()
