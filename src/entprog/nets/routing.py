"""Let a share of the tokens pass a stretch of blocks by, in training (after TREAD, arXiv 2501.04765).

The same places are taken in every frame of a clip, so that temporal blocks on the way see whole tracks. A token's
position is in its state since the embedding: nothing else has to know where it stood.

Shape legend: B samples, F frames, N tokens of a frame, K of them taken, D width.
"""

from torch import Tensor


def take_tokens(x: Tensor, places: Tensor) -> Tensor:
    """The tokens of x [B, F, N, D] at `places` [B, K], the same in all frames; returns [B, F, K, D]."""
    return x.gather(2, _index(x, places))


def put_tokens(whole: Tensor, part: Tensor, places: Tensor) -> Tensor:
    """`whole` [B, F, N, D] with `part` [B, F, K, D] in the place of its tokens at `places` [B, K]."""
    return whole.to(part.dtype).scatter(2, _index(whole, places), part)


def _index(x: Tensor, places: Tensor) -> Tensor:
    samples, frames, _, width = x.shape
    return places[:, None, :, None].expand(samples, frames, places.shape[1], width)
