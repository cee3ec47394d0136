"""An event bus for trio: exact order, precise backpressure, counted loss."""

from typing import TYPE_CHECKING
from typing import get_type_hints as _get_type_hints

from ._ambient import (
    expect,
    include,
    is_wanted,
    on,
    open_history,
    reply,
    request,
    send,
    serve,
    start,
    start_soon,
    subscribe,
    use,
    wait_for,
)
from ._bus import EventBus, EventBusStatistics
from ._core.buffer import Overflow
from ._errors import (
    BusClosedError,
    DeadlockError,
    ErrorKind,
    EventBusError,
    InvalidEventError,
    InvalidPatternError,
    NoBusError,
    NoSubscribersError,
    PolicyDeniedError,
    RequestFailedError,
    SubscriptionLimitError,
    SubscriptionOverflowError,
)
from ._event import Event
from ._handlers.registration import HandlerSet
from ._handlers.supervision import CloseSubscription, DeadLetter, Log, Propagate, Retry
from ._history import History, HistoryStatistics
from ._names.pattern import ExactPath, Pattern
from ._names.policy import Action, Allow, Deny, Policy, RulePolicy
from ._requests import EventWaiter, Reject
from ._subscription import (
    EventBatches,
    EventChannel,
    EventChannelStatistics,
    EventIterator,
    Subscription,
    SubscriptionStatistics,
)
from ._supervisor import open_event_bus

__all__ = [
    "Action",
    "Allow",
    "BusClosedError",
    "CloseSubscription",
    "DeadLetter",
    "DeadlockError",
    "Deny",
    "ErrorKind",
    "Event",
    "EventBatches",
    "EventBus",
    "EventBusError",
    "EventBusStatistics",
    "EventChannel",
    "EventChannelStatistics",
    "EventIterator",
    "EventWaiter",
    "ExactPath",
    "HandlerSet",
    "History",
    "HistoryStatistics",
    "InvalidEventError",
    "InvalidPatternError",
    "Log",
    "NoBusError",
    "NoSubscribersError",
    "Overflow",
    "Pattern",
    "Policy",
    "PolicyDeniedError",
    "Propagate",
    "Reject",
    "RequestFailedError",
    "Retry",
    "RulePolicy",
    "Subscription",
    "SubscriptionLimitError",
    "SubscriptionOverflowError",
    "SubscriptionStatistics",
    "expect",
    "include",
    "is_wanted",
    "on",
    "open_event_bus",
    "open_history",
    "reply",
    "request",
    "send",
    "serve",
    "start",
    "start_soon",
    "subscribe",
    "use",
    "wait_for",
]

if TYPE_CHECKING:
    __version__: str
else:

    def __getattr__(name: str) -> str:
        """Look up the version only when it is needed: importlib.metadata is slow to import."""
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib.metadata import version  # noqa: PLC0415  # see above

        return version("trio-events")


# Tracebacks, `repr` and pickles show `trio_events.X`, which can be imported, and not the file.
for _name in __all__:
    _value = globals()[_name]
    if isinstance(_value, type):  # its annotations are texts that refer to names in that file
        _value.__annotations__ = _get_type_hints(_value, include_extras=True)
    _value.__module__ = __name__
del TYPE_CHECKING, _name, _value
