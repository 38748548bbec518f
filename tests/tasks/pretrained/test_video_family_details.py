"""What is special about CogVideoX, HunyuanVideo and LTX-Video: sizes, schedulers, refused variants."""

import copy

import pytest
import torch
from diffusers import HunyuanVideo15Transformer3DModel
from PIL import Image

from entprog.tasks.pretrained.adapters import PoseAdapters
from entprog.tasks.pretrained.build import control_channels
from entprog.tasks.pretrained.families.base import Configs, Latent
from entprog.tasks.pretrained.families.hunyuan_video import HunyuanVideo
from entprog.tasks.pretrained.families.hunyuan_video15 import HunyuanVideo15
from entprog.tasks.pretrained.text import encode_images, encode_prompts
from family_calls import Opened
from tiny_pipelines import saved
from video_cases import PROMPTS, condition, noise, opened


def test_cogvideox_refuses_sizes_that_its_positions_do_not_reach():
    learned, sliced = opened("cogvideox-5b-i2v").family, opened("cogvideox-1.5").family
    assert "learned for latents of 6x8, not 8x8" in learned.size_problem(Latent(3, 4, 8, 8, 9))
    assert "choose frames = 8 k - 3" in sliced.size_problem(Latent(3, 4, 6, 8, 9))
    assert "positions reach latents of 6x8" in sliced.size_problem(Latent(4, 4, 6, 10, 13))
    assert opened("cogvideox-5b").family.size_problem(Latent(5, 4, 12, 10, 17)) == ""


def test_cogvideox_samples_with_a_scheduler_that_steps_on_one_prediction():
    model = opened("cogvideox-5b")
    own = model.pipeline.scheduler
    found = model.family.sampler(own)
    assert (type(own).__name__, type(found).__name__) == ("CogVideoXDPMScheduler", "CogVideoXDDIMScheduler")
    assert torch.equal(found.alphas_cumprod, own.alphas_cumprod)
    found.set_timesteps(3)
    x = noise("cogvideox-5b")
    assert found.step(torch.zeros_like(x), found.timesteps[0], x, return_dict=False)[0].shape == x.shape


@pytest.mark.parametrize("name", ["hunyuan-video-1.5", "hunyuan-video-1.5-i2v"])
@pytest.mark.parametrize("prompts", [(0, 1), (1, 1)])
def test_hunyuan_video_15_with_static_shapes_equals_the_network_of_diffusers_bit_for_bit(name, prompts):
    model, given = opened(name), condition(name, prompts)
    static, original = type(model.network), type(model.network).__bases__[0]
    assert original is HunyuanVideo15Transformer3DModel and static.__name__ == original.__name__
    inputs = model.family.inputs(noise(name, 2), torch.tensor([700.0, 300.0]), given) | {"return_dict": False}
    results = []
    for kind in (static, original):
        model.network.__class__ = kind
        try:
            out = model.network(**inputs)[0]
            out.square().sum().backward()
        finally:
            model.network.__class__ = static
        gradients = {key: p.grad for key, p in model.network.named_parameters() if p.grad is not None}
        model.network.zero_grad()
        results.append((out.detach(), gradients))
    (out, gradients), (expected, others) = results
    assert torch.equal(out, expected) and gradients.keys() == others.keys()
    for key, gradient in gradients.items():
        assert gradient.isfinite().all()
        torch.testing.assert_close(gradient, others[key], rtol=1e-4, atol=1e-5)


def test_hunyuan_video_15_knows_of_each_sample_whether_it_has_an_image():
    model, x, time = opened("hunyuan-video-1.5-i2v"), noise("hunyuan-video-1.5-i2v", 2), torch.tensor([700.0, 300.0])
    given = condition("hunyuan-video-1.5-i2v", (1, 1))
    without = condition("hunyuan-video-1.5-i2v", (1, 1), "none")
    mixed = {key: torch.cat([value[:1], without[key][1:]]) for key, value in given.items()}
    with torch.no_grad():
        both, first, second = (model.predict(x, time, conditions) for conditions in (mixed, given, without))
    torch.testing.assert_close(both[0], first[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(both[1], second[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("family", "network", "message"),
    [
        (HunyuanVideo, {"image_condition_type": "token_replace"}, "image_condition_type = 'token_replace'"),
        (HunyuanVideo15, {"use_meanflow": True}, "use_meanflow = true"),
    ],
)
def test_hunyuan_variants_that_take_more_are_refused(family, network, message):
    with pytest.raises(ValueError, match=message):
        family(Configs(network))


def test_distilled_networks_take_the_guidance_scale():
    assert opened("hunyuan-video").family.embedded_guidance == 6.0
    assert torch.equal(condition("hunyuan-video", (0, 1))["guidance"], torch.ones(2))
    assert opened("hunyuan-video-1.5").family.embedded_guidance == 0.0


def test_ltx_video_counts_seconds_at_the_frame_rate_of_the_videos():
    family, x, time = copy.copy(opened("ltx-video").family), noise("ltx-video"), torch.tensor([700.0])
    seconds = []
    for family.frame_rate in (0.0, 16.0):
        seconds.append(family.inputs(x, time, condition("ltx-video", (1,)))["rope_interpolation_scale"])
    assert seconds == [(4 / 25, 8, 8), (4 / 16, 8, 8)]


@pytest.mark.parametrize("name", ["cogvideox-2b", "hunyuan-video", "hunyuan-video-1.5-i2v", "ltx-video"])
def test_prompts_are_encoded_without_network_and_vae_as_by_the_whole_pipeline(name):
    prompt, model = PROMPTS[1], Opened(name)
    found = encode_prompts(saved(name), [prompt]).texts
    with torch.no_grad():
        for text, whole in ((text, model.family.encode_text(model.pipeline, text)) for text in ("", prompt)):
            assert found[text].keys() == whole.keys()
            assert all(torch.equal(found[text][key], value) for key, value in whole.items())


def test_hunyuan_video_15_encodes_images_without_network_and_vae():
    image = torch.randint(0, 256, (3, 40, 40), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    states = encode_images(saved("hunyuan-video-1.5-i2v"), image[None])
    model = opened("hunyuan-video-1.5-i2v")
    assert states.shape == (1, model.family.image_tokens, model.family.image_width)
    with torch.no_grad():
        shown = Image.fromarray(image.permute(1, 2, 0).numpy())
        assert torch.equal(states[0], model.family.encode_image(model.pipeline, shown))


@pytest.mark.parametrize("name", ["cogvideox-5b", "cogvideox-1.5-i2v", "hunyuan-video", "ltx-video"])
@torch.no_grad()
def test_control_latents_are_added_where_the_latents_are_embedded(name):
    model = Opened(name)
    entrance = model.network.get_submodule(model.family.entrance)
    x, time, given = noise(name, 2), torch.tensor([700.0, 300.0]), condition(name, (0, 1))
    bare = model.predict(x, time, given)
    adapters = PoseAdapters.at_entrance(
        model.network, model.family.entrance, control_channels(model.network, model.family)
    )
    adapters.side.control = model.family.control(noise(name, 2, seed=9))
    assert torch.equal(model.predict(x, time, given), bare)
    for parameter in entrance.control.parameters():
        parameter.normal_()
    assert not torch.equal(model.predict(x, time, given), bare)
