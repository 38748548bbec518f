"""Animate the person of a photo with the poses of a video."""

from entprog.prepare.image import read_image as _read_image
from entprog.sample.animate import sample

__all__ = ["_read_image", "sample"]
