"""What becomes of a subscription, and of the event, when the handler fails."""

from __future__ import annotations

from typing import TypeAlias, final

import attrs

from .._core.buffer import check_count
from .._event import Event
from .._subscription import Subscription


def check_seconds(name: str, value: object) -> None:
    """Require a time in seconds: a number of at least 0."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    if not value >= 0:  # nor is NaN
        raise ValueError(f"{name} must be at least 0 seconds, not {value}")
    try:
        float(value)
    except OverflowError:
        raise ValueError(f"{name} must be a number of seconds that fits a float") from None


@final
@attrs.frozen
class Propagate:
    """Let the exception leave through the supervisor, as structured concurrency wants it.

    The bus and everything in its block are cancelled, and `open_event_bus` raises the exception.
    """


@final
@attrs.frozen
class Log:
    """Log the exception with its traceback, and go on with the next event."""


@final
@attrs.frozen
class CloseSubscription:
    """Log the exception, and end the subscription as closing its channel does.

    What the handler has not been called with yet is discarded. Calls that are running finish.
    """


def _check_count(_: object, attribute: attrs.Attribute[int], value: object) -> None:
    check_count(attribute.name, value)


def _check_seconds(_: object, attribute: attrs.Attribute[float], value: object) -> None:
    check_seconds(attribute.name, value)


@final
@attrs.frozen(kw_only=True)
class Restart:
    """Log the exception, wait, and call the handler again; but not forever.

    A failure that comes when there have been `max_restarts` within the last `within` seconds is
    one too many: then the exception leaves as with `Propagate`.

    Raises:
      TypeError: If a number is not one.
      ValueError: If `max_restarts` is less than 1, or a time less than 0.
    """

    max_restarts: int = attrs.field(default=3, validator=_check_count)
    """How many restarts there may be within `within` seconds."""

    within: float = attrs.field(default=5.0, validator=_check_seconds)
    """For how many seconds a restart is held against the handler."""

    backoff: float = attrs.field(default=0.1, validator=_check_seconds)
    """Seconds to wait before the first restart; twice as long before each further one."""

    retry: bool = True
    """Whether the handler gets the same event again, or the next one."""


OnError: TypeAlias = Propagate | Log | CloseSubscription | Restart
"""What can be done about a handler that fails."""


@final
@attrs.frozen(eq=False)
class DeadLetter:
    """An event whose handling has failed for good."""

    event: Event
    """The event."""

    error: Exception
    """What the handler raised, the last time."""

    subscription: Subscription
    """The subscription whose handler it was."""


def split(error: BaseException) -> tuple[Exception | None, BaseException | None]:
    """What a handler failed with, and what is not for us to deal with, such as `Cancelled`.

    A group is treated by its members: it may have some of both.
    """
    if isinstance(error, BaseExceptionGroup):
        failure, rest = error.split(Exception)
        return failure, rest
    return (error, None) if isinstance(error, Exception) else (None, error)
