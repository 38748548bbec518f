"""A reference image and driving poses as the conditions of a pretrained model.

Shape legend: F frames, H W height and width in pixels, S side of the face's video in pixels.
"""

from contextlib import ExitStack
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from entprog.codecs.diffusers import DiffusersCodec
from entprog.data.posemap import draw_pose_in
from entprog.data.windows import OF_REFERENCES, WindowRow, prompt_hash
from entprog.prepare.window_file import Encoders, reference_tensors
from entprog.tasks.animator import Animator, Conditions, StoredClip, StoredReference
from entprog.tasks.pretrained.held_out import TEXT, clip_of, texts
from entprog.tasks.pretrained.prepare_data import FACE, image_encoder
from entprog.tasks.pretrained.sizes import size_problem

if TYPE_CHECKING:
    from entprog.tasks.pretrained.task import PretrainedTask

__all__ = ["PretrainedAnimator"]

MAPS = 8
"""Pose maps drawn at once, which limits the memory."""
WIDEST = 2.5
"""The largest ratio of a clip's sides, whatever the photo's."""


class PretrainedAnimator(Animator):
    """See `Animator`; windows of the data set's length, which the model was trained on.

    A prompt's text is encoded once. Windows after the first take the same reference, also those of a model whose
    reference is the first frame of its clips: that frame of theirs is not shown.
    """

    def __init__(self, task: "PretrainedTask", prompt: str) -> None:
        """Raises ValueError where a model without text gets a prompt."""
        self.task, self.prompt = task, prompt
        if prompt and not task.family.text_length:
            raise ValueError(f"prompt = {prompt!r}: {task.config.model.pretrained} takes no text; leave it out")
        about = task.data.about
        self.sides = list(task.config.phases.values())[-1].sides
        self.window, self.fixed = int(about["frames"]), True
        self.group = int(about["codec"]["frames_factor"]) if self.window > 1 else 1
        self.fade = self.group > 1 or about["codec"].get("class") == "AutoencoderKLTemporalDecoder"
        self.rate = float(about["fps"])
        if "face" in task.stored:
            self.face = int(task.family.network.get("motion_encoder_size") or FACE)
        self._text: dict[str, Tensor] | None = None
        self._blank: Tensor | None = None

    def check(self, sides: tuple[int, int]) -> str:
        """What the family says, and the multiple of a token."""
        task = self.task
        whole = task.framed(task.led(task.latent(sides, self.window)))
        return size_problem(task.family, sides, whole, int(task.data.about["codec"]["factor"]))

    def like(self, aspect: float) -> tuple[int, int]:
        """Of the photo's aspect, unless the family takes no other size than that of training."""
        height, width = self.sides
        aspect = min(max(aspect, 1 / WIDEST), WIDEST)
        factor = int(self.task.data.about["codec"]["factor"])
        rows, columns = (factor * side for side in self.task.family.patch[1:])
        high = max(1, round(sqrt(height * width / aspect) / rows)) * rows
        wide = max(1, round(sqrt(height * width * aspect) / columns)) * columns
        return self.sides if self.check((high, wide)) else (high, wide)

    def stored_reference(self, name: str, sides: tuple[int, int]) -> StoredReference:
        """See `Animator`: the first reference image of a window by "CLIP@START", or of the first of "CLIP"."""
        row = self._row("reference", name, "an image file", sides)
        clip = clip_of(self.task, row, 0, self.window)
        found = {name: clip.conditions[name] for name in set(OF_REFERENCES) & set(self.task.stored)}
        return StoredReference(row.clip, row.subject, clip.reference, None, found)

    def stored_clip(self, name: str, sides: tuple[int, int]) -> StoredClip:
        """See `Animator`: one window, with its own text where no prompt is given."""
        row = self._row("drive", name, "a video file", sides)
        clip = clip_of(self.task, row, 0, self.window)
        own = {key: value for key, value in clip.conditions.items() if key not in OF_REFERENCES}
        own |= self._texts() if self.prompt else {}
        count = sum(other.clip == row.clip and other.size == row.size for other in self.task.data.rows)
        notes = (f"window at frame {row.start} of {count} windows of this clip",) if count > 1 else ()
        return StoredClip(name, row.subject, clip.keypoints, clip.truth, clip.fps, own, notes)

    def reference(self, image: np.ndarray) -> Conditions:
        """The tensors of the image that the model asks for."""
        task, codec = self.task, self._codec("reference")
        with ExitStack() as stack:
            images = None
            if "image_embeds" in task.stored:
                images = image_encoder(
                    str(task.folder.path), str(task.device), "float32", stack, task.config.model.family
                )
            encoders = Encoders(codec, images, first="first" in task.stored)
            found = reference_tensors(torch.from_numpy(image)[None], self.window, encoders)
        one = {name: value[0] if value.dtype == torch.uint8 else value[0].float() for name, value in found.items()}
        return {name: value for name, value in one.items() if name in task.stored}

    def conditions(
        self, reference: Conditions, keypoints: np.ndarray, faces: Tensor | None, sides: tuple[int, int]
    ) -> Conditions:
        """Poses and what is made of them; "latents" has the clip's shape only."""
        task = self.task
        latent = task.latent(sides, len(keypoints))
        found: dict[str, Tensor] = {
            "latents": torch.zeros(latent.shape),
            "pose": torch.from_numpy(np.ascontiguousarray(keypoints, np.float32)),
            "frames": torch.tensor(len(keypoints)),
            **self._texts(),
            **{name: value for name, value in reference.items() if name in task.stored},
        }
        if "control" in task.stored:
            maps = [draw_pose_in(keypoints[i : i + MAPS], *sides) for i in range(0, len(keypoints), MAPS)]
            found["control"] = self._codec("drive").encode(np.concatenate(maps)).float()
        if "face" in task.stored and faces is not None:
            found["face"] = faces
        if "blank" in task.stored:
            if self._blank is None or self._blank.shape != found["latents"].shape:
                grey = torch.full((len(keypoints), 3, *sides), 0.5)
                self._blank = self._codec("drive").encode_pixels(grey).float()
            found["blank"] = self._blank
        return found

    def _codec(self, field: str) -> DiffusersCodec:
        codec: Any = self.task.codec
        if not isinstance(codec, DiffusersCodec):
            raise ValueError(f"{field}: this model has no VAE to encode pictures with; name a clip of the run's data")
        return codec.to(self.task.device)

    def _texts(self) -> dict[str, Tensor]:
        """The padded text of the prompt, which need not be in the data set, and of the empty one."""
        if self._text is None:
            self._text = self._encoded() if self.prompt else texts(self.task, prompt_hash(""))
        return self._text

    def _encoded(self) -> dict[str, Tensor]:
        from entprog.tasks.pretrained.text import encode_prompts

        task = self.task
        encoded = encode_prompts(str(task.folder.path), [self.prompt], family=task.config.model.family).texts[
            self.prompt
        ]
        padded = task.family.padded([{name: value.float() for name, value in encoded.items()}])
        return texts(task, prompt_hash("")) | {f"{TEXT}{name}": value[0] for name, value in padded.items()}

    def _row(self, field: str, name: str, give: str, sides: tuple[int, int]) -> WindowRow:
        """A window of this size by "CLIP@START", or the first of "CLIP"."""
        windows = self.task.data
        found = [row for row in windows.rows if name in (f"{row.clip}@{row.start}", row.clip)]
        for row in found:
            if (row.height, row.width) == sides:
                return row
        if found:
            raise ValueError(
                f"resolution = {sides[0]}x{sides[1]}: {field} = {name!r} is stored as {found[0].size}; choose that, "
                f"or give {give}"
            )
        some = ", ".join(dict.fromkeys(row.clip for row in windows.rows[:9]))
        raise ValueError(
            f"{field} = {name!r}: no such file, and no such clip in {windows.folder}; give {give} or of {some}"
        )
