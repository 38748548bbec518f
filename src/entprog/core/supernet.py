"""The published estimator: a nested supernet that trains a random candidate at each step.

Source: Ent-Prog, arXiv 2511.21136. At the start of a stage every step draws m from the candidates M_k, trains the
top m blocks of the shared weights, and reads the loss l_m on a small fixed holdout:

    CE(m) = - sum_{s >= 2} (l_m^(s) - l_m^(s-1)) / sum_{s >= 2} T_m^(s),        m* = argmax CE(m)

where s counts the steps that trained m. The numerator telescopes to the first minus the last reading of shared weights.
Here a candidate is a whole workload: two of equal m and different shape have separate readings.
"""

import random
from collections.abc import Sequence
from itertools import pairwise

from entprog.core.types import Trial, Workload


def supernet_candidate(seed: int, step: int, candidates: Sequence[Workload]) -> Workload:
    """What supernet step `step` trains; a pure function, so calling it twice or resuming changes nothing."""
    return random.Random(f"supernet {seed} {step}").choice(candidates)


def convergence_efficiency(trials: Sequence[Trial], cost: str) -> dict[Workload, float]:
    """CE of each workload that was trained at least twice: loss removed per FLOP or per second, smallest first.

    Args:
        trials: the trials of one stage, in order.
        cost: "flops" or "seconds", the T of the formula.
    """
    readings: dict[Workload, list[Trial]] = {}
    for trial in trials:
        readings.setdefault(trial.workload, []).append(trial)
    efficiency = {}
    for workload, own in sorted(readings.items(), key=lambda item: item[1][0].size):
        spent = sum(getattr(trial, cost) for trial in own[1:])
        if len(own) >= 2 and spent > 0:
            gained = sum(before.loss_after - after.loss_after for before, after in pairwise(own))
            efficiency[workload] = gained / spent
    return efficiency
