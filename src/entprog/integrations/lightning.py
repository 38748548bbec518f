"""A callback of Lightning: the method in `Trainer.fit`, with no line in the training step."""

from typing import Any

from entprog.integrations._attaching import Attaching

try:
    from lightning.pytorch import Callback
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError("entprog.integrations.lightning needs Lightning: pip install lightning") from missing

__all__ = ["ProgressiveTraining"]


class ProgressiveTraining(Attaching, Callback):
    """Trains by `entprog.attach`: ranks when training starts, and chooses what trains at each optimizer step.

    Needs automatic optimization with one optimizer. Micro-batches of one step (`accumulate_grad_batches`) train the
    same blocks. The method's state is in Lightning's checkpoints.

    Args:
        steps: optimizer steps; the trainer's `max_steps` by default.
        model: the network, from the Lightning module; the whole module by default.
        predict, probe, options: as for `attach`; `predict` gets a draw.

    Attributes:
        method: of the running fit; None before.
    """

    def __init__(self, *, steps: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.steps = steps
        self._entered = -1
        self._state: dict[str, Any] = {}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Rank and attach."""
        steps = trainer.max_steps if self.steps is None else self.steps
        if steps < 1:
            raise ValueError("steps: give the count of optimizer steps, here or as the trainer's max_steps")
        if len(trainer.optimizers) != 1:
            raise ValueError(f"{len(trainer.optimizers)} optimizers: the method follows one; configure one")
        self.method = self._attach(pl_module, trainer.optimizers[0], steps)
        if self._state:
            self.method.load_state_dict(self._state)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Enter the step at its first micro-batch."""
        if self.method is not None and self._entered != trainer.global_step:
            self._step.close()
            self._entered = trainer.global_step
            self._step.enter_context(self.method.step(trainer.global_step))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Leave the step after its last micro-batch, before checkpoints and validation."""
        if self._entered != trainer.global_step:
            self._step.close()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Merge adapters and let every parameter train again."""
        self._step.close()
        if self.method is not None:
            self.method.finish()
            self.method.release()

    def state_dict(self) -> dict[str, Any]:
        """The method's state."""
        return {} if self.method is None else self.method.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Kept until the method is attached."""
        self._state = state_dict
