"""Mean absolute error of pixels."""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

__all__ = ["L1"]


@dataclass(frozen=True)
class L1:
    """Mean absolute error in 0..1; 0 for equal clips."""

    pooling: ClassVar[str] = "mean over all pixels, frames and clips"
    _seen: list[tuple[float, int]] = field(default_factory=list, init=False, repr=False, compare=False)

    def update(self, fake: Tensor, real: Tensor) -> None:
        """Take clips, both [B, F, 3, H, W] in 0..1."""
        self._seen.append(((fake.double() - real.double()).abs().sum().item(), fake.numel()))

    def compute(self) -> dict[str, float]:
        """{"l1": ...} over all clips."""
        return {"l1": sum(total for total, _ in self._seen) / sum(count for _, count in self._seen)}
