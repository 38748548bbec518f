"""What a recipe can say: each key's type, range, default and meaning, read from the classes of config.py."""

import dataclasses
import inspect
import re
import textwrap
import typing
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Any, Literal

import tomli_w

from entprog.config.schema import PUBLISHED, Config, PhaseConfig

LIMITS = {
    "data.subjects": "[1, inf)",
    "data.clips_per_subject": "[1, inf)",
    "data.holdout": "[1, inf)",
    "data.frames": "[1, inf)",
    "data.sizes": "[16, 1024]",
    "data.seed": "[0, 4294967295]",
    "data.workers": "[0, inf)",
    "model.condition_dropout": "[0, 1)",
    "ranking.samples": "[1, inf)",
    "freeze.inputs_every": "[0, inf)",
    "phases.*.steps": "[0, inf)",
    "phases.*.frames": "[1, inf)",
    "phases.*.resolution": "[16, 1024]",
    "phases.*.batch": "[1, inf)",
    "phases.*.learning_rate": "(0, inf)",
    "phases.*.echo": "[1, inf)",
    "phases.*.echo_window": "[1, inf)",
    "train.reference_cache_bytes": "[1, inf)",
    "train.lr_warmup_steps": "[0, inf)",
    "train.gradient_accumulation_steps": "[1, inf)",
    "train.max_grad_norm": "[0, inf)",
    "train.adam_beta1": "[0, 1)",
    "train.adam_beta2": "[0, 1)",
    "train.adam_epsilon": "(0, inf)",
    "train.adam_weight_decay": "[0, inf)",
    "train.ema_decay": "[0, 1)",
    "train.checkpointing_steps": "[0, inf)",
    "train.checkpoints_total_limit": "[0, inf)",
    "train.validation_steps": "[0, inf)",
    "train.validation_clips": "[0, inf)",
    "train.holdout_clips": "[1, inf)",
    "train.seed": "[0, 4294967295]",
    "train.threads": "[0, inf)",
    "sample.num_inference_steps": "[1, 1000]",
    "sample.guidance_scale": "[0, inf)",
    "sample.seed": "[0, 4294967295]",
    "evaluate.clips": "[0, inf)",
    "evaluate.frames": "[1, inf)",
    "evaluate.resolution": "[16, 1024]",
    "evaluate.videos": "[0, inf)",
}
"""The numbers that each key takes, as intervals; of a list, each item. All are finite."""

ELSEWHERE = {
    "batch_size": "phases.*.batch",
    "train_batch_size": "phases.*.batch",
    "lr": "phases.*.learning_rate",
    "max_train_steps": "phases.*.steps",
    "num_train_epochs": "phases.*.steps",
    "epochs": "phases.*.steps",
    "output": "output_dir",
    "pretrained_model_name_or_path": "model.init",
    "cfg": "sample.guidance_scale",
}
"""What other trainers call a key -> the key here."""


def hints(table: type[Any]) -> dict[str, Any]:
    """The keys of a table with their types, in order."""
    return {name: kind for name, kind in typing.get_type_hints(table).items() if name in _fields(table)}


def is_table(kind: Any) -> bool:
    """Whether a key of this type is a table of keys of its own."""
    return dataclasses.is_dataclass(kind)


def dotted_keys(phases: Iterable[str] = ("*",)) -> list[str]:
    """Every dotted key, those of a phase once for each of `phases`."""
    found = []
    for name, kind in hints(Config).items():
        if name == "phases":
            found += [f"phases.{phase}.{key}" for phase in phases for key in hints(PhaseConfig)]
        elif is_table(kind):
            found += [f"{name}.{key}" for key in hints(kind)]
        else:
            found.append(name)
    return found


def limit(dotted: str) -> str | None:
    """The interval of a key, or None where any value goes."""
    return LIMITS.get(_starred(dotted))


def inside(value: float, interval: str) -> bool:
    """Whether a number lies in an interval such as "[0, 1)"."""
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    return above and (value <= high if interval[-1] == "]" else value < high)


def in_words(interval: str) -> str:
    """An interval as a sentence has it: "at least 0 and below 1"."""
    low, high = interval[1:-1].split(", ")
    words = f"at least {low}" if interval[0] == "[" else f"above {low}"
    if high == "inf":
        return words
    return f"{words} and {'at most' if interval[-1] == ']' else 'below'} {high}"


def expected(kind: Any) -> str:
    """A type as the reader of an error wants it: "an integer", 'one of "no", "bf16"'."""
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(f'"{choice}"' for choice in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)[0]
        if typing.get_origin(inner) is Literal:
            return "a list with any of " + expected(inner).removeprefix("one of ")
        return "a list of " + {int: "integers", float: "numbers", str: "texts"}[inner]
    if typing.get_origin(kind) is dict or is_table(kind):
        return "a table"
    return {int: "an integer", float: "a number", bool: "true or false", str: "text"}[kind]


def nearest(dotted: str, phases: Iterable[str]) -> list[str]:
    """The keys that somebody who wrote `dotted` may have meant, best first; none where nothing is near."""
    phases = list(phases)
    known = dotted_keys(phases)
    table, _, last = dotted.rpartition(".")
    if last in ELSEWHERE:
        return [key for key in known if _starred(key) == ELSEWHERE[last]][:3]
    beside = {key.rpartition(".")[2]: key for key in known if key.rpartition(".")[0] == table}
    if near := get_close_matches(last, beside, 1, 0.7):
        return [beside[near[0]]]
    endings = [key.rpartition(".")[2] for key in known]
    if near := get_close_matches(last, endings, 1, 0.8):
        same = [key for key, ending in zip(known, endings, strict=True) if ending == near[0]]
        return sorted(same, key=lambda key: key.split(".")[0] != table)[:3]
    whole = get_close_matches(dotted, [*known, *_tables(phases)], 1, 0.6)
    return whole or [beside[near[0]] for near in [get_close_matches(last, beside, 1, 0.5)] if near]


def meanings(table: type[Any]) -> dict[str, str]:
    """What each key of a table means, from the Attributes section of its docstring."""
    _, _, section = (inspect.getdoc(table) or "").partition("Attributes:\n")
    found: dict[str, str] = {}
    for entry in re.split(r"\n(?= {4}\S)", "\n" + section):
        names, separator, meaning = entry.strip().partition(": ")
        if separator:
            found |= dict.fromkeys(names.split(", "), " ".join(meaning.split()))
    return found


def recipe() -> str:
    """A recipe with each key at its default and a comment that explains it; it reads back as `Config()`."""
    tables = ["\n".join(_explained("", Config, Config()))]
    for name, kind in hints(Config).items():
        if name == "phases":
            first = next(iter(PUBLISHED))
            for phase, values in PUBLISHED.items():
                lines = _explained(f"phases.{phase}", PhaseConfig, values, comments=phase == first)
                tables.append("\n".join(lines))
        elif is_table(kind):
            tables.append("\n".join(_explained(name, kind, kind())))
    return "\n\n".join(tables) + "\n"


def _explained(name: str, table: type[Any], values: Any, *, comments: bool = True) -> Iterator[str]:
    told = meanings(table)
    if name and comments:
        # The first line of the docstring begins with the table itself, in brackets.
        summary = (inspect.getdoc(table) or "").split("\n")[0].partition("] ")[2]
        yield from _comment(f"{summary[:1].upper()}{summary[1:]}")
    if name:
        yield f"[{name}]"
    for key, kind in hints(table).items():
        if is_table(kind) or key == "phases":
            continue
        if comments:
            yield from _comment(_sentence(told.get(key, ""), kind, limit(f"{name}.{key}" if name else key)))
        yield f"{key} = {_toml(getattr(values, key))}"


def _sentence(meaning: str, kind: Any, interval: str | None) -> str:
    """What a key means, and what may be set, unless the meaning names all choices already."""
    choices = typing.get_args(kind) if typing.get_origin(kind) is Literal else ()
    if choices and all(f'"{choice}"' in meaning for choice in choices):
        return meaning
    takes = expected(kind).removeprefix("a ").removeprefix("an ") + (f", {in_words(interval)}" if interval else "")
    return f"{meaning.rstrip('.')} ({takes})."


def _toml(value: Any) -> str:
    if isinstance(value, dict | tuple):
        # tomli_w would give an empty table a line of its own, and each item of a list.
        return "{}" if isinstance(value, dict) else f"[{', '.join(_toml(item) for item in value)}]"
    return tomli_w.dumps({"value": value}).strip().removeprefix("value = ")


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, 100, initial_indent="# ", subsequent_indent="#   ", break_on_hyphens=False)


def _starred(dotted: str) -> str:
    return re.sub(r"^phases\.[^.]+\.", "phases.*.", dotted)


def _tables(phases: Iterable[str]) -> list[str]:
    return [name for name, kind in hints(Config).items() if is_table(kind)] + [f"phases.{name}" for name in phases]


def _fields(table: type[Any]) -> set[str]:
    return {field.name for field in dataclasses.fields(table)}
