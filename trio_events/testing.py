"""Tools for the tests of applications: recorders, Hypothesis strategies, a reference matcher.

`record` collects what a subscription receives and compares it with readable differences.
`record_opened_buses` does so for buses that the code under test opens. The strategies draw names,
patterns and events, including awkward ones. Only they need Hypothesis:
`pip install 'trio-events[testing]'`.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias, final

import attrs
import trio

from ._bus import ANYBODY, EventBus
from ._core.buffer import Overflow
from ._event import Event
from ._extras import extra
from ._names.pattern import ExactPath
from ._names.permits import Permits
from ._origin import caller
from ._subscription import Subscription
from ._supervisor import opening_hooks
from ._terms import Terms

__all__ = [
    "Expected",
    "Recorder",
    "matching_pairs",
    "names",
    "patterns",
    "record",
    "record_opened_buses",
    "reference_matches",
    "sendable_events",
]

if TYPE_CHECKING:
    from ._strategies import matching_pairs, names, patterns, sendable_events
else:

    def __getattr__(name: str) -> Any:
        """Import the strategies when one is used: recorders don't need Hypothesis."""
        if name not in {"matching_pairs", "names", "patterns", "sendable_events"}:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        with extra("testing", f"{__name__}.{name}"):
            return getattr(import_module("._strategies", __package__), name)


# ------------------------------------------------------------------------------------- recording

Expected: TypeAlias = Sequence[Event] | Sequence[tuple[str, str, str]] | Sequence[str]
"""Events; or only the `(system, kind, path)` of each; or only the path of each."""


@final
@attrs.define(eq=False, repr=False)
class Recorder:
    """Collects what a subscription receives, without a task of its own.

    It reads the subscription's channel when you ask it for events, so don't read the channel
    elsewhere. An event has arrived once the bus has routed it: await `wait_for_events`, or leave
    the block of the bus, before you check.

    Args:
      subscription: The subscription to read. `record` makes a recorder with one of its own.
    """

    subscription: Subscription
    """The source of the events. Close it to end the recording."""

    _events: list[Event] = attrs.field(factory=list, init=False)
    _is_waiting: bool = attrs.field(default=False, init=False)

    @property
    def events(self) -> list[Event]:
        """A new list of all events that have arrived since the last `clear`, in order.

        Not a checkpoint.

        Raises:
          SubscriptionOverflowError: If the subscription has `Overflow.CLOSE` and was full.
          trio.BusyResourceError: If another task is in `wait_for_events`.
        """
        if self._is_waiting:
            raise trio.BusyResourceError("another task is in wait_for_events of this recorder")
        channel = self.subscription.channel()
        while True:
            try:
                self._events.append(channel.receive_nowait())
            except (trio.WouldBlock, trio.EndOfChannel):
                return self._events.copy()

    def clear(self) -> None:
        """Forget the events that have arrived so far. Not a checkpoint."""
        self._events = self.events
        self._events.clear()

    async def wait_for_events(self, count: int) -> list[Event]:
        """Wait until at least this many events have arrived since the last `clear`.

        A checkpoint, always. Cancel-safe: if cancelled, no event was lost.

        Args:
          count: The number of events.

        Returns:
          All events that have arrived, as `events` does. There can be more than `count`.

        Raises:
          AssertionError: If the subscription ended before that.
          SubscriptionOverflowError: As `events`.
          trio.BusyResourceError: As `events`.
        """
        __tracebackhide__ = True  # pytest then shows the line that called
        await trio.lowlevel.checkpoint()
        while len(self.events) < count:
            self._is_waiting = True
            try:
                self._events.append(await self.subscription.receive())
            except trio.EndOfChannel:
                raise AssertionError(
                    _listed(f"expected {count} events; the subscription ended after", self._events)
                ) from None
            finally:
                self._is_waiting = False
        return self.events

    def assert_received(self, expected: Expected) -> None:
        """Check that exactly these events have arrived since the last `clear`, in this order.

        Not a checkpoint.

        Args:
          expected: Events, which must be equal including their data; or tuples
            `(system, kind, path)`; or paths. All of one form.

        Raises:
          AssertionError: If other events have arrived; with a unified diff, one event per line.
          TypeError: If `expected` has none of these forms, or mixes them.
          SubscriptionOverflowError: As `events`.
          trio.BusyResourceError: As `events`.
        """
        __tracebackhide__ = True
        in_form = _form(expected)
        wanted, received = list(expected), list(map(in_form, self.events))
        if received == wanted:
            return
        left, right = list(map(_line, wanted)), list(map(_line, received))
        diff = list(difflib.unified_diff(left, right, "expected", "received", lineterm=""))
        if not diff:
            unequal = [i for i in range(len(wanted)) if received[i] != wanted[i]]
            diff = [f"not equal, although it looks the same: {i}: {left[i]}" for i in unequal]
        raise AssertionError(
            "\n".join([f"expected {len(wanted)} events, received {len(received)}", *diff])
        )

    def assert_contains(self, expected: Expected, *, in_order: bool = True) -> None:
        """Check that these events are among those that have arrived since the last `clear`.

        There may be others before, between and after them. An event that is expected twice must
        have arrived twice. Not a checkpoint.

        Args:
          expected: As in `assert_received`.
          in_order: Whether they must have arrived in this order.

        Raises:
          AssertionError: If one of them is missing; the message names it and lists all events.
          TypeError: As `assert_received`.
          SubscriptionOverflowError: As `events`.
          trio.BusyResourceError: As `events`.
        """
        __tracebackhide__ = True
        in_form = _form(expected)
        received = list(map(in_form, self.events))
        rest: list[object] = received.copy()
        for item in expected:
            if item not in rest:
                after = " after the ones before it" if in_order and item in received else ""
                raise AssertionError(_listed(f"expected {_line(item)}{after}, received", received))
            place = rest.index(item)
            del rest[0 if in_order else place : place + 1]

    def __repr__(self) -> str:
        return f"<Recorder of {self.subscription!r}, {len(self._events)} events>"


async def record(
    bus: EventBus,
    system: str = "**",
    kind: str | None = None,
    *,
    path: str | ExactPath | None = None,
    max_buffer_size: int = 100_000,
) -> Recorder:
    """Subscribe, and record what the subscription receives.

    A recorder never makes a sender wait. If more than `max_buffer_size` events arrive before you
    ask for them, the subscription ends, and asking raises `SubscriptionOverflowError`. For a
    `request`, a recorder is a subscriber like any other: it receives the request, and answers
    nothing.

    A checkpoint, always. Cancel-safe: if cancelled, there is no subscription.

    Args:
      bus: The bus to subscribe to.
      system: A pattern for the system of events.
      kind: A pattern for the kind of events; None matches every kind.
      path: A path, or a pattern for it, as in `EventBus.subscribe`; None matches every path.
      max_buffer_size: The number of events that may arrive before you ask for them.

    Raises:
      TypeError: If `bus` is not an `EventBus`.
      EventBusError: As `EventBus.subscribe`.
    """
    if not isinstance(bus, EventBus):
        raise TypeError(f"the bus goes first, as in record(bus, 'orders.**'), not {bus!r}")
    return Recorder(
        await bus.subscribe(
            system, kind, path=path, max_buffer_size=max_buffer_size, overflow=Overflow.CLOSE
        )
    )


@contextmanager
def record_opened_buses(
    system: str = "**",
    kind: str | None = None,
    *,
    path: str | ExactPath | None = None,
    max_buffer_size: int = 100_000,
) -> Generator[list[Recorder]]:
    """Record every bus that is opened in the block, from its first event on.

    For code that opens a bus itself: `with record_opened_buses() as recorders: trio.run(main)`, and
    then `[recorder] = recorders`. It applies to the task that enters the block, to tasks that are
    started there, and to `trio.run` there, but not to other threads. Entering and leaving are not
    checkpoints.

    The recorder subscribes before the code in the block of the bus begins. A policy doesn't
    restrict it. It counts as one of the `max_subscriptions`.

    Args:
      system: As in `record`.
      kind: As in `record`.
      path: As in `record`.
      max_buffer_size: As in `record`.

    Returns:
      A context manager for a list that gets one recorder for each bus, in the order of opening.

    Raises:
      TypeError: As `EventBus.subscribe`.
      ValueError: As `EventBus.subscribe`.
      InvalidPatternError: As `EventBus.subscribe`.
    """
    terms = Terms.of(system, kind, path, max_buffer_size, Overflow.CLOSE)
    origin = caller()
    recorders: list[Recorder] = []

    def subscribe(bus: EventBus) -> None:
        unrestricted = copy.copy(bus)
        unrestricted._permits = Permits(None, ANYBODY)
        recorders.append(Recorder(unrestricted._subscribe(terms, origin)))

    token = opening_hooks.set((*opening_hooks.get(), subscribe))
    try:
        yield recorders
    finally:
        opening_hooks.reset(token)


def _form(expected: Expected) -> Callable[[Event], object]:
    """The part of an event to compare: all of it, `(system, kind, path)`, or the path."""
    if not isinstance(expected, str):
        if all(isinstance(item, Event) for item in expected):
            return lambda event: event
        if all(isinstance(item, str) for item in expected):
            return lambda event: event.path
        if all(isinstance(item, tuple) and len(item) == 3 for item in expected):
            return lambda event: (event.system, event.kind, event.path)
    raise TypeError(
        "expected must be a list of Events, of tuples (system, kind, path), or of paths"
    )


def _line(item: object) -> str:
    return "\\n".join(repr(item).splitlines())


def _listed(message: str, events: Sequence[object]) -> str:
    return "\n".join(
        [f"{message} {len(events)} events:", *(f"  {_line(event)}" for event in events)]
    )


# -------------------------------------------------------------------------------------- patterns


def reference_matches(pattern: str, name: str) -> bool:
    """Whether the pattern matches the name, computed in the most obvious way.

    It is slow, and shares no code with the package's own matcher, which is tested against it. Test
    other implementations of the patterns against it, too. It doesn't validate its arguments.
    """
    if name.startswith("$") and pattern.startswith("*"):
        return False  # a leading wildcard doesn't match reserved names
    segments = name.split(".")
    # After each segment of the pattern: how many segments of the name may it have used up?
    used_up = {0}
    for part in pattern.split("."):
        if part == "**":  # uses any number of them
            used_up = {more for used in used_up for more in range(used, len(segments) + 1)}
        else:  # uses the next one, if there is one and if it fits
            used_up = {
                used + 1
                for used in used_up
                if used < len(segments)
                and (part == "*" or segments[used] in part.strip("()").split("|"))
            }
    return len(segments) in used_up
