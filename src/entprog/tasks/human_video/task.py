"""The human video task: a reference image and poses in, a clip of that person out.

Shape legend: B samples, F frames, C latent channels, h w latent height and width.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from entprog.codecs.pca import CHANNELS, FACTOR
from entprog.core.types import Draw, Shape
from entprog.data.clips import Batch
from entprog.data.sampler import generator, sample_noise, stratified_tau
from entprog.diffusion.objective import Noising
from entprog.nets.dit import DiTConfig, VideoDiT
from entprog.savings.reference_cache import ReferenceCache

FAMILIES: dict[str, Callable[[str], bool]] = {
    "all": lambda name: True,
    "spatial": lambda name: not name.startswith("temporal."),
    "temporal": lambda name: name.startswith("temporal."),
}


def hidden_bytes(shape: Shape, network: DiTConfig, autocast: str) -> int:
    """Bytes of the hidden states [B, F, N, D] of a micro-batch at one place of the network."""
    tokens = (shape.resolution // (FACTOR * network.patch)) ** 2
    return shape.batch * shape.frames * tokens * network.width * (4 if autocast == "no" else 2)


@dataclass
class HumanVideo:
    """Noise prediction with mean squared error (published objective) on latent clips.

    Attributes:
        model: the transformer.
        noising: the forward process.
        full_size: largest side in pixels of the data set; noise is drawn at it and cut to smaller shapes.
        pose: whether the phase shows poses to the model (phase 1 does not).
        dropout: share of samples whose whole condition is zeroed, for classifier-free guidance.
        neutral: side in pixels at which times are as drawn; at any other they are shifted to as much signal
            (`Noising.shifted`). 0: never.
        autocast: dtype of the forward pass ("bf16", "fp16") or "no".
        reference_cache: answers the frozen part of the reference pass for draws that `prepare` has seen.
    """

    model: VideoDiT
    noising: Noising
    full_size: int = 64
    pose: bool = True
    dropout: float = 0.0
    neutral: int = 0
    autocast: str = "no"
    reference_cache: ReferenceCache | None = None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def draw(self, batch: Batch, shape: Shape, seed: int, *, dropout: float | None = None) -> Draw:
        """Fix everything random about a batch: tau, noise and which conditions are dropped.

        A pure function of (seed, positions): the same sample gets the same tau, noise and dropout in any batch,
        on any rank, and at any size (noise is drawn at full size and cut). With `shape.tokens` below 1 the tokens
        that the middle blocks see are a condition of the draw, "places".

        Raises:
            ValueError: the resolution is no multiple of codec factor times patch.
        """
        unit = FACTOR * self.model.config.patch
        if shape.resolution % unit:
            raise ValueError(f"resolution = {shape.resolution}: must be a multiple of {unit} (codec {FACTOR} x patch)")
        side = shape.resolution // FACTOR
        full = (CHANNELS, self.full_size // FACTOR, self.full_size // FACTOR)
        noise = [sample_noise(seed, int(p), shape.frames, full, (side, side)) for p in batch.positions]
        eps = torch.from_numpy(np.stack(noise)).to(self.device)
        tau = torch.from_numpy(stratified_tau(seed, batch.positions)).float().to(self.device)
        if self.neutral and self.neutral != shape.resolution:
            tau = self.noising.shifted(tau, self.neutral / shape.resolution)
        rate = self.dropout if dropout is None else dropout
        kept = [generator(seed, 4, int(p)).random() >= rate for p in batch.positions]
        keep = torch.tensor(kept, dtype=torch.float32, device=self.device)
        condition = {"reference": batch.reference.to(self.device) * keep.view(-1, 1, 1, 1)}
        if self.pose:
            maps = batch.pose.to(self.device).float() / 255
            condition["pose"] = maps * keep.view(-1, 1, 1, 1, 1)
        if shape.tokens < 1:
            condition["places"] = self._places(batch.positions, shape, seed)
        x = self.noising.add(batch.latents.to(self.device), eps, tau)
        return Draw(x, tau, eps, condition)

    def _places(self, positions: np.ndarray, shape: Shape, seed: int) -> Tensor:
        """The tokens that the middle blocks see, [B, K] in order, K at least 1; fixed by (seed, position) and size.

        A smaller share takes some of the places of a larger one.
        """
        side = shape.resolution // FACTOR // self.model.config.patch
        count = max(1, round(shape.tokens * side * side))
        drawn = [np.sort(generator(seed, 6, int(p)).permutation(side * side)[:count]) for p in positions]
        return torch.from_numpy(np.stack(drawn)).to(self.device)

    def predict(self, draw: Draw) -> Tensor:
        """eps_hat [B, F, C, h, w] float32."""
        entered = None
        if "beneath" in draw.condition:
            entered = self.model.lowest_active(), draw.condition["beneath"]
        return self._run(draw, entered=entered)

    @torch.no_grad()
    def beneath(self, draw: Draw) -> Draw:
        """The draw with what the frozen blocks below the lowest active one make of it, so that `predict` starts there.

        They are part of its condition, "beneath" [B, F, N, D]: right as long as these weights and the lowest active
        block stay what they are. A draw comes back as it is where nothing lies frozen at the start, or where blocks
        see a share of the tokens.
        """
        until = self.model.lowest_active()
        if not until or "places" in draw.condition:
            return draw
        return replace(draw, condition={**draw.condition, "beneath": self._run(draw, until=until)})

    def _run(self, draw: Draw, *, entered: tuple[int, Tensor] | None = None, until: int | None = None) -> Tensor:
        reference = draw.condition["reference"]
        with self.precision():
            states = None
            if self.reference_cache is not None:
                states = self.reference_cache.states(reference, last=until is None)
            if states is not None or until is not None:
                last = None if until is None else (until - 1) // 2
                states = self.model.reference_states(reference, known=states or (), until=last)
            return self.model(
                draw.x, draw.tau, reference, draw.condition.get("pose"), reference_states=states,
                places=draw.condition.get("places"), entered=entered, until=until,
            )  # fmt: skip

    def prepare(self, draw: Draw) -> None:
        """Before a training step's loss: let the cache find or compute what it can give for this draw's references.

        Only what was prepared is answered from it, once: scores and readings of the holdout run the whole network.
        """
        if self.reference_cache is not None:
            with self.precision():
                self.reference_cache.prepare(draw.condition["reference"])

    def loss(self, draw: Draw) -> Tensor:
        """Mean squared error of the predicted noise, a scalar."""
        return (self.predict(draw) - draw.eps).pow(2).mean()

    def losses(self, draw: Draw) -> Tensor:
        """Mean squared error of each sample, [B]."""
        return (self.predict(draw) - draw.eps).pow(2).flatten(1).mean(1)

    def precision(self) -> Any:
        """The autocast context of a forward pass."""
        kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
        return torch.autocast(self.device.type, kinds.get(self.autocast), enabled=self.autocast in kinds)
