"""Stochastic rounding to bfloat16: what is rounded away is kept in the mean."""

import torch
from torch import Tensor

__all__ = ["rounded_stochastically"]

LOWER = 16
"""Bits of a float32 that a bfloat16 lacks."""


def rounded_stochastically(values: Tensor, seed: int, step: int, place: int) -> Tensor:
    """Values as bfloat16: each becomes one of its two neighbours, the nearer the likelier; unbiased.

    Bfloat16 holds 8 bits of precision, so steps below 1/512 of a weight vanish when rounded to nearest; here such a
    step moves the weight with a probability equal to the step's share of the distance between neighbours. Values that
    are no finite numbers stay as they are.

    Args:
        values: float32, any shape.
        seed, step, place: the random bits follow from these three and the shape alone (on one type of device); torch's
            own generators are neither read nor advanced.
    """
    generator = torch.Generator(values.device).manual_seed(_mixed(seed, step, place))
    added = torch.randint(1 << LOWER, values.shape, dtype=torch.int32, device=values.device, generator=generator)
    # Sign and magnitude: adding to the bits moves away from zero, by less than one unit of what is kept.
    bits = added.add_(values.contiguous().view(torch.int32)).bitwise_and_(-(1 << LOWER))
    return torch.where(values.isfinite(), bits.view(torch.float32), values).to(torch.bfloat16)


def _mixed(*numbers: int) -> int:
    """63 bits that differ in about half for any change of the numbers (the mixing function of splitmix64)."""
    mask, state = (1 << 64) - 1, 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & mask
        state = ((state ^ state >> 30) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ state >> 27) * 0x94D049BB133111EB) & mask
        state ^= state >> 31
    return state >> 1
