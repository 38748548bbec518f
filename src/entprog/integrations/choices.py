"""What `attach` can be asked for: presets, methods with adapters, storage of frozen weights, sets by cost."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn, optim

from entprog import plugins
from entprog.config.presets import PRESETS
from entprog.core.blocks import Block, Blocks
from entprog.core.depth import depth_order
from entprog.core.select import PassCosts, select_blocks
from entprog.core.types import Draw, Predictor, Ranking, Scores, WeightStorage
from entprog.methods.base import MethodPlugin
from entprog.savings.frozen_storage import FrozenStorage

__all__ = ["Choices", "in_execution_order", "put_on"]

SELECT = ("importance", "per_flop")
PHASE_ONLY = ("m_images", "full")
"""Options of a preset's method that only a recipe's phases give a meaning."""


@dataclass(frozen=True)
class Choices:
    """Method, score, schedule and storage of an `attach`, with the values of a preset under those that are given.

    Attributes:
        method, score, schedule: plugin names, each with its options.
        storage: "full", or the kind of `FrozenStorage`.
        select: "importance", or "per_flop": of m blocks those with the most importance for the cost of their step.
    """

    method: str = "progressive"
    method_options: Mapping[str, Any] = field(default_factory=dict)
    score: str = "gradient"
    score_options: Mapping[str, Any] = field(default_factory=dict)
    schedule: str = "linear"
    schedule_options: Mapping[str, Any] = field(default_factory=dict)
    storage: str = "full"
    select: str = "importance"

    @classmethod
    def of(cls, preset: str, given: Mapping[str, Any]) -> "Choices":
        """`given` holds what the caller set; None is "not set".

        Raises:
            ValueError: no such preset, or options that are impossible; all at once.
        """
        if preset not in PRESETS:
            named = ", ".join(name for name in PRESETS if name)
            raise ValueError(f"preset = {preset!r}: choose from {named}, or leave it out")
        own = {name: value for name, value in given.items() if value is not None}
        values = {**_of_preset(preset), **own}
        for plugin in ("method", "score", "schedule"):
            default = _of_preset(preset).get(plugin)
            if default is not None and own.get(plugin, default) != default and f"{plugin}_options" not in own:
                values.pop(f"{plugin}_options", None)
        choices = cls(**values)
        choices.check()
        return choices

    def check(self) -> None:
        """Raise ValueError for what can't be, one line each."""
        wrong = []
        for kind in ("method", "score", "schedule"):
            wrong += plugins.problems(kind, getattr(self, kind), getattr(self, f"{kind}_options"))
        if self.select not in SELECT:
            wrong.append(f"select = {self.select!r}: choose from {', '.join(SELECT)}")
        if self.storage not in ("full", "bf16", "int8", "nf4", "offload"):
            wrong.append(f"storage = {self.storage!r}: choose from full, bf16, int8, nf4, offload")
        if not wrong and (absent := plugins.not_installed(plugins.declared("method", self.method, "packages", {}))):
            wrong.append(f"method = {self.method!r}: {absent}")
        if wrong:
            raise ValueError("\n".join(wrong))

    @property
    def plugin(self) -> MethodPlugin:
        found: MethodPlugin = plugins.load("method", self.method, **self.method_options)
        return found

    @property
    def ranked(self) -> bool:
        return plugins.ranked(self.method)

    def rests_inputs(self, inputs_every: int) -> bool:
        """Whether input-side parameters rest in some steps, so that their names are needed."""
        return inputs_every != 1 if self.ranked else self.plugin.inputs != "always"

    def stored(self, blocks: Blocks) -> WeightStorage | None:
        """The storage of frozen weights, made once the method's adapters are in place."""
        return None if self.storage == "full" else FrozenStorage(blocks, self.storage)  # type: ignore[arg-type]

    def ranking(self, scores: Scores, blocks: Blocks) -> Ranking:
        """The ranking, with sets by cost where `select` wants them.

        Costs are by the count of parameters: a product's FLOPs are proportional to them where all blocks see the same
        tokens. A forward costs 1 of each block, gradients of inputs 1 of each block that the backward passes, weight
        gradients 1 of each active one.
        """
        ranking = scores.ranking()
        if self.select == "importance":
            return ranking
        sizes = {block.name: float(sum(p.numel() for p in block.parameters())) for block in blocks}
        return select_blocks(
            ranking, scores.values, PassCosts.chain(blocks.names, sum(sizes.values()), sizes, inputs=sizes)
        )


def _of_preset(preset: str) -> dict[str, Any]:
    """A recipe's preset, as far as it means something to `attach`."""
    tree = PRESETS[preset]
    found: dict[str, Any] = {}
    if "method" in tree:
        options = {name: value for name, value in tree["method_options"].items() if name not in PHASE_ONLY}
        found |= {"method": tree["method"], "method_options": options}
    if "ranking" in tree:
        found |= {"score": tree["ranking"]["score"], "score_options": tree["ranking"]["options"]}
    if "schedule" in tree:
        found |= {"schedule": tree["schedule"]["name"], "schedule_options": tree["schedule"]["options"]}
    if "freeze" in tree:
        found["storage"] = tree["freeze"]["storage"]
    return found


def in_execution_order(task: Predictor, blocks: Blocks, draw: Draw) -> Blocks:
    """The blocks in the order in which the model calls them, which is what "the last m" and the backward go by."""
    was = task.model.training
    task.model.eval()
    try:
        order = depth_order(task, blocks, draw)
    finally:
        task.model.train(was)
    return Blocks([blocks[name] for name in order], role=blocks.role, adapters=blocks.adapters)


def put_on(plugin: MethodPlugin, model: nn.Module, blocks: Blocks, optimizer: optim.Optimizer, seed: int) -> Blocks:
    """Let the method add its adapters, and give them to the loop's optimizer; returns the blocks with them inside.

    Adapters get a group of their own at the method's `lr_factor` times the rate of the optimizer's first group.

    Raises:
        ValueError: a learning-rate scheduler was made before, which would not know the new group.
    """
    factor = asdict(plugin).get("lr_factor", 1.0)  # type: ignore[call-overload]
    if factor != 1.0 and any("initial_lr" in group for group in optimizer.param_groups):
        raise ValueError(
            "method: a learning-rate scheduler already follows this optimizer and would not know the adapters' group; "
            'make it after attach, or train adapters at the same rate: method_options = {"lr_factor": 1}'
        )
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for group in plugin.groups(model, blocks, lr=float(optimizer.param_groups[0]["lr"]), seed=seed):
        new = [parameter for parameter in group["params"] if id(parameter) not in known and parameter.requires_grad]
        if new and group.get("lr_factor", 1.0) == 1.0:
            optimizer.param_groups[0]["params"] += new
        elif new:
            optimizer.add_param_group({"params": new, "lr": group["lr"]})
    again = [Block(block.name, model.get_submodule(block.name)) for block in blocks]  # a linear block was replaced
    return Blocks(again, role=blocks.role, adapters=blocks.adapters)
