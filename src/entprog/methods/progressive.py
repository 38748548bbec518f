"""Ent-Prog: unfreeze the highest-ranked blocks, as many as the schedule chooses, stage by stage."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch

from entprog.core.freeze import Freezer
from entprog.core.probe import Snapshot, paired_gain
from entprog.core.supernet import supernet_candidate
from entprog.core.types import Method, Ranking, Schedule, Setting, Shape, StepInfo, Trial, Workload

__all__ = ["Progressive"]


@dataclass(frozen=True)
class Progressive:
    """Prioritized progressive learning (arXiv 2511.21136): stage k trains the m_k most important blocks.

    The forward pass always runs the whole network. The schedule names the candidates for m_k; where there are
    several, the first steps of the stage measure them, with the nested supernet or with probes.
    """

    def bind(self, setting: Setting) -> Method:
        """Needs a ranking and a schedule; a schedule that searches needs holdout draws.

        Raises:
            ValueError: more stages than steps, a search longer than its stage, or what is needed is missing.
        """
        if setting.ranking is None or setting.schedule is None:
            raise ValueError("method = 'progressive': needs a ranking and a schedule; set [ranking] and [schedule]")
        return _Bound(setting, setting.ranking, setting.schedule)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where step i lies: its stage, the step within it, and the length of the stage's search."""

    stage: int
    offset: int
    start: int
    search: int
    candidates: tuple[int, ...]


class _Bound:
    def __init__(self, setting: Setting, ranking: Ranking, schedule: Schedule) -> None:
        self.setting, self.schedule = setting, schedule
        self._check()
        self.freezer = Freezer(
            setting.task.model,
            setting.blocks,
            setting.optimizer,
            states=setting.states,
            outside=setting.outside,
        )
        self.rankings: list[Ranking] = [ranking]
        self.chosen: list[int] = []
        self.trials: list[Trial] = []
        self.stage_announced = -1
        self.search_seconds = 0.0
        self.search_flops = 0.0
        self.probe: dict[str, Any] = {}
        self.last_reading: dict[int, float] = {}

    def _check(self) -> None:
        setting, schedule = self.setting, self.schedule
        if schedule.stages > setting.total_steps:
            raise ValueError(
                f"schedule.options.stages = {schedule.stages}: more stages than the phase has steps "
                f"({setting.total_steps}); lower stages or raise steps"
            )
        length = setting.total_steps // schedule.stages
        if schedule.search_steps >= length and schedule.estimator != "none":
            raise ValueError(
                f"schedule.options.search_steps = {schedule.search_steps}: a stage has only {length} steps "
                f"({setting.total_steps} steps in {schedule.stages} stages); lower search_steps or stages"
            )
        if schedule.estimator != "none" and not setting.holdout:
            raise ValueError("schedule: a schedule that searches needs holdout draws; give Setting.holdout")
        total = len(setting.blocks)
        for stage in range(schedule.stages):
            for m in schedule.candidates(stage, total, 0):
                if not 1 <= m <= total:
                    raise ValueError(f"schedule: m = {m} in stage {stage}, but the phase has {total} blocks")

    def _place(self, i: int) -> _Place:
        stages, total = self.schedule.stages, self.setting.total_steps
        stage = min(i * stages // total, stages - 1)
        start = -(-stage * total // stages)
        last = self.chosen[stage - 1] if 0 < stage <= len(self.chosen) else 0
        candidates = self.schedule.candidates(stage, len(self.setting.blocks), last)
        search = 0
        if len(candidates) > 1 and self.schedule.estimator != "none":
            search = self.schedule.search_steps
            if self.schedule.estimator == "probe":
                search -= search % len(candidates)
        return _Place(stage, i - start, start, search, candidates)

    def _m(self, place: _Place) -> int:
        if place.offset >= place.search:
            if len(self.chosen) > place.stage:
                return self.chosen[place.stage]
            return place.candidates[0]
        if self.schedule.estimator == "probe":
            return place.candidates[place.offset // (place.search // len(place.candidates))]
        return supernet_candidate(self.setting.seed, place.start + place.offset, place.candidates)

    def workload(self, i: int) -> Workload:
        """The top blocks of step i, in the network's order."""
        place = self._place(i)
        top = set(self.rankings[min(place.stage, len(self.rankings) - 1)].top(self._m(place)))
        return Workload(tuple(name for name in self.setting.blocks.names if name in top), self.setting.shape)

    def replays(self, i: int) -> int:
        """In a probe, the step of the first candidate at the same distance from its start; else i."""
        place = self._place(i)
        if self.schedule.estimator != "probe" or place.offset >= place.search:
            return i
        return place.start + place.offset % (place.search // len(place.candidates))

    @contextmanager
    def step(self, i: int) -> Iterator[StepInfo]:
        """Around one optimizer step: trains exactly the workload's blocks, and searches at a stage's start."""
        place = self._place(i)
        self._enter_stage(place)
        searching = place.offset < place.search
        probing = searching and self.schedule.estimator == "probe"
        if probing:
            self._enter_probe(place)
        workload = self.workload(i)
        self.freezer.train_only(workload.active)
        if place.offset == place.search or (place.offset == 0 and place.search == 0):
            self._announce(place, workload)
        start = time.perf_counter() if searching else 0.0
        yield StepInfo(place.stage, len(workload.active), workload.active, searching, discardable=probing)
        if searching:
            self._synchronize()
            seconds = time.perf_counter() - start
            if probing:
                self._leave_probe(place, i, workload, seconds)
            else:
                self._read_supernet(place, i, workload, seconds)
        if i + 1 < self.setting.total_steps:
            self._enter_stage(self._place(i + 1))

    def _enter_stage(self, place: _Place) -> None:
        if self.stage_announced >= place.stage:
            return
        self.stage_announced = place.stage
        self.last_reading = {}
        if self.setting.rerank is not None and place.stage > 0:
            self.rankings.append(self.setting.rerank())
        if len(place.candidates) == 1 or place.search == 0:
            self.chosen.append(place.candidates[0])

    def _announce(self, place: _Place, workload: Workload) -> None:
        active = list(workload.active)
        self.setting.notify("stage", {"stage": place.stage, "m": len(active), "active": active})

    @torch.no_grad()
    def _read(self) -> list[float]:
        """Holdout losses, one a draw; charged to the search."""
        start = time.perf_counter()
        losses = [float(self.setting.task.loss(draw)) for draw in self.setting.holdout]
        self._synchronize()
        self.search_seconds += time.perf_counter() - start
        self.search_flops += self.setting.reading_flops()
        return losses

    def _read_supernet(self, place: _Place, i: int, workload: Workload, seconds: float) -> None:
        m = len(workload.active)
        losses = self._read()
        loss = sum(losses) / len(losses)
        before = self.last_reading.get(m, loss)
        self.last_reading[m] = loss
        self._record(Trial(place.stage, i, workload, seconds, self.setting.flops(workload), before, loss))
        if place.offset == place.search - 1:
            self._choose(place)

    def _enter_probe(self, place: _Place) -> None:
        share = place.search // len(place.candidates)
        if place.offset % share == 0:
            # Offloaded states come back first: a snapshot and what it is put back into must both be whole.
            self.freezer.train_only(self.setting.blocks.names)
        if place.offset == 0:
            taken = Snapshot.take(self.setting.task.model, self.setting.optimizer)
            self.probe = {"start": taken, "before": self._read(), "ends": {}, "seconds": 0.0}
        elif place.offset % share == 0:
            self.probe["start"].restore(self.setting.task.model, self.setting.optimizer)
            self.probe["seconds"] = 0.0

    def _leave_probe(self, place: _Place, i: int, workload: Workload, seconds: float) -> None:
        share = place.search // len(place.candidates)
        self.probe["seconds"] += seconds
        if (place.offset + 1) % share:
            return
        after, before = self._read(), self.probe["before"]
        _, error = paired_gain(before, after)
        flops = self.setting.flops(workload) * share
        mean_before, mean_after = sum(before) / len(before), sum(after) / len(after)
        self._record(Trial(place.stage, i, workload, self.probe["seconds"], flops, mean_before, mean_after, error))
        self.freezer.train_only(self.setting.blocks.names)
        self.probe["ends"][len(workload.active)] = Snapshot.take(self.setting.task.model, self.setting.optimizer)
        if place.offset == place.search - 1:
            self._choose(place)
            losers = [t for t in self._stage_trials(place.stage) if len(t.workload.active) != self.chosen[-1]]
            self.search_seconds += sum(t.seconds for t in losers)
            self.search_flops += sum(t.flops for t in losers)
            self.probe["ends"][self.chosen[-1]].restore(self.setting.task.model, self.setting.optimizer)
            self.probe = {}
        self.freezer.train_only(workload.active)

    def _record(self, trial: Trial) -> None:
        self.trials.append(trial)
        self.setting.notify("trial", {**asdict(trial), "m": len(trial.workload.active), "gain": trial.gain})

    def _stage_trials(self, stage: int) -> list[Trial]:
        return [trial for trial in self.trials if trial.stage == stage]

    def _choose(self, place: _Place) -> None:
        m, efficiency = self.schedule.choose(self._stage_trials(place.stage), self.setting.cost)
        self.chosen.append(m)
        self.setting.notify(
            "choice", {"stage": place.stage, "m": m, "efficiency": {str(k): v for k, v in efficiency.items()}}
        )

    def _synchronize(self) -> None:
        if next(self.setting.task.model.parameters()).is_cuda:
            torch.cuda.synchronize()

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides later steps, also in the middle of a search. Plain values and tensors."""
        probe = dict(self.probe)
        if probe:
            probe["start"] = probe["start"].state_dict()
            probe["ends"] = {str(m): end.state_dict() for m, end in probe["ends"].items()}
        return {
            "freezer": self.freezer.state_dict(),
            "rankings": [list(ranking.names) for ranking in self.rankings],
            "chosen": list(self.chosen),
            "trials": [asdict(trial) for trial in self.trials],
            "stage_announced": self.stage_announced,
            "search_seconds": self.search_seconds,
            "search_flops": self.search_flops,
            "last_reading": {str(m): value for m, value in self.last_reading.items()},
            "probe": probe,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.freezer.load_state_dict(state["freezer"])
        self.rankings = [Ranking(tuple(names)) for names in state["rankings"]]
        self.chosen = list(state["chosen"])
        self.trials = [_trial(values) for values in state["trials"]]
        self.stage_announced = state["stage_announced"]
        self.search_seconds, self.search_flops = state["search_seconds"], state["search_flops"]
        self.last_reading = {int(m): value for m, value in state["last_reading"].items()}
        self.probe = dict(state["probe"])
        if self.probe:
            self.probe["start"] = Snapshot.from_state(self.probe["start"])
            self.probe["ends"] = {int(m): Snapshot.from_state(end) for m, end in self.probe["ends"].items()}


def _trial(values: dict[str, Any]) -> Trial:
    workload = values["workload"]
    shape = Shape(**workload["shape"]) if workload["shape"] else None
    return Trial(**{**values, "workload": Workload(tuple(workload["active"]), shape)})
