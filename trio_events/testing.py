"""For the tests of applications: what a subscription receives, and names and patterns to try.

`record` and `Recorder` collect events and compare them with readable differences. The hypothesis
strategies draw names, patterns and events, awkward ones too, and `reference_matches` says in the
plainest way what a pattern matches. Needs hypothesis: `pip install 'trio-events[testing]'`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import TypeAlias, final

import attrs
import trio

from ._bus import EventBus
from ._core.buffer import Overflow
from ._event import Event
from ._subscription import Subscription

try:
    from hypothesis import strategies as st
except ModuleNotFoundError as _error:
    raise ImportError(
        "trio_events.testing needs hypothesis: pip install 'trio-events[testing]'"
    ) from _error

__all__ = [
    "Expected",
    "Recorder",
    "events",
    "matching_pairs",
    "names",
    "patterns",
    "record",
    "reference_matches",
]

# ------------------------------------------------------------------------------------- recording

Expected: TypeAlias = Sequence[Event] | Sequence[tuple[str, str, str]] | Sequence[str]
"""Events; or of each one only `(system, kind, path)`; or only the path."""


@final
@attrs.define(eq=False, repr=False)
class Recorder:
    """Collects what a subscription receives, without a task of its own.

    It reads the subscription's channel whenever it is asked, so nobody else should. Events have
    arrived when the bus has nothing left to do: after `await wait_all_tasks_blocked()`, or after
    the block of the bus.

    Args:
      subscription: What to read; see `record` for a short way to make one.
    """

    subscription: Subscription
    """Where the events come from. Closing it ends the recording."""

    _events: list[Event] = attrs.field(factory=list, init=False)

    @property
    def events(self) -> list[Event]:
        """All events that have arrived, in order, as a list of the caller's own.

        Not a checkpoint.

        Raises:
          SubscriptionOverflowError: If the subscription has `Overflow.CLOSE` and was full.
        """
        channel = self.subscription.channel()
        while True:
            try:
                self._events.append(channel.receive_nowait())
            except (trio.WouldBlock, trio.EndOfChannel):
                return self._events.copy()

    def clear(self) -> None:
        """Forget what has arrived so far. Not a checkpoint."""
        self._events = self.events
        self._events.clear()

    def assert_received(self, expected: Expected) -> None:
        """Check that exactly these events have arrived since the last `clear`, in this order.

        Not a checkpoint.

        Args:
          expected: Events, which must be equal with their data; or tuples `(system, kind, path)`;
            or paths. All of one form.

        Raises:
          AssertionError: If other events have arrived; with a unified diff, one event a line.
          TypeError: If what is expected is of no such form, or of several.
          SubscriptionOverflowError: As `events`.
        """
        __tracebackhide__ = True  # pytest then shows the line that called
        in_form = _form(expected)
        wanted, received = list(expected), list(map(in_form, self.events))
        if received == wanted:
            return
        left, right = list(map(_line, wanted)), list(map(_line, received))
        diff = list(difflib.unified_diff(left, right, "expected", "received", lineterm=""))
        if not diff:
            unequal = [i for i in range(len(wanted)) if received[i] != wanted[i]]
            diff = [f"not equal, though it looks the same: {i}: {left[i]}" for i in unequal]
        raise AssertionError(
            "\n".join([f"expected {len(wanted)} events, received {len(received)}", *diff])
        )

    def __repr__(self) -> str:
        return f"<Recorder of {self.subscription!r}, {len(self._events)} events>"


async def record(
    bus: EventBus,
    system: str = "**",
    kind: str | None = None,
    *,
    max_buffer_size: int = 100_000,
) -> Recorder:
    """Subscribe, and record what is received.

    Recording never makes a sender wait: should more events arrive than the buffer can take
    before the recorder is asked for them, the subscription ends, and asking raises.

    A checkpoint, always. Cancel-safe: if cancelled, there is no subscription.

    Args:
      bus: The bus to subscribe to.
      system: The pattern of the systems.
      kind: The pattern of the kinds; None is every kind.
      max_buffer_size: Events that may arrive between two times that the recorder is asked.

    Raises:
      TypeError: If `bus` is not an `EventBus`.
      EventBusError: As `EventBus.subscribe`.
    """
    if not isinstance(bus, EventBus):
        raise TypeError(f"the bus goes first, as in record(bus, 'orders.**'), not {bus!r}")
    return Recorder(
        await bus.subscribe(system, kind, max_buffer_size=max_buffer_size, overflow=Overflow.CLOSE)
    )


def _form(expected: Expected) -> Callable[[Event], object]:
    """What to compare of an event: itself, `(system, kind, path)`, or its path."""
    if not isinstance(expected, str):
        if all(isinstance(item, Event) for item in expected):
            return lambda event: event
        if all(isinstance(item, str) for item in expected):
            return lambda event: event.path
        if all(isinstance(item, tuple) and len(item) == 3 for item in expected):
            return lambda event: (event.system, event.kind, event.path)
    raise TypeError("what is expected must be Events, tuples (system, kind, path), or paths")


def _line(item: object) -> str:
    return "\\n".join(repr(item).splitlines())


# ---------------------------------------------------------------------------- names and patterns

_ODD_CHARACTERS = st.sampled_from(
    [
        *"abAB$",
        *" \t\n\r\0\x1b",  # "a\n" is not "a", whatever a regular expression's $ may say
        *"?+[]{}^\\-/:,'\"%#~_0",
        "\N{LATIN SMALL LETTER E WITH ACUTE}",
        "\N{COMBINING ACUTE ACCENT}",
        "\N{LATIN SMALL LETTER SHARP S}",
        "\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}",
        "\N{FULLWIDTH ASTERISK}",
        "\N{IDEOGRAPHIC FULL STOP}",
        "\N{ONE DOT LEADER}",
        "\N{RIGHT-TO-LEFT OVERRIDE}",
        "\N{LINE SEPARATOR}",
        "\N{SQUID}",
        "\ud800",  # half a surrogate pair: a str may hold it, an encoder may not
    ]
)
_WILDCARDS_ELSEWHERE = {"#", "+", ">", "?"}
_characters = _ODD_CHARACTERS | st.characters(exclude_characters="*()|.")
_reserved = st.text(_characters, max_size=5).map("${}".format)
_unreserved = st.text(_characters, min_size=1, max_size=6).filter(
    lambda text: text[0] not in "$/" and text not in _WILDCARDS_ELSEWHERE
)
_literals = st.one_of(_unreserved, _unreserved, _unreserved, _reserved)
_alternations = st.lists(_literals, min_size=1, max_size=4).map(lambda all_: f"({'|'.join(all_)})")
_segments = st.one_of(_literals, st.just("*"), st.just("**"), st.just("**"), _alternations)


def names(*, max_segments: int = 16, reserved: bool = False) -> st.SearchStrategy[str]:
    """Names that an event may have: any Unicode text, half a surrogate pair included.

    Among the characters, those are common that mean something elsewhere: to regular
    expressions, to terminals, to whatever normalises text.

    Args:
      max_segments: The most segments of a name, at least 1 and at most 16.
      reserved: Whether names may begin with `$`, as those of the bus's own events do.
    """
    first = _literals if reserved else _unreserved
    rest = st.lists(_literals, max_size=max_segments - 1)
    return st.builds(lambda first, rest: ".".join([first, *rest]), first, rest)


def patterns(*, max_segments: int = 16) -> st.SearchStrategy[str]:
    """Texts that `Pattern.parse` accepts, not often in canonical form.

    Args:
      max_segments: The most segments of a pattern, at least 1 and at most 16.
    """
    return st.lists(_segments, min_size=1, max_size=max_segments).map(".".join)


def matching_pairs(*, max_segments: int = 7) -> st.SearchStrategy[tuple[str, str]]:
    """A pattern each, and a name that it matches by construction.

    The names may begin with `$` where the patterns allow it.

    Args:
      max_segments: The most segments of a pattern, at least 1 and at most 7, so that no name has
        more than 16.
    """
    return _matching_pairs(max_segments)


@st.composite
def _matching_pairs(draw: st.DrawFn, max_segments: int) -> tuple[str, str]:
    pattern = draw(patterns(max_segments=max_segments))
    name: list[str] = []
    for segment in pattern.split("."):
        if segment == "**":
            name += draw(st.lists(_literals, max_size=2))
        elif segment == "*":
            name.append(draw(_literals if name else _unreserved))
        else:
            name.append(draw(st.sampled_from(segment.strip("()").split("|"))))
    if pattern.startswith("**") and (not name or name[0].startswith("$")):
        name.insert(0, draw(_unreserved))  # the ** takes this too
    return pattern, ".".join(name)


def events(
    *,
    systems: st.SearchStrategy[str] | None = None,
    kinds: st.SearchStrategy[str] | None = None,
    paths: st.SearchStrategy[str] | None = None,
    data: st.SearchStrategy[object] | None = None,
) -> st.SearchStrategy[Event]:
    """Events that can be sent.

    Args:
      systems: What to draw the system from; otherwise `names()`.
      kinds: What to draw the kind from; otherwise `names()`.
      paths: What to draw the path from; otherwise any text but the empty one.
      data: What to draw the data from; otherwise None, numbers and text.
    """
    return st.builds(
        Event,
        names() if systems is None else systems,
        names() if kinds is None else kinds,
        st.text(min_size=1) if paths is None else paths,
        st.none() | st.integers() | st.text() if data is None else data,
    )


def reference_matches(pattern: str, name: str) -> bool:
    """Whether the pattern matches the name, told in the plainest way.

    Slow, and shares nothing with the package's own matcher, which is tested against it; other
    implementations can be, too. Does not check that the two are a pattern and a name.
    """
    if name.startswith("$") and pattern.startswith("*"):
        return False  # what is reserved, no leading wildcard matches
    segments = name.split(".")
    # Go through the pattern: after each of its segments, how many of the name's may be used up?
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
