"""The errors of this package.

Each error has a category and says whether a retry can help. Most are also a built-in or trio
exception: a bad pattern is a `ValueError`, a closed bus a `trio.ClosedResourceError`.
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
    """The caller has no bus: it is outside of every `open_event_bus` block, or outside of trio."""

    kind = ErrorKind.UNAVAILABLE


class BusClosedError(EventBusError, trio.ClosedResourceError):
    """The bus was closed, before the call or while it waited. Nothing was sent."""

    kind = ErrorKind.UNAVAILABLE


class SubscriptionLimitError(EventBusError):
    """The bus already has `max_subscriptions` open subscriptions.

    Usually this is because subscriptions are not being closed.

    Details: `max_subscriptions`.
    """

    kind = ErrorKind.UNAVAILABLE
    retryable = True


class SubscriptionOverflowError(EventBusError, trio.BrokenResourceError):
    """The buffer of a subscription with `Overflow.CLOSE` was full, so the subscription ended.

    `receive` raises this after the buffered events have been read. To go on, subscribe again.

    Details: `system`, `kind`, `max_buffer_size`.
    """

    kind = ErrorKind.UNAVAILABLE
    retryable = True


class NoSubscribersError(EventBusError):
    """No subscription would have received the request. Nothing was sent.

    Details: `system`, `kind`, `path`.
    """

    kind = ErrorKind.UNAVAILABLE
    retryable = True


class RequestFailedError(EventBusError):
    """The responder failed, or the request can't be answered any more.

    Details: `system`, `kind` and `path` of the request; and `reply`, the type and the text of the
    responder's exception, if there was one.
    """

    kind = ErrorKind.UNAVAILABLE
    retryable = True


class DeadlockError(EventBusError):
    """A send or a request has waited for a second, and would wait forever.

    Every task that could end the wait is itself waiting, directly or indirectly, for the task that
    gets this error, and none of them has a deadline. For a send to a full subscription, these are
    the tasks that have read from it so far. For a request, these are the handlers that received it,
    and the tasks that have read from other subscriptions that received it. A send that raises this
    was not sent.

    Details: `system`, `kind`: the patterns of the full subscription, or the names of the request.
    """

    kind = ErrorKind.CONFLICT
