"""Blocks by noise level as measured: searches find how many of the last blocks each band should train."""

from bisect import bisect
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from entprog.config.checks import Finding, running
from entprog.config.schema import Config
from entprog.core.probe import cheapest_choice
from entprog.core.sizes import block_count
from entprog.core.types import Draw, MethodContext, Ranking, Shape, StepPlan, Trial, Workload
from entprog.methods._unranked import BoundUnranked
from entprog.methods.bands import Bands
from entprog.methods.base import Method
from entprog.methods.progressive import BoundProgressive, Place

__all__ = ["AdaptiveBands"]

LEAST, MOST = 4, 16
"""Steps of a candidate in a search, at least and at most."""

READINGS = 8
"""Held-out samples of a band, at least."""


@dataclass(frozen=True, kw_only=True)
class AdaptiveBands(Bands):
    """As "bands", with the number of blocks of each band chosen by measurement, anew in each search.

    A search takes the bands in turn. Every candidate of a band trains from the same weights on the same samples of that
    band, and is read before and after on the held-out samples of that band. The most gain for its cost
    (`train.cost_unit`) wins, but among those within two standard errors of it the cheapest. Training goes on from the
    winner's weights; the others' steps and all readings are charged as search. A phase that is too short for a search
    within its share says so and trains `m`.

    Attributes:
        depths: the candidates of each band: counts of last blocks, a share of them below 1, 0 for all.
        searches: searches of a phase, at equal distances from its first step on.
        search_share: the most that readings and rejected candidates take of the phase's cost, by a count of passes
            through blocks (see `probe_steps`).
        m: what trains where the phase is too short for searches.
    """

    depths: tuple[float, ...] = (0.34, 0)
    searches: int = 2
    search_share: float = 0.05

    searching: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.depths) < 2 or any(m < 0 or (m > 1 and m != int(m)) for m in self.depths):
            raise ValueError(
                f"depths = {list(self.depths)}: give at least two: whole numbers of blocks, shares, or 0 for all"
            )
        if self.searches < 1:
            raise ValueError(f"searches = {self.searches}: must be at least 1")
        if not 0 < self.search_share <= 1:
            raise ValueError(f"search_share = {self.search_share}: a share of the cost, above 0 and at most 1")
        if self.echo > 1 or self.sizes():
            given = "echo" if self.echo > 1 else next(iter(self.sizes()))
            raise ValueError(f'{given}: not with searches; leave it out, or choose method = "bands"')

    @classmethod
    def problems(cls, config: Config) -> Iterator[Finding]:
        """Echoes: candidates must not see the same samples."""
        yield from super().problems(config)
        for name, phase in running(config).items():
            if phase.echo > 1:
                yield Finding(
                    (f"phases.{name}.echo", "method"),
                    f" = {phase.echo}: candidates of a search must not see the same samples; leave echo at 1",
                )

    def candidates(self, band: int, names: Sequence[str], shape: Shape) -> tuple[Workload, ...]:
        """What a band may train, the cheapest first."""
        edges = [0.0, *self.noise_edges, 1.0]
        size = replace(shape, band=(edges[band], edges[band + 1]))
        label = f"method_options.depths = {list(self.depths)}"
        counts = {block_count(m, len(names), label) if m else len(names) for m in self.depths}
        return tuple(Workload(tuple(names[-n:]), size, inputs=n == len(names)) for n in sorted(counts))

    def workloads(
        self, names: Sequence[str], shape: Shape | None, steps: int, seed: int
    ) -> Iterator[tuple[Workload, int]]:
        """Every candidate; steps are counted as if each band chose its dearest one, the most that a phase takes."""
        if shape is None:
            return
        for band, count in sorted(Counter(self.band(i) for i in range(steps)).items()):
            *cheaper, dearest = self.candidates(band, names, shape)
            yield from ((workload, 0) for workload in cheaper)
            yield dearest, count

    def probe_steps(self, total: int, batch: int, readings: Sequence[int], active: Sequence[float]) -> int:
        """Steps of a candidate, so that all searches of a phase of `total` steps stay within their share of its cost.

        A step that trains a share s of the blocks counts as (1 + 2 s) / 3 full steps, and a reading of r samples as
        r / (3 batch). The phase is taken to cost the least, the searches the most: the cheapest candidates win.

        Args:
            readings: held-out samples of each band.
            active: the share of the blocks that each candidate trains, ascending.
        """
        cheapest, *others = ((1 + 2 * share) / 3 for share in active)
        read = (len(active) + 1) * sum(readings) / (3 * batch)
        affordable = self.search_share * total * cheapest / self.searches - read
        fitting = (total // self.searches - 1) // (len(active) * len(readings))
        return min(MOST, int(affordable / (len(readings) * sum(others))), fitting)

    def bind(self, context: MethodContext) -> Method:
        """Needs held-out draws, at least eight samples in each band.

        Raises:
            ValueError: too few of them.
        """
        if context.shape is None:
            return BoundUnranked(context, self)  # which refuses a loop that draws its own batches
        held = self.held_out(context.holdout)
        found = self.candidates(0, tuple(context.blocks.names), context.shape)
        counts = [sum(draw.size for draw in draws) for draws in held]
        active = [len(workload.active) / len(context.blocks) for workload in found]
        steps = self.probe_steps(context.total_steps, context.shape.batch, counts, active) if len(found) > 1 else 0
        if steps < LEAST:
            message = (
                f"{context.total_steps} steps are too few for {self.searches} searches that take at most "
                f"{self.search_share:.0%} of their cost: trains m = {list(self.m)} without a search; raise steps or "
                "method_options.search_share, or lower method_options.searches"
            )
            context.notify("warning", {"sign": "search", "message": message})
            return BoundUnranked(context, self, inputs=context.inputs)
        if min(counts) < READINGS:
            raise ValueError(
                f"method_options.noise_edges: a band has {min(counts)} held-out samples, a search needs {READINGS}; "
                "raise train.holdout_clips"
            )
        return _Bound(context, self, steps, held)

    def held_out(self, holdout: Sequence[Draw]) -> list[list[Draw]]:
        """The samples of each band: by their rank, as a task may shift its noise levels, which keeps their order."""
        levels = [(tau, k, j) for k, draw in enumerate(holdout) for j, tau in enumerate(draw.tau.tolist())]
        chosen: list[list[list[int]]] = [[[] for _ in holdout] for _ in (0.0, *self.noise_edges)]
        for rank, (_, k, j) in enumerate(sorted(levels)):
            chosen[bisect(self.noise_edges, (rank + 0.5) / len(levels))][k].append(j)
        return [
            [draw.each(lambda t, own=own: t[own]) for draw, own in zip(holdout, of_band, strict=True) if own]  # type: ignore[misc]
            for of_band in chosen
        ]


@dataclass(frozen=True)
class _Searches:
    """The schedule that the probe works by: a stage for each search of each band."""

    plugin: AdaptiveBands
    names: tuple[str, ...]
    shape: Shape
    search_steps: int
    estimator: str = "probe"

    @property
    def bands(self) -> int:
        return len(self.plugin.noise_edges) + 1

    @property
    def stages(self) -> int:
        return self.plugin.searches * self.bands

    def candidates(
        self, stage: int, ranking: Ranking, shape: Shape | None, last: Workload | None
    ) -> tuple[Workload, ...]:
        return self.plugin.candidates(stage % self.bands, self.names, self.shape)

    def shapes(self, shape: Shape) -> tuple[Shape, ...]:
        return (shape,)

    def choose(self, trials: Sequence[Trial], cost: str) -> tuple[Workload, dict[Workload, float]]:
        return cheapest_choice(trials, cost)


class _Bound(BoundProgressive):
    """The probe of the progressive method, once for each band: `Place.stage` counts the searches of all bands."""

    def __init__(self, context: MethodContext, plugin: AdaptiveBands, steps: int, held: list[list[Draw]]) -> None:
        assert context.shape is not None
        self.plugin, self.held, self.steps = plugin, held, steps
        self.tell = context.notify
        self.band = 0  # that is read
        names = tuple(context.blocks.names)
        length = steps * len(plugin.candidates(0, names, context.shape))
        # Input-side parameters train as each workload says; 2 has the freezer know them.
        own = replace(context, rerank=None, inputs_every=2, notify=self._notify)
        super().__init__(own, Ranking(names[::-1]), _Searches(plugin, names, context.shape, length))

    def _place(self, i: int) -> Place:
        total, count, bands = self.context.total_steps, self.plugin.searches, len(self.held)
        turn = min(i * count // total, count - 1)
        start, length = -(-turn * total // count), self.schedule.search_steps
        offset = i - start
        searching = offset < bands * length
        band = offset // length if searching else self.plugin.band(i)
        stage = turn * bands + band
        found = self.schedule.candidates(stage, self.rankings[0], None, None)
        if searching:
            return Place(stage, offset % length, start + band * length, length, found, self.steps)
        announced = offset > bands * length  # the first step after the searches announces the stage
        return Place(stage, length + announced, start + bands * length, length, found, 0)

    def _stage(self, i: int) -> int:
        return self._place(i).stage

    def _planned(self, i: int) -> tuple[Place, StepPlan]:
        place, plan = super()._planned(i)
        return place, replace(plan, stage=place.stage // len(self.held))

    def _inputs_train(self, replays: int) -> bool:
        return True

    def _enter_probe(self, place: Place) -> None:
        self.band = place.stage % len(self.held)
        super()._enter_probe(place)

    def _warn_of_few(self, pairs: int) -> None:
        """Readings were counted when the method was bound; an unsure choice is the cheaper one."""

    def _read_draws(self) -> Sequence[Draw]:
        return self.held[self.band]

    def _notify(self, event: str, values: dict[str, Any]) -> None:
        """What the probe reports, with the stage that its search belongs to, its band, and a choice in words."""
        if "stage" not in values:
            self.tell(event, values)
            return
        stage, band = divmod(values["stage"], len(self.held))
        edges = [0.0, *self.plugin.noise_edges, 1.0]
        more: dict[str, Any] = {"stage": stage, "band": [edges[band], edges[band + 1]]}
        if event == "choice":
            more["message"] = f"stage {stage + 1}, band {edges[band]:g}-{edges[band + 1]:g}: {self._in_words()}"
        self.tell(event, {**values, **more})

    def _in_words(self) -> str:
        chosen = self.chosen[-1]
        trial = next(t for t in reversed(self.trials) if t.workload == chosen)
        cost, unit = (trial.flops / 1e12, "TFLOP") if self.context.cost == "flops" else (trial.seconds, "second")
        gain = f"gain {trial.gain / cost:.3g} +- {trial.gain_stderr / cost:.2g} a {unit}"
        return f"last {len(chosen.active)} of {len(self.context.blocks)}, {gain}"
