"""`entprog train RECIPE`: one run from configuration to report."""

import json
import shutil
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from entprog import plugins
from entprog.config.schema import Config, PhaseConfig
from entprog.core.blocks import discover_blocks
from entprog.core.depth import depth_order
from entprog.core.freeze import param_groups
from entprog.core.types import Draw, MethodContext, Shape, Workload
from entprog.data.clips import Clips
from entprog.data.shards import write_atomically
from entprog.data.source import open_data
from entprog.evaluate.evaluation import evaluate_task
from entprog.profiling.meter import StepCost
from entprog.report import write_report
from entprog.savings.adapters import plain_state_dict
from entprog.savings.frozen_storage import FrozenStorage
from entprog.savings.in_backward import build_optimizer, release
from entprog.savings.memory_plan import check_budget, fit_phase, in_words, make_memory_plan, told
from entprog.savings.prefix_cache import PrefixCache
from entprog.tasks.human_video.build import build_task, new_modules, save_weights
from entprog.train.checkpoint import prune, save_checkpoint
from entprog.train.diagnostics import Watch
from entprog.train.draws import fixed_draws, phase_blocks, save_draws
from entprog.train.engine import engine, tell
from entprog.train.events import Notes, ReadingFlops, Warn
from entprog.train.log import RunLog, describe_run, now, write_status
from entprog.train.loop import Phase, run_phase
from entprog.train.position import Position
from entprog.train.ranking import never_trained, rank_phase, rare_inputs, reranker, weighed
from entprog.train.run_folder import check_blocks, check_data, kept, open_folder, try_to_say
from entprog.train.state import (
    EMA,
    Session,
    StopSignal,
    Totals,
    load_optimizer_state,
    optimizer_state,
    terminable,
)


@terminable()
def train(
    config: Config, *, resume_from_checkpoint: str | None = None, command: str = "",
    after_step: Callable[[], None] | None = None,
) -> Path:  # fmt: skip
    """Train as configured and return the run folder.

    Args:
        config: the whole run; `config.output_dir` must not exist unless resuming.
        resume_from_checkpoint: "latest" or a checkpoint folder; the run continues bit for bit on a CPU.
        command: what the user typed, kept in run.json.
        after_step: called after each step, outside of what is timed; then no bar is shown.

    Raises:
        ValueError: a wrong context, a folder that exists, a checkpoint that does not fit, or a loss that is not
            finite.
        OSError: the disk is full.
        SystemExit: 128 + n after signal n, with a checkpoint saved.
    """
    # 1. The run folder, before any work: never overwritten, complete from its first second.
    run = Path(config.output_dir)
    saved = open_folder(run, config, resume_from_checkpoint)

    # 2. Seeds and threads.
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    torch.manual_seed(config.train.seed)

    # 3. Data and task.
    try:
        shards = open_data(config.data)
        task = build_task(config)
        check_data(config, shards)
        check_blocks(config, task)
        check_budget(config, task)
    except BaseException:
        if saved is None:
            shutil.rmtree(run, ignore_errors=True)
        raise
    write_status(run, {**describe_run(config, task.device, command or " ".join(sys.argv)), **kept(run, saved)})
    log = RunLog(run, config.train.report_to)
    session = Session(config, run, task, shards, log, EMA(task.model, config.train.ema_decay))
    session.after_step = after_step
    try:
        if saved is not None:
            _restore(session, saved)
        with engine(session):
            _phases(session, saved)
        # 9. Evaluate, report, status.
        _finish(session)
    except SystemExit as stopped:
        reason = f"signal {int(stopped.code or 0) - 128}; go on with --resume-from-checkpoint latest"
        log.event("stop", {"reason": reason})
        write_status(run, {"status": "interrupted", "reason": reason, "finished": now()})
        print(f"entprog: stopped at step {session.step} by {reason}", file=sys.stderr)
        raise
    except BaseException as error:
        kind = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        reason = str(error) or type(error).__name__
        try_to_say(run, log, kind, reason)
        raise
    finally:
        log.close()
    return run


def _phases(session: Session, saved: dict[str, Any] | None) -> None:
    """4. to 8. for each phase in turn; those before the checkpoint's are done already."""
    config = session.config
    active = [(name, phase) for name, phase in config.phases.items() if phase.steps > 0]
    total = sum(phase.steps for _, phase in active)
    first = saved["phase_number"] if saved else 0
    stop = session.stop = StopSignal()
    with stop.watching(), _bar(session, total) as bar:
        for number, (name, settings) in enumerate(active):
            if number < first:
                continue
            mine = saved if saved is not None and number == first and not saved["between"] else None
            _one_phase(session, number, name, settings, mine, bar)
            if stop.number is not None and number + 1 < len(active):
                raise SystemExit(128 + stop.number)


def _bar(session: Session, total: int) -> tqdm:
    quiet = session.after_step is not None
    return tqdm(total=total, initial=session.step, desc="Steps", unit="step", disable=quiet)


def _one_phase(
    session: Session, number: int, name: str, settings: PhaseConfig, saved: dict[str, Any] | None, bar: tqdm
) -> None:
    config, task, log = session.config, session.task, session.log
    folder = session.run / f"{number + 1}-{name}"
    folder.mkdir(exist_ok=True)
    log.phase = folder.name
    seed = config.train.seed * 1000 + number

    # 4. The phase's blocks; everything else is frozen for its whole length.
    blocks = phase_blocks(task, config, settings)
    task.pose = settings.pose
    task.neutral = settings.resolution if config.train.resolution_shift else 0
    task.model.temporal_off, task.model.idle = settings.blocks == "spatial", frozenset()
    recompute = config.train.gradient_checkpointing or settings.gradient_checkpointing
    task.model.gradient_checkpointing = recompute
    outside = settings.outside and config.freeze.outside
    inside = {id(p) for block in blocks for p in block.parameters()}
    owned = {id(p) for block in discover_blocks(task.model) for p in block.parameters()}
    for parameter in task.model.parameters():
        parameter.requires_grad_(id(parameter) in inside or (outside and id(parameter) not in owned))
        parameter.grad = None
    session.costs.clear()
    session.history.clear()
    if saved is None:
        session.ema.updates = 0  # other blocks begin to train: their average warms up anew
        log.event("phase", {"blocks": list(blocks.names), "config": asdict(settings)})

    # 5. Fixed draws: the same probe and holdout for every method that uses this seed.
    shape = Shape(settings.resolution, settings.frames, settings.batch)
    clips = Clips(session.shards, "train", seed=seed, frames=settings.frames)
    most = config.ranking.draw_size(settings.batch)
    probe = fixed_draws(task, clips, shape, config.ranking.samples, seed + 500, most=most)
    held = Clips(session.shards, "holdout", seed=config.train.seed, frames=settings.frames)
    holdout = fixed_draws(task, held, shape, config.train.holdout_clips, seed + 700)
    if saved is None:
        save_draws(folder, probe, holdout)

    # 6. Rank.
    watch = Watch(Warn(log))
    plugin = plugins.method_for(settings.frames, config.method, config.method_options)
    if config.model.fresh and hasattr(plugin, "with_new"):
        plugin = plugin.with_new(new_modules(config.model))
    inputs = rare_inputs(config, plugin, task, probe[0], outside)
    ranking = rank_phase(
        session, folder, blocks, probe, watch, batch=settings.batch, outside=outside, inputs=inputs,
        resumed=saved is not None,
    )  # fmt: skip

    rate = settings.learning_rate
    if hasattr(plugin, "groups"):  # parameters of its own, or several rates
        groups = plugin.groups(task.model, blocks, lr=rate, seed=seed)
    else:
        groups = param_groups(task.model, blocks, lr=rate)

    # What fits the memory budget, for every stage before any of them trains.
    def one(shape: Shape) -> Draw:
        single = replace(shape, batch=1)
        return task.draw(clips.batch(0, single), single, seed)

    schedule, states = _schedule(config), config.freeze.states
    order = depth_order(task, blocks, probe[0]) if config.train.memory_budget else blocks.names
    resting = inputs if never_trained(config, plugin) else ()
    waiting = settings.echo_window if settings.echo > 1 else 0
    memory_plan = make_memory_plan(
        config, task, blocks, order, shape, one, session.shards.sizes, [*probe, *holdout], resting, waiting
    )
    if memory_plan is not None:
        known = getattr(plugin, "workloads", None)  # of a method without a schedule
        planned = known(blocks.names, shape, settings.steps, seed) if known else ()
        schedule, memory_plan = fit_phase(memory_plan, schedule, ranking, (workload for workload, _ in planned))
        states = memory_plan.states
        for line in told(memory_plan) if saved is None else ():
            log.event("fit", line)
            tqdm.write(in_words(line))

    # 7. One optimizer with a group a block, and the method bound to it.
    optimizer = build_optimizer(config.train, groups)
    kind, idle = config.freeze.storage, task.model.idle_temporal()
    readings, notes = ReadingFlops(session, holdout), Notes(session, folder)
    context = MethodContext(
        task=task, blocks=blocks, optimizer=optimizer, total_steps=settings.steps, shape=shape, holdout=holdout,
        ranking=ranking, schedule=schedule, rerank=reranker(session, folder, blocks, probe, optimizer),
        flops=lambda workload: float(session.costs[workload].flops), reading_flops=readings,
        cost=weighed(config, task.device), states=states, outside=outside,
        inputs_every=config.freeze.inputs_every, inputs=inputs,
        storage=None if kind == "full" else FrozenStorage(discover_blocks(task.model), kind),
        notify=notes, seed=seed,
    )  # fmt: skip
    method = plugin.bind(context)
    notes.method = method
    task.model.idle = idle  # new blocks below those that train stay the identity for the whole phase
    scaler = torch.amp.GradScaler(task.device.type, enabled=task.autocast == "fp16")
    phase = Phase(
        number, name, settings, shape, clips, method, optimizer, blocks.names, folder, watch, seed, scaler,
        Position(settings.echo, settings.echo_window), memory_plan,
        _beneath(session, folder, settings),
    )  # fmt: skip
    start = 0
    if saved is not None:
        method.load_state_dict(saved["method"])
        load_optimizer_state(optimizer, saved["optimizer"])
        watch.load_state_dict(saved["watch"])
        phase.position.load_state_dict(saved["position"])
        if saved["scaler"]:
            scaler.load_state_dict(saved["scaler"])
        session.history.extend(saved["history"])
        for cost in saved["costs"]:  # as first measured, when fewer optimizer states may have been there
            workload = Workload.from_plain(cost.pop("workload"))
            session.costs[workload] = StepCost(**cost)
        start = saved["phase_step"]
    session.validate = lambda phase: _validate(session, phase, holdout)

    # 8. The visible loop.
    base = tuple(saved["search_base"]) if saved else (session.totals.seconds_search, session.totals.flops_search)

    def save(phase_step: int) -> None:
        _spent(session, method, base)
        path = save_checkpoint(session.run, session.step, _state(session, phase, phase_step, base))
        prune(session.run, config.train.checkpoints_total_limit)
        log.event("checkpoint", {"path": path.name})

    run_phase(session, phase, start, save, bar)
    if context.storage is not None:
        context.storage.release()
    if hasattr(method, "finish"):
        method.finish()
    _spent(session, method, base)
    everything = Workload(tuple(blocks.names), shape)
    full = session.costs[everything].flops if everything in session.costs else None
    watch.search(getattr(method, "search_flops", 0.0), full, session.history)
    _validate(session, phase, holdout)
    tell(session)
    save(settings.steps)
    method.freezer.release() if hasattr(method, "freezer") else None
    release(optimizer)


def _beneath(session: Session, folder: Path, settings: PhaseConfig) -> PrefixCache | None:
    if settings.echo == 1:
        return None
    on_disk = folder / "echo-cache" if session.config.train.echo_cache == "disk" else None
    return PrefixCache(session.task, settings.echo_window, on_disk, partial(Warn(session.log), "engine"))


def _schedule(config: Config) -> Any:
    if not plugins.ranked(config.method):
        return None
    return plugins.load("schedule", config.schedule.name, **config.schedule.options)


def _spent(session: Session, method: Any, base: tuple[float, ...]) -> None:
    session.totals.seconds_search = base[0] + getattr(method, "search_seconds", 0.0)
    session.totals.flops_search = base[1] + getattr(method, "search_flops", 0.0)


@torch.no_grad()
def _validate(session: Session, phase: Phase, holdout: list[Draw]) -> None:
    """Holdout loss with the weights that will be used (averaged ones where kept), and samples if asked for."""
    config = session.config
    freezer = getattr(phase.method, "freezer", None)
    with freezer.whole() if freezer else nullcontext(), session.ema.applied(session.task.model):
        losses = [float(session.task.loss(draw)) for draw in holdout]
        session.holdout_loss = sum(losses) / len(losses)
        session.log.event("holdout", {"loss": session.holdout_loss, "per_draw": losses, **session.totals.so_far()})
        if config.train.validation_clips and phase.config.pose:
            few = replace(
                config.evaluate,
                clips=config.train.validation_clips,
                videos=config.train.validation_clips,
                frames=min(config.evaluate.frames, phase.config.frames),
                resolution=phase.config.resolution,
            )
            result = evaluate_task(
                session.task,
                session.shards,
                replace(config, evaluate=few),
                session.run / "samples" / f"{phase.folder.name}-{session.step}",
                samples=session.run / "samples" / f"{phase.folder.name}-{session.step}",
                weights="ema" if session.ema.weights else "model",
                progress=False,
            )
            background = result["metrics"].get("background_l1")
            if background is not None:
                phase.watch.background_error(background)
            session.log.event("sample", {"metrics": result["metrics"]})


def _state(session: Session, phase: Phase, phase_step: int, base: tuple[float, ...]) -> dict[str, Any]:
    done = phase_step >= phase.config.steps
    return {
        "step": session.step,
        "phase_number": phase.number + 1 if done else phase.number,
        "phase_step": 0 if done else phase_step,
        "elapsed": session.log.elapsed,
        "model": plain_state_dict(session.task.model),
        "averages": {"weights": session.ema.weights, "updates": session.ema.updates},
        "totals": asdict(session.totals),
        "holdout_loss": session.holdout_loss,
        "history": list(session.history),
        "between": done,
        "costs": [{"workload": asdict(w), **asdict(cost)} for w, cost in session.costs.items()],
        "search_base": list(base),
        "method": None if done else phase.method.state_dict(),
        "optimizer": None if done else optimizer_state(phase.optimizer),
        "watch": None if done else phase.watch.state_dict(),
        "position": phase.position.state_dict(),
        "scaler": None if done else phase.scaler.state_dict(),
        "random": torch.get_rng_state(),
    }


def _restore(session: Session, saved: dict[str, Any]) -> None:
    session.task.model.load_state_dict(saved["model"])
    device = session.task.device
    session.ema.weights = {n: v.to(device) for n, v in saved["averages"]["weights"].items()}
    session.ema.updates = saved["averages"]["updates"]
    session.totals = Totals(**saved["totals"])
    session.holdout_loss = saved["holdout_loss"]
    session.step = session.log.step = saved["step"]
    torch.set_rng_state(saved["random"])
    session.log.resume(saved["step"], saved["elapsed"])
    session.log.event("resume", {"from": saved["step"]})


def _finish(session: Session) -> None:
    config, run = session.config, session.run
    final = run / "final"
    final.mkdir(exist_ok=True)
    if session.task.reference_cache is not None:
        session.task.reference_cache.close()
    model = session.task.model
    save_weights(dict(model.state_dict()), final / "model.safetensors")
    if session.ema.weights:
        save_weights({**model.state_dict(), **session.ema.weights}, final / "ema.safetensors")
    write_atomically(final / "config.json", json.dumps(asdict(model.config), indent=2) + "\n")
    totals = session.totals.summary(session.holdout_loss)
    write_atomically(run / "totals.json", json.dumps(totals, indent=2) + "\n")
    session.task.pose = True
    model.temporal_off = False
    kind = "ema" if session.ema.weights else "model"
    if config.evaluate.clips:
        with session.ema.applied(model):
            evaluate_task(session.task, session.shards, config, run, weights=kind)
    session.log.event("finish", totals)
    write_status(run, {"status": "finished", "finished": now()})
    page = write_report([run])
    tqdm.write(f"{run}: holdout loss {session.holdout_loss:.4f}; report in {page}")
