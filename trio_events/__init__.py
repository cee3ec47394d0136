"""An event bus for trio: exact order, precise backpressure, counted loss."""

from ._advisories import (
    AccessDenied,
    BusEnding,
    DeadlockRefused,
    EventUnmatched,
    HandlingFailed,
    LossOver,
    LossStarted,
    SendersWaiting,
    SendRefused,
    SubscriptionClosed,
    SubscriptionOpened,
)
from ._ambient import expect, include, is_wanted, on, request, send, subscribe, use, wait_for
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
    SubscriptionLimitError,
    SubscriptionOverflowError,
)
from ._event import Event
from ._handlers.registration import HandlerSet
from ._handlers.supervision import CloseSubscription, DeadLetter, Log, Propagate, Restart
from ._instruments import Instrument
from ._names.pattern import ExactPath, Pattern
from ._names.policy import Action, Allow, Deny, Policy, RulePolicy
from ._requests import EventWaiter
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
    "HandlingFailed",
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
    "Restart",
    "RulePolicy",
    "SendRefused",
    "SendersWaiting",
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
    "request",
    "send",
    "subscribe",
    "use",
    "wait_for",
]
