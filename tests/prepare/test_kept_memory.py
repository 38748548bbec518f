"""Freed memory stays with the process where the C library can do that."""

import platform
import sys

from entprog.prepare.memory import keep_freed_memory


def test_glibc_takes_the_limits_and_others_are_left_alone(monkeypatch):
    if platform.libc_ver()[0] == "glibc":
        assert keep_freed_memory()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
