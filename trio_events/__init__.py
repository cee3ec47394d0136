"""An event bus for trio: exact order, precise backpressure, counted loss."""

from ._ambient import send, subscribe
from ._bus import EventBus, EventBusStatistics, open_event_bus
from ._errors import (
    BusClosedError,
    DeadlockError,
    ErrorKind,
    EventBusError,
    InvalidEventError,
    InvalidPatternError,
    NoBusError,
    PolicyDeniedError,
    SubscriptionLimitError,
    SubscriptionOverflowError,
)
from ._event import Event
from ._overflow import Overflow
from ._pattern import Pattern
from ._policy import Action, Allow, Deny, Policy, RulePolicy
from ._subscription import (
    EventBatches,
    EventChannel,
    EventChannelStatistics,
    EventIterator,
    Subscription,
    SubscriptionStatistics,
)

__all__ = [
    "Action",
    "Allow",
    "BusClosedError",
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
    "InvalidEventError",
    "InvalidPatternError",
    "NoBusError",
    "Overflow",
    "Pattern",
    "Policy",
    "PolicyDeniedError",
    "RulePolicy",
    "Subscription",
    "SubscriptionLimitError",
    "SubscriptionOverflowError",
    "SubscriptionStatistics",
    "open_event_bus",
    "send",
    "subscribe",
]
