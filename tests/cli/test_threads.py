"""The threads of an operation wait briefly, unless the user says otherwise."""

import os
import subprocess
import sys

import pytest

from entprog.cli.threads import SPINS, wait_briefly


@pytest.mark.parametrize(
    ("given", "after"),
    [({}, SPINS), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_what_the_user_set_stays(monkeypatch, given, after):
    monkeypatch.setattr(os, "environ", dict(given))
    wait_briefly()
    assert os.environ.get("GOMP_SPINCOUNT") == after


def test_the_command_line_does_not_import_torch_before():
    code = "import sys, entprog.cli.app; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
