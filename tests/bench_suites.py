"""What the tests of the benchmark share: a small suite as TOML has it, and literal records of its runs."""

from collections.abc import Callable
from typing import Any

from benchmarks.runner.run_plan import PlannedRun
from benchmarks.runner.run_record import Record
from benchmarks.runner.suite import Suite
from benchmarks.runner.suite_file import suite_of
from entprog.toml.trees import laid_over

TREE: dict[str, Any] = {
    "about": "small",
    "arms": ["full", "linear", "last"],
    "seeds": [0, 1, 2],
    "budgets": [0.5, 1.0],
    "rates": [0.5, 1.0, 2.0],
    "readings": 4,
    "tuning": {"data": {"seed": 1}, "exam": {"seed": 2, "holdout": 32}},
    "exam": {"data": {"seed": 3, "holdout": 32}},
    "define": {
        "full": {"method": "full"},
        "linear": {
            "method": "progressive", "lr_factor": 2.0,
            "ranking": {"score": "gradient"}, "schedule": {"name": "linear", "options": {"stages": 2}},
        },
        "last": {
            "method": "progressive", "ranking": {"score": "order", "options": {"order": "last"}},
            "schedule": {"name": "fixed", "options": {"m": [0.5]}},
        },
    },
    "recipe": {
        "device": "cpu",
        "model": {"init": "scratch"},
        "data": {"subjects": 4, "clips_per_subject": 2, "holdout": 2, "frames": 6, "sizes": [16]},
        "phases": {
            "pose": {"steps": 40, "batch": 2, "resolution": 16, "learning_rate": 1e-3},
            "video": {"steps": 20, "frames": 3, "batch": 2, "resolution": 16, "learning_rate": 2e-3},
        },
        "train": {"lr_scheduler": "cosine", "mixed_precision": "no", "holdout_clips": 4, "threads": 1},
        "evaluate": {"clips": 64, "frames": 3, "resolution": 16},
    },
}  # fmt: skip


def tree(**over: Any) -> dict[str, Any]:
    """The suite's tree with `over` laid over it."""
    return laid_over(TREE, over)


def suite(**over: Any) -> Suite:
    return suite_of(tree(**over), "small")


FLOPS = {"full": (100.0, 300.0), "linear": (80.0, 300.0), "last": (50.0, 200.0)}
"""FLOPs of a step by arm, in the pose and the video phase."""


def record_of(
    run: PlannedRun, loss: float | Callable[[int], float] = 1.0, *, scoring: float = 0.0, peak: int = 1000,
    status: str = "finished", clips: int = 4,
) -> Record:  # fmt: skip
    """A literal record of a run; `loss` may depend on the clip."""
    phases, total, curve = {}, 0.0, []
    for name, each in zip(run.steps, FLOPS[run.arm], strict=True):
        spent = scoring + each * run.steps[name]
        total += spent
        phases[name] = {
            "steps": run.steps[name], "flops": spent, "flops_steps": spent - scoring, "seconds_steps": 1.0,
            "stages": [{"steps": run.steps[name], "searching": 0, "flops_searching": 0.0, "flops_step": each}],
            "workloads": [{
                "flops": each, "bytes_peak": peak, "steps": run.steps[name], "active": [0], "resolution": 16,
                "frames": 1, "batch": 2, "tokens": 1.0, "inputs": True,
            }],
        }  # fmt: skip
        curve.append({"phase": name, "step": 1, "loss": 1.0, "flops": total, "seconds": 1.0})
    per_draw = [loss(k) if callable(loss) else loss for k in range(clips)]
    exam = {
        "loss": sum(per_draw) / clips, "per_draw": per_draw, "clips": [f"clip-{k}" for k in range(clips)],
        "tau": [(k + 0.5) / clips for k in range(clips)],
    }  # fmt: skip
    return {
        "format": 1, "address": run.address, "suite": "small", "kind": run.kind, "arm": run.arm, "seed": run.seed,
        "factor": run.factor, "steps": dict(run.steps), "status": status, "phases": phases, "trials": [],
        "rankings": [],
        "totals": {"flops": total, "bytes_peak": peak, "seconds": 1.0} if status == "finished" else None,
        "curve": curve, "exam": exam if run.exam is not None and status == "finished" else None,
    }  # fmt: skip
