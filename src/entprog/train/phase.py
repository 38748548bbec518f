"""The setup of a phase, built in the same way for `entprog train` and `entprog rank`."""

from dataclasses import dataclass

from entprog import plugins
from entprog.config.schema import Config, PhaseConfig
from entprog.core.blocks import Blocks, discover_blocks
from entprog.core.truncation import input_parameters
from entprog.core.types import Draw, Shape
from entprog.methods.base import MethodPlugin
from entprog.tasks.base import Samples, Task, fixed_draws
from entprog.train.draws import draw_size

__all__ = ["PhaseSetup", "running"]


def running(config: Config) -> list[tuple[str, PhaseConfig]]:
    """The phases that have steps, in order."""
    return [(name, phase) for name, phase in config.phases.items() if phase.steps > 0]


@dataclass(frozen=True)
class PhaseSetup:
    """Blocks, draws and method plugin of a phase.

    Attributes:
        number: place among the phases that run.
        seed: of everything random in the phase.
        shape: of a micro-batch.
        blocks: those that may train; every other block is frozen for the whole phase.
        outside: whether parameters outside all blocks train.
        samples: the training data.
        probe, holdout: fixed draws, the same for every method that uses this seed.
        plugin: the method for this phase.
        inputs: names of input-side parameters that do not train at every step.
        inputs_frozen: whether those never train.
    """

    number: int
    name: str
    settings: PhaseConfig
    seed: int
    shape: Shape
    blocks: Blocks
    outside: bool
    samples: Samples
    probe: list[Draw]
    holdout: list[Draw]
    plugin: MethodPlugin
    inputs: tuple[str, ...]
    inputs_frozen: bool

    @property
    def folder(self) -> str:
        """Name of the phase's folder in a run."""
        return f"{self.number + 1}-{self.name}"

    @classmethod
    def build(
        cls, task: Task, config: Config, number: int, name: str, known_inputs: tuple[str, ...] | None = None
    ) -> "PhaseSetup":
        """Enter the phase: the task is in the phase's mode, and exactly the phase's parameters require a gradient.

        Args:
            known_inputs: the phase's `inputs`, of a model that can't show them any more because it is sharded.

        Raises:
            ValueError: a wrong setting, such as a pattern that leaves no block.
        """
        settings = config.phases[name]
        blocks = task.blocks(settings, config.ranking.pattern)
        task.enter(settings)
        outside = settings.outside and config.freeze.outside
        _let_train(task, blocks, outside)
        seed = config.train.seed * 1000 + number
        shape = Shape.of(settings.sides, settings.frames, settings.batch)
        samples = task.samples("train", settings.frames, seed)
        most = draw_size(config.ranking, settings.batch)
        probe = fixed_draws(task, samples, shape, config.ranking.samples, seed + 500, most=most)
        held = task.samples("holdout", settings.frames, config.train.seed)
        holdout = fixed_draws(task, held, shape, config.train.holdout_clips, seed + 700)
        method: MethodPlugin = plugins.load("method", config.method, **config.method_options)
        plugin = method.for_phase(settings.frames, task.new_modules())
        every = config.freeze.inputs_every if plugin.ranked else {"always": 1, "never": 0}.get(plugin.inputs, 2)
        inputs = known_inputs or ()
        if outside and every != 1 and known_inputs is None:
            inputs = input_parameters(task.model, discover_blocks(task.model), lambda: task.predict(probe[0]))
        return cls(
            number, name, settings, seed, shape, blocks, outside, samples, probe, holdout, plugin, inputs, every == 0
        )


def _let_train(task: Task, blocks: Blocks, outside: bool) -> None:
    inside = {id(p) for block in blocks for p in block.parameters()}
    owned = {id(p) for block in discover_blocks(task.model) for p in block.parameters()}
    for parameter in task.model.parameters():
        parameter.requires_grad_(id(parameter) in inside or (outside and id(parameter) not in owned))
        parameter.grad = None
