"""What can go wrong, as a table of classes.

Every error says what kind it is and whether trying again can help, and is also what a Python
or trio programmer would have caught anyway: a bad pattern is a `ValueError`, a closed bus a
`trio.ClosedResourceError`.
"""

from __future__ import annotations

import trio

from ._names.errors import (
    ErrorKind,
    EventBusError,
    InvalidEventError,
    InvalidPatternError,
    PolicyDeniedError,
)

__all__ = [
    "BusClosedError",
    "DeadlockError",
    "ErrorKind",
    "EventBusError",
    "InvalidEventError",
    "InvalidPatternError",
    "NoBusError",
    "NoSubscribersError",
    "PolicyDeniedError",
    "RequestFailedError",
    "SubscriptionLimitError",
    "SubscriptionOverflowError",
]


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


class NoSubscribersError(EventBusError):
    """Nobody would have received the request. Nothing was sent.

    Details: `system`, `kind`, `path`.
    """

    kind = ErrorKind.UNAVAILABLE
    retryable = True


class RequestFailedError(EventBusError):
    """The responder failed, or nothing is left that could answer the request.

    Details: `system`, `kind`, `path` of the request, and `reply`, the type and the text of the
    responder's exception, if there was one.
    """

    kind = ErrorKind.UNAVAILABLE
    retryable = True


class DeadlockError(EventBusError):
    """The send, or the request, has waited for a second, and would wait forever.

    Every task that could end the wait is known, waits itself, by whatever detours, for the one that
    gets this error, and none of them has a deadline. For a send to a full subscription, these are
    the tasks that have read from it; tasks that are yet to read are not known. For a request, these
    are the tasks of the handlers that it went to, and the tasks that have read from the other
    subscriptions that it went to. A send that gets this error was not sent.

    Details: `system`, `kind`: the patterns of the full subscription, or the names of the request.
    """

    kind = ErrorKind.CONFLICT
