"""The loop of one phase: a visible `for`, the same for every method."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from diffusers.optimization import get_scheduler
from torch import nn, optim
from tqdm import tqdm

from entprog.config.schema import PhaseConfig, TrainConfig
from entprog.core.bands import mean_log
from entprog.core.processes import average_gradients, numbers, rank, world
from entprog.core.sharded import full_tensor, is_sharded
from entprog.core.types import Draw, Shape, StepPlan, Workload
from entprog.methods.base import Method
from entprog.profiling.meter import Meter, StepCost
from entprog.savings.in_backward import InBackward
from entprog.savings.memory_plan import MemoryPlan
from entprog.savings.prefix_cache import Key, PrefixCache
from entprog.train.agreement import check_agreement
from entprog.train.checkpoint import checkpoints
from entprog.train.diagnostics import Watch
from entprog.train.phase import PhaseSetup
from entprog.train.position import Position
from entprog.train.state import Session


class NotFinite(ValueError):
    """The loss or a gradient is not finite: training has diverged."""


@dataclass
class Phase:
    """Everything that one phase trains with."""

    setup: PhaseSetup
    method: Method
    optimizer: optim.Optimizer
    folder: Path
    watch: Watch
    scaler: torch.amp.GradScaler
    position: Position = field(default_factory=Position)
    memory_plan: MemoryPlan | None = None
    prefix_cache: PrefixCache | None = None

    @property
    def name(self) -> str:
        return self.setup.name

    @property
    def config(self) -> PhaseConfig:
        return self.setup.settings

    @property
    def shape(self) -> Shape:
        return self.setup.shape


def run_phase(session: Session, phase: Phase, start: int, save: Callable[[int], None], bar: tqdm) -> None:
    """Train steps `start`.. of a phase.

    `save(phase_step)` writes a checkpoint that resumes at that step. Stops by SystemExit after a signal.
    Workloads of a phase may differ in everything, the batch included: places in the data count samples.

    Raises:
        NotFinite: the loss or a gradient is not finite; nothing of that step is kept.
    """
    config, method, task = session.config.train, phase.method, session.task
    rate = learning_rates(config, phase.config, *session.span(phase.setup.number))
    place = {name: k for k, name in enumerate(phase.setup.blocks.names)}
    count = config.gradient_accumulation_steps

    for i in range(start, phase.config.steps):
        started = time.perf_counter()
        plan = method.plan(i)
        workload, lr = plan.workload, rate(plan.replays)
        first = phase.position.of(i, plan.replays)
        for group in phase.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_factor", 1.0)
        with method.step(i), ExitStack() as metered:
            if phase.prefix_cache is not None:
                known = phase.prefix_cache.knows(_keys(session, phase, first, workload))
                workload = replace(workload, echo=all(row == [1.0] for row in numbers([float(known)])))
            metered.enter_context(_metered(session, phase, first, workload))
            loss = _reduced(session, _forward_backward(session, phase, first, workload))
            average_gradients(p.grad for p in task.model.parameters() if p.grad is not None and not is_sharded(p))
            if not math.isfinite(loss):
                raise NotFinite(_not_finite(session, phase, i, "loss", loss))
            phase.scaler.unscale_(phase.optimizer)
            norm = _clip(task.model, phase.optimizer, config.max_grad_norm)
            # A scaler skips such a step by itself and lowers its scale.
            if not math.isfinite(norm) and not phase.scaler.is_enabled():
                raise NotFinite(_not_finite(session, phase, i, "gradient's norm", norm))
            phase.scaler.step(phase.optimizer)
            phase.scaler.update()
            phase.optimizer.zero_grad(set_to_none=True)
        samples = count * (workload.shape or phase.shape).batch
        phase.position.took(i, plan.replays, first, samples, searching=plan.searching)
        check_agreement(task.model, plan, session.config.distributed, session.step)
        if not plan.discardable:
            session.ema.update(task.model)
        if task.device.type == "cuda":  # the optimizer's step is still running
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        cost = session.costs[workload]
        _account(session, phase, i, plan, workload, loss, norm, lr, cost, seconds, place)
        bar.update()
        held = {} if session.holdout_loss is None else {"holdout": session.holdout_in_words}
        bar.set_postfix(phase=phase.name, m=plan.m, loss=f"{loss:.4f}", lr=f"{lr:.1e}", **held, refresh=False)
        session.step += 1
        session.log.step = session.step
        if session.after_step is not None:
            session.after_step()
        if i + 1 == phase.config.steps:
            break  # the end of a phase reads the holdout and saves, and only then stops
        stopped = session.stop is not None and session.stop.due is not None
        if config.validation_steps and session.step % config.validation_steps == 0:
            session.validate(phase)  # also before a stop: the resumed run would skip this reading
        if stopped or (config.checkpointing_steps and session.step % config.checkpointing_steps == 0):
            save(i + 1)
        if stopped:
            raise SystemExit(128 + session.stop.due)  # type: ignore[union-attr, operator]
    if phase.prefix_cache is not None:
        phase.prefix_cache.clear()


def _forward_backward(session: Session, phase: Phase, first: int, workload: Workload) -> float:
    """Mean loss of the micro-batches from sample `first` on, with gradients left in place."""
    if phase.memory_plan is not None:
        session.task.recompute(phase.memory_plan.option(workload).checkpointing)
    count, _ = _micro_batches(session, phase, workload)
    total = 0.0
    for k in range(count):
        draw = _drawn(session, phase, first, workload, k)
        if phase.prefix_cache is not None:
            draw = phase.prefix_cache.of(draw, _keys(session, phase, first, workload)[k])
        loss = session.task.loss(draw)
        phase.scaler.scale(loss / count).backward()
        total += float(loss.detach()) / count
    return total


def _reduced(session: Session, loss: float) -> float:
    """The mean loss over processes; they also tell each other of a signal to stop."""
    signal = session.stop.number if session.stop is not None else None
    rows = numbers([loss, signal or 0])
    if session.stop is not None:
        session.stop.agree(row[1] for row in rows)
    return sum(row[0] for row in rows) / len(rows)


def _micro_batches(session: Session, phase: Phase, workload: Workload) -> tuple[int, Shape]:
    """Number and shape of this process's micro-batches of a step; a memory budget may have split the batch, too."""
    shape, pieces = workload.shape or phase.shape, 1
    if phase.memory_plan is not None:
        pieces = phase.memory_plan.option(workload).pieces
    count = session.config.train.gradient_accumulation_steps * pieces
    return count, replace(shape, batch=shape.batch // pieces // world())


def _keys(session: Session, phase: Phase, first: int, workload: Workload) -> list[Key]:
    """Key of this process's micro-batches of a step within the phase: of each batch its own samples, in a row."""
    count, shape = _micro_batches(session, phase, workload)
    return [(first + (k * world() + rank()) * shape.batch, shape) for k in range(count)]


def _drawn(session: Session, phase: Phase, first: int, workload: Workload, k: int) -> Draw:
    """The k-th micro-batch of a step, with the cached states of its references; missing ones are computed now."""
    place, shape = _keys(session, phase, first, workload)[k]
    batch = phase.setup.samples.batch(place, shape)
    draw = session.task.draw(batch, shape, phase.setup.seed)
    session.task.prepare(draw)
    return draw


@contextmanager
def _metered(session: Session, phase: Phase, first: int, workload: Workload) -> Iterator[None]:
    """Meters the whole step, the first time that a workload runs."""
    if workload in session.costs:
        yield
        return
    cached = session.task.cache_counts() is not None
    for k in range(_micro_batches(session, phase, workload)[0] if cached else 0):
        _drawn(session, phase, first, workload, k)  # references are cached before: measure the cost of later steps
    filled = session.fills.flops
    held = [*session.ema.weights.values(), *(phase.prefix_cache.held if phase.prefix_cache is not None else ())]
    with Meter(session.task.model, phase.optimizer, held=held) as meter:
        yield
    cost = meter.cost() if phase.prefix_cache is None else phase.prefix_cache.full(meter.cost())
    flops = cost.flops - (session.fills.flops - filled)
    of_all = numbers([flops, cost.peak])
    session.costs[workload] = replace(
        cost, flops=int(sum(each for each, _ in of_all)), peak=int(max(peak for _, peak in of_all))
    )


def learning_rates(
    config: TrainConfig, phase: PhaseConfig, first: int = 0, total: int | None = None
) -> Callable[[int], float]:
    """The learning rate of a phase's step as a pure function, by diffusers' scheduler of that name.

    The schedule has `total` steps (None: the phase's) of which `first` are before the phase.
    """
    dummy = optim.SGD([nn.Parameter(torch.zeros(1))], lr=phase.learning_rate)
    scheduler = get_scheduler(
        config.lr_scheduler,
        dummy,
        num_warmup_steps=config.lr_warmup_steps,
        num_training_steps=total or phase.steps,
    )
    factor = scheduler.lr_lambdas[0]
    # Step 0 of a warm-up would train at rate zero.
    offset = first + (1 if config.lr_warmup_steps else 0)
    return lambda i: phase.learning_rate * factor(i + offset)


def _clip(model: nn.Module, optimizer: optim.Optimizer, limit: float) -> float:
    if isinstance(optimizer, InBackward):  # all parameters are stepped already
        return optimizer.gradient_norm(model.parameters())
    ready = [p for p in model.parameters() if p.grad is not None]
    sharded, plain = [p for p in ready if is_sharded(p)], [p for p in ready if not is_sharded(p)]
    if not sharded:
        return float(nn.utils.clip_grad_norm_(plain, limit or math.inf))
    found = [nn.utils.get_total_norm([p.grad for p in part if p.grad is not None]) for part in (sharded, plain) if part]
    norm = torch.linalg.vector_norm(torch.stack([full_tensor(each) for each in found]))
    for part in (sharded, plain):
        if limit and part:
            nn.utils.clip_grads_with_norm_(part, limit, norm)
    return float(norm)


def _account(
    session: Session, phase: Phase, i: int, plan: StepPlan, workload: Workload, loss: float, norm: float, lr: float,
    cost: StepCost, seconds: float, place: dict[str, int],
) -> None:  # fmt: skip
    totals, trained = session.totals, _trainable(session.task.model)
    flops_cache, seconds_cache = session.fills.taken()
    flops_cache = int(sum(each for (each,) in numbers([flops_cache])))
    totals.steps += 1
    totals.flops += cost.flops
    totals.flops_cache += flops_cache
    totals.seconds_training += seconds
    totals.bytes_peak = max(totals.bytes_peak, cost.peak)
    totals.byte_seconds += cost.peak * seconds
    phase.watch.step(loss, plan.active, plan.searching, norm)
    session.history.append(cost.flops)
    shape = workload.shape or phase.shape
    session.log.line({
        "step": session.step, "phase": phase.folder.name, "phase_step": i, "stage": plan.stage, "loss": loss,
        "lr": lr, "grad_norm": norm, "m": plan.m, "active": [place[name] for name in plan.active],
        "trainable_params": trained, "seconds": round(seconds, 5), "elapsed": round(session.log.elapsed, 4),
        "flops": cost.flops, "bytes_peak": cost.peak, "bytes_live": cost.by_category, "frames": shape.frames,
        "resolution": shape.resolution, "batch": shape.batch, "tokens": shape.tokens, "inputs": workload.inputs,
        "searching": plan.searching, "echo": workload.echo, "flops_cache": flops_cache,
        "seconds_cache": round(seconds_cache, 5),
        "holdout_loss": session.holdout_loss, "holdout_log_loss": mean_log(session.holdout_bands),
        "holdout_bands": session.holdout_bands,
    })  # fmt: skip


def _trainable(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _not_finite(session: Session, phase: Phase, i: int, what: str, value: float) -> str:
    kept = checkpoints(session.run)
    back = f"the last good checkpoint is {kept[-1]}" if kept else "no checkpoint was written yet"
    in_backward = isinstance(phase.optimizer, InBackward)
    changed = "weights may have changed, as the optimizer steps in the backward pass" if in_backward else (
        "stopped before the weights changed"
    )  # fmt: skip
    return (
        f"the {what} is {value} at step {session.step} (phase {phase.name}, step {i}, learning rate "
        f"{phase.config.learning_rate}); {changed}; {back}. "
        f"Lower the learning rate{'' if in_backward else ', or set train.max_grad_norm'}"
    )
