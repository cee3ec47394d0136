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


class DeadlockError(EventBusError):
    """The send has waited for a second, and would wait forever. Nothing was sent.

    Every task that has ever read from the full subscription waits itself, by whatever detours, for
    the sender, and none of them has a deadline. Tasks that are yet to read from it are not known.

    Details: `system`, `kind`: the patterns of the full subscription.
    """

    kind = ErrorKind.CONFLICT
