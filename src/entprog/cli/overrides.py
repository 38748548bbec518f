"""Options of the command line that are keys of a recipe: `--train.seed 3`."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

from cyclopts import Parameter, UnknownOptionError

from entprog import plugins
from entprog.config import reference
from entprog.config.load import ConfigError
from entprog.toml.values import in_words, inside, literal

Overrides = Annotated[
    tuple[str, ...],
    Parameter(
        name="--set",
        negative=(),
        show_default=False,
        help="KEY=VALUE over the recipe's; --KEY VALUE is short for it.",
    ),
]
OVERRIDING = ("train", "rank", "evaluate", "plan")
"""Commands that take any key of the recipe as an option."""


def with_overrides_set(tokens: list[str]) -> list[str]:
    """`--train.seed 3` as `--set=train.seed=3`, for commands that take overrides.

    A key without a value, as in `--train.gradient_checkpointing --train.seed 3`, is true.
    """
    if not tokens or tokens[0] not in OVERRIDING:
        return tokens
    rewritten, rest = tokens[:1], tokens[1:]
    while rest:
        token = rest.pop(0)
        key, equals, value = token.removeprefix("--").partition("=")
        if not token.startswith("--") or "." not in key:
            rewritten.append(token)
            continue
        if not equals:
            value = rest.pop(0) if rest and not rest[0].startswith("--") else "true"
        rewritten.append(f"--set={key}={value}")
    return rewritten


def pairs(overrides: Sequence[str], **options: str | None) -> list[tuple[str, str]]:
    """Overrides as (dotted key, value), with the options that were given."""
    parts = [pair.partition("=") for pair in overrides]
    return [(key, value) for key, _, value in parts] + list(without_none(options).items())


def listed(texts: Sequence[str]) -> list[str]:
    return [part.strip() for text in texts for part in text.split(",")]


def plugin_options(kind: str, name: str, texts: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE of the command line as options of a plugin: as in TOML, or as text where the option is text or a path.

    Raises:
        ValueError: one has no "=", or is given twice.
    """
    wrong = [f"--{kind}-options {text!r}: expected KEY=VALUE" for text in texts if not re.match(r"[^=]+=", text)]
    parts = [text.partition("=") for text in texts if not re.match(r"=|[^=]*$", text)]
    twice = [key for i, (key, _, _) in enumerate(parts) if key in [earlier for earlier, _, _ in parts[:i]]]
    wrong += [f"--{kind}-options {key}: given twice; give it once" for key in twice]
    if wrong:
        raise ValueError("\n".join(wrong))
    values: dict[str, Any] = {}
    for key, _, value in parts:
        values[key] = literal(value)
        if _mistyped(kind, name, key, values[key]) and not _mistyped(kind, name, key, value):
            values[key] = value
    return values


def _mistyped(kind: str, name: str, key: str, value: Any) -> bool:
    """Whether an option of a plugin cannot have a value of this type; the value itself may still be wrong."""
    return any("; it must be " in text for text in plugins.problems(kind, name, {key: value}))


def either(names: Iterable[str]) -> str:
    """Names as the help lists them: "a", "b" or "c"."""
    *first, last = [f'"{name}"' for name in names]
    return f"{', '.join(first)} or {last}" if first else last


def integers(name: str, texts: Sequence[str]) -> list[int]:
    parts = listed(texts)
    if wrong := [part for part in parts if not re.fullmatch(r"\d+", part)]:
        raise ValueError(f"--{name} {wrong[0]!r}: expected integers, such as --{name} 32,64")
    return [int(part) for part in parts]


def within_limits(values: Mapping[str, Any]) -> None:
    """Check numbers that an option gives in the place of a key (dotted key -> number).

    Raises:
        ConfigError: a number is outside the limits of its key.
    """
    wrong = []
    for dotted, value in values.items():
        interval = reference.limit(dotted)
        if interval is not None and not inside(value, interval):
            option = dotted.rpartition(".")[2].replace("_", "-")
            wrong.append(f"--{option} {value}: must be {in_words(interval)}")
    if wrong:
        raise ConfigError(wrong)


def without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def with_a_key(error: UnknownOptionError, command: str) -> Exception:
    """The error, with the key of a recipe that may have been meant: --seed for --train.seed."""
    name = (error.token.keyword or error.token.value).lstrip("-").split("=")[0].replace("-", "_")
    near = reference.nearest(name, ["NAME"]) if command in OVERRIDING else []
    said, guess, _ = str(error).partition(" Did you mean ")
    if not near or (guess and not all(key.endswith(f".{name}") for key in near)):
        return error
    return ValueError(f"{said} Did you mean {' or '.join(f'--{key}' for key in near)}?")
