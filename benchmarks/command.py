"""`python -m benchmarks SUITE`: make the runs that are missing, then tables, pictures and the page from all records."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from benchmarks.runner.results_file import Busy, add_record, only_runner, read_records, results_file
from benchmarks.runner.run_plan import plan
from benchmarks.runner.suite import Suite
from benchmarks.runner.suite_file import read_suite
from benchmarks.runner.suite_loop import run_suite
from benchmarks.runner.timed_steps import calibrate as timed
from benchmarks.runner.timed_steps import latest, run_seconds
from benchmarks.tables.all_tables import all_tables
from benchmarks.tables.analysis import Analysis, markdown
from benchmarks.tables.suite_page import write_all
from entprog.config.load import ConfigError

RESULTS = Path("benchmarks/results")
RUNS = Path("runs/bench")


def bench(
    name: str,
    *,
    arms: Sequence[str] = (),
    seeds: Sequence[int] = (),
    minutes: float = 0.0,
    results: Path = RESULTS,
    runs: Path = RUNS,
    calibrate: bool = False,
    only_report: bool = False,
    command: str = "",
) -> bool:
    """Make the runs that a suite still needs and print its tables; returns whether nothing is missing.

    Args:
        name: a shipped suite or the path of a TOML file.
        results: folder of the results files, one a suite.
        runs: run folders go to a folder of the suite's name in it, and the page, tables.md and pictures.
        calibrate: only time the arms' steps against each other.
        only_report: only tables and page.

    Raises:
        ConfigError: the suite, an arm or a seed is wrong, or there are no records to report.
        ValueError: runs could not be made.
    """
    suite = read_suite(name)
    _check(suite, arms, seeds, minutes)
    if not only_report:
        _check_packages(suite, arms)
    file, folder = results_file(results, suite.name), runs / suite.name
    failed: ValueError | None = None
    done = True
    if calibrate:
        with only_runner(suite.name, results, folder):
            add_record(file, timed(suite, arms or suite.settings.arms, folder, command))
    elif not only_report:
        try:
            done = run_suite(suite, results, folder, arms=arms, seeds=seeds, minutes=minutes, command=command)
        except Busy:
            raise
        except ValueError as error:  # tables of the runs that could be made are shown all the same
            failed = error
    written = report(suite, results, folder)
    if only_report and not written:
        raise ConfigError([f"{suite.name}: no records in {file}; make some by python -m benchmarks {suite.name}"])
    if written:
        print(f"\npage {written[-1]}\ntables and pictures {folder}\nrecords {file}")
    if failed is not None:
        raise failed
    if only_report or calibrate:
        done = not plan(suite, read_records(file), arms=arms, seeds=seeds).missing
    return done


def report(suite: Suite, results: Path, folder: Path) -> list[Path]:
    """Print the tables of the records that are there, and write them, pictures and page; nothing without records."""
    analysis = analysed(suite, results)
    if analysis is None:
        return []
    for table in all_tables(analysis):
        print(f"\n{markdown(table)}")
    return write_all(analysis, folder)


def analysed(suite: Suite | str, results: Path) -> Analysis | None:
    """A suite, or the one of a name, with its records from its file in `results`; None where there are none."""
    suite = read_suite(suite) if isinstance(suite, str) else suite
    records = read_records(results_file(results, suite.name))
    if not records:
        return None
    analysis = Analysis(suite, plan(suite, records), records)
    shown = {arm for arm, _ in analysis.groups}
    if shown and (calibration := latest(records, sorted(shown))) is not None:
        analysis.seconds = lambda record: run_seconds(record, calibration)
    return analysis


def _check(suite: Suite, arms: Sequence[str], seeds: Sequence[int], minutes: float) -> None:
    wrong = []
    for arm in arms:
        if arm not in suite.settings.arms:
            near = get_close_matches(arm, suite.settings.arms, 1)
            hint = f"did you mean {near[0]}?" if near else f"the suite has {', '.join(suite.settings.arms)}"
            wrong.append(f"--arms {arm}: not in suite {suite.name}; {hint}")
    for seed in seeds:
        if seed not in suite.settings.seeds:
            wrong.append(f"--seeds {seed}: the suite's are {', '.join(map(str, suite.settings.seeds))}")
    if minutes < 0:
        wrong.append(f"--minutes {minutes:g}: must be at least 0 (0: no limit)")
    if wrong:
        raise ConfigError(wrong)


def _check_packages(suite: Suite, arms: Sequence[str]) -> None:
    """Refuse, before any work, arms whose files or packages are missing here."""
    wrong: list[str] = []
    for arm in arms or suite.settings.arms:
        try:
            suite.config(arm, planned=False)
        except ConfigError as error:
            wrong += error.problems
    if wrong:
        raise ConfigError(wrong)
