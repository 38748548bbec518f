"""Deinterlacing with FFmpeg's yadif filter."""

from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from typing import Generic, TypeVar

import av
import av.filter

__all__ = ["Deinterlacer"]

T = TypeVar("T")


class Deinterlacer(Generic[T]):
    """One frame out for one frame in, later by one; progressive frames pass unchanged.

    What is pushed with a frame comes back with the frame that is made of it.
    """

    def __init__(self, frame: av.VideoFrame) -> None:
        self.kind = (frame.width, frame.height, frame.format.name)
        self.waiting: deque[T] = deque()
        self.count = 0
        self.graph = av.filter.Graph()
        source = self.graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000)
        )
        yadif = self.graph.add("yadif", "mode=send_frame:deint=interlaced")
        sink = self.graph.add("buffersink")
        source.link_to(yadif)
        yadif.link_to(sink)
        self.graph.configure()

    def takes(self, frame: av.VideoFrame) -> bool:
        """Whether the frame has the size and format of the first one."""
        return (frame.width, frame.height, frame.format.name) == self.kind

    def push(self, frame: av.VideoFrame, with_it: T) -> Iterator[tuple[av.VideoFrame, T]]:
        self.waiting.append(with_it)
        frame.time_base, frame.pts = Fraction(1, 1000), self.count
        self.count += 1
        self.graph.vpush(frame)
        yield from self._pull()

    def rest(self) -> Iterator[tuple[av.VideoFrame, T]]:
        """The last frame; the filter is of no use afterwards."""
        self.graph.vpush(None)
        yield from self._pull()

    def _pull(self) -> Iterator[tuple[av.VideoFrame, T]]:
        while True:
            try:
                frame = self.graph.vpull()
            except (av.BlockingIOError, av.EOFError):
                return
            yield frame, self.waiting.popleft()
