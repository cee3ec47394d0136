"""An event bus for trio: exact order, precise backpressure, counted loss."""

from ._ambient import expect, include, on, request, send, subscribe, wait_for
from ._bus import EventBus, EventBusStatistics, open_event_bus
from ._errors import (
    BusClosedError,
    DeadlockError,
    ErrorKind,
    EventBusError,
    EventDataError,
    InvalidEventError,
    InvalidPatternError,
    NoBusError,
    NoSubscribersError,
    PolicyDeniedError,
    SubscriptionLimitError,
    SubscriptionOverflowError,
)
from ._event import Event
from ._handlers import HandlerSet
from ._names.pattern import ExactPath, Pattern
from ._names.policy import Action, Allow, Deny, Policy, RulePolicy
from ._overflow import Overflow
from ._subscription import (
    EventBatches,
    EventChannel,
    EventChannelStatistics,
    EventIterator,
    Subscription,
    SubscriptionStatistics,
)
from ._supervision import CloseSubscription, DeadLetter, Log, Propagate, Restart
from ._waiter import EventWaiter

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
    "EventDataError",
    "EventIterator",
    "EventWaiter",
    "ExactPath",
    "HandlerSet",
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
    "Restart",
    "RulePolicy",
    "Subscription",
    "SubscriptionLimitError",
    "SubscriptionOverflowError",
    "SubscriptionStatistics",
    "expect",
    "include",
    "on",
    "open_event_bus",
    "request",
    "send",
    "subscribe",
    "wait_for",
]
