"""A numpy renderer of clothed people: endless video with exact poses, for pretraining, demos and tests."""

from entprog.synthetic.clip import RenderedClip, render_clip
from entprog.synthetic.domains import Domain

__all__ = ["Domain", "RenderedClip", "render_clip"]
