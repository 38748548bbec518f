"""`entprog demo`: several ways to fine-tune the shipped base, side by side."""

from entprog.demo.arms import ARMS
from entprog.demo.show import demo

__all__ = ["ARMS", "demo"]
