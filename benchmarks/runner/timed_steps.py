"""Seconds of a step that mean something on a shared machine: all arms step by step in turns, in one process.

Wall times of whole runs differ by what else the machine did meanwhile. Here every arm trains a short run through the
ordinary code, in a thread of its own, and only one of them works at any time: it takes a step and hands on. Whatever
slows the machine slows all arms alike, and medians leave out what hits single steps.
"""

import hashlib
import json
import math
import os
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean, median, quantiles
from typing import Any

from benchmarks.runner.run_plan import least_steps
from benchmarks.runner.run_record import Record, of_run
from benchmarks.runner.start_weights import base_weights, started_from
from benchmarks.runner.suite import Suite
from entprog.config.schema import Config
from entprog.train.log import now
from entprog.train.run import train

STEPS = 40
"""Steps of a phase at least."""

LEAST = 5
"""Steps of a workload that its median needs, beside the first of each set of blocks: that one is metered, and a method
that changes its blocks often would look slow. Where no workload has as many (BAdam's, one block each), 2 will do."""

KEY = ("resolution", "frames", "batch", "tokens", "inputs", "flops")
"""Fields by which workloads differ, beside the blocks that they train."""


def calibrate(suite: Suite, arms: Sequence[str], runs: Path, command: str = "") -> Record:
    """Time the steps of these arms and return the record.

    Args:
        runs: folder for the short runs; deleted at the end.
    """
    folder = runs / "calibration"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    names = [name for name in suite.settings.arms if name in arms or name == suite.settings.reference]
    turns = Turns()
    before = os.getloadavg()
    base = base_weights(suite, runs, command=command)
    configs = {name: started_from(_config(suite, name, folder / name), base) for name in names}
    jobs = {name: partial(train, config, command=command, after_step=turns.next) for name, config in configs.items()}
    try:
        turns.run(jobs)
        records = {name: of_run(folder / name, {}, None) for name in names}
        content: Record = {
            "kind": "calibration", "suite": suite.name, "arm": "", "made": now(), "status": "finished",
            "run": records[names[0]]["run"], "load": [before, os.getloadavg()],
            "arms": {name: _timed(folder / name, records[name]) for name in names},
        }  # fmt: skip
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    text = json.dumps(content, sort_keys=True)
    return {**content, "address": f"calibration-{hashlib.sha256(text.encode()).hexdigest()[:16]}"}


def _config(suite: Suite, name: str, run: Path) -> Config:
    """A short run of an arm, long enough in each of its stages."""
    config = _often_echoing(suite.config(name))
    steps = {phase: max(STEPS, 3 * least_steps(config, phase)) for phase in suite.steps}
    config = suite.config(name, steps=steps, factor=suite.arms[name].lr_factor, seed=suite.tuning.seeds[0], tuning=True)
    settings = replace(config.train, validation_steps=0, checkpointing_steps=0)
    return replace(_often_echoing(config), output_dir=str(run), train=settings)


def _often_echoing(config: Config) -> Config:
    """With windows so short that a few steps have both kinds; what a step costs does not depend on their length."""
    phases = {name: replace(phase, echo_window=min(phase.echo_window, 8)) for name, phase in config.phases.items()}
    return replace(config, phases=phases)


class Turns:
    """Lets jobs work one at a time, each until it calls `next`, round and round."""

    def __init__(self) -> None:
        self.gates: list[threading.Semaphore] = []
        self.alive: list[int] = []
        self.failed: BaseException | None = None
        self.own = threading.local()

    def run(self, jobs: Mapping[str, Callable[[], Any]]) -> None:
        """Run all jobs to their ends.

        Raises:
            BaseException: what the first that failed raised; the others stop at their next turn.
        """
        self.gates = [threading.Semaphore(0) for _ in jobs]
        self.alive = list(range(len(jobs)))
        threads = [threading.Thread(target=self._work, args=(k, job)) for k, job in enumerate(jobs.values())]
        for thread in threads:
            thread.start()
        if threads:
            self.gates[0].release()
        try:
            for thread in threads:
                thread.join()
        except (KeyboardInterrupt, SystemExit) as stopped:
            self.failed = self.failed or stopped
            for thread in threads:
                thread.join()
        if self.failed is not None:
            raise self.failed

    def next(self) -> None:
        """Hand on, and wait for the next turn.

        Raises:
            Stopped: another job has failed.
        """
        self._hand_on(self.own.place)
        self.gates[self.own.place].acquire()
        if self.failed is not None:
            raise Stopped

    def _work(self, place: int, job: Callable[[], Any]) -> None:
        self.own.place = place
        self.gates[place].acquire()
        try:
            if self.failed is None:
                job()
        except Stopped:
            pass
        except BaseException as error:  # carried over to the thread that waits, which raises it
            self.failed = self.failed or error
        finally:
            self._hand_on(place, leaving=True)

    def _hand_on(self, place: int, *, leaving: bool = False) -> None:
        following = self.alive[(self.alive.index(place) + 1) % len(self.alive)]
        if leaving:
            self.alive.remove(place)
        if self.alive:
            self.gates[following].release()


class Stopped(Exception):
    """Ends a job when another one has failed."""


def _timed(run: Path, record: Record) -> dict[str, Any]:
    """Seconds of the steps of a short run, phase by phase, and of a FLOP of what its reference cache computes.

    A short run's references are mostly new, a long one's mostly known: they are counted apart.
    """
    rows, events = ([json.loads(line) for line in (run / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
                    for name in ("log", "events"))  # fmt: skip
    found = {}
    for name in record["phases"]:
        own = [row for row in rows if row["phase"].partition("-")[2] == name]
        times: dict[tuple[Any, ...], list[float]] = {}
        settled = _settled(own)
        for row in settled:
            if not row["searching"]:
                times.setdefault(tuple(row[key] for key in KEY), []).append(row["seconds"])
        filled = [row["seconds_cache"] / row["flops_cache"] for row in own if row["flops_cache"]]
        enough = LEAST if any(len(seconds) >= LEAST for seconds in times.values()) else 2
        measured = [_measured(key, seconds) for key, seconds in times.items() if len(seconds) >= enough]
        ranked = [event for event in events if event["event"] == "rank" and "seconds" in event]
        ranked = [event for event in ranked if event["phase"].partition("-")[2] == name]
        found[name] = {
            "workloads": measured,
            "search_step": _search_step([row for row in own if row["searching"]], measured),
            "cache": median(filled) if filled else 0.0,
            "scoring": {"seconds": ranked[0]["seconds"], "flops": ranked[0]["flops"]} if ranked else None,
        }
    return found


def _settled(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Steps with their seconds less the reference cache's, without those that were metered: the first of each kind."""
    kinds = [(*(row[key] for key in KEY), tuple(row["active"])) for row in rows]
    return [
        {**row, "seconds": row["seconds"] - row["seconds_cache"]}
        for place, row in enumerate(rows)
        if kinds[place] in kinds[:place]
    ]


def _measured(key: tuple[Any, ...], seconds: Sequence[float]) -> dict[str, Any]:
    low, _, high = quantiles(seconds, n=4)
    return {**dict(zip(KEY, key, strict=True)), "n": len(seconds), "seconds": median(seconds), "spread": high - low}


def _search_step(rows: Sequence[Mapping[str, Any]], measured: Sequence[Mapping[str, Any]]) -> float:
    """Seconds that a step takes longer when it searches, for readings and snapshots; a mean, as few steps have them."""
    if not rows or not measured:
        return 0.0
    return max(0.0, mean(row["seconds"] - step_seconds(row, measured) for row in rows))


def step_seconds(load: Mapping[str, Any], measured: Sequence[Mapping[str, Any]]) -> float:
    """Seconds of a step: as measured, else on the line of seconds over FLOPs through what was measured; NaN of none."""
    for known in measured:
        if all(known[key] == load.get(key) for key in KEY):
            return float(known["seconds"])
    if not measured:
        return math.nan
    flops = float(load["flops"])
    points = [(float(known["flops"]), float(known["seconds"])) for known in measured]
    across, up = mean(x for x, _ in points), mean(y for _, y in points)
    width = sum((x - across) ** 2 for x, _ in points)
    slope = sum((x - across) * (y - up) for x, y in points) / width if width else up / across
    guess = up + slope * (flops - across)
    return guess if slope > 0 and guess > 0 else flops * up / across


def run_seconds(record: Record, calibration: Record) -> float:
    """Calibrated seconds of a run: its steps by their workloads, what searching adds, scoring, and the reference cache.

    NaN where its arm was not timed.
    """
    timed = calibration["arms"].get(record["arm"])
    if timed is None:
        return math.nan
    total = 0.0
    for name, phase in record["phases"].items():
        known = timed[name]
        total += sum(load["steps"] * step_seconds(load, known["workloads"]) for load in phase["workloads"])
        total += sum(stage["searching"] for stage in phase["stages"]) * known["search_step"]
        if known["scoring"]:
            ranked = sum(ranking["flops"] for ranking in record["rankings"] if ranking["phase"] == name)
            total += known["scoring"]["seconds"] * ranked / known["scoring"]["flops"]
    return total + _cache_seconds(record, timed)


def _cache_seconds(record: Record, timed: Mapping[str, Any]) -> float:
    """Seconds that filling the reference cache takes: each phase's FLOPs by its own rate.

    A phase that leaves next to nothing frozen caches next to nothing, at many times the seconds of a FLOP.
    """
    whole = record["totals"].get("flops_cache", 0.0)
    rates = {name: timed[name].get("cache", 0.0) for name in record["phases"]}
    if not whole or not any(rates.values()):
        return 0.0
    filled = {}
    for name, phase in record["phases"].items():
        ranked = sum(ranking["flops"] for ranking in record["rankings"] if ranking["phase"] == name)
        filled[name] = max(0.0, phase["flops"] - phase.get("flops_steps", phase["flops"]) - ranked)
    if not sum(filled.values()):  # a record that does not count a phase's steps apart
        return float(whole * max(rates.values()))
    return float(whole * sum(filled[name] * rates[name] for name in rates) / sum(filled.values()))


def latest(records: Mapping[str, Record], arms: Sequence[str]) -> Record | None:
    """The newest calibration of those that hold most of these arms; None where none holds any.

    One alone, so that all seconds come from steps timed side by side; an arm that it lacks has none.
    """
    found = [record for record in records.values() if record["kind"] == "calibration" and set(arms) & {*record["arms"]}]
    return max(found, key=lambda record: (len(set(arms) & {*record["arms"]}), record["made"]), default=None)
