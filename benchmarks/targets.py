"""What the bus wants to reach: ratios to its peers in the same run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import attrs

from . import peers, scenarios
from .measuring import BYTES, Outcome, Spread

KIB: Final = 1024


@attrs.frozen
class Row:
    """A target, and what was measured."""

    what: str
    against: str
    measured: Spread | None
    target: float | None
    at_most: bool
    unit: str
    met: bool | None
    note: str = ""


@attrs.frozen
class Target:
    """A bound for how a case of a scenario compares with the best of its rivals in the same.

    By default it is how many times as fast it has to be at least.
    """

    what: str
    against: str
    scenario: str
    case: str
    rivals: Sequence[str] = ()
    bound: float | None = None
    """None if it is only to be told how they compare."""

    at_most: bool = False
    """It is how many times as long it may take at most; or, without rivals, how many KiB or s."""

    def judge(self, outcomes: Mapping[str, Outcome]) -> Row | None:
        """What was measured; None if it was not."""
        if self.scenario not in outcomes:
            return None
        outcome = outcomes[self.scenario]
        if self.rivals and not any(rival in outcome.scenario.cases for rival in self.rivals):
            return None
        rival = outcome.fastest(self.rivals)
        if self.case not in outcome.figures:
            return self._row(None, self.against, outcome.errors.get(self.case, "not measured"))
        if not self.rivals:
            scale = KIB if outcome.scenario.unit == BYTES else 1
            figures = [figure / scale for figure in outcome.figures[self.case]]
            unit = " KiB" if outcome.scenario.unit == BYTES else " s"
            return self._row(Spread.of(figures), self.against, unit=unit)
        if rival is None:
            return self._row(None, self.against, "no rival could be measured")
        ratios = (
            outcome.ratios(self.case, rival) if self.at_most else outcome.ratios(rival, self.case)
        )
        against = self.against if len(self.rivals) == 1 else f"{self.against}: {rival}"
        # Or a target would be met because the one to beat is not there.
        missing = [name for name in self.rivals if name in outcome.errors]
        if missing:
            against += f", without {' and '.join(missing)}, which failed"
        return self._row(Spread.of(ratios), against)

    def _row(self, measured: Spread | None, against: str, note: str = "", unit: str = "×") -> Row:
        met: bool | None
        if self.bound is None:
            met = None
        elif measured is None:
            met = False
        elif self.at_most:
            met = measured.median <= self.bound
        else:
            met = measured.median >= self.bound
        return Row(self.what, against, measured, self.bound, self.at_most, unit, met, note)


LIBRARIES: Final = tuple(peers.ASYNCIO_LIBRARIES)
FASTEST: Final = "the fastest asyncio library"


def _fan_out(
    name: str, case: str, against: str, rivals: Sequence[str], bound: float | None
) -> Target:
    return Target(f"{name}, {case.partition(', ')[2]}", against, name, case, rivals, bound)


def _fan_outs(
    case: str, against: str, rivals: Sequence[str], bounds: Iterable[float | None]
) -> Iterator[Target]:
    for name, bound in zip(scenarios.FAN_OUTS, bounds, strict=True):
        yield _fan_out(name, case, against, rivals, bound)


CHANNELS: Final = "a trio memory channel for each subscriber"
NO_BOUNDS: Final = (None, None, None)

TARGETS: Final = (
    *_fan_outs(peers.BUS, FASTEST, LIBRARIES, (1, 0.95, 0.9)),
    *_fan_outs(peers.BUS, CHANNELS, [peers.TRIO_CHANNELS], (5, 13, 16)),
    *_fan_outs(peers.BUS, peers.ASYNCIO_QUEUES, [peers.ASYNCIO_QUEUES], NO_BOUNDS),
    *_fan_outs(peers.BUS_BATCHES, FASTEST, LIBRARIES, (None, 3, 3.5)),
    *_fan_outs(peers.BUS_BATCHES, CHANNELS, [peers.TRIO_CHANNELS], (None, 40, 80)),
    *_fan_outs(peers.BUS_BATCHES, peers.ASYNCIO_QUEUES, [peers.ASYNCIO_QUEUES], NO_BOUNDS),
    Target(
        "1→100, batches()",
        "plain function calls through pyee",
        scenarios.SYNCHRONOUS + scenarios.ONE_TO_HUNDRED,
        peers.BUS_BATCHES,
        [peers.PYEE],
        1.4,
    ),
    *(
        Target(
            f"1 matching of 10,000, {kind} patterns",
            "1 matching of 10",
            scenarios.MATCHING,
            scenarios.among(10_000, form),
            [scenarios.among(10, form)],
            0.9,
        )
        for form, kind in scenarios.FORMS.items()
    ),
    *(
        Target(
            f"a buffer of 8, always full, {name}, async for",
            "a trio memory channel of 8, always full",
            scenarios.ALWAYS_FULL + name,
            peers.BUS,
            [peers.TRIO_CHANNELS],
            1.8,
        )
        for name in (scenarios.ONE_TO_ONE, scenarios.TEN_TO_ONE)
    ),
    Target(
        "latency through an idle bus, trimmed mean",
        "one hop over a trio memory channel",
        scenarios.LATENCY,
        scenarios.THROUGH_BUS + scenarios.MEAN,
        [scenarios.ONE_HOP + scenarios.MEAN],
        2.6,
        at_most=True,
    ),
    Target(
        scenarios.HANDLER,
        scenarios.LOOP,
        scenarios.HANDLER,
        scenarios.OURS,
        [scenarios.LOOP],
        4,
    ),
    Target(
        f"{scenarios.REQUEST} through `serve`",
        scenarios.TWO_HOPS,
        scenarios.REQUEST,
        scenarios.OURS,
        [scenarios.TWO_HOPS],
        3.5,
        at_most=True,
    ),
    Target(
        scenarios.LIFE,
        scenarios.TASK,
        scenarios.LIFE,
        scenarios.OURS,
        [scenarios.TASK],
        1.45,
        at_most=True,
    ),
    Target(
        "memory of an idle subscription",
        "–",
        scenarios.MEMORY,
        scenarios.OURS,
        bound=5.9,
        at_most=True,
    ),
    Target(
        scenarios.MANY,
        "–",
        scenarios.MANY,
        scenarios.OURS,
        bound=1.5,
        at_most=True,
    ),
)


def judge_all(outcomes: Mapping[str, Outcome]) -> list[Row]:
    """A row for each target that was measured."""
    return [row for target in TARGETS if (row := target.judge(outcomes)) is not None]
