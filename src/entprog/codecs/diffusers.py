"""Any video or image VAE of diffusers as a codec.

Shape legend: F frames, T latent frames, C latent channels, H W pixels, h w latent height and width.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import diffusers
import numpy as np
import torch
from torch import Tensor, nn

from entprog.codecs.base import Codec
from entprog.codecs.loading import component_config, load_component, weights_hash

__all__ = ["Diffusers"]

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}
IMAGES = 8
"""Images that an image VAE encodes or decodes at once; limits the memory."""


@dataclass(frozen=True)
class Diffusers:
    """A VAE of diffusers from a local folder or the hub: Wan, HunyuanVideo, CogVideoX, LTX-Video, SVD, SD and others.

    Attributes:
        folder: a pipeline's folder with vae/ in it, the VAE's own folder, or a hub id.
        revision: branch, tag or commit of a hub id.
        dtype: of the computation; latents are float32 either way.
        tiling: encode and decode large frames tile by tile, which takes less memory and changes latents a little.
    """

    folder: str = ""
    revision: str = ""
    dtype: Literal["float32", "bf16"] = "float32"
    tiling: bool = False

    def open(self) -> "DiffusersCodec":
        """The codec itself, on the CPU.

        Raises:
            ValueError: no folder is given, or it does not hold a whole VAE of a known class.
        """
        if not self.folder:
            raise ValueError('codec: folder = "": give the folder of a VAE, or of a pipeline with vae/ in it')
        return DiffusersCodec.load(self.folder, revision=self.revision, dtype=self.dtype, tiling=self.tiling)


@dataclass(frozen=True)
class _Sizes:
    """Channels, spatial factor and temporal factor of a VAE; 0 frames: each frame is encoded separately."""

    channels: int
    factor: int
    frames: int = 0


def _image(vae: Any) -> _Sizes:
    return _Sizes(vae.config.latent_channels, 2 ** (len(vae.config.block_out_channels) - 1))


def _tiny(vae: Any) -> _Sizes:
    return _Sizes(vae.config.latent_channels, 2 ** (len(vae.config.encoder_block_out_channels) - 1))


def _wan(vae: Any) -> _Sizes:
    return _Sizes(vae.config.z_dim, vae.config.scale_factor_spatial, vae.config.scale_factor_temporal)


def _cogvideox(vae: Any) -> _Sizes:
    return replace(_image(vae), frames=int(vae.config.temporal_compression_ratio))


def _hunyuan(vae: Any) -> _Sizes:
    return _Sizes(
        vae.config.latent_channels, vae.config.spatial_compression_ratio, vae.config.temporal_compression_ratio
    )


def _ltx(vae: Any) -> _Sizes:  # its config may leave both out
    return _Sizes(vae.config.latent_channels, vae.spatial_compression_ratio, vae.temporal_compression_ratio)


KNOWN: dict[str, Callable[[Any], _Sizes]] = {
    "AutoencoderKL": _image,
    "AutoencoderKLCogVideoX": _cogvideox,
    "AutoencoderKLHunyuanVideo": _hunyuan,
    "AutoencoderKLHunyuanVideo15": _hunyuan,
    "AutoencoderKLLTXVideo": _ltx,
    "AutoencoderKLTemporalDecoder": _image,
    "AutoencoderKLWan": _wan,
    "AutoencoderTiny": _tiny,
}
"""Classes that the codec knows, and where each keeps its sizes."""


class DiffusersCodec(Codec):
    """A VAE of diffusers, with the normalisation that its pipelines use: latents = (z - mean) / std.

    Latents are the mode of the posterior, not a sample of it. A causal video VAE takes F = frames_factor * k + 1 frames
    and gives T = k + 1 latent frames; a window must be encoded by itself, as a slice of a longer encoding differs.

    Attributes:
        vae: the network.
        mean, std: [C] float32, of all that the configuration says (scaling and shift included).
        dtype: of the computation.
        tiling: whether large frames are encoded and decoded tile by tile.
    """

    def __init__(self, vae: nn.Module, *, dtype: str = "float32", tiling: bool = False) -> None:
        """`vae` in float32: the hash is of those weights, whatever the `dtype` of the computation."""
        self.vae: Any = vae.eval().requires_grad_(False)
        self.kind = type(vae).__name__
        sizes = KNOWN[self.kind](vae)
        self.channels, self.factor, self.frames_factor = sizes.channels, sizes.factor, sizes.frames or 1
        self.video = sizes.frames > 0
        frames = f"t{self.frames_factor}" if self.video else ""
        self.name = f"{self.kind}-f{self.factor}{frames}c{self.channels}"
        self._shift, self._scale, self._divisor = _normalisation(self.vae)
        ones = torch.ones(self.channels)
        self.mean = (0.0 if self._shift is None else self._shift) * ones
        self.std = (1.0 if self._divisor is None else self._divisor) / (self._scale or 1.0) * ones
        self.tiling, self.dtype = tiling, dtype
        if tiling:
            self._tile()
        _ = self.hash  # before the weights are rounded
        nn.Module.to(self.vae, DTYPES[dtype])  # the class's own warns of modules that it keeps in float32: it has none

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        revision: str = "",
        dtype: str = "float32",
        tiling: bool = False,
        field: str = "codec",
    ) -> Self:
        """The VAE of a folder (a pipeline with vae/ in it, or the VAE's own) or a hub id; `field` names it in errors.

        Raises:
            ValueError: see `load_component`; or the class is not known.
        """
        if dtype not in DTYPES:
            raise ValueError(f"dtype = {dtype!r}: choose one of {', '.join(DTYPES)}")
        found = component_config(folder, subfolder="vae", revision=revision, field=field)["_class_name"]
        if found not in KNOWN:
            raise ValueError(f"{field} = {str(folder)!r}: {found} is not a known VAE; known are {', '.join(KNOWN)}")
        vae = load_component(getattr(diffusers, found), folder, subfolder="vae", revision=revision, field=field)
        return cls(vae, dtype=dtype, tiling=tiling)

    @cached_property
    def hash(self) -> str:  # type: ignore[override]
        """Short hash of class, normalisation and weights; latents of different codecs do not mix."""
        numbers = [repr(part.tolist()) for part in (self.mean, self.std)]
        return weights_hash(self.vae.state_dict(), self.kind, *numbers)[:16]

    def about(self) -> dict[str, Any]:
        """What dataset.json says of the codec."""
        numbers = {"mean": self.mean.tolist(), "std": self.std.tolist()}
        return {
            "name": self.name,
            "class": self.kind,
            "hash": self.hash,
            "channels": self.channels,
            "factor": self.factor,
            "frames_factor": self.frames_factor,
            **numbers,
            "tiling": self.tiling,
            "dtype": self.dtype,
        }

    def to(self, device: str | torch.device) -> Self:
        """Move the network; inputs may be on any device, and results are where the inputs were."""
        self.vae.to(device)
        return self

    def latent_frames(self, frames: int) -> int:
        """T of F frames.

        Raises:
            ValueError: a causal VAE does not take so many.
        """
        if not self.video:
            return frames
        whole, rest = divmod(frames - 1, self.frames_factor)
        if rest or frames < 1:
            below = max(whole, 0) * self.frames_factor + 1
            raise ValueError(
                f"frames = {frames}: {self.name} takes {self.frames_factor} * k + 1; "
                f"use {below} or {below + self.frames_factor}"
            )
        return whole + 1

    def encode(self, frames: Tensor | np.ndarray) -> Tensor:
        """uint8 frames [..., F, H, W, 3] to float32 latents [..., T, C, h, w]; see `encode_pixels`."""
        return self.encode_pixels(torch.as_tensor(frames).movedim(-1, -3).float() / 255)

    def encode_pixels(self, frames: Tensor) -> Tensor:
        """Frames in 0..1, [..., F, 3, H, W], to float32 latents [..., T, C, h, w] on the same device.

        Image VAEs take any leading dimensions, and T = F.

        Raises:
            ValueError: H or W is no multiple of `factor`, or F is not frames_factor * k + 1.
        """
        return self._encode(2.0 * frames.float() - 1.0)

    def encode_first(self, image: Tensor | np.ndarray, frames: int) -> Tensor:
        """What an image-to-video model sees of a reference: latents of (image, 0, 0, ...), encoded whole.

        Zero is the middle of -1..1; zeros do not encode to zeros, so the whole video is encoded.

        Args:
            image: uint8 [..., H, W, 3].
            frames: F of the video.

        Returns:
            float32 [..., T, C, h, w].
        """
        first = 2.0 * (torch.as_tensor(image).movedim(-1, -3).float() / 255) - 1.0
        video = first.new_zeros(*first.shape[:-3], frames, *first.shape[-3:])
        video[..., 0, :, :, :] = first
        return self._encode(video)

    @torch.no_grad()
    def _encode(self, pixels: Tensor) -> Tensor:
        """Pixels in -1..1 to normalised latents."""
        height, width = pixels.shape[-2:]
        if height % self.factor or width % self.factor:
            raise ValueError(f"frame size {height}x{width}: must be a multiple of {self.factor} for {self.name}")
        if not self.video:
            flat = pixels.reshape(-1, *pixels.shape[-3:])
            latents = torch.cat([self._posterior(part) for part in flat.split(IMAGES)])
            lead: tuple[int, ...] = tuple(pixels.shape[:-3])
        else:
            lead = (*pixels.shape[:-4], self.latent_frames(pixels.shape[-4]))
            clips = pixels.reshape(-1, *pixels.shape[-4:]).transpose(1, 2)
            latents = torch.cat([self._posterior(clip[None]) for clip in clips])
            latents = latents.transpose(1, 2)
        expected = (*lead, self.channels, height // self.factor, width // self.factor)
        if latents.numel() != torch.Size(expected).numel() or tuple(latents.shape[-3:]) != expected[-3:]:
            raise ValueError(
                f"{self.name}: gave latents {tuple(latents.shape[1:])} for frames of {height}x{width}, expected "
                f"{expected[-4:]}; config.json does not say the network's compression"
            )
        return self._normalised(latents.contiguous().reshape(expected)).to(pixels.device)

    def _posterior(self, pixels: Tensor) -> Tensor:
        """A batch of images [N, 3, H, W] or videos [1, 3, F, H, W] to raw latents, float32."""
        out = self.vae.encode(pixels.to(self.vae.device, DTYPES[self.dtype]))
        latents = out.latents if self.kind == "AutoencoderTiny" else out.latent_dist.mode()
        return latents.float()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents [..., T, C, h, w] to frames in 0..1, float32 [..., F, 3, H, W], on the same device.

        Image VAEs take any leading dimensions, and F = T.
        """
        raw = self._raw(latents.float())
        height, width = (side * self.factor for side in latents.shape[-2:])
        if self.video:
            frames = (latents.shape[-4] - 1) * self.frames_factor + 1
            clips = raw.reshape(-1, *raw.shape[-4:]).transpose(1, 2)
            # Of an even T, CogVideoX's decoder makes all frames of the first latent, of which the last one is meant.
            pixels = torch.cat([self._decoded(clip[None])[:, :, -frames:] for clip in clips]).transpose(1, 2)
            lead: tuple[int, ...] = (*latents.shape[:-4], frames)
        else:
            pixels = self._decoded_images(raw)
            lead = tuple(latents.shape[:-3])
        pixels = pixels.reshape(*lead, 3, height, width)
        return ((pixels + 1) / 2).clamp(0, 1).to(latents.device)

    def _decoded(self, raw: Tensor, **more: Any) -> Tensor:
        raw = raw.to(self.vae.device, DTYPES[self.dtype])
        if self.kind == "AutoencoderKLLTXVideo" and self.vae.config.timestep_conditioning:
            more["temb"] = raw.new_zeros(len(raw))  # decode without noise
        sample: Tensor = self.vae.decode(raw, **more).sample
        return sample.float()

    def _decoded_images(self, raw: Tensor) -> Tensor:
        """Any leading dimensions; the last of them is time for a decoder that smooths over frames."""
        if self.kind != "AutoencoderKLTemporalDecoder":
            return torch.cat([self._decoded(part) for part in raw.reshape(-1, *raw.shape[-3:]).split(IMAGES)])
        frames = raw.shape[-4] if raw.dim() > 3 else 1
        clips = raw.reshape(-1, frames, *raw.shape[-3:])
        parts = [part for clip in clips for part in clip.split(IMAGES)]
        return torch.cat([self._decoded(part, num_frames=len(part)) for part in parts])

    def _normalised(self, latents: Tensor) -> Tensor:
        """As the class's pipelines write it, operation by operation, so that rounding is the same."""
        shift, scale, divisor = (self._view(part) for part in (self._shift, self._scale, self._divisor))
        if shift is not None:
            latents = latents - shift.to(latents.device)
        if scale is not None:
            latents = latents * scale.to(latents.device)
        elif divisor is not None:
            return latents * (1.0 / divisor).to(latents.device)
        return latents if divisor is None else latents / divisor.to(latents.device)

    def _raw(self, latents: Tensor) -> Tensor:
        shift, scale, divisor = (self._view(part) for part in (self._shift, self._scale, self._divisor))
        if divisor is not None:
            latents = latents * divisor.to(latents.device)
        if scale is not None:
            latents = latents / scale.to(latents.device)
        return latents if shift is None else latents + shift.to(latents.device)

    @staticmethod
    def _view(part: Tensor | float | None) -> Tensor | None:
        """To be broadcast over [..., C, h, w]."""
        if part is None:
            return None
        tensor = torch.as_tensor(part, dtype=torch.float32)
        return tensor.view(-1, 1, 1) if tensor.dim() else tensor

    def _tile(self) -> None:
        """Raises ValueError where the class cannot."""
        fixed = self.kind == "AutoencoderTiny" and (self.channels, self.factor) != (4, 8)
        try:
            self.vae.enable_tiling()
        except (RuntimeError, AttributeError) as error:
            raise ValueError(f"tiling = true: {self.kind} cannot encode by tiles; leave tiling out") from error
        if fixed:
            raise ValueError(f"tiling = true: {self.name} cannot encode by tiles, only f8c4 can; leave tiling out")


def _normalisation(vae: Any) -> tuple[Tensor | float | None, float | None, Tensor | None]:
    """What is subtracted, multiplied by and divided by, of those that the configuration has: a number, or [C]."""
    config = dict(vae.config)
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if type(vae).__name__ == "AutoencoderKLLTXVideo":  # kept with its weights
        mean, std = vae.latents_mean.detach().cpu().clone(), vae.latents_std.detach().cpu().clone()
    scale, shift = config.get("scaling_factor"), config.get("shift_factor")
    if mean is not None and std is not None:
        return torch.as_tensor(mean).float().flatten(), scale, torch.as_tensor(std).float().flatten()
    return shift or None, scale, None
