"""Small random denoisers of diffusers: for each class a configuration of few weights and a call with random inputs.

`denoisers()` has them by the name of their class. Sizes are chosen for speed (a prediction takes milliseconds), with at
least three blocks in the longest list where the class allows it, so that a schedule of three stages has what to choose
from.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

import entprog

__all__ = ["Denoiser", "Random", "denoisers"]


class Random:
    """Seeded random tensors: `r(2, 4, 8, 8)` is normal, `r.below(10, 2)` whole numbers, `r.unit(2)` in 0..1."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def below(self, bound: int, *shape: int) -> Tensor:
        return torch.randint(0, bound, shape, generator=self.generator)

    def unit(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator)


@dataclass(frozen=True, eq=False)
class Denoiser:
    """A class of diffusers, made small.

    Attributes:
        name: of the class, in `diffusers` or in `module`.
        config: arguments of the class.
        inputs: all arguments of a call, by name.
        noised: the argument that a draw gives; the others stay those of seed 0. A list of tensors gives its first.
        module: where the class is, unless it is public.
        chosen: which of the outputs is the prediction.
    """

    name: str
    config: Mapping[str, Any]
    inputs: Callable[[Random], dict[str, Any]]
    noised: str = "hidden_states"
    module: str = ""
    chosen: int = 0

    def model(self) -> nn.Module:
        """The same weights at every call; parameters that start at zero are small random numbers."""
        home = importlib.import_module(self.module or "diffusers")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            found: nn.Module = getattr(home, self.name)(**self.config)
            with torch.no_grad():
                for parameter in found.parameters():
                    if (parameter.is_floating_point() and not parameter.any()) or not parameter.isfinite().all():
                        parameter.normal_(std=0.02)
        return found

    def predictor(self, model: nn.Module) -> Callable[[entprog.Draw], Tensor]:
        """What the model predicts for a draw's noised input."""
        fixed = self.inputs(Random(0))
        listed = isinstance(fixed[self.noised], list)

        def predict(draw: entprog.Draw) -> Tensor:
            noised = [draw.x[0]] if listed else draw.x
            return self._tensor(model(**{**fixed, self.noised: noised}))

        return predict

    def draw(self, seed: int) -> entprog.Draw:
        """Noise as input and as target, in the shapes of this class."""
        random = Random(seed)
        given = self.inputs(Random(0))[self.noised]
        x = given[0][None] if isinstance(given, list) else given
        return entprog.Draw(random(*x.shape), random.unit(len(x)), random(*self._shape()))

    def _tensor(self, output: Any) -> Tensor:
        """The prediction among the outputs; of a list of samples the first, with an axis for the batch."""
        found = output[self.chosen] if isinstance(output, tuple) else list(output.values())[self.chosen]
        prediction: Tensor = found[0][None] if isinstance(found, list | tuple) else found
        return prediction

    @cache  # noqa: B019 (one denoiser a class, for ever)
    def _shape(self) -> tuple[int, ...]:
        with torch.no_grad():
            return tuple(self._tensor(self.model().eval()(**self.inputs(Random(0)))).shape)


@cache
def denoisers() -> dict[str, Denoiser]:
    """Every class by its name, in the order of the files."""
    found: dict[str, Denoiser] = {}
    for module in pkgutil.iter_modules(__path__):
        for denoiser in importlib.import_module(f"{__name__}.{module.name}").DENOISERS:
            found[denoiser.name] = denoiser
    return found
