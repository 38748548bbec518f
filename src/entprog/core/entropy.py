"""Differential entropy, in nats, of the elements of a prediction: the Gaussian form and two others."""

import math

import torch
from torch import Tensor

__all__ = ["gaussian", "histogram", "knn"]


def gaussian(x: Tensor) -> Tensor:
    """Entropy [B] of a Gaussian with the sigma of each sample's elements: log(sigma sqrt(2 pi e)).

    x is [B, ...]. Differences between two such entropies are log sigma ratios.
    """
    sigma = x.flatten(1).double().std(1)
    return sigma.clamp_min(_floor(x)).log() + 0.5 * math.log(2 * math.pi * math.e)


def histogram(x: Tensor, bins: int = 64) -> Tensor:
    """Plug-in entropy [B] of a histogram over 8 sigma around the mean; outliers fall in its end bins."""
    values = x.flatten(1).double()
    mean, sigma = values.mean(1, keepdim=True), values.std(1, keepdim=True).clamp_min(_floor(x))
    place = (((values - mean) / (8 * sigma) + 0.5) * bins).long().clamp(0, bins - 1)
    count = torch.stack([row.bincount(minlength=bins) for row in place]).double()
    share = count / values.shape[1]
    width = (8 * sigma / bins).squeeze(1)
    entropy: Tensor = width.log() - torch.special.xlogy(share, share).sum(1)
    return entropy


def knn(x: Tensor, k: int = 3) -> Tensor:
    """Entropy [B] from the distance of each element to its k-th nearest, in one dimension.

    H = psi(n) - psi(k) + log 2 + mean log r_k (Kozachenko and Leonenko 1987). Repeated values (low precision)
    are kept apart by the resolution of x's type.
    """
    values = x.flatten(1).double().sort(1).values
    n = values.shape[1]
    if n <= k:
        raise ValueError(f"the k-nearest entropy needs more than k = {k} elements a sample, got {n}")
    ends = values.new_full((values.shape[0], k), math.inf)
    padded = torch.cat([-ends, values, ends], 1)
    # The k nearest of a sorted element are a window of k + 1 around it, with j of them below.
    reach = [
        torch.maximum(values - padded[:, k - j : k - j + n], padded[:, 2 * k - j : 2 * k - j + n] - values)
        for j in range(k + 1)
    ]
    nearest = torch.stack(reach).amin(0).clamp_min(_floor(x))
    digamma = torch.special.digamma(torch.tensor([n, k], dtype=torch.float64))
    return float(digamma[0] - digamma[1]) + math.log(2) + nearest.log().mean(1)


def _floor(x: Tensor) -> float:
    """The smallest standard deviation that is not treated as zero: keeps the logarithm finite."""
    return torch.finfo(x.dtype).eps * 1e-3
