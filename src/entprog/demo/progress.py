"""One bar over everything that a demo does, with the time left."""

from collections.abc import Iterable, Iterator
from itertools import chain, repeat

from tqdm import tqdm

FORMAT = "{desc}: {percentage:3.0f}% |{bar}| {elapsed} gone, {remaining} left"


class Work:
    """What is left to do, in seconds of a usual machine; the bar's time left follows the pace of this one.

    Attributes:
        total: the seconds of everything that will be done.
    """

    def __init__(self, total: float, *, shown: bool = True) -> None:
        self.total = total
        self._bar = tqdm(total=total, bar_format=FORMAT, disable=not shown, smoothing=0.05)
        self._bar.set_description_str("demo")

    def begin(self, what: str) -> None:
        """Name what is under way."""
        self._bar.set_description_str(what)

    def did(self, seconds: float) -> None:
        """Some of the work is done."""
        self._bar.update(min(seconds, max(0.0, self.total - self._bar.n)))

    def steps(self, costs: Iterable[float]) -> "Steps":
        """A callback that counts the next of `costs` at each call."""
        return Steps(self, iter(costs))

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()


class Steps:
    """Counts steps of a run: called after each of them."""

    def __init__(self, work: Work, costs: Iterator[float]) -> None:
        self.work, self._costs = work, chain(costs, repeat(0.0))

    def __call__(self) -> None:
        self.work.did(next(self._costs))
