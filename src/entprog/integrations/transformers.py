"""A callback of transformers' Trainer: the method in `trainer.train()`."""

from typing import Any

from entprog.integrations._attaching import Attaching

try:
    from accelerate.optimizer import AcceleratedOptimizer
    from transformers import TrainerCallback
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        'entprog.integrations.transformers needs the Trainer: pip install "transformers[torch]"'
    ) from missing

__all__ = ["ProgressiveTraining"]


class ProgressiveTraining(Attaching, TrainerCallback):
    """Trains by `entprog.attach`: ranks when training starts, and chooses what trains at each optimizer step.

    The Trainer makes its learning-rate scheduler first, so methods "lora" and "mixed" need
    `method_options={"lr_factor": 1}`.

    Args:
        model: the network, from the Trainer's model; the whole model by default.
        predict, probe, options: as for `attach`; `predict` gets a draw.

    Attributes:
        method: of the running training; None before.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Rank and attach."""
        if state.global_step:
            raise ValueError("resume_from_checkpoint: the Trainer's checkpoints do not hold the method; start anew")
        optimizer = kwargs["optimizer"]
        while isinstance(optimizer, AcceleratedOptimizer):
            optimizer = optimizer.optimizer
        self.method = self._attach(kwargs["model"], optimizer, state.max_steps)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Enter the step, before its first micro-batch."""
        self._step.close()
        if self.method is not None:
            self._step.enter_context(self.method.step(state.global_step))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave the step, after the optimizer's."""
        self._step.close()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Merge adapters and let every parameter train again."""
        self._step.close()
        if self.method is not None:
            self.method.finish()
            self.method.release()
