"""Means with their errors, and agreement of orders."""

import math
from collections.abc import Sequence

__all__ = ["mean_and_error", "ranks", "spearman"]


def mean_and_error(values: Sequence[float], weights: Sequence[float] | None = None) -> tuple[float, float]:
    """Weighted mean and its standard error, sqrt(n / (n - 1) sum w^2 (x - mean)^2) for weights that sum to 1.

    The error of a single value is infinite.
    """
    weights = weights or [1.0] * len(values)
    total = math.fsum(weights)
    shares = [weight / total for weight in weights]
    mean = math.fsum(share * value for share, value in zip(shares, values, strict=True))
    if len(values) < 2:
        return mean, math.inf
    spread = math.fsum((share * (value - mean)) ** 2 for share, value in zip(shares, values, strict=True))
    return mean, math.sqrt(spread * len(values) / (len(values) - 1))


def ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 0 by ascending value; equal values share the mean of their ranks."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    result = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and values[order[end + 1]] == values[order[start]]:
            end += 1
        for i in order[start : end + 1]:
            result[i] = (start + end) / 2
        start = end + 1
    return result


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Rank correlation in -1..1; 0 where one side is constant and so has no order."""
    if len(first) != len(second) or len(first) < 2:
        raise ValueError(f"rank correlation of {len(first)} and {len(second)} values: needs two equal lengths >= 2")
    a, b = ranks(first), ranks(second)
    middle = (len(a) - 1) / 2
    both = math.fsum((x - middle) * (y - middle) for x, y in zip(a, b, strict=True))
    size = math.fsum((x - middle) ** 2 for x in a) * math.fsum((y - middle) ** 2 for y in b)
    return both / math.sqrt(size) if size > 0 else 0.0
