"""Notices for people, delivered when a change of state is complete. The log is one listener."""

from __future__ import annotations

import logging
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import ClassVar, Final, Protocol, TypeAlias, final

import attrs

_log: Final = logging.getLogger("trio_events")
_bridge_log: Final = logging.getLogger("trio_events.bridge")


class Described(Protocol):
    """A subscription or a history, as notices describe it."""

    def description(self) -> str:
        """Its patterns, and the line that created it."""


@final
@attrs.frozen
class LossBegan:
    """A subscription was full and has dropped its first event of an episode."""

    level: ClassVar = logging.WARNING
    subscription: Described
    unread: int
    overflow: str

    def __str__(self) -> str:
        which = "the oldest" if self.overflow in ("drop_oldest", "latest") else "new"
        return (
            f"{self.subscription.description()} is full and drops {which} events "
            f"({self.overflow}); unread events: {self.unread}"
        )


@final
@attrs.frozen
class EvictionBegan:
    """A history was full and has lost its first event of an episode."""

    level: ClassVar = logging.WARNING
    history: Described
    max_events: int

    def __str__(self) -> str:
        return (
            f"{self.history.description()} is full and drops events of the paths that were sent to "
            f"least recently; events kept: {self.max_events}"
        )


@final
@attrs.frozen
class LossEnded:
    """An episode of loss is over."""

    level: ClassVar = logging.INFO
    subscription: Described
    lost: int

    def __str__(self) -> str:
        return (
            f"{self.subscription.description()} has stopped dropping events; dropped: {self.lost}"
        )


@final
@attrs.frozen
class SendersStalled:
    """Sends have been waiting for room in a subscription."""

    level: ClassVar = logging.WARNING
    subscription: Described
    waiting: int
    seconds: float
    """How long the first of them has been waiting."""

    def __str__(self) -> str:
        return (
            f"{self.subscription.description()} is full: senders waiting for room: "
            f"{self.waiting}, the first for {self.seconds:.0f} s"
        )


@final
@attrs.frozen
class RequestsStalled:
    """Requests of one system and kind have been waiting for replies."""

    level: ClassVar = logging.WARNING
    first: str
    """The system, kind and path of the one that has waited longest."""

    waiting: int
    seconds: float
    """How long that one has been waiting."""

    whereabouts: str
    """The subscriptions that received it, and what they are doing."""

    def __str__(self) -> str:
        others = f", and {self.waiting - 1} others" if self.waiting > 1 else ""
        return (
            f"no reply for {self.seconds:.0f} s to the request {self.first}{others}: "
            f"{self.whereabouts}"
        )


@final
@attrs.frozen
class SendsRefused:
    """`send_soon` couldn't send."""

    level: ClassVar = logging.WARNING
    refused: int
    error: Exception

    def __str__(self) -> str:
        return f"send_soon: events refused: {self.refused}, the last because of {self.error!r}"


@final
@attrs.frozen
class HandlerFailed:
    """A handler raised, and the exception doesn't leave through the supervisor."""

    level: ClassVar = logging.ERROR
    subscription: Described
    handler: str
    event: str
    """Its system, kind and path."""

    error: Exception
    consequence: str = ""

    def __str__(self) -> str:
        return (
            f"{self.subscription.description()}: {self.handler} failed for {self.event}"
            f"{self.consequence}"
        )


@final
@attrs.frozen
class HandlerEnded:
    """A handler gets no more events, because its subscription ended with an error."""

    level: ClassVar = logging.ERROR
    reason: Exception

    def __str__(self) -> str:
        return str(self.reason)


@final
@attrs.frozen
class HandlerLasts:
    """A call of a handler has been running for long."""

    level: ClassVar = logging.WARNING
    subscription: Described
    handler: str
    event: str
    """Its system, kind and path."""

    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.subscription.description()}: {self.handler} has been running for "
            f"{self.seconds:.0f} s, for {self.event}"
        )


@final
@attrs.frozen
class WorkLeft:
    """A handler was cancelled before it had finished."""

    level: ClassVar = logging.WARNING
    subscription: Described
    handler: str
    reason: str
    calls: int
    events: int

    def __str__(self) -> str:
        return (
            f"{self.subscription.description()}: {self.reason}; calls of {self.handler} "
            f"cancelled: {self.calls}, events discarded: {self.events}"
        )


@final
@attrs.frozen
class BridgeReport:
    """A report by a bridge about its log."""

    level: int
    text: str

    def __str__(self) -> str:
        return self.text


@final
@attrs.frozen
class ConsumerCancelled:
    """A consumer was cancelled while it was working."""

    level: ClassVar = logging.WARNING
    consumer: str
    """Its name, and the line that started it."""

    reason: str

    def __str__(self) -> str:
        return f"{self.consumer} was cancelled while it was working: {self.reason}"


@final
@attrs.frozen
class EventsLeft:
    """Consumers were cancelled before they had read all events."""

    level: ClassVar = logging.WARNING
    subscription: Described
    reason: str
    events: int

    def __str__(self) -> str:
        return f"{self.subscription.description()}: {self.reason}; unread events: {self.events}"


@final
@attrs.frozen
class InstrumentFailed:
    """A method of an instrument raised, so the instrument was removed."""

    level: ClassVar = logging.ERROR
    instrument: str
    method: str
    error: BaseException

    def __str__(self) -> str:
        return f"{self.instrument}.{self.method} raised, so the instrument was removed"


Notice: TypeAlias = (
    LossBegan
    | LossEnded
    | EvictionBegan
    | SendersStalled
    | RequestsStalled
    | SendsRefused
    | HandlerFailed
    | HandlerEnded
    | HandlerLasts
    | WorkLeft
    | ConsumerCancelled
    | EventsLeft
    | InstrumentFailed
    | BridgeReport
)


def log_notice(notice: Notice) -> None:
    """Write a notice to the log."""
    error = notice.error if isinstance(notice, HandlerFailed | InstrumentFailed) else None
    log = _bridge_log if isinstance(notice, BridgeReport) else _log
    log.log(notice.level, "%s", notice, exc_info=error)


_FRAMES: Final = 40
"""More frames than any step needs above its own, including trio's."""


def reserve_stack(more: int = 0) -> None:
    """Require room on the stack for a step, which a `RecursionError` would leave incomplete.

    Args:
      more: Additional frames, for a caller that must be able to take a step later.

    Raises:
      RecursionError: If there isn't enough room.
    """
    try:
        sys._getframe(sys.getrecursionlimit() - _FRAMES - more)
    except ValueError:  # there are fewer frames
        return
    raise RecursionError("too close to the maximum recursion depth to use an event bus")


@final
class Notices:
    """The steps in which the state of a bus changes, and the work that must wait until one ends.

    Calling a listener runs code that isn't part of the bus, and so does releasing an event, whose
    data may have a destructor. That code may use the bus, so it must find it in a complete state:
    `with notices:` around a step postpones it until the outermost step has ended. Some code runs
    within a step anyway, because the garbage collector or a signal handler calls it; it changes the
    state through `after_step`.
    """

    __slots__ = ("_depth", "_leftovers", "_pending", "_telling", "listeners")

    def __init__(self) -> None:
        self.listeners: list[Callable[[Notice], None]] = [log_notice]
        self._depth = 0
        self._telling = False
        self._pending: deque[Notice | Callable[[], None]] = deque()
        self._leftovers: list[object] = []

    def add(self, notice: Notice) -> None:
        """Deliver a notice when the step has ended, or at once outside of any step."""
        with self:
            self._pending.append(notice)

    def keep(self, leftovers: Iterable[object]) -> None:
        """Keep these objects alive until the step has ended."""
        self._leftovers += leftovers

    def after_step(self, operation: Callable[[], None]) -> None:
        """Call an operation when the step has ended, or at once outside of any step."""
        if self._depth:
            self._pending.append(operation)
        else:
            operation()

    def __enter__(self) -> None:
        if not self._depth:
            reserve_stack()
        self._depth += 1

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._depth -= 1
        if not self._depth and not self._telling and (self._pending or self._leftovers):
            self._telling = True
            try:
                self._tell()
            finally:
                self._telling = False

    def _tell(self) -> None:
        while self._pending or self._leftovers:
            self._leftovers, leftovers = [], self._leftovers
            del leftovers  # their destructors may add to `_pending`
            while self._pending:
                notice = self._pending.popleft()
                if callable(notice):
                    notice()
                    continue
                for listener in tuple(self.listeners):
                    try:
                        listener(notice)
                    except Exception:  # noqa: BLE001  # printed, as the logging module does
                        traceback.print_exc()
