"""Muon for the matrices of blocks, AdamW for everything else."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import optim

from entprog.core.types import AdamOptions, Role
from entprog.optimizers._orthogonal import MuonAdamW, muon_states
from entprog.optimizers._orthogonal_bytes import muon_gathering
from entprog.optimizers.base import Gathering, OptimizerPlugin

__all__ = ["Muon"]


@dataclass(frozen=True)
class Muon(OptimizerPlugin):
    """Steps the matrices of blocks and adapters along their orthogonalised momentum: one state for each matrix.

    Attributes:
        momentum: decay of the running sum of a matrix's gradients, at least 0 and below 1.
        rows: rows of a matrix that are orthogonalised separately, for less work, such as those of one head;
            0, or a matrix that they do not divide or that is narrower: the whole matrix.
    """

    momentum: float = 0.95
    rows: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise ValueError(f"train.optimizer_options.momentum = {self.momentum}: must be at least 0 and below 1")
        if self.rows < 0:
            raise ValueError(f"train.optimizer_options.rows = {self.rows}: must be at least 0")

    shards: ClassVar[bool] = True

    def build(self, groups: list[dict[str, Any]], adam: AdamOptions) -> optim.Optimizer:
        """See `OptimizerPlugin`."""
        named = [{**group, "orthogonal": group.get("name", "outside") != "outside"} for group in groups]
        return MuonAdamW(named, lr=groups[0]["lr"], **adam.arguments(), momentum=self.momentum, rows=self.rows)

    def states(self, shape: Sequence[int], size: int, *, counted: bool, role: Role) -> list[int]:
        """One state of a matrix of a block or adapter, AdamW's of all else."""
        return muon_states(shape, size, counted=counted, matrix=role != "outside")

    def gathering(self, parameters: Iterable[tuple[Sequence[int], int, Role]], *, shards: int, cuda: bool) -> Gathering:
        """The matrices of blocks and adapters, one after the other."""
        shapes = [(shape, size, role != "outside") for shape, size, role in parameters]
        return muon_gathering(shapes, self.rows, shards=shards, cuda=cuda)
