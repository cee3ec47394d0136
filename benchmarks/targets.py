"""What the bus wants to reach: ratios to its peers in the same run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import attrs

from . import peers, scenarios
from .measuring import Outcome, Spread

KIB: Final = 1024


@attrs.frozen
class Row:
    """A target, and what was measured."""

    what: str
    against: str
    measured: Spread | None
    target: float
    at_most: bool
    unit: str
    met: bool
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
    bound: float = 0
    at_most: bool = False
    """It is how many times as long it may take at most; or, without rivals, how many KiB."""

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
            in_kib = [figure / KIB for figure in outcome.figures[self.case]]
            return self._row(Spread.of(in_kib), self.against)
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

    def _row(self, measured: Spread | None, against: str, note: str = "") -> Row:
        if measured is None:
            met = False
        elif self.at_most:
            met = measured.median <= self.bound
        else:
            met = measured.median >= self.bound
        unit = "×" if self.rivals else " KiB"
        return Row(self.what, against, measured, self.bound, self.at_most, unit, met, note)


LIBRARIES: Final = tuple(peers.ASYNCIO_LIBRARIES)
FASTEST: Final = "the fastest asyncio library"


def _fan_out(name: str, case: str, against: str, rivals: Sequence[str], bound: float) -> Target:
    return Target(f"{name}, {case.partition(', ')[2]}", against, name, case, rivals, bound)


TARGETS: Final = (
    _fan_out("1→1", peers.BUS, "one trio memory channel", [peers.TRIO_CHANNELS], 4),
    _fan_out("1→10", peers.BUS, "10 trio memory channels", [peers.TRIO_CHANNELS], 12),
    _fan_out("1→100", peers.BUS, "100 trio memory channels", [peers.TRIO_CHANNELS], 12),
    _fan_out("1→10", peers.BUS_BATCHES, "10 trio memory channels", [peers.TRIO_CHANNELS], 30),
    _fan_out("1→100", peers.BUS_BATCHES, "100 trio memory channels", [peers.TRIO_CHANNELS], 50),
    *(_fan_out(name, peers.BUS, FASTEST, LIBRARIES, 1) for name in scenarios.FAN_OUTS),
    *(
        _fan_out(name, peers.BUS_BATCHES, against, rivals, 2)
        for against, rivals in (
            (FASTEST, LIBRARIES),
            (peers.ASYNCIO_QUEUES, [peers.ASYNCIO_QUEUES]),
        )
        for name in ("1→10", "1→100")
    ),
    Target(
        "1→100, batches()",
        "plain function calls through pyee",
        scenarios.SYNCHRONOUS + scenarios.ONE_TO_HUNDRED,
        peers.BUS_BATCHES,
        [peers.PYEE],
        1,
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
    Target(
        "a buffer of 8, always full, 1→1, async for",
        "a trio memory channel of 8, always full",
        scenarios.ALWAYS_FULL + scenarios.ONE_TO_ONE,
        peers.BUS,
        [peers.TRIO_CHANNELS],
        1.5,
    ),
    Target(
        "latency through an idle bus, p50",
        "one hop over a trio memory channel",
        scenarios.LATENCY,
        scenarios.THROUGH_BUS + scenarios.P50,
        [scenarios.ONE_HOP + scenarios.P50],
        2.2,
        at_most=True,
    ),
    Target(
        "subscribe and close",
        scenarios.TASK,
        scenarios.LIFE,
        scenarios.OURS,
        [scenarios.TASK],
        2.5,
        at_most=True,
    ),
    Target(
        "memory of an idle subscription",
        "–",
        scenarios.MEMORY,
        scenarios.OURS,
        bound=6,
        at_most=True,
    ),
)


def judge_all(outcomes: Mapping[str, Outcome]) -> list[Row]:
    """A row for each target that was measured."""
    rows = [row for target in TARGETS if (row := target.judge(outcomes)) is not None]
    if scenarios.MANY in outcomes:
        rows.append(_many(outcomes[scenarios.MANY]))
    return rows


def _many(outcome: Outcome) -> Row:
    """Whether they work at all; how long it takes is in another table."""
    error = outcome.errors.get(scenarios.OURS)
    return Row(
        f"{scenarios.MANY} work", "–", None, 0, False, "", error is None, error or "they work"
    )
