"""The objective: what is added, what a model predicts, and the clean sample back from a prediction."""

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

from entprog.diffusion.objective import Objective, step_to_tau

CLEAN, NOISE = torch.randn(2, 5, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
STEPS = torch.tensor([0, 10, 400, 700, 950])
TAU = step_to_tau(STEPS)


@pytest.mark.parametrize(
    "objective",
    [
        Objective(),
        Objective(beta_schedule="linear"),
        Objective("v", "scaled_linear", beta_start=0.00085, beta_end=0.012),
        Objective("flow"),
        Objective("flow", shift=3.0),
    ],
    ids=str,
)
def test_a_perfect_prediction_gives_the_clean_sample_back(objective: Objective) -> None:
    x = objective.add(CLEAN, NOISE, TAU)
    found = objective.x0(objective.target(CLEAN, NOISE, TAU), x, TAU)
    torch.testing.assert_close(found, CLEAN, atol=1e-5, rtol=0)


def test_v_is_that_of_diffusers() -> None:
    scheduler = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    objective = Objective.from_scheduler_config({**scheduler.config, "prediction_type": "v_prediction"})
    assert objective.kind == "v"
    torch.testing.assert_close(objective.add(CLEAN, NOISE, TAU), scheduler.add_noise(CLEAN, NOISE, STEPS))
    torch.testing.assert_close(objective.target(CLEAN, NOISE, TAU), scheduler.get_velocity(CLEAN, NOISE, STEPS))


def test_flow_is_a_straight_line_with_shifted_times() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    objective = Objective.from_scheduler_config({**scheduler.config, "_class_name": "FlowMatchEulerDiscreteScheduler"})
    assert (objective.kind, objective.shift) == ("flow", 3.0)
    tau = torch.tensor([0.0, 0.25, 1.0])
    torch.testing.assert_close(objective.model_time(tau), torch.tensor([0.0, 0.5, 1.0]))
    clean, noise = torch.zeros(3, 2), torch.ones(3, 2)
    torch.testing.assert_close(objective.add(clean, noise, tau), torch.tensor([0.0, 0.5, 1.0])[:, None].expand(3, 2))
    assert torch.equal(objective.target(clean, noise, tau), noise)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"prediction_type": "sample"}, "prediction_type = 'sample': expected epsilon"),
        ({"_class_name": "NoScheduler"}, "_class_name = 'NoScheduler': no scheduler of diffusers"),
        ({"_class_name": "KarrasVeScheduler"}, "no scheduler|no noise levels"),
    ],
)
def test_what_is_not_known_is_refused(config: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Objective.from_scheduler_config(config)
    with pytest.raises(ValueError, match="choose epsilon, v or flow"):
        Objective("velocity")  # type: ignore[arg-type]
