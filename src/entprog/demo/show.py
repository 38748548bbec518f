"""The demo itself: evaluates the base, trains each arm from it, evaluates these alike, and shows all beside each other.

The folder of a demo holds a run folder for each arm, demo.json (which demo it is), report.html and schedule.svg.
"""

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from entprog.config.checks import running
from entprog.config.load import write_config
from entprog.config.schema import Config
from entprog.demo.arms import CLIPS, QUICK, RENDERED, Arm, Demo
from entprog.demo.progress import Work
from entprog.evaluate.evaluation import evaluate_task
from entprog.files import write_atomically
from entprog.report import collect, schedule_picture, summary_table, write_report
from entprog.tasks.base import Task
from entprog.tasks.finished_run import build_task, open_run
from entprog.train.checkpoint import checkpoints
from entprog.train.log import describe_run, now
from entprog.train.phase import PhaseSetup
from entprog.train.run import train
from entprog.train.validation import holdout_loss

START = 5.0
"""Seconds that the bar allows for opening data and weights of an arm."""


def demo(out: Path, *, rendered: bool = False, quick: bool = False) -> None:
    """Train all arms into `out`, write `out`/report.html and schedule.svg, and print the comparison.

    An arm that is finished is kept; one that was interrupted goes on from its last checkpoint.

    Raises:
        ValueError: both `rendered` and `quick`, or `out` cannot be used.
    """
    if rendered and quick:
        raise ValueError("quick = true: not together with rendered = true; leave out one of them")
    show(RENDERED if rendered else QUICK if quick else CLIPS, Path(out))


def show(plan: Demo, out: Path, *, progress: bool = True) -> list[Path]:
    """Run a demo and return its run folders, in the order of its table."""
    configs = [(arm, plan.config(arm, out)) for arm in plan.arms]
    _claim(out, plan.name)
    work = Work(sum(seconds for _, seconds in _left(plan, configs, out)), shown=progress)
    try:
        runs = [_before(plan, configs[0][1], out, work)] if plan.before else []
        runs += [_arm(plan, arm, config, work) for arm, config in configs]
    except (KeyboardInterrupt, SystemExit):
        print("entprog: the demo was stopped; the same command goes on where it stopped", file=sys.stderr)
        raise
    finally:
        work.close()
    page = write_report(runs, out / "report.html")
    picture = out / "schedule.svg"
    write_atomically(picture, schedule_picture([collect(run) for run in runs]))
    print(f"\nOn {plan.about}\n")
    print(summary_table(runs, width=112))
    print(f"\npage      {page}\nschedule  {picture}\nvideos    {', '.join(str(run / 'samples') for run in runs)}")
    return runs


def _claim(out: Path, name: str) -> None:
    """Make the folder, or refuse one that holds something else than this demo."""
    mark = out / "demo.json"
    try:
        if mark.is_file():
            before = _named(mark)
            if before != name:
                raise ValueError(
                    f"out = {str(out)!r}: holds the demo {before!r}, not {name!r}; give another folder, or delete it"
                )
            return
        if out.is_dir() and (found := sorted(path.name for path in out.iterdir())):
            raise ValueError(f"out = {str(out)!r}: holds other files ({found[0]}, ...); give a new or an empty folder")
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(mark, json.dumps({"demo": name}) + "\n")
    except OSError as error:
        raise ValueError(f"out = {str(out)!r}: cannot be written ({error.strerror}); give another folder") from error


def _named(mark: Path) -> str:
    """Which demo a folder holds."""
    try:
        return str(json.loads(mark.read_text(encoding="utf-8"))["demo"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"out = {str(mark.parent)!r}: {mark.name} cannot be read; give another folder") from error


def _left(plan: Demo, configs: list[tuple[Arm, Config]], out: Path) -> Iterator[tuple[str, float]]:
    """What is still to be done, and the seconds that the bar allows for it."""
    judged = plan.clip * configs[0][1].evaluate.clips
    if plan.before and not _judged(out / plan.before):
        yield plan.before, START + judged
    for arm, config in configs:
        run = Path(config.output_dir)
        if not _trained(run):
            yield arm.label, START + sum(_costs(arm, config)[_step_of(run) :])
        if not _judged(run):
            yield arm.label, judged


def _costs(arm: Arm, config: Config) -> list[float]:
    """Seconds of each step of an arm; the first of a phase brings its ranking."""
    found = []
    for name, phase in running(config).items():
        found += [arm.seconds.get(name, 1.0)] * phase.steps
        found[-phase.steps] += arm.ranking
    return found


def _trained(run: Path) -> bool:
    return _about(run).get("status") == "finished"


def _judged(run: Path) -> bool:
    return _trained(run) and (run / "metrics.json").is_file()


def _about(run: Path) -> dict[str, Any]:
    path = run / "run.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _step_of(run: Path) -> int:
    """The step at which an interrupted run will go on."""
    kept = checkpoints(run)
    return int(kept[-1].name.rpartition("-")[2]) if kept else 0


def _before(plan: Demo, config: Config, out: Path, work: Work) -> Path:
    """The base as it is, as a run folder without steps."""
    run = out / plan.before
    if _judged(run):
        return run
    work.begin(plan.before)
    run.mkdir(exist_ok=True)
    config = replace(config, output_dir=str(run), label=plan.before)
    task = build_task(config)
    task.model.eval()
    write_atomically(run / "config.toml", write_config(config))
    about = describe_run(config, task.device, "entprog demo")
    about |= {"method": "", "started": now(), "finished": now(), "status": "finished"}
    write_atomically(run / "run.json", json.dumps(about, indent=2) + "\n")
    found = _holdout(task, config)
    kept = {f"holdout_{name}": found[name] for name in ("loss", "log_loss", "bands")}
    totals = {"steps": 0, **kept}
    write_atomically(run / "totals.json", json.dumps(totals) + "\n")
    event = {"event": "holdout", "step": 0, "phase": "", **found}
    write_atomically(run / "events.jsonl", json.dumps(event) + "\n")
    work.did(START)
    _judge(plan, config, task, run, work)
    return run


def _holdout(task: Task, config: Config) -> dict[str, Any]:
    """What a run of this configuration reads at its end, here of the task as it is."""
    number, name = list(enumerate(running(config)))[-1]
    setup = PhaseSetup.build(task, config, number, name)
    found = holdout_loss(task, setup.holdout)
    task.leave()
    return found


def _arm(plan: Demo, arm: Arm, config: Config, work: Work) -> Path:
    """One arm, trained and evaluated, or what is left of both."""
    run = Path(config.output_dir)
    if _judged(run):
        tqdm.write(f"{run}: finished before, kept (delete it to train again)")
        return run
    work.begin(arm.label)
    if not _trained(run):
        _train(arm, config, run, work)
    _, task = open_run(run)
    _judge(plan, config, task, run, work)
    return run


def _train(arm: Arm, config: Config, run: Path, work: Work) -> None:
    """Train without an evaluation at the end: that has its own share of the bar."""
    resume = "latest" if checkpoints(run) else None
    if resume is None and run.exists():  # stopped before its first checkpoint
        shutil.rmtree(run)
    work.did(START)
    costs = _costs(arm, config)[_step_of(run) :]
    plain = replace(config, evaluate=replace(config.evaluate, clips=0))
    train(plain, resume_from_checkpoint=resume, command="entprog demo", after_step=work.steps(costs))
    write_atomically(run / "config.toml", write_config(config))


def _judge(plan: Demo, config: Config, task: Task, run: Path, work: Work) -> None:
    work.begin(f"{run.name}: sampling")
    evaluate_task(task, config, run, weights="model", progress=False)
    work.did(plan.clip * config.evaluate.clips)
