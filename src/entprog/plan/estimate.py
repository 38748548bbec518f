"""Every stage of a run with its bytes, FLOPs and seconds, beside what full fine-tuning and LoRA would take."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

from entprog import plugins
from entprog.config.schema import Config, PhaseConfig
from entprog.core.blocks import shortened
from entprog.core.types import Ranking, Shape, Workload
from entprog.plan.inventory import matches
from entprog.plan.orders import rankings
from entprog.plan.processes import Processes, process_of
from entprog.plan.recording import Operation
from entprog.plan.roofline import Clock, precision_on
from entprog.plan.rows import PhasePlan, Row
from entprog.plan.simulator import Simulator, Step
from entprog.profiling.hardware import Hardware
from entprog.profiling.subject import Case, Subject
from entprog.savings.in_backward import optimizer_plugin
from entprog.train.draws import draw_size

RANK = 16
"""Rank of the LoRA that a plan compares with."""


class Planner:
    """Simulates what a configuration would train, on one device or on several of its kind.

    Raises:
        ValueError: the run can't be spread over the processes.
    """

    def __init__(self, config: Config, hardware: Hardware, processes: Processes | None = None) -> None:
        if refused := list(processes.refused(config)) if processes else []:
            raise ValueError("\n".join(refused))
        self.config, self.hardware, self.processes = config, hardware, processes
        self.precision = precision_on(hardware, config.train.mixed_precision)
        self.subject: Subject = plugins.find("task", config.task).plan_subject(config)
        self.simulator = Simulator(self.subject)
        self.clock = Clock(hardware)
        self.operations: Counter[Operation] = Counter()
        self.ranked = plugins.ranked(config.method)
        self.method = plugins.load("method", config.method, **config.method_options)
        self.adapters = config.method in ("lora", "mixed")
        self.rank: int = self.method.rank if self.adapters else 0
        if processes is not None:
            processes.check_network(self)

    def case(self, settings: PhaseConfig) -> Case:
        """What a step of a phase depends on, with all that its workloads have in common."""
        config = self.config
        case = Case(
            shape=Shape.of(settings.sides, settings.frames, settings.batch),
            pose=settings.pose,
            temporal_off=settings.blocks == "spatial",
            outside=settings.outside and config.freeze.outside,
            inputs=not self.ranked or config.freeze.inputs_every != 0,
            checkpointing=config.train.gradient_checkpointing or settings.gradient_checkpointing,
            precision=self.precision,
            fused=self.hardware.name != "cpu",
            low_rank=self.rank,
            spared=self._method(settings.frames).full if config.method == "lora" else (),
            new_rest=config.method == "lora" and self.subject.new_rests(),
            storage=config.freeze.storage,
            averaged=config.train.ema_decay > 0,
            accumulation=config.train.gradient_accumulation_steps,
            in_backward=config.train.optimizer_in_backward,
        )
        return replace(case, references=self._references(case, settings))

    def _method(self, frames: int) -> Any:
        """The method for a phase on clips of this many frames."""
        return self.method.for_phase(frames, self.subject.new_modules())

    def _references(self, case: Case, settings: PhaseConfig) -> int:
        """How many references the cache may come to know: none where what lies before their states trains."""
        config = self.config
        if config.train.reference_cache == "off" or (case.outside and case.inputs):
            return 0
        return self.subject.references(settings.steps * settings.batch * config.train.gradient_accumulation_steps)

    def phases(self, order: str = "") -> Iterator[PhasePlan]:
        """One phase after the other, with its rows."""
        for name, settings in self.config.phases.items():
            if settings.steps:
                yield self._phase(name, settings, order)

    def _phase(self, name: str, settings: PhaseConfig, order: str) -> PhasePlan:
        blocks, whole = self._blocks(settings), self.subject.family(settings.blocks)
        case, plan = self.case(settings), PhasePlan(name, settings, blocks)
        plain = replace(case, inputs=True, low_rank=0, spared=(), storage="full", references=0)
        turns = [] if self.ranked else self._turns(plan, case)
        itself = not self.ranked and not turns
        full = self._row(plan, "full", *((case, blocks) if itself else (plain, whole)), settings.steps)
        if not self.ranked:
            rows = turns or [full]
            plan.seconds = (sum(row.seconds * row.steps for row in rows),) * 2
            plan.flops = (float(sum(row.flops * row.steps for row in rows)),) * 2
            plan.rows += _extremes(turns)
        else:
            bounds = []
            for title, ranking in rankings(order, blocks, name).items():
                bounds.append(self._stages(plan, case, title, ranking))
            plan.seconds = (min(low for low, *_ in bounds), max(high for _, high, *_ in bounds))
            plan.flops = (min(low for *_, low, _ in bounds), max(high for *_, high in bounds))
            plan.rows.sort(key=lambda row: (row.stages[0], row.m))
        plan.rows.append(full)
        saving = replace(plain, checkpointing=True)
        plan.rows.append(self._row(plan, "full-saving", saving, whole, settings.steps))
        low_rank = replace(plain, low_rank=RANK, outside=False, spared=self.subject.new_modules())
        plan.rows.append(self._row(plan, "lora", low_rank, whole, settings.steps))
        if self.ranked:
            plan.ranking = self._ranking(plain, blocks)
        return plan

    def _turns(self, plan: PhasePlan, case: Case) -> list[Row]:
        """What a method without a ranking trains, a row for each cost that differs; none where that is all blocks."""
        if self.ranked:
            return []
        place = {name: i for i, name in enumerate(plan.blocks)}
        found: dict[tuple[Any, ...], tuple[Workload, int]] = {}
        seed = self.config.train.seed
        for workload, steps in self._method(plan.settings.frames).workloads(
            plan.blocks, case.shape, plan.settings.steps, seed
        ):
            lowest = min(place[name] for name in workload.active)
            key = (workload.shape, workload.inputs, len(workload.active), lowest)
            found[key] = (workload, steps + found.get(key, (workload, 0))[1])
        if case.low_rank == 0 and list(found) == [(case.shape, True, len(plan.blocks), 0)]:
            return []
        if not any(workload.inputs for workload, _ in found.values()):  # what is known of references stays right
            case = replace(case, references=self._references(replace(case, inputs=False), plan.settings))
        sizes = {shape: number for number, shape in enumerate(dict.fromkeys(key[0] for key in found), 1)}
        return [
            self._row(
                plan, "stage", replace(case, shape=workload.shape or case.shape, inputs=workload.inputs),
                workload.active, steps, (sizes[workload.shape],),
            )
            for workload, steps in found.values()
        ]  # fmt: skip

    def _ranking(self, case: Case, blocks: Sequence[str]) -> int:
        """Peak of scoring: nothing there takes more than the largest draw through all blocks and back, stateless."""
        samples = self.config.ranking.samples
        largest = -(-samples // -(-samples // draw_size(self.config.ranking, case.shape.batch)))
        case = replace(case, shape=replace(case.shape, batch=largest), accumulation=1, in_backward=False, widened=False)
        step = self.step(case, blocks, optimizer="adamw")
        return step.peak - step.by_category["optimizer"]

    def _stages(self, plan: PhasePlan, case: Case, title: str, ranking: Ranking) -> tuple[float, float, float, float]:
        """Adds the rows of one ranking; seconds and FLOPs of the phase, each at least and at most."""
        schedule = plugins.load("schedule", self.config.schedule.name, **self.config.schedule.options)
        steps, count = plan.settings.steps, schedule.stages
        ends = [-(-stage * steps // count) for stage in range(count + 1)]
        lasts: Sequence[Workload | None] = [None]
        stages: dict[Workload, list[int]] = {}
        choices: list[list[Workload]] = []
        for stage in range(count):
            found = dict.fromkeys(
                workload for last in lasts for workload in schedule.candidates(stage, ranking, case.shape, last)
            )
            for workload in found:
                stages.setdefault(workload, []).append(stage)
            choices.append(list(found))
            lasts = list(found)
        rows: dict[Workload, Row] = {}
        for workload in sorted(stages, key=lambda workload: len(workload.active)):
            mine = stages[workload]
            own = replace(case, shape=workload.shape or case.shape)
            # Whatever trained by the end of the first stage it is in has left its optimizer states behind.
            before = {name for stage in range(mine[0] + 1) for each in choices[stage] for name in each.active}
            length = sum(ends[stage + 1] - ends[stage] for stage in mine)
            rows[workload] = self._row(
                plan, "stage", own, workload.active, length, tuple(stage + 1 for stage in mine), title,
                before if self.config.freeze.states == "keep" else None,
            )  # fmt: skip
        same = {_figures(row): i for i, row in enumerate(plan.rows)}
        for row in rows.values():
            if _figures(row) in same:  # the order makes no difference: one row for both
                place = same[_figures(row)]
                plan.rows[place] = replace(plan.rows[place], order="", lowest=min(row.lowest, plan.rows[place].lowest))
            else:
                plan.rows.append(replace(row, order="") if row.m == len(plan.blocks) else row)
        low = high = least = most = 0.0
        for stage, chosen in enumerate(choices):
            length = ends[stage + 1] - ends[stage]
            seconds, flops = [rows[w].seconds for w in chosen], [rows[w].flops for w in chosen]
            low, high = low + length * min(seconds), high + length * max(seconds)
            least, most = least + length * min(flops), most + length * max(flops)
        return low, high, least, most

    def _row(
        self, plan: PhasePlan, kind: str, case: Case, active: Sequence[str], steps: int,
        stages: tuple[int, ...] = (), order: str = "", with_states: set[str] | None = None,
    ) -> Row:  # fmt: skip
        optimizer = "adamw8bit" if kind == "full-saving" else ""
        every = self.config.freeze.inputs_every if kind == "stage" and self.ranked and case.outside else 1
        active, adapted = self.parts(case, plan.blocks, active, kind)
        step = self.step(case, active, with_states, optimizer, adapted)
        flops, seconds = step.flops, self.clock.seconds(step)
        self.operations.update({operation: count * steps for operation, count in step.operations.items()})
        if every > 1:  # the dearer steps, one in so many, make the peak; the others most of the time
            other = self.step(replace(case, inputs=False), active, with_states, optimizer, adapted)
            flops = round((flops + (every - 1) * other.flops) / every)
            seconds = (seconds + (every - 1) * self.clock.seconds(other)) / every
        peak, by_category = step.peak, step.by_category
        times, window = self.method.echoes(plan.settings)
        if kind == "stage" and times > 1:
            again = self.step(replace(case, echo=True), active, with_states, optimizer, adapted)
            flops = round((flops + (times - 1) * again.flops) / times)
            seconds = (seconds + (times - 1) * self.clock.seconds(again)) / times
            beside = self.hardware.name == "cpu" and self.config.train.echo_cache == "host"
            if beside and again.flops < step.flops:
                kept = window * case.accumulation * self.subject.hidden_bytes(case)
                peak, by_category = peak + kept, {**by_category, "activations": by_category["activations"] + kept}
        place = {name: i for i, name in enumerate(self.subject.family(plan.settings.blocks))}
        plugin = plugins.load("optimizer", optimizer) if optimizer else optimizer_plugin(self.config.train)
        process = process_of(self, plan.name, case, active, adapted=adapted, with_states=with_states, optimizer=plugin)
        return Row(
            phase=plan.name, kind=kind, stages=stages, order=order, m=len(active) or len(adapted), shape=case.shape,
            trained=step.trained, lowest=min(place[name] for name in (*active, *adapted)), steps=steps, peak=peak,
            bytes=by_category, fits=peak <= self.hardware.usable, flops=flops, seconds=seconds,
            process=process,
        )  # fmt: skip

    def parts(
        self, case: Case, blocks: Sequence[str], active: Sequence[str], kind: str = "stage"
    ) -> tuple[Sequence[str], Sequence[str]]:
        """Blocks that train in full where `active` are chosen, and those that train by adapters."""
        if not case.low_rank:
            return active, ()
        if kind == "lora" or not self.ranked:
            return (), active
        return active, [name for name in blocks if name not in set(active)]

    def step(
        self, case: Case, active: Sequence[str], with_states: Collection[str] | None = None, optimizer: str = "",
        adapted: Sequence[str] = (),
    ) -> Step:  # fmt: skip
        """One step, simulated; by the run's own optimizer, or another that `train.optimizer` may name."""
        train = self.config.train
        step = self.simulator.step(
            case, active, adapted=adapted, with_states=with_states,
            optimizer=plugins.load("optimizer", optimizer) if optimizer else optimizer_plugin(train),
        )  # fmt: skip
        kept = self.references_kept(case, (*active, *adapted))
        parts = {**step.by_category, "activations": step.by_category["activations"] + kept}
        return replace(step, peak=step.peak + kept, by_category=parts) if kept else step

    def references_kept(self, case: Case, trained: Sequence[str]) -> int:
        """Bytes of the reference cache on the device."""
        train = self.config.train
        if not case.references or train.reference_cache != "device":
            return 0
        return min(case.references * self.subject.reference_bytes(case, trained), train.reference_cache_bytes)

    def _blocks(self, settings: PhaseConfig) -> tuple[str, ...]:
        blocks = self.subject.family(settings.blocks)
        for pattern in self.config.ranking.pattern:
            if not any(matches(name.split("."), pattern.split(".")) for name in self.subject.family("all")):
                raise ValueError(f"ranking.pattern: {pattern!r} matches none of the blocks {shortened(blocks)}")
        if patterns := [pattern.split(".") for pattern in self.config.ranking.pattern]:
            blocks = tuple(name for name in blocks if any(matches(name.split("."), wanted) for wanted in patterns))
        if not blocks:
            raise ValueError(
                f"phases: blocks = {settings.blocks!r} leaves none of {len(self.subject.family('all'))} blocks; "
                "check ranking.pattern"
            )
        return blocks


def _extremes(rows: Sequence[Row]) -> list[Row]:
    """Of the rows of each size the one that takes the most memory, and the one that takes the least."""
    found = []
    for number in dict.fromkeys(row.stages for row in rows):
        mine = sorted((row for row in rows if row.stages == number), key=lambda row: row.peak)
        found += mine[-1:] + mine[:-1][:1]
    return found


def _figures(row: Row) -> tuple[Any, ...]:
    return row.m, row.shape, row.stages, row.peak, row.flops, row.seconds
