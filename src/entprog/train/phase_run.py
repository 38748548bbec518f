"""One phase of a run: build, rank, fit, bind, restore, run."""

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import optim
from tqdm import tqdm

from entprog import plugins
from entprog.core.blocks import discover_blocks
from entprog.core.depth import depth_order
from entprog.core.processes import by_first, first, mean, own_folder, several, shared, wait, world
from entprog.core.types import Draw, MethodContext, Ranking, Schedule, Shape, Workload
from entprog.files import save_weights
from entprog.methods.base import Method
from entprog.profiling.meter import StepCost
from entprog.savings.adapters import low_rank_factors, plain_state_dict
from entprog.savings.in_backward import build_optimizer, release
from entprog.savings.memory_plan import MemoryPlan, described, fit_phase, in_words, make_memory_plan
from entprog.savings.prefix_cache import PrefixCache
from entprog.savings.weight_precision import weight_storage
from entprog.train.checkpoint import prune, save_checkpoint
from entprog.train.diagnostics import Watch
from entprog.train.draws import save_draws
from entprog.train.engine import log_savings
from entprog.train.events import Notes, ReadingFlops, Warn
from entprog.train.loop import Phase, run_phase
from entprog.train.phase import PhaseSetup
from entprog.train.position import Position
from entprog.train.ranking import rank_phase, reranker, weighed
from entprog.train.say import say
from entprog.train.state import Session, load_optimizer_state, optimizer_state
from entprog.train.validation import validate

__all__ = ["run_one_phase"]


def run_one_phase(session: Session, number: int, name: str, saved: dict[str, Any] | None, bar: tqdm) -> None:
    """Train one phase of the run; `saved` is a checkpoint from within it, None at its start."""
    # 4. Build: blocks and fixed draws; everything but the phase's blocks is frozen for its whole length.
    setup = PhaseSetup.build(session.task, session.config, number, name, session.inputs.get(number))
    folder = _begin(session, setup, resumed=saved is not None)
    settings = setup.settings

    # 5. Rank.
    watch = Watch(Warn(session.log))
    ranking = rank_phase(session, setup, folder, watch, resumed=saved is not None)

    # 6. Fit: how every stage runs inside the memory budget, before any of them trains.
    groups = setup.plugin.groups(session.task.model, setup.blocks, lr=settings.learning_rate, seed=setup.seed)
    schedule, memory_plan = _fit(session, setup, ranking, tell=saved is None)

    # 7. Bind: one optimizer with a group a block, and the method over it.
    optimizer = build_optimizer(session.config.train, groups)
    notes = Notes(session, folder)
    context = _context(session, setup, folder, optimizer, ranking, schedule, memory_plan, notes)
    session.task.start_training()
    notes.method = setup.plugin.bind(context)
    phase = Phase(
        setup=setup,
        method=notes.method,
        optimizer=optimizer,
        folder=folder,
        watch=watch,
        scaler=torch.amp.GradScaler(session.task.device.type, enabled=session.task.autocast == "fp16"),
        position=Position(settings.echo, settings.echo_window),
        memory_plan=memory_plan,
        prefix_cache=_prefix_cache(session, setup, folder),
    )

    # 8. Restore and run: the visible loop.
    start = _restore(session, phase, saved) if saved is not None else 0
    searched = tuple(saved["search_base"]) if saved else (session.totals.seconds_search, session.totals.flops_search)
    _run(session, phase, context, start, searched, bar)


def _begin(session: Session, setup: PhaseSetup, *, resumed: bool) -> Path:
    """The phase's folder, with its fixed draws; resets what the run counts by phase."""
    folder = session.run / setup.folder
    if first():
        folder.mkdir(exist_ok=True)
    wait()
    session.log.phase = folder.name
    session.costs.clear()
    session.history.clear()
    if not resumed:
        session.ema.updates = 0  # other blocks begin to train: their average warms up again
        session.log.event("phase", {"blocks": list(setup.blocks.names), "config": asdict(setup.settings)})
        if first():
            save_draws(folder, setup.probe, setup.holdout)
    return folder


def _fit(
    session: Session, setup: PhaseSetup, ranking: Ranking | None, *, tell: bool
) -> tuple[Schedule | None, MemoryPlan | None]:
    config, task, settings = session.config, session.task, setup.settings
    schedule: Schedule | None = None
    if setup.plugin.ranked:
        schedule = plugins.load("schedule", config.schedule.name, **config.schedule.options)
    if not config.train.memory_budget:
        return schedule, None

    echo, window = setup.plugin.echoes(settings)

    def one(shape: Shape) -> Draw:
        single = replace(shape, batch=1)
        return task.draw(setup.samples.batch(0, single), single, setup.seed)

    found = make_memory_plan(
        config,
        task,
        setup.blocks,
        depth_order(task, setup.blocks, setup.probe[0]),
        setup.shape,
        one,
        task.sizes,
        [*setup.probe, *setup.holdout],
        never_trained=setup.inputs if setup.inputs_frozen else (),
        cached_steps=window if echo > 1 else 0,
        recompute=config.train.gradient_checkpointing or settings.gradient_checkpointing,
    )
    planned = setup.plugin.workloads(setup.blocks.names, setup.shape, settings.steps, setup.seed)
    schedule, memory_plan = fit_phase(found, schedule, ranking, (workload for workload, _ in planned))
    for line in described(memory_plan) if tell else ():
        session.log.event("fit", line)
        say(in_words(line))
    return schedule, memory_plan


def _context(
    session: Session, setup: PhaseSetup, folder: Path, optimizer: optim.Optimizer, ranking: Ranking | None,
    schedule: Schedule | None, memory_plan: MemoryPlan | None, notes: Notes,
) -> MethodContext:  # fmt: skip
    config, task = session.config, session.task
    return MethodContext(
        task=task,
        blocks=setup.blocks,
        optimizer=optimizer,
        total_steps=setup.settings.steps,
        shape=setup.shape,
        holdout=setup.holdout,
        ranking=ranking,
        schedule=schedule,
        rerank=reranker(session, setup, folder, optimizer),
        flops=lambda workload: float(session.costs[workload].flops),
        reading_flops=ReadingFlops(session, setup.holdout),
        cost=weighed(config, task.device),
        watch=config.train.watch,
        states=config.freeze.states if memory_plan is None else memory_plan.states,
        outside=setup.outside,
        inputs_every=config.freeze.inputs_every,
        inputs=setup.inputs,
        storage=weight_storage(task.model, discover_blocks(task.model), config.freeze.storage),
        notify=notes,
        seed=setup.seed,
        agree=mean if several() else None,
        each=shared,
    )


def _prefix_cache(session: Session, setup: PhaseSetup, folder: Path) -> PrefixCache | None:
    echo, window = setup.plugin.echoes(setup.settings)
    if echo == 1:
        return None
    on_disk = own_folder(folder / "echo-cache") if session.config.train.echo_cache == "disk" else None
    return PrefixCache(session.task, window, on_disk, partial(Warn(session.log), "engine"))


def _restore(session: Session, phase: Phase, saved: dict[str, Any]) -> int:
    """Put a checkpoint's state into the phase; returns the step of the phase to go on at."""
    phase.method.load_state_dict(saved["method"])
    load_optimizer_state(phase.optimizer, session.task.model, saved["optimizer"])
    phase.watch.load_state_dict(saved["watch"])
    phase.position.load_state_dict(saved["position"])
    if saved["scaler"]:
        phase.scaler.load_state_dict(saved["scaler"])
    session.history.extend(saved["history"])
    # As first measured, when fewer optimizer states may have existed; by other processes the peak is another one.
    for cost in saved["costs"] if saved.get("processes", 1) == world() else ():
        workload = Workload.from_plain(cost.pop("workload"))
        session.costs[workload] = StepCost(**cost)
    return int(saved["phase_step"])


def _run(
    session: Session, phase: Phase, context: MethodContext, start: int, searched: tuple[float, ...], bar: tqdm
) -> None:
    """The loop, and what ends a phase; `searched` are seconds and FLOPs of the searches of earlier phases."""
    method, setup = phase.method, phase.setup

    def save(phase_step: int) -> None:
        _count_search(session, method, searched)
        state = _state(session, phase, phase_step, searched)
        path = save_checkpoint(session.run, session.step, state)
        by_first(partial(prune, session.run, session.config.train.checkpoints_total_limit))
        session.log.event("checkpoint", {"path": path.name})

    session.validate = partial(validate, session)
    run_phase(session, phase, start, save, bar)
    if context.storage is not None:
        context.storage.release()
    factors = low_rank_factors(session.task.model)  # `finish` merges them into the weights
    if factors and first():
        save_weights(factors, phase.folder / "lora.safetensors")
    method.finish()
    _count_search(session, method, searched)
    everything = Workload(tuple(setup.blocks.names), setup.shape)
    full = session.costs[everything].flops if everything in session.costs else None
    phase.watch.search(method.search_flops, full, session.history)
    session.validate(phase)
    log_savings(session)
    save(setup.settings.steps)
    method.freezer.release()
    release(phase.optimizer)


def _count_search(session: Session, method: Method, searched: tuple[float, ...]) -> None:
    session.totals.seconds_search = searched[0] + method.search_seconds
    session.totals.flops_search = searched[1] + method.search_flops


def _state(session: Session, phase: Phase, phase_step: int, searched: tuple[float, ...]) -> dict[str, Any]:
    done = phase_step >= phase.config.steps
    return {
        "step": session.step,
        "processes": world(),
        "data": session.data,
        "phase_number": phase.setup.number + done,
        "phase_step": 0 if done else phase_step,
        "elapsed": session.log.elapsed,
        "model": plain_state_dict(session.task.model),
        "averages": {"weights": session.ema.weights, "updates": session.ema.updates},
        "totals": asdict(session.totals),
        "holdout_loss": session.holdout_loss,
        "holdout_bands": session.holdout_bands,
        "history": list(session.history),
        "between": done,
        "costs": [{"workload": asdict(w), **asdict(cost)} for w, cost in session.costs.items()],
        "search_base": list(searched),
        "method": None if done else phase.method.state_dict(),
        "optimizer": None if done else optimizer_state(phase.optimizer, session.task.model),
        "watch": None if done else phase.watch.state_dict(),
        "position": phase.position.state_dict(),
        "scaler": None if done else phase.scaler.state_dict(),
        "random": torch.get_rng_state(),
    }
