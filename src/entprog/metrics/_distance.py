"""The Frechet distance between Gaussians fitted to two sets of features."""

import torch
from torch import Tensor

__all__ = ["distance"]


def distance(a: Tensor, b: Tensor) -> float:
    """Squared Frechet distance between Gaussians fitted to a [N, D] and b [M, D], at least 2 rows each; >= 0.

    d^2 = |mean_a - mean_b|^2 + tr(S_a) + tr(S_b) - 2 tr((S_a S_b)^(1/2)) with the unbiased covariances S (Dowson and
    Landau, 1982; Heusel et al., arXiv 1706.08500, equation 6). With centred rows A and B, S_a = A^T A / (N - 1), the
    last trace is the sum of the singular values of A B^T / ((N - 1)(M - 1))^(1/2): no matrix root is needed,
    so covariances without full rank are no problem. Of A and B only the triangles of their QR are needed.
    Double precision; NaN where a value is not finite.
    """
    a, b = a.double(), b.double()
    if not (a.isfinite().all() and b.isfinite().all()):
        return float("nan")
    shift = (a.mean(0) - b.mean(0)).square().sum()
    a, b = ((rows - rows.mean(0)) / (len(rows) - 1) ** 0.5 for rows in (a, b))
    triangles = [torch.linalg.qr(rows, mode="r").R for rows in (a, b)]
    shared = torch.linalg.svdvals(triangles[0] @ triangles[1].T).sum()
    return (shift + a.square().sum() + b.square().sum() - 2 * shared).clamp_min(0).item()
