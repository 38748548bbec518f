"""Let a share of the tokens bypass a range of blocks in training (after TREAD, arXiv 2501.04765).

The same places are used in every frame of a clip, so that temporal blocks see whole tracks. A token's
position code is in its state since the embedding, so nothing else needs its position.

Shape legend: B samples, F frames, N tokens of a frame, K of them taken, D width.
"""

from torch import Tensor


def take_tokens(x: Tensor, places: Tensor) -> Tensor:
    """The tokens of x [B, F, N, D] at `places` [B, K], the same in all frames; returns [B, F, K, D]."""
    return x.gather(2, _index(x, places))


def put_tokens(whole: Tensor, part: Tensor, places: Tensor) -> Tensor:
    """`whole` [B, F, N, D] with its tokens at `places` [B, K] replaced by `part` [B, F, K, D]."""
    return whole.to(part.dtype).scatter(2, _index(whole, places), part)


def _index(x: Tensor, places: Tensor) -> Tensor:
    samples, frames, _, width = x.shape
    return places[:, None, :, None].expand(samples, frames, places.shape[1], width)
