"""What the tests of recipes share."""

from pathlib import Path

import pytest

from entprog.config.load import ConfigError, read_config


def problems(path: Path | None, overrides=()) -> list[str]:
    with pytest.raises(ConfigError) as error:
        read_config(path, overrides)
    assert str(error.value) == "\n".join(error.value.problems)
    assert all("\n" not in line for line in error.value.problems)
    return error.value.problems
