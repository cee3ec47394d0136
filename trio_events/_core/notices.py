"""Facts for people, told when a change of state is complete. The log is one listener."""

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
    """A subscription or a history, as a notice needs it."""

    def description(self) -> str:
        """Its patterns, and the line that made it."""


@final
@attrs.frozen
class LossBegan:
    """A subscription was full and has dropped its first event of an episode."""

    level: ClassVar = logging.WARNING
    subscription: Described
    unread: int
    overflow: str

    def __str__(self) -> str:
        which = "the oldest" if self.overflow in ("drop_oldest", "latest") else "further"
        return (
            f"{self.subscription.description()} is full: unread events: {self.unread}, "
            f"{which} ones are lost ({self.overflow})"
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
            f"{self.history.description()} is full: events kept: {self.max_events}, those of the "
            "paths that were sent to least recently are lost"
        )


@final
@attrs.frozen
class LossEnded:
    """An episode of loss is over."""

    level: ClassVar = logging.INFO
    subscription: Described
    lost: int

    def __str__(self) -> str:
        return f"{self.subscription.description()}: events lost since it was full: {self.lost}"


@final
@attrs.frozen
class SendersStalled:
    """Sends have been waiting for room in a subscription."""

    level: ClassVar = logging.WARNING
    subscription: Described
    waiting: int
    seconds: float
    """How long the first of them has waited."""

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
    """How long that one has waited."""

    whereabouts: str
    """Which subscriptions got it, and what they are doing."""

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
        return f"send_soon: events refused: {self.refused}, the last by {self.error!r}"


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
    """A handler was stopped before it was done."""

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
    """What a bridge has to report about its log."""

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
        return f"{self.consumer}: {self.reason}; cancelled while it was working"


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
        return f"{self.instrument}.{self.method} raised, so the bus goes on without the instrument"


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
"""More frames than any step has above its own, trio's included."""


def reserve_stack(more: int = 0) -> None:
    """Require room on the stack for a step, which a `RecursionError` would leave half done.

    Args:
      more: Frames beyond those of a step, for a caller who has to be able to call one later.

    Raises:
      RecursionError: If there is none.
    """
    try:
        sys._getframe(sys.getrecursionlimit() - _FRAMES - more)
    except ValueError:  # there are fewer frames
        return
    raise RecursionError("maximum recursion depth is too near for an operation on an event bus")


@final
class Notices:
    """The steps in which the state of a bus changes, and what has to wait for the end of one.

    Telling a listener runs code that isn't the bus's, and so does letting go of an event, whose
    data may have a destructor. That code may use the bus, so it has to find it in a complete
    state: `with notices:` around a step puts it off until the outermost step has ended. Code that
    runs within a step all the same, because the garbage collector or a signal handler called it,
    changes the state by `after_step`.
    """

    __slots__ = ("_depth", "_leftovers", "_pending", "_telling", "listeners")

    def __init__(self) -> None:
        self.listeners: list[Callable[[Notice], None]] = [log_notice]
        self._depth = 0
        self._telling = False
        self._pending: deque[Notice | Callable[[], None]] = deque()
        self._leftovers: list[object] = []

    def add(self, notice: Notice) -> None:
        """Tell this when the step has ended, or at once outside of any step."""
        with self:
            self._pending.append(notice)

    def keep(self, leftovers: Iterable[object]) -> None:
        """Let go of these objects when the step has ended."""
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
            del leftovers  # which may add to `_pending`
            while self._pending:
                notice = self._pending.popleft()
                if callable(notice):
                    notice()
                    continue
                for listener in tuple(self.listeners):
                    try:
                        listener(notice)
                    except Exception:  # noqa: BLE001  # shown as the logging module shows its own
                        traceback.print_exc()
