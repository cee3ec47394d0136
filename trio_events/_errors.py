"""What can go wrong, as a table of classes.

Every error says what kind it is and whether trying again can help, and is also what a Python
or trio programmer would have caught anyway: a bad pattern is a `ValueError`, a closed bus a
`trio.ClosedResourceError`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import ClassVar

import trio


class ErrorKind(enum.Enum):
    """What an `EventBusError` is about, for callers that decide by kind."""

    INVALID = "invalid"
    """The request itself is wrong or not allowed: change it."""

    UNAVAILABLE = "unavailable"
    """What was asked for cannot be had now, or no longer."""

    CONFLICT = "conflict"
    """The request contradicts what its own caller is doing."""


class EventBusError(Exception):
    """The root of all errors of this package.

    Args:
      message: What happened, naming the value and the rule.
      details: The same facts, for programs.
    """

    kind: ClassVar[ErrorKind]
    """What the error is about."""

    retryable: ClassVar[bool] = False
    """Whether the same call may succeed later, with nothing changed by the caller."""

    details: Mapping[str, object]
    """The facts behind the message, by name. Which ones depends on the class."""

    def __init__(self, message: str, /, **details: object) -> None:
        super().__init__(message)
        self.details = details


class InvalidEventError(EventBusError, ValueError):
    """A send named a system, a kind or a path that no event can have.

    Details: `field`, `value`.
    """

    kind = ErrorKind.INVALID


class InvalidPatternError(EventBusError, ValueError):
    """A text is not a pattern.

    Details: `pattern`, `position`.
    """

    kind = ErrorKind.INVALID

    @property
    def position(self) -> int:
        """The index in the text of the character that is wrong."""
        position = self.details["position"]
        assert isinstance(position, int)
        return position


class PolicyDeniedError(EventBusError, PermissionError):
    """The bus's policy does not allow this. Nothing has happened.

    INVALID, as in the original: asking again gives the same answer.

    Details: `actor`, `action`, `system`.
    """

    kind = ErrorKind.INVALID


class NoBusError(EventBusError, RuntimeError):
    """There is no bus here: the caller is outside every `open_event_bus`, or outside trio."""

    kind = ErrorKind.UNAVAILABLE


class BusClosedError(EventBusError, trio.ClosedResourceError):
    """The bus has been closed, before or while the caller waited. Nothing was sent."""

    kind = ErrorKind.UNAVAILABLE


class SubscriptionLimitError(EventBusError):
    """The bus has `max_subscriptions` open subscriptions: most likely somebody forgets to close.

    Details: `max_subscriptions`.
    """

    kind = ErrorKind.UNAVAILABLE
    retryable = True


class SubscriptionOverflowError(EventBusError, trio.BrokenResourceError):
    """The buffer of a subscription with `Overflow.CLOSE` was full, so the subscription ended.

    Raised by `receive` after everything that was buffered has been read. Subscribing again is
    the way to go on.

    Details: `system`, `kind`, `max_buffer_size`.
    """

    kind = ErrorKind.UNAVAILABLE
    retryable = True


class EventDataError(EventBusError, TypeError):
    """An event had data of another type than its subscription promised, and so that one ended.

    Raised by `receive` after everything that came before has been read, and only if the
    subscription was made with `check_data=True`. The sender notices nothing.

    Details: `system`, `kind`, `event`.
    """

    kind = ErrorKind.INVALID


class NoSubscribersError(EventBusError):
    """Nobody would have received the request. Nothing was sent.

    Details: `system`, `kind`, `path`.
    """

    kind = ErrorKind.UNAVAILABLE
    retryable = True


class DeadlockError(EventBusError):
    """The sender would wait for room that nobody can make. Nothing was sent.

    Only the sender itself has ever read from the full subscription, or only a task that waits, by
    whatever detours, for the sender. Tasks that are yet to read from it are not known.

    Details: `system`, `kind`: the patterns of the full subscription.
    """

    kind = ErrorKind.CONFLICT
