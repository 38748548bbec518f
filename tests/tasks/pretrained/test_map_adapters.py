"""Pose adapters in U-Nets: new ones change nothing, all of them train, a skipped block takes its own along."""

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from entprog.core.blocks import discover_blocks
from entprog.tasks.pretrained.adapters import PoseAdapters, pose_tokens, side_of
from entprog.tasks.pretrained.families.base import Latent
from entprog.tasks.pretrained.map_adapters import as_features, map_adapters, with_map_adapter
from family_checks import Loaded, assert_skips

LATENTS = {"svd": Latent(3, 4, 8, 8, 3), "unet-motion": Latent(3, 4, 8, 8, 3), "unet-2d": Latent(1, 4, 8, 8, 1)}
DEPTH = 192


@dataclass
class Case:
    """A network with new adapters, and what it is called with."""

    loaded: Loaded
    adapters: PoseAdapters
    x: Tensor
    bare: Tensor
    condition: dict[str, Tensor]

    @classmethod
    def of(cls, variant: str) -> "Case":
        loaded, latent = Loaded.of(variant), LATENTS[variant]
        family, generator = loaded.family, torch.Generator().manual_seed(0)
        settings = {"pose": "blocks", "reference": "native" if variant == "svd" else "none"}
        condition = {
            c.name: torch.randn(2, *c.shape, generator=generator) for c in family.conditions(latent, **settings)
        }
        x = torch.randn(2, *latent.shape, generator=generator)
        with torch.no_grad():
            bare = loaded.predict(x, torch.tensor([300.0, 700.0]), condition)
        hosts = discover_blocks(loaded.network, family.posed)
        adapters = PoseAdapters.at_blocks(hosts, DEPTH, 0, map_adapters(DEPTH), with_map_adapter)
        maps = torch.rand(2, latent.frames, 3, 64, 64, generator=generator)
        adapters.side.pose = as_features(pose_tokens(maps, latent.frames, 1, (8, 8)), (8, 8))
        return cls(loaded, adapters, x, bare, condition)

    def predict(self) -> Tensor:
        return self.loaded.predict(self.x, torch.tensor([300.0, 700.0]), self.condition)

    def projections(self) -> list[nn.Conv2d]:
        return [module.pose_adapter.proj for module, _, _ in self.adapters.hosts.values()]

    def fill(self) -> None:
        torch.manual_seed(1)
        for proj in self.projections():
            nn.init.normal_(proj.weight, std=0.05)


@pytest.fixture(params=LATENTS)
def case(request: pytest.FixtureRequest) -> Case:
    return Case.of(request.param)


def test_new_adapters_change_nothing_and_all_train(case: Case) -> None:
    out = case.predict()
    assert torch.equal(out, case.bare)
    out.pow(2).mean().backward()
    assert len(case.projections()) == sum("resnets" in name for name in case.loaded.blocks().names)
    for proj in case.projections():
        assert proj.weight.grad is not None
        assert float(proj.weight.grad.norm()) > 0


@torch.no_grad()
def test_filled_adapters_see_the_pose(case: Case) -> None:
    case.fill()
    out = case.predict()
    assert not torch.equal(out, case.bare)
    case.adapters.side.pose = case.adapters.side.pose.flip(0)
    assert not torch.equal(case.predict(), out)
    with case.adapters.off():
        assert torch.equal(case.predict(), case.bare)
    case.adapters.side.pose = None
    assert torch.equal(case.predict(), case.bare)


@torch.no_grad()
def test_guidance_in_one_batch(case: Case) -> None:
    case.fill()
    out = case.predict()
    case.x = torch.cat([case.x] * 2)
    case.condition = {name: torch.cat([value] * 2) for name, value in case.condition.items()}
    twice = case.loaded.predict(case.x, torch.tensor([300.0, 700.0] * 2), case.condition)
    assert torch.allclose(twice, torch.cat([out] * 2), atol=1e-5)


def test_skipping_a_block_skips_its_adapter(case: Case) -> None:
    case.fill()
    case.x, case.condition = case.x[:1], {name: value[:1] for name, value in case.condition.items()}
    case.adapters.side.pose = case.adapters.side.pose[:1]
    assert_skips(case.loaded, lambda: case.loaded.predict(case.x, torch.tensor([300.0]), case.condition))


def test_recomputation_has_the_same_gradients(case: Case) -> None:
    case.fill()
    gradients = []
    for recomputed in (False, True):
        if recomputed:
            case.loaded.network.train()
            case.loaded.network.enable_gradient_checkpointing()
        case.loaded.network.zero_grad()
        case.predict().pow(2).mean().backward()
        gradients.append([proj.weight.grad.clone() for proj in case.projections()])
    for plain, again in zip(*gradients, strict=True):
        assert torch.equal(plain, again)


def test_a_copy_of_the_network_has_an_empty_side(case: Case) -> None:
    twin = copy.deepcopy(case.loaded.network)
    side = side_of(twin)
    assert side is not None
    assert side.pose is None
    assert case.adapters.side.pose is not None
    kinds = {type(block.module) for block in discover_blocks(twin, case.loaded.family.posed)}
    assert len(kinds) == 1
