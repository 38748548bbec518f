"""Animate the person of a photo with the poses of a video."""

from entprog.sample.animate import sample
from entprog.sample.standins import read_image as _read_image

__all__ = ["_read_image", "sample"]
