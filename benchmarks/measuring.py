"""How things are measured: interleaved rounds, and what is kept of them."""

from __future__ import annotations

import gc
import statistics
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import process_time
from typing import TypeAlias

import attrs

TIME_LIMIT = 60  # seconds for one round: a peer that hangs is reported like one that fails

BUFFER = 256  # events: what everybody's buffers take, where they are bounded
PAYLOAD = {"total": 42}
BYTES = "byte"

Case: TypeAlias = Callable[[], float]
"""One round of something: returns the seconds (or bytes) that one unit of it took."""


def start_clock() -> float:
    """Begin the timed part of a round, in seconds of CPU time.

    Everything here is done by one thread that never waits for the outside: on an idle machine this
    is the time on the wall, and on a busy one it leaves out what others took.

    The garbage collector stays on, as it is in applications. But what is alive by now is none of
    its business: nobody shall pay for the size of what was imported for others.
    """
    gc.collect()
    gc.freeze()
    return process_time()


def stop_clock(started: float) -> float:
    """End the timed part of a round; returns its seconds."""
    took = process_time() - started
    gc.unfreeze()
    return took


@attrs.frozen
class Load:
    """What every peer has to do: some tasks publish, and all subscribers get everything."""

    publishers: int
    subscribers: int
    events: int
    """How many events there are in all."""

    @property
    def each(self) -> int:
        """How many events each publisher publishes."""
        return self.events // self.publishers

    def shrunk(self, divisor: int) -> Load:
        """Less of the same, for peers that would take minutes; at least an event each."""
        each = max(1, self.each // divisor)
        return attrs.evolve(self, events=each * self.publishers)

    def per_delivery(self, took: float, counts: Sequence[int]) -> float:
        """Check that everything arrived; returns the seconds that each delivery took."""
        if list(counts) != [self.events] * self.subscribers:
            raise AssertionError(f"{self.events} events to each were sent, {counts} arrived")
        return took / (self.events * self.subscribers)


Publish: TypeAlias = Callable[[int], Awaitable[None]]
"""Publishes so many events."""

Subscribe: TypeAlias = Callable[[Callable[[], None]], Awaitable[int]]
"""Subscribes, calls the function, receives all events, and returns how many there were."""


@attrs.frozen
class Scenario:
    """Cases that are compared with each other."""

    name: str
    unit: str
    """What a case returns the seconds for; or BYTES."""

    cases: Mapping[str, Case]
    rounds: int


@attrs.frozen
class Spread:
    """The middle of a list of figures, and where half of them lie."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread:
        """The quartiles."""
        if len(figures) == 1:
            return cls(figures[0], figures[0], figures[0])
        return cls(*statistics.quantiles(figures, n=4, method="inclusive"))


@attrs.frozen
class Outcome:
    """What came out of a scenario."""

    scenario: Scenario
    figures: dict[str, list[float]]
    """For each case that went well, a figure a round."""

    errors: dict[str, str]
    """For each case that did not, why."""

    def fastest(self, cases: Sequence[str]) -> str | None:
        """The best of these cases by its median, or None if none went well."""
        well = [case for case in cases if case in self.figures]
        return min(well, key=lambda case: statistics.median(self.figures[case]), default=None)

    def ratios(self, of: str, to: str) -> list[float]:
        """Round by round: the figure of one case divided by that of another one."""
        return [a / b for a, b in zip(self.figures[of], self.figures[to], strict=True)]


def measure(scenario: Scenario) -> Outcome:
    """Run all cases in turn, round after round, so that drift hits them alike.

    Each round begins with another case, so that nobody always runs after the same neighbour. The
    first round only warms up. A case that fails is left out from then on.
    """
    names = list(scenario.cases)
    figures: dict[str, list[float]] = {name: [] for name in names}
    errors: dict[str, str] = {}
    for number in range(scenario.rounds + 1):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            if name in errors:
                continue
            try:
                figure = scenario.cases[name]()
            except Exception as error:  # noqa: BLE001  # whatever a peer does wrong, we go on
                errors[name] = describe(error)
                del figures[name]
                print(f"{scenario.name}: {name}: {errors[name]}", file=sys.stderr)
            else:
                if number > 0:
                    figures[name].append(figure)
    return Outcome(scenario, figures, errors)


def describe(error: BaseException) -> str:
    """The type and text of an error; of a group, of the first one in it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"
