"""A command prints its own lines: libraries report errors only, and afterwards they are as before."""

import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import entprog
from entprog.cli.errors import plain_errors
from pretrained_cli import Given, recipe


def test_libraries_report_errors_only(caplog, recwarn, monkeypatch):
    monkeypatch.delenv("ENTPROG_DEBUG", raising=False)
    monkeypatch.setenv("DIFFUSERS_VERBOSITY", "info")
    torchao, diffusers = logging.getLogger("torchao.kernel"), logging.getLogger("diffusers.models")
    before = torchao.getEffectiveLevel(), diffusers.getEffectiveLevel()
    with plain_errors():
        assert os.environ["TRANSFORMERS_VERBOSITY"] == "error"
        torchao.warning("a warning")
        torchao.error("an error")
        warnings.warn("Mismatch dtype between input and weight: slow", UserWarning, stacklevel=1)
        warnings.warn("will be removed", FutureWarning, stacklevel=1)
        warnings.warn("the driver is too old", UserWarning, stacklevel=1)
        assert diffusers.getEffectiveLevel() == before[1]  # as the user set it
    assert [record.message for record in caplog.records] == ["an error"]
    assert [str(warning.message) for warning in recwarn] == ["the driver is too old"]
    assert before == (torchao.getEffectiveLevel(), diffusers.getEffectiveLevel())
    assert "TRANSFORMERS_VERBOSITY" not in os.environ


def test_debugging_shows_all(monkeypatch):
    monkeypatch.setenv("ENTPROG_DEBUG", "1")
    with plain_errors(), pytest.warns(FutureWarning):
        warnings.warn("will be removed", FutureWarning, stacklevel=1)


def test_a_command_on_a_pretrained_model_prints_nothing_of_its_libraries(tmp_path):
    given = Given.make("wan-2.1-t2v", tmp_path)
    about = given.data / "dataset.json"
    about.write_text(about.read_text().replace('"hash": "', '"hash": "0', 1))
    (tmp_path / "r.toml").write_text(recipe(given))
    environment = {**os.environ, "PYTHONPATH": str(Path(entprog.__file__).parents[1])}
    for name in ("ENTPROG_DEBUG", "DIFFUSERS_VERBOSITY", "TRANSFORMERS_VERBOSITY"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-m", "entprog", "train", "r.toml"], env=environment, cwd=tmp_path, capture_output=True,
        text=True,
    )  # fmt: skip
    (line,) = done.stderr.splitlines()
    assert line.startswith("entprog: data.path = ") and "of another VAE" in line
    assert (done.returncode, done.stdout) == (2, "")
