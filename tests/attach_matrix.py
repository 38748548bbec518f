"""What `attach` must do for any model: rank by every score, then train in stages what it says and nothing else."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

import entprog
from entprog import plugins
from entprog.methods.base import Method

__all__ = ["SCORES", "judged", "ranked_and_trained"]

SCORES = tuple(sorted(plugins.names("score")))
STEPS = 3
ONLY = {"order": {"order": "last"}}
"""Options of a score that has no sensible default here."""

Predict = Callable[[entprog.Draw], Tensor]
Draws = Callable[[int], entprog.Draw]


def judged(
    make: Callable[[], nn.Module], predictor: Callable[[nn.Module], Predict], draw: Draws, **options: Any
) -> dict[str, str]:
    """For each score "ok", or the message of what went wrong in one line.

    Args:
        make: the model, with the same weights at each call.
        predictor: what a model predicts for a draw.
        draw: a draw by its seed.
        options: of attach.
    """
    found = {}
    for score in SCORES:
        model = make()
        try:
            ranked_and_trained(model, predictor(model), draw, score, **options)
        except (ValueError, RuntimeError, AssertionError, NotImplementedError) as error:
            found[score] = f"{type(error).__name__}: {error}".splitlines()[0]
        else:
            found[score] = "ok"
    return found


def ranked_and_trained(model: nn.Module, predict: Predict, draw: Draws, score: str, **options: Any) -> Method:
    """Attach with a score and train three steps with a change of stage.

    Raises:
        AssertionError: a weight that was to rest moved, or none of an active block did, or the stage did not change.
    """
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with quiet():
        method = entprog.attach(
            model, optimizer, steps=STEPS, predict=predict, probe=[draw(1), draw(2)], score=score,
            score_options=ONLY.get(score), schedule_options={"stages": 2}, quiet=True, **options,
        )  # fmt: skip
    owner = {id(p): name for name in method.rankings[0].names for p in model.get_submodule(name).parameters()}
    sizes = []
    for step in range(STEPS):
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        with method.step(step) as plan:
            given = draw(100 + step)
            (predict(given).float() - given.target).pow(2).mean().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        _check(model, before, owner, set(plan.active))
        sizes.append(len(plan.active))
    assert sizes[0] < sizes[-1], f"stages of {sizes} blocks: none follows another"
    method.release()
    return method


def _check(model: nn.Module, before: Mapping[str, Tensor], owner: Mapping[int, str], active: set[str]) -> None:
    moved = {name for name, p in model.named_parameters() if not torch.equal(p.detach(), before[name])}
    owners = {name: owner.get(id(p), "") for name, p in model.named_parameters()}
    resting = sorted(name for name in moved if owners[name] and owners[name] not in active)
    assert not resting, f"frozen weights moved: {resting[:3]}"
    still = sorted(active - {owners[name] for name in moved})
    assert not still, f"active blocks did not move: {still[:3]}"
    assert any(not owners[name] for name in moved) or all(owners.values()), "nothing outside the blocks moved"


@contextmanager
def quiet() -> Iterator[None]:
    """Warnings of blocks that are left out, and of weights that are used outside their block, are no fault."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
