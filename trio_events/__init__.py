"""An event bus for trio: exact order, precise backpressure, counted loss."""

from typing import TYPE_CHECKING

from ._advisories import (
    AccessDenied,
    BusEnding,
    DeadlockRefused,
    EventUnmatched,
    HandlerSlow,
    HandlingFailed,
    LossOver,
    LossStarted,
    RequestsWaiting,
    SendersWaiting,
    SendRefused,
    SubscriptionClosed,
    SubscriptionOpened,
)
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
from ._event import Event, Source
from ._handlers.registration import HandlerSet
from ._handlers.supervision import CloseSubscription, DeadLetter, Log, Propagate, Retry
from ._history import History, HistoryStatistics
from ._instruments import Instrument
from ._names.pattern import ExactPath, Pattern
from ._names.policy import Action, Allow, Deny, Policy, RulePolicy
from ._public import show_under as _show_under
from ._requests import EventWaiter, Reject
from ._subscription import (
    EventBatches,
    EventChannel,
    EventChannelStatistics,
    EventIterator,
    Subscription,
    SubscriptionStatistics,
    WaitingSender,
)
from ._supervisor import open_event_bus

__all__ = [
    "AccessDenied",
    "Action",
    "Allow",
    "BusClosedError",
    "BusEnding",
    "CloseSubscription",
    "DeadLetter",
    "DeadlockError",
    "DeadlockRefused",
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
    "EventUnmatched",
    "EventWaiter",
    "ExactPath",
    "HandlerSet",
    "HandlerSlow",
    "HandlingFailed",
    "History",
    "HistoryStatistics",
    "Instrument",
    "InvalidEventError",
    "InvalidPatternError",
    "Log",
    "LossOver",
    "LossStarted",
    "NoBusError",
    "NoSubscribersError",
    "Overflow",
    "Pattern",
    "Policy",
    "PolicyDeniedError",
    "Propagate",
    "Reject",
    "RequestFailedError",
    "RequestsWaiting",
    "Retry",
    "RulePolicy",
    "SendRefused",
    "SendersWaiting",
    "Source",
    "Subscription",
    "SubscriptionClosed",
    "SubscriptionLimitError",
    "SubscriptionOpened",
    "SubscriptionOverflowError",
    "SubscriptionStatistics",
    "WaitingSender",
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


_show_under(__name__, map(globals().__getitem__, __all__))
del TYPE_CHECKING
