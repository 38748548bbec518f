"""A finished run of a pretrained model, as the export sees it: what moved, its base, its adapters and LoRA factors."""

import json
from collections.abc import Collection, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from entprog.config.load import read_config
from entprog.config.schema import Config
from entprog.report.collect import collect
from entprog.tasks.pretrained.folder import DTYPES, ModelFolder
from entprog.tasks.pretrained.saving import ADAPTERS, DELTA, EMA
from entprog.tasks.pretrained.stored import StoredTensors, base_hash

__all__ = ["Factors", "TensorFile", "Trained"]

Factors = Mapping[str, tuple[Tensor, Tensor]]
"""A [rank, in] and B [out, rank] by layer: its weight moved by B A."""


class TensorFile(Mapping[str, Tensor]):
    """A safetensors file; each tensor is read when it is asked for.

    Attributes:
        about: the file's metadata.

    Raises:
        ValueError: it can't be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._opened = safe_open(str(path), "pt")
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path}: can't be read as safetensors ({error}); copy it again") from error
        self.about: dict[str, str] = self._opened.metadata() or {}
        self._names = list(self._opened.keys())

    def only(self, names: Collection[str], about: Mapping[str, str]) -> "TensorFile":
        """Some of its tensors, with other metadata."""
        fewer = copy(self)
        fewer._names, fewer.about = [name for name in self._names if name in names], dict(about)
        return fewer

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._opened.get_tensor(name)  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass(frozen=True)
class Trained:
    """A finished run.

    Attributes:
        changed: the tensors that moved, as they are now; its metadata say of which base.
        adapters: the pose adapters, where the run has some.
        averaged: whether these are the run's EMA weights, not those of the last step.
    """

    run: Path
    config: Config
    changed: TensorFile
    adapters: TensorFile | None = None
    averaged: bool = False

    @classmethod
    def open(cls, run: Path, weights: str = "auto") -> "Trained":
        """Check a run folder.

        Args:
            weights: "model", "ema", or "auto": EMA weights where the run kept them.

        Raises:
            ValueError: no run, of another task, unfinished, without the weights asked for, NaN in its weights, or
                adapters of another base.
        """
        if not (run / "config.toml").is_file():
            raise ValueError(f"run = {str(run)!r}: no config.toml there; give a folder made by entprog train")
        config = read_config(run / "config.toml", resolved=True)
        if not config.model.pretrained:
            raise ValueError(
                f"run = {str(run)!r}: task = {config.task!r}, but only pretrained models can be exported; "
                "the weights of this run are in its folder final"
            )
        if not (run / "final" / DELTA).is_file():
            raise ValueError(
                f"run = {str(run)!r}: not finished; go on with entprog train --resume-from-checkpoint latest"
            )
        beside = run / "final" / ADAPTERS
        adapters = TensorFile(beside) if beside.is_file() else None
        trained = cls(run, config, TensorFile(run / "final" / DELTA), adapters)
        trained._check_adapters()
        averaged = run / "final" / EMA
        if weights == "ema" and not averaged.is_file():
            raise ValueError(f"--weights ema: {run} has no EMA weights; set train.ema_decay, or choose model")
        if averaged.is_file() and weights != "model":
            trained = trained._average(TensorFile(averaged))
        trained._check()
        return trained

    def _average(self, ema: TensorFile) -> "Trained":
        """The same run by its EMA weights, which lie in one file with all that rests."""
        adapters = None if self.adapters is None else ema.only(list(self.adapters), self.adapters.about)
        return replace(self, changed=ema.only(list(self.changed), self.changed.about), adapters=adapters, averaged=True)

    def _check(self) -> None:
        broken = [name for name, tensor in self.changed.items() if not bool(torch.isfinite(tensor).all())]
        if broken:
            raise ValueError(
                f"{self.changed.path}: NaN or infinite weights in {len(broken)} tensors (first {broken[0]}); "
                "nothing exported; train again with a lower learning rate"
            )

    def _check_adapters(self) -> None:
        if self.adapters is not None and (other := self.adapters.about.get("base_hash")) != self.base_hash:
            raise ValueError(
                f"{self.adapters.path}: pose adapters of another base (hash {str(other)[:12]}) than {DELTA} beside it "
                f"({self.base_hash[:12]}); copy both from the same run"
            )

    @property
    def final(self) -> Path:
        return self.run / "final"

    @property
    def base_hash(self) -> str:
        return self.changed.about["base_hash"]

    @property
    def component(self) -> str:
        """The folder of the network in the pipeline's."""
        return self.changed.about["component"]

    @cached_property
    def network_config(self) -> dict[str, Any]:
        """config.json of the network."""
        path = self.final / self.component / "config.json"
        return json.loads(path.read_text(encoding="utf-8"))  # type: ignore[no-any-return]

    @property
    def network(self) -> str:
        """diffusers' class of the network."""
        return str(self.network_config["_class_name"])

    @cached_property
    def layers(self) -> frozenset[str]:
        """Names of the network's linear layers."""
        import diffusers

        with torch.device("meta"):
            network: nn.Module = getattr(diffusers, self.network).from_config(self.network_config)
        return frozenset(name for name, module in network.named_modules() if isinstance(module, nn.Linear))

    @cached_property
    def base(self) -> StoredTensors:
        """The weights that the run began with.

        Raises:
            ValueError: they are gone, or are others now.
        """
        model = self.config.model
        try:
            folder = ModelFolder.open(model.pretrained, revision=model.revision, component=model.component).component
            found = base_hash(folder)
        except ValueError as error:
            raise ValueError(f"{error} (the base of run {self.run}; --as diffusers does without)") from error
        if found != self.base_hash:
            raise ValueError(
                f"model.pretrained = {model.pretrained!r}: its weights changed since run {self.run} began "
                f"(hash {found[:12]}, then {self.base_hash[:12]}); put the old ones back, or export --as diffusers"
            )
        return StoredTensors(folder)

    def difference(self, name: str) -> Tensor:
        """By how much a tensor moved, in float32; zeros for one that did not."""
        base = self.base[name].float()
        return self.changed[name].float() - base if name in self.changed else torch.zeros_like(base)

    @cached_property
    def factors(self) -> Factors:
        """The LoRA factors of layers that only moved by them, all phases together."""
        found: dict[str, tuple[Tensor, Tensor]] = {}
        for file in sorted(self.run.glob("*/lora.safetensors")):
            stored = TensorFile(file)
            for layer in sorted({name.partition(".lora_")[0] for name in stored}):
                a, b = (stored[f"{layer}.lora_{which}.weight"].float() for which in "AB")
                if layer in found:
                    a, b = torch.cat([found[layer][0], a]), torch.cat([found[layer][1], b], 1)
                found[layer] = a, b
        return {layer: pair for layer, pair in found.items() if self._explained(layer, *pair)}

    def _explained(self, layer: str, a: Tensor, b: Tensor) -> bool:
        """Whether a weight moved by its factors and nothing else, up to the rounding of the merge."""
        name = f"{layer}.weight"
        if name not in self.changed:
            return False
        loaded = self.base[name].to(DTYPES[self.config.model.dtype]).float()  # what the adapter was merged into
        now, added = self.changed[name], b @ a
        size = loaded.abs() + added.abs() + added.abs().max() * 2.0**-20
        return bool(((now.float() - loaded - added).abs() <= 4 * torch.finfo(now.dtype).eps * size).all())

    def story(self) -> dict[str, Any]:
        """Ranking and stages by phase: which blocks trained, and from which step on."""
        run = collect(self.run)
        stages = [
            {key: event[key] for key in ("phase", "step", "active") if key in event} for event in run.events_of("stage")
        ]
        ranking = {phase.name: list(phase.scores["order"]) for phase in run.phases if "order" in phase.scores}
        return {"method": run.method, "ranking": ranking, "stages": stages}
