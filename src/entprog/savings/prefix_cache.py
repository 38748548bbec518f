"""Activations of the frozen prefix, kept for the steps that train on a sample again (`phases.NAME.echo`)."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from entprog.core.types import Draw, Shape, Trainable
from entprog.files import save_tensors, to_host
from entprog.profiling.meter import StepCost

Key = tuple[int, Shape]
"""Key of a draw of a phase: its first sample, and its shape."""


@dataclass
class PrefixCache:
    """Hidden states at the entrance of the lowest active block, of the draws that come again.

    Stored exactly as computed, so a step gives the same numbers with and without them. They are valid as long as
    the lowest active block is the same, since everything below it is frozen meanwhile.

    Args:
        task: its `prefix` computes them.
        window: steps whose draws are kept, the newest.
        folder: where they are stored, one file for each draw; None: in host memory.
        warn: called with one message when the folder can't be written; training goes on with the same numbers.
    """

    task: Trainable
    window: int
    folder: Path | None = None
    warn: Callable[[str], None] = lambda message: None
    _most: int = 0
    _entrance: int = -1
    _kept: dict[Key, Tensor | Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.folder is not None:  # of an earlier session that was interrupted
            shutil.rmtree(self.folder, ignore_errors=True)

    def knows(self, keys: Sequence[Key]) -> bool:
        """Whether all draws of a step are cached for the present active blocks; drops what is no longer needed."""
        self._most = self.window * len(keys)
        entrance = self.task.prefix_place()
        if entrance != self._entrance:
            self._entrance = entrance
            self.clear()
        for key in keys:
            known = self._kept.get(key)
            if isinstance(known, Path) and not known.is_file():  # computed and charged again
                del self._kept[key]
        return all(key in self._kept for key in keys)

    def of(self, draw: Draw, key: Key) -> Draw:
        """The draw with its hidden states, computed where they are not cached."""
        known = self._read(key)
        if known is not None:
            return replace(draw, hidden=known.to(draw.x.device, non_blocking=True))
        draw = self.task.prefix(draw)
        if draw.hidden is not None and self.window:
            self._keep(key, draw.hidden)
        return draw

    @property
    def held(self) -> list[Tensor]:
        """The tensors in memory."""
        return [state for state in self._kept.values() if isinstance(state, Tensor)]

    def full(self, cost: StepCost) -> StepCost:
        """A step's cost with a full cache, where the cache is in the same memory as the weights."""
        held = self.held
        if self.task.device.type != "cpu" or not held:
            return cost
        missing = (self._most - len(held)) * held[0].nbytes
        parts = {**cost.by_category, "activations": cost.by_category.get("activations", 0) + missing}
        return replace(cost, peak=cost.peak + missing, by_category=parts)

    def clear(self) -> None:
        """Drop everything, files included."""
        self._kept.clear()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _keep(self, key: Key, state: Tensor) -> None:
        try:
            self._kept[key] = to_host(state) if self.folder is None else self._written(key, state)
        except (OSError, SafetensorError) as error:
            reason = f'{self.folder} can\'t be written ({error}); free space, or set train.echo_cache = "host"'
            self.warn(f"the prefix cache is off from now on: {reason}. Training goes on, slower")
            self.clear()
            self.window = self._most = 0
        while len(self._kept) > self._most:
            oldest = self._kept.pop(next(iter(self._kept)))
            if isinstance(oldest, Path):
                oldest.unlink(missing_ok=True)

    def _written(self, key: Key, state: Tensor) -> Path:
        assert self.folder is not None
        self.folder.mkdir(exist_ok=True)
        first, shape = key
        path = self.folder / f"{first}-{shape.size}-{shape.frames}-{shape.batch}.safetensors"
        save_tensors({"state": state.contiguous().cpu()}, path)
        return path

    def _read(self, key: Key) -> Tensor | None:
        known = self._kept.get(key)
        if not isinstance(known, Path):
            return known
        try:
            with safe_open(str(known), "pt") as file:
                # Copied, since tensors mapped from a file may be aligned differently from computed ones.
                return file.get_tensor("state").clone()
        except (OSError, SafetensorError):
            del self._kept[key]
            return None
