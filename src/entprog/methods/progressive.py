"""Ent-Prog: unfreeze the highest-ranked blocks, as many as the schedule chooses, stage by stage."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import torch

from entprog.core.bands import watched_loss
from entprog.core.freeze import Freezer
from entprog.core.probe import Snapshot, check_shared, few_pairs, labels, watched_gain
from entprog.core.select import plain_ranking, ranking_from_plain
from entprog.core.supernet import supernet_candidate
from entprog.core.types import Draw, MethodContext, Ranking, Schedule, StepPlan, Trial, Workload
from entprog.methods._noise_bands import NoiseBands
from entprog.methods.base import Method, MethodPlugin

__all__ = ["Progressive"]


@dataclass(frozen=True, kw_only=True)
class Progressive(NoiseBands, MethodPlugin):
    """Prioritized progressive learning (arXiv 2511.21136): stage k trains the m_k most important blocks.

    The forward pass always runs the whole network. The schedule names the candidate workloads of a stage; where
    there are several, the first steps of the stage measure them, with the nested supernet or with probes. A step of a
    search draws from all noise levels, whatever `noise_edges` says.
    """

    def bind(self, context: MethodContext) -> Method:
        """Needs a ranking and a schedule; a schedule that searches needs holdout draws.

        Raises:
            ValueError: more stages than steps, a search longer than its stage, or no ranking, schedule or holdout.
        """
        if context.ranking is None or context.schedule is None:
            raise ValueError("method = 'progressive': needs a ranking and a schedule; set [ranking] and [schedule]")
        return BoundProgressive(context, context.ranking, context.schedule, self)


@dataclass(frozen=True, slots=True)
class Place:
    """Position of step i: its stage, the step within it, the length of the stage's search, and its candidates.

    Candidates' blocks are in the network's order here, so that equal sets of blocks are equal workloads. `share` is
    the length of one candidate's part of a probe; 0 outside of one.
    """

    stage: int
    offset: int
    start: int
    search: int
    candidates: tuple[Workload, ...]
    share: int

    @property
    def searching(self) -> bool:
        return self.offset < self.search


class BoundProgressive(Method):
    """The method of one phase. A subclass may use another Freezer."""

    freezer_class: ClassVar[type[Freezer]] = Freezer

    def __init__(
        self, context: MethodContext, ranking: Ranking, schedule: Schedule, noise: NoiseBands | None = None
    ) -> None:
        self.context, self.schedule, self.noise = context, schedule, noise or NoiseBands()
        self.noise.check_drawn(context)
        self._check(ranking)
        self.freezer = self.freezer_class(
            context.task.model,
            context.blocks,
            context.optimizer,
            states=context.states,
            outside=context.outside,
            inputs=context.inputs if context.inputs_every != 1 else (),
            storage=context.storage,
        )
        self.rankings: list[Ranking] = [ranking]
        self.chosen: list[Workload] = []
        self.trials: list[Trial] = []
        self.stage_announced = -1
        self.search_seconds = 0.0
        self.search_flops = 0.0
        self.probe: dict[str, Any] = {}
        self.last_reading: dict[int, float] = {}  # by the candidate's index
        self._known: tuple[int, Place, StepPlan] | None = None
        # Of a step that is entered once for each micro-batch: its number, its seconds so far, whether it is inside.
        self._open: int | None = None
        self._closed = -1
        self._seconds = 0.0
        self._inside = self._stepped = False
        self._hook = context.optimizer.register_step_post_hook(self._note_step) if context.reenters else None

    def _check(self, ranking: Ranking) -> None:
        context, schedule = self.context, self.schedule
        if context.inputs_every < 0:
            raise ValueError(f"freeze.inputs_every = {context.inputs_every}: give 0 (never), 1 (always) or more")
        if schedule.stages > context.total_steps:
            raise ValueError(
                f"schedule.options.stages = {schedule.stages}: more stages than the phase has steps "
                f"({context.total_steps}); lower stages or raise steps"
            )
        length = context.total_steps // schedule.stages
        if schedule.search_steps >= length and schedule.estimator != "none":
            raise ValueError(
                f"schedule.options.search_steps = {schedule.search_steps}: a stage has only {length} steps "
                f"({context.total_steps} steps in {schedule.stages} stages); lower search_steps or stages"
            )
        if schedule.estimator != "none" and not context.holdout:
            raise ValueError("schedule: a schedule that searches needs holdout draws; give MethodContext.holdout")
        for stage in range(schedule.stages):
            candidates = schedule.candidates(stage, ranking, context.shape, None)
            check_shared(schedule, len(candidates))
            for workload in candidates:
                unknown = sorted(set(workload.active) - set(context.blocks.names))
                if unknown or not workload.active:
                    raise ValueError(
                        f"schedule: stage {stage} would train {unknown or 'no block'}; choose from the "
                        f"{len(context.blocks)} blocks of the phase"
                    )

    def _stage(self, i: int) -> int:
        return min(i * self.schedule.stages // self.context.total_steps, self.schedule.stages - 1)

    def _place(self, i: int) -> Place:
        stages, total = self.schedule.stages, self.context.total_steps
        stage = self._stage(i)
        start = -(-stage * total // stages)
        last = self.chosen[stage - 1] if 0 < stage <= len(self.chosen) else None
        ranking = self.rankings[min(stage, len(self.rankings) - 1)]
        named = self.schedule.candidates(stage, ranking, self.context.shape, last)
        candidates = tuple(replace(workload, active=self._in_order(workload.active)) for workload in named)
        search = share = 0
        if len(candidates) > 1 and self.schedule.estimator != "none":
            search = self.schedule.search_steps
            if self.schedule.estimator == "probe":
                share = search // len(candidates)
                search = share * len(candidates)
        return Place(stage, i - start, start, search, candidates, share if i - start < search else 0)

    def _in_order(self, active: Sequence[str]) -> tuple[str, ...]:
        chosen = set(active)
        return tuple(name for name in self.context.blocks.names if name in chosen)

    def plan(self, i: int) -> StepPlan:
        """See `Method.plan`; the workload's blocks are in the network's order."""
        self._close_before(i)
        return self._planned(i)[1]

    def _planned(self, i: int) -> tuple[Place, StepPlan]:
        """Position and plan of step i; computed once a step, until the step decides something."""
        if self._known is None or self._known[0] != i:
            place = self._place(i)
            replays = place.start + place.offset % place.share if place.share else i
            workload = self._candidate(place)
            shape = workload.shape or self.context.shape
            if self.noise.noise_edges and shape is not None and not place.searching:
                workload = replace(workload, shape=self.noise.drawn_from(self.noise.band(i), shape))
            if not self._inputs_train(replays):
                workload = replace(workload, inputs=False)
            plan = StepPlan(workload, replays, place.stage, place.searching, discardable=bool(place.share))
            self._known = i, place, plan
        return self._known[1:]

    def _inputs_train(self, replays: int) -> bool:
        every = self.context.inputs_every
        return every == 1 or not self.context.inputs or (every > 0 and replays % every == 0)

    def _candidate(self, place: Place) -> Workload:
        """The workload as the schedule named it; whether inputs train, too, is decided for single steps."""
        if not place.searching:
            return self.chosen[place.stage] if len(self.chosen) > place.stage else place.candidates[0]
        if place.share:
            return place.candidates[place.offset // place.share]
        return supernet_candidate(self.context.seed, place.start + place.offset, place.candidates)

    @contextmanager
    def step(self, i: int) -> Iterator[StepPlan]:
        """Around one optimizer step: trains exactly the workload's blocks, and searches at a stage's start.

        With `MethodContext.reenters` it may be entered once for each micro-batch of step i.
        """
        self._close_before(i)
        again = self.context.reenters and (i == self._open or i <= self._closed)
        if not again:
            self._enter_stage(i)
        place, plan = self._planned(i)
        if place.share and not again:
            self._enter_probe(place)
        candidate = self._candidate(place)
        self.freezer.train_only(plan.active, inputs=plan.workload.inputs)
        if not again and (place.offset == place.search or (place.offset == 0 and place.search == 0)):
            self._announce(place, candidate)
        if not again:
            self._open, self._seconds = i, 0.0
        self._inside, self._stepped = True, False
        start = time.perf_counter() if plan.searching else 0.0
        try:
            yield plan
        finally:
            self._inside = False
        if plan.searching:
            self._synchronize()
            self._seconds += time.perf_counter() - start
        if self._open == i and (self._stepped or not self.context.reenters):
            self._close(i)

    def release(self) -> None:
        """See `Method.release`."""
        super().release()
        if self._hook is not None:
            self._hook.remove()

    def _note_step(self, *step: Any) -> None:
        self._stepped = True

    def _close_before(self, i: int) -> None:
        """End the step that is open if `i` is a later one."""
        if self.context.reenters and self._open is not None and i > self._open and not self._inside:
            self._close(self._open)

    def _close(self, i: int) -> None:
        """What follows the optimizer step i: the reading of a search, and the next stage's entry."""
        place, plan = self._planned(i)
        self._open, self._closed = None, i
        if plan.searching:
            candidate, seconds = self._candidate(place), self._agreed([self._seconds])[0]
            if place.share:
                self.probe["flops"] += self.context.flops(plan.workload)
                self._leave_probe(place, i, candidate, seconds)
            else:
                self._read_supernet(place, i, candidate, seconds, self.context.flops(plan.workload))
        self._known = None  # what this step decided may change the next ones
        if i + 1 < self.context.total_steps:
            self._enter_stage(i + 1)

    def _agreed(self, values: list[float]) -> list[float]:
        return values if self.context.agree is None else self.context.agree(values)

    def _enter_stage(self, i: int) -> None:
        stage = self._stage(i)
        if self.stage_announced >= stage:
            return
        self._known = None
        self.stage_announced = stage
        self.last_reading = {}
        if self.context.rerank is not None and stage > 0:
            with self.freezer.whole():
                self.rankings.append(self.context.rerank())
        place = self._place(i)  # with candidates of the new ranking
        if len(place.candidates) == 1 or place.search == 0:
            self.chosen.append(place.candidates[0])

    def _announce(self, place: Place, workload: Workload) -> None:
        active = list(workload.active)
        self.context.notify("stage", {"stage": place.stage, "m": len(active), "active": active})

    @torch.no_grad()
    def _read(self) -> list[float]:
        """Holdout losses; charged to the search. One for each draw; for a probe or bands one for each sample."""
        start, task = time.perf_counter(), self.context.task
        with self.freezer.whole():
            if self.schedule.estimator == "probe" or self.context.watch == "bands":
                found = self.context.each(self._read_draws(), lambda draw: task.losses(draw).tolist())
                losses = [loss for of_draw in found for loss in of_draw]
            else:
                losses = self.context.each(self._read_draws(), lambda draw: float(task.loss(draw)))
        self._synchronize()
        self.search_seconds += time.perf_counter() - start
        read, all_of_them = (sum(draw.size for draw in draws) for draws in (self._read_draws(), self.context.holdout))
        self.search_flops += self.context.reading_flops(read / all_of_them)
        return self._agreed(losses)

    def _levels(self) -> list[float]:
        return [tau for draw in self._read_draws() for tau in draw.tau.tolist()]

    def _read_draws(self) -> Sequence[Draw]:
        return self.context.holdout

    def _watched(self, losses: list[float]) -> float:
        return watched_loss(losses, self._levels(), self.context.watch)

    def _read_supernet(self, place: Place, i: int, workload: Workload, seconds: float, flops: float) -> None:
        losses, candidate = self._read(), place.candidates.index(workload)
        loss = self._watched(losses)
        before = self.last_reading.get(candidate, loss)
        self.last_reading[candidate] = loss
        self._record(place, Trial(place.stage, i, workload, seconds, flops, before, loss))
        if place.offset == place.search - 1:
            self._choose(place)

    def _enter_probe(self, place: Place) -> None:
        share = place.share
        if place.offset % share == 0:
            # Restore offloaded states first: snapshots cover the whole model.
            self.freezer.everything()
        if place.offset == 0:
            taken = Snapshot.take(self.context.task.model, self.context.optimizer)
            self.probe = {"start": taken, "before": self._read(), "ends": {}, "seconds": 0.0, "flops": 0.0}
            self._warn_of_few(len(self.probe["before"]))
        elif place.offset % share == 0:
            self.probe["start"].restore(self.context.task.model, self.context.optimizer)
            self.probe["seconds"] = self.probe["flops"] = 0.0

    def _warn_of_few(self, pairs: int) -> None:
        message = few_pairs(pairs, self._levels(), self.context.watch)
        if message and not self.trials:  # warn before the first trial only
            self.context.notify("warning", {"sign": "probe", "message": message})

    def _leave_probe(self, place: Place, i: int, workload: Workload, seconds: float) -> None:
        share = place.share
        self.probe["seconds"] += seconds
        if (place.offset + 1) % share:
            return
        after, before = self._read(), self.probe["before"]
        _, error = watched_gain(before, after, self._levels(), self.context.watch)
        spent = self.probe["seconds"], self.probe["flops"]
        trial = Trial(place.stage, i, workload, *spent, self._watched(before), self._watched(after), error)
        self._record(place, trial)
        self.freezer.everything()
        end = Snapshot.take(self.context.task.model, self.context.optimizer)
        self.probe["ends"][place.candidates.index(workload)] = end
        if place.offset == place.search - 1:
            self._choose(place)
            rejected = [t for t in self._stage_trials(place.stage) if t.workload != self.chosen[-1]]
            self.search_seconds += sum(t.seconds for t in rejected)
            self.search_flops += sum(t.flops for t in rejected)
            winner = self.probe["ends"][place.candidates.index(self.chosen[-1])]
            winner.restore(self.context.task.model, self.context.optimizer)
            self.probe = {}
        self.freezer.train_only(workload.active)

    def _record(self, place: Place, trial: Trial) -> None:
        self.trials.append(trial)
        about = {"m": len(trial.workload.active), "candidate": labels(place.candidates)[trial.workload]}
        self.context.notify("trial", {**asdict(trial), **about, "gain": trial.gain})

    def _stage_trials(self, stage: int) -> list[Trial]:
        return [trial for trial in self.trials if trial.stage == stage]

    def _choose(self, place: Place) -> None:
        workload, efficiency = self.schedule.choose(self._stage_trials(place.stage), self.context.cost)
        label = labels(place.candidates)
        if workload not in label:
            raise ValueError(f"schedule: chose {workload} in stage {place.stage}, which is not one of its candidates")
        self.chosen.append(workload)
        self.context.notify("choice", {
            "stage": place.stage, "m": len(workload.active), "candidate": label[workload],
            "efficiency": {label[each]: value for each, value in efficiency.items()},
        })  # fmt: skip

    def _synchronize(self) -> None:
        if next(self.context.task.model.parameters()).is_cuda:
            torch.cuda.synchronize()

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides later steps, also in the middle of a search. Plain values and tensors."""
        self._close_before(self.context.total_steps)
        probe = dict(self.probe)
        if probe:
            probe["start"] = probe["start"].state_dict()
            probe["ends"] = {str(k): end.state_dict() for k, end in probe["ends"].items()}
        return {
            "freezer": self.freezer.state_dict(),
            "rankings": [plain_ranking(ranking) for ranking in self.rankings],
            "chosen": [asdict(workload) for workload in self.chosen],
            "trials": [asdict(trial) for trial in self.trials],
            "stage_announced": self.stage_announced,
            "search_seconds": self.search_seconds,
            "search_flops": self.search_flops,
            "last_reading": {str(k): value for k, value in self.last_reading.items()},
            "probe": probe,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._known = self._open = None
        self._closed = -1
        self.freezer.load_state_dict(state["freezer"])
        self.rankings = [ranking_from_plain(values) for values in state["rankings"]]
        self.chosen = [Workload.from_plain(values) for values in state["chosen"]]
        self.trials = [Trial(**{**v, "workload": Workload.from_plain(v["workload"])}) for v in state["trials"]]
        self.stage_announced = state["stage_announced"]
        self.search_seconds, self.search_flops = state["search_seconds"], state["search_flops"]
        self.last_reading = {int(k): value for k, value in state["last_reading"].items()}
        self.probe = dict(state["probe"])
        if self.probe:
            self.probe["start"] = Snapshot.from_state(self.probe["start"])
            self.probe["ends"] = {int(k): Snapshot.from_state(end) for k, end in self.probe["ends"].items()}
