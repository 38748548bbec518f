"""Samplers against slow references, and what their noise depends on."""

import pytest
import torch
from torch import Tensor

from entprog.codecs.pca import PatchCodec
from entprog.diffusion.objective import Objective, step_to_tau
from entprog.diffusion.schedulers import SCHEDULERS, make_scheduler
from entprog.nets.dit import build_dit
from entprog.tasks.human_video.generate import sample_clips
from entprog.tasks.human_video.task import HumanVideoTask

FRAMES, SIDE = 2, 4


@pytest.fixture(scope="module")
def task() -> HumanVideoTask:
    """A tiny model whose gates are open, so that all conditions count."""
    torch.manual_seed(0)
    model = build_dit("nano", depth=2, width=32, heads=2).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.08)
    return HumanVideoTask(model, Objective(), full_size=4 * SIDE)


def conditions(clips: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    reference = torch.randn(clips, 16, SIDE, SIDE, generator=generator)
    pose = torch.randint(0, 256, (clips, FRAMES, 3, 16, 16), generator=generator, dtype=torch.uint8)
    return reference, pose


def slow_ddim(
    task: HumanVideoTask, x: Tensor, reference: Tensor, pose: Tensor, steps: int, scale: float, codec: PatchCodec | None
) -> Tensor:
    """Equation 12 of Song et al. 2021 with sigma = 0, one model call a branch, nothing cached."""
    abar = task.objective._table
    ratio = 1000 // steps
    maps = pose.float() / 255
    for i in reversed(range(steps)):
        t = i * ratio
        before = abar[t - ratio] if t - ratio >= 0 else torch.tensor(1.0)
        tau = step_to_tau(t).expand(len(x))
        conditioned = task.model(x, tau, reference, maps)
        nothing = task.model(x, tau, torch.zeros_like(reference), torch.zeros_like(maps))
        eps = nothing + scale * (conditioned - nothing)
        clean = (x - (1 - abar[t]).sqrt() * eps) / abar[t].sqrt()
        if codec is not None:
            clean = codec.encode_pixels(codec.decode(clean))
            eps = (x - abar[t].sqrt() * clean) / (1 - abar[t]).sqrt()
        x = before.sqrt() * clean + (1 - before).sqrt() * eps
    return x


@pytest.mark.parametrize("scale", [1.0, 2.5])
@pytest.mark.parametrize("clamped", [False, True])
@torch.no_grad()
def test_ddim_agrees_with_its_equation(task: HumanVideoTask, scale: float, clamped: bool) -> None:
    reference, pose = conditions(2)
    codec = PatchCodec.default() if clamped else None
    options = {"num_inference_steps": 5, "guidance_scale": scale, "seed": 3, "keys": [0, 1], "codec": codec}
    fast = sample_clips(task, reference, pose, scheduler="ddim", **options)
    start = initial_noise(task, reference, pose, seed=3, keys=[0, 1])
    slow = slow_ddim(task, start, reference, pose, 5, scale, codec)
    assert fast.shape == (2, FRAMES, 16, SIDE, SIDE)
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)


def initial_noise(task: HumanVideoTask, reference: Tensor, pose: Tensor, seed: int, keys: list[int]) -> Tensor:
    """What a sampler starts from: the input of its first model call."""
    seen: list[Tensor] = []

    def record(module: torch.nn.Module, arguments: tuple[Tensor, ...]) -> None:
        seen.append(arguments[0])

    handle = task.model.register_forward_pre_hook(record)
    sample_clips(task, reference, pose, scheduler="ddim", num_inference_steps=1, guidance_scale=1, seed=seed, keys=keys)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_clip_does_not_depend_on_its_batch(task: HumanVideoTask, scheduler: str) -> None:
    reference, pose = conditions(3)
    codec = PatchCodec.default()
    options = {"scheduler": scheduler, "num_inference_steps": 4, "guidance_scale": 2.0, "seed": 0, "codec": codec}
    together = sample_clips(task, reference, pose, keys=[7, 8, 9], **options)
    alone = sample_clips(task, reference[1:2], pose[1:2], keys=[8], **options)
    torch.testing.assert_close(together[1:2], alone, atol=1e-4, rtol=1e-4)
    assert not torch.equal(alone, sample_clips(task, reference[1:2], pose[1:2], keys=[9], **options))
    other_seed = sample_clips(task, reference[1:2], pose[1:2], keys=[8], **options | {"seed": 1})
    assert not torch.equal(alone, other_seed)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("beta_schedule", ["linear", "squaredcos_cap_v2"])
def test_a_perfect_model_gives_the_clean_clip(scheduler: str, beta_schedule: str) -> None:
    """A model that knows the answer: eps = (x - sqrt(abar) x_0) / sqrt(1 - abar)."""
    clean = torch.randn(1, 1, 16, SIDE, SIDE, generator=torch.Generator().manual_seed(4)) / 4
    noising = Objective(beta_schedule=beta_schedule)

    class Knows(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def reference_states(self, reference: Tensor) -> list[Tensor]:
            return []

        def forward(
            self, x: Tensor, tau: Tensor, reference: None, pose: None, reference_states: list[Tensor]
        ) -> Tensor:
            abar = noising._table[noising.steps(tau)].view(-1, 1, 1, 1, 1)
            return (x - abar.sqrt() * clean) / (1 - abar).sqrt()

    task = HumanVideoTask(Knows(), noising)  # type: ignore[arg-type]
    found = sample_clips(
        task, clean[:, 0], None, frames=1, scheduler=scheduler, num_inference_steps=10, guidance_scale=1, keys=[0]
    )
    torch.testing.assert_close(found, clean, atol=5e-3, rtol=0)


def test_guidance_of_one_is_one_branch_and_zero_is_no_condition(task: HumanVideoTask) -> None:
    reference, pose = conditions(1)
    options = {"scheduler": "ddim", "num_inference_steps": 3, "keys": [0], "codec": PatchCodec.default()}
    calls: list[int] = []
    handle = task.model.register_forward_pre_hook(lambda module, given: calls.append(len(given[0])))
    sample_clips(task, reference, pose, guidance_scale=1, **options)
    sample_clips(task, reference, pose, guidance_scale=2, **options)
    handle.remove()
    assert calls == [1, 1, 1, 2, 2, 2]
    free = sample_clips(task, reference, pose, guidance_scale=0, **options)
    nothing = sample_clips(task, torch.zeros_like(reference), torch.zeros_like(pose), guidance_scale=1, **options)
    torch.testing.assert_close(free, nothing, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("reference_kind", ["siamese", "separate", "none"])
@torch.no_grad()
def test_reference_states_once_are_reference_states_each_step(reference_kind: str) -> None:
    torch.manual_seed(0)
    model = build_dit("nano", depth=3, width=32, heads=2, reference=reference_kind)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.08)
    reference, pose = conditions(2)
    x, tau = torch.randn(2, FRAMES, 16, SIDE, SIDE), torch.tensor([0.2, 0.9])
    states = model.reference_states(reference)
    assert len(states) == (0 if reference_kind == "none" else 3)
    once = model(x, tau, None, pose.float() / 255, reference_states=states)
    assert torch.equal(once, model(x, tau, reference, pose.float() / 255))
    if reference_kind != "none":
        assert not torch.equal(once, model(x, tau, None, pose.float() / 255))


def test_float_and_byte_poses_are_the_same(task: HumanVideoTask) -> None:
    reference, pose = conditions(1)
    options = {"num_inference_steps": 2, "keys": [0]}
    assert torch.equal(
        sample_clips(task, reference, pose, **options), sample_clips(task, reference, pose.float() / 255, **options)
    )


def test_longer_clips_begin_with_the_same_noise(task: HumanVideoTask) -> None:
    reference, pose = conditions(1)
    longer = torch.cat([pose, pose], 1)
    short = initial_noise(task, reference, pose, seed=0, keys=[5])
    assert torch.equal(initial_noise(task, reference, longer, seed=0, keys=[5])[:, :FRAMES], short)


def test_bad_settings_say_what_to_change(task: HumanVideoTask) -> None:
    reference, pose = conditions(2)
    with pytest.raises(ValueError, match=r"sample.scheduler = 'euler': choose one of ddim, ddpm, dpm\+\+"):
        make_scheduler("euler", "linear", 10)
    with pytest.raises(ValueError, match=r"sample\.num_inference_steps = 0: choose from 1 to 1000"):
        sample_clips(task, reference, pose, num_inference_steps=0, keys=[0, 1])
    with pytest.raises(ValueError, match="keys"):
        sample_clips(task, reference, pose, keys=[0])
    with pytest.raises(ValueError, match="guidance_scale = -1"):
        sample_clips(task, reference, pose, guidance_scale=-1, keys=[0, 1])


def test_codec_encodes_unrounded_pixels() -> None:
    codec = PatchCodec.default()
    frames = torch.randint(0, 256, (2, 3, 16, 16, 3), dtype=torch.uint8)
    latents = codec.encode(frames)
    torch.testing.assert_close(codec.encode_pixels(frames.movedim(-1, -3) / 255), latents, atol=1e-5, rtol=0)
    calm = codec.encode_pixels(torch.rand(1, 3, 16, 16) * 0.1 + 0.45)
    torch.testing.assert_close(codec.encode_pixels(codec.decode(calm)), calm, atol=1e-5, rtol=0)
