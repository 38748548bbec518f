"""An exact cache of the output of the frozen part of the reference pass.

Shape legend: B samples, C latent channels, h w latent height and width, M reference tokens, D width.
"""

import hashlib
import json
import shutil
import uuid
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from entprog.files import save_tensors, to_host
from entprog.nets.dit import VideoDiT

Kind = Literal["device", "host", "disk"]


@dataclass(slots=True)
class _Entry:
    """The states of one reference, and for each the digest of all weights before it; on disk `states` is None."""

    chain: tuple[str, ...]
    states: list[Tensor] | None
    size: int


class ReferenceCache:
    """Caches the hidden states of reference images at the entrances of frozen blocks.

    A state depends on the image and on the weights before it: the embeddings and the blocks below. As long
    as none of these can train, the state is computed once for each image; from the lowest active block on, the
    reference pass runs at every step, with its gradient. In a phase of temporal blocks the whole pass is cached.

    Entries carry digests of the weights that they were computed with. Any change of these (training, a loaded
    checkpoint, an assignment in place) invalidates the entry from the first changed block on, and nothing else
    does: restoring the same weights makes their entries valid again. A digest is recomputed where a tensor's
    version counter has moved or its parameter was trainable; a write through `Tensor.data` moves no counter
    and is not noticed.

    Each image is computed alone, never in a batch, since matrix products of another size may round differently.
    So its states are a function of weights and image: a hit equals a miss bit for bit, whatever else the batch
    holds, and neither the limit nor a resumed run changes a number.

    Args:
        kind: "device" keeps states on the model's device, "host" in host memory, "disk" in `folder`.
        limit: bytes of all entries; the least recently used go first.
        folder: of kind "disk": made here, one safetensors file for each image; files of an earlier session are used.
        warn: called with one message when caching stops after an error; training goes on with the same numbers.
        computing: returns a context for the computation of a form of work: equal forms cost the same.

    Attributes:
        hits, misses: images that were found in the cache, and that were not.
        size: bytes of all entries.
    """

    def __init__(
        self,
        model: VideoDiT,
        kind: Kind,
        limit: int,
        *,
        folder: Path | None = None,
        warn: Callable[[str], None] = lambda message: None,
        computing: Callable[[Hashable], AbstractContextManager[None]] = lambda form: nullcontext(),
    ) -> None:
        if kind not in ("device", "host", "disk"):
            raise ValueError(f"train.reference_cache = {kind!r}: choose from off, device, host, disk")
        if (kind == "disk") != (folder is not None):
            raise ValueError(f'train.reference_cache = {kind!r}: a folder goes with "disk", and only with it')
        self.model, self.kind, self.limit, self.warn, self.computing = model, kind, limit, warn, computing
        self.hits = self.misses = self.size = 0
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._digests: dict[int, tuple[tuple[object, ...], str]] = {}
        self._trained: dict[int, int] = {}
        self._session = uuid.uuid4().hex
        self._last: tuple[str, ...] = ()
        self._ready: tuple[Tensor, list[Tensor]] | None = None
        self._closed = False
        self.folder = folder
        if folder is not None:
            self._open(folder)

    def prepare(self, reference: Tensor) -> None:
        """Compute or find what `states` will return for this very tensor; call it in the same context as the model.

        Autocast is part of an entry's key.
        """
        self._ready = None
        chain = self._chain()
        if not chain:
            return
        rows = [self._of_one(image, chain) for image in reference.split(1)]
        self._ready = reference, [torch.cat(parts) for parts in zip(*rows, strict=True)]

    def states(self, reference: Tensor, *, last: bool = True) -> list[Tensor] | None:
        """The first states [B, M, D] for `VideoDiT.reference_states(known=...)`, once for each `prepare`.

        None where this tensor was not prepared, or where nothing before the first block is frozen. They can be read
        again unless this is the `last` time.
        """
        ready = self._ready
        if last:
            self._ready = None
        return ready[1] if ready is not None and ready[0] is reference else None

    def close(self) -> None:
        """Drop everything, files included."""
        self._entries.clear()
        self.size = 0
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _of_one(self, image: Tensor, chain: tuple[str, ...]) -> list[Tensor]:
        """The states [1, M, D] of one image [1, C, h, w], one for each frozen entrance."""
        key = _key(image)
        known = self._read(key, chain, image.device)
        if len(known) >= len(chain):
            self.hits += 1
            return known[: len(chain)]
        self.misses += 1
        with self.computing((image.shape, len(known), chain)), torch.no_grad():
            states = self.model.reference_states(image, known=known, until=len(chain) - 1)
        self._write(key, chain, states)
        return states

    def _chain(self) -> tuple[str, ...]:
        """For each entrance with only frozen weights before it, the digest of all of these."""
        model = self.model
        parts: list[tuple[nn.Module, ...]] = [(model.patch_embed, model.tau_embed)]
        parts += [(block,) for block in model.reference_stack()]
        chain: list[str] = []
        frozen = True
        for place, modules in enumerate(parts):
            tensors = [t for module in modules for t in (*module.parameters(), *module.buffers())]
            if any(tensor.requires_grad for tensor in tensors):
                # An optimizer may write without moving the version counter.
                self._digests.pop(place, None)
                self._trained[place] = self._trained.get(place, 0) + 1
                frozen = False
            if frozen:
                before = chain[-1] if chain else ""
                chain.append(hashlib.sha256((before + self._digest(place, tensors)).encode()).hexdigest())
        if tuple(chain) != self._last:
            self._last = tuple(chain)
            self._trim()
        return self._last

    def _digest(self, place: int, tensors: Sequence[Tensor]) -> str:
        if any(t.is_meta or t.untyped_storage().nbytes() < t.nbytes for t in tensors):
            # Stored in fewer bits or on the host: assume new weights after each step that could train them.
            return f"{self._session} {place} {self._trained.get(place, 0)}"
        versions = tuple((id(t), t.data_ptr(), t._version, t.dtype, t.shape) for t in tensors)
        known = self._digests.get(place)
        if known is None or known[0] != versions:
            known = self._digests[place] = versions, _digest(tensors)
        return known[1]

    def _trim(self) -> None:
        """Drop entries that do not match the present weights."""
        for key, entry in list(self._entries.items()):
            valid = _common(entry.chain, self._last)
            if not valid:
                self._drop(key)
            elif entry.states is not None and valid < len(entry.states):
                self.size -= entry.size
                entry.chain, entry.states = entry.chain[:valid], entry.states[:valid]
                entry.size = _bytes(entry.states)
                self.size += entry.size

    def _read(self, key: str, chain: tuple[str, ...], device: torch.device) -> list[Tensor]:
        """The leading states of an entry that are still valid, on `device`."""
        entry = self._entries.get(key)
        if entry is None:
            return []
        self._entries.move_to_end(key)
        valid = _common(entry.chain, chain)
        if entry.states is not None:
            return [state.to(device, non_blocking=True) for state in entry.states[:valid]]
        try:
            with safe_open(str(self._file(key)), "pt") as file:
                # Copied, since tensors mapped from a file may be aligned differently from computed ones.
                return [file.get_tensor(str(i)).clone().to(device) for i in range(valid)]
        except (OSError, SafetensorError):
            self._drop(key)
            return []

    def _write(self, key: str, chain: tuple[str, ...], states: list[Tensor]) -> None:
        self._drop(key)
        size = _bytes(states)
        if self._closed:
            return
        if size > self.limit:
            self._give_up(f"one reference takes {size} bytes; raise train.reference_cache_bytes = {self.limit}")
            return
        while self.size + size > self.limit:
            self._drop(next(iter(self._entries)))
        if self.kind == "disk":
            try:
                self._save(key, chain, states)
            except (OSError, SafetensorError) as error:
                self._give_up(f"{self.folder} can't be written ({error}); free space, or choose another kind")
                return
            kept = None
        elif self.kind == "host":
            kept = [to_host(state) for state in states]
        else:
            kept = list(states)
        self._entries[key] = _Entry(chain, kept, size)
        self.size += size

    def _save(self, key: str, chain: tuple[str, ...], states: list[Tensor]) -> None:
        file = self._file(key)
        partial = file.with_suffix(".partial")
        try:
            tensors = {str(i): state.contiguous().cpu() for i, state in enumerate(states)}
            save_tensors(tensors, partial, {"chain": json.dumps(chain)})
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)

    def _open(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self._give_up(f"{folder} can't be made ({error}); free space, or choose another kind")
            return
        for file in sorted(folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime):
            try:
                with safe_open(str(file), "pt") as opened:
                    chain = tuple(json.loads(opened.metadata()["chain"]))
            except (OSError, SafetensorError, KeyError, TypeError, json.JSONDecodeError):
                file.unlink(missing_ok=True)
                continue
            self._entries[file.stem] = _Entry(chain, None, file.stat().st_size)
            self.size += file.stat().st_size
        while self.size > self.limit:
            self._drop(next(iter(self._entries)))

    def _file(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{key}.safetensors"

    def _drop(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.size -= entry.size
            if entry.states is None:
                self._file(key).unlink(missing_ok=True)

    def _give_up(self, reason: str) -> None:
        self._closed = True
        self.warn(f"the reference cache is off from now on: {reason}. Training goes on with the same numbers")


def _key(image: Tensor) -> str:
    """Content, size and precision: everything but the weights that the states of an image depend on."""
    kind = image.device.type
    precision = str(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else "no"
    about = f"{tuple(image.shape)} {image.dtype} {precision} "
    return hashlib.sha256(about.encode() + _raw(image)).hexdigest()


def _digest(tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype} ".encode())
        digest.update(_raw(tensor))
    return digest.hexdigest()


def _raw(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    """How many leading items are equal."""
    count = 0
    while count < min(len(a), len(b)) and a[count] == b[count]:
        count += 1
    return count


def _bytes(states: Sequence[Tensor]) -> int:
    return sum(state.numel() * state.element_size() for state in states)
