"""OpenTelemetry for a bus: a span for each send and each call of a handler, and metrics.

Install the extra `telemetry`. It installs the OpenTelemetry API only; the application installs the
SDK.

The names follow the semantic conventions for messaging, version 1.44.0, which are still in
development. All of them are defined in one place, below.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import Token
from functools import partial
from typing import Final, TypeAlias, final
from weakref import WeakKeyDictionary

import attrs
import trio

from ._advisories import message_of
from ._event import Event
from ._extras import extra
from ._handlers.registration import name_of
from ._handlers.staff import is_cancelled
from ._instruments import Instrument
from ._requests import Reject
from ._subscription import Subscription

with extra("telemetry", __name__):
    from opentelemetry import context, metrics, trace
    from opentelemetry.context import Context
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
    from opentelemetry.trace import (
        Link,
        Span,
        SpanContext,
        SpanKind,
        Status,
        StatusCode,
        TracerProvider,
    )

__all__ = ["Telemetry"]

# Semantic conventions for messaging, version 1.44.0 (2026-08), and names of this package.
SYSTEM: Final = "messaging.system"
OPERATION: Final = "messaging.operation.name"
OPERATION_TYPE: Final = "messaging.operation.type"
DESTINATION: Final = "messaging.destination.name"
SUBSCRIPTION: Final = "messaging.destination.subscription.name"
FUNCTION: Final = "code.function.name"
FILE: Final = "code.file.path"
ERROR: Final = "error.type"
EXCEPTION_TYPE: Final = "exception.type"
EXCEPTION_MESSAGE: Final = "exception.message"
PATH: Final = "trio_events.path"
CANCELLED: Final = "trio_events.cancelled"
REJECTED: Final = "trio_events.rejected"
SENT: Final = "messaging.client.sent.messages"
CONSUMED: Final = "messaging.client.consumed.messages"
SEND_SECONDS: Final = "messaging.client.operation.duration"
PROCESS_SECONDS: Final = "messaging.process.duration"
DROPPED: Final = "trio_events.events.dropped"
UNMATCHED: Final = "trio_events.events.unmatched"
BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_SCOPE: Final = "trio_events"

_Value: TypeAlias = str | bool | int | float


@final
@attrs.define(eq=False)
class _Sending:
    """A send in progress."""

    event: Event
    span: Span
    begun: float


@final
@attrs.define(eq=False)
class _Processing:
    """A call of a handler, or a block of `processing`, in progress."""

    span: Span
    attributes: dict[str, _Value]
    token: Token[Context]
    begun: float


@final
class Telemetry(Instrument):
    """Reports to OpenTelemetry what happens on a bus: `open_event_bus(instruments=[Telemetry()])`.

    Each send is a span, which lasts as long as the send waits, and so is each call of a handler.
    The span of the call is linked to that of the send, and is a child of it unless another span is
    current. Events sent by handlers, and by the tasks that they start, belong to the same trace.
    `data` is never reported.

    Args:
      tracer_provider: The provider for spans; None means the global one.
      meter_provider: The provider for metrics; None means the global one.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        self._tracer = trace.get_tracer(_SCOPE, tracer_provider=tracer_provider)
        meter = metrics.get_meter(_SCOPE, meter_provider=meter_provider)
        self._sent = meter.create_counter(SENT, "{message}")
        self._consumed = meter.create_counter(CONSUMED, "{message}")
        self._send_seconds = meter.create_histogram(
            SEND_SECONDS, "s", explicit_bucket_boundaries_advisory=BUCKETS
        )
        self._process_seconds = meter.create_histogram(
            PROCESS_SECONDS, "s", explicit_bucket_boundaries_advisory=BUCKETS
        )
        for name, unit, count in _OBSERVED:
            observe = partial(Telemetry._sums, count=count)
            meter.create_observable_up_down_counter(name, [_observed(self, observe)], unit)
        dropped = [_observed(self, Telemetry._dropped)]
        meter.create_observable_counter(DROPPED, dropped, "{event}")
        unmatched = [_observed(self, Telemetry._all_unmatched)]
        meter.create_observable_counter(UNMATCHED, unmatched, "{event}")
        # The contexts in which events were made, by the identity of the event.
        self._contexts: dict[int, tuple[weakref.ref[Event], SpanContext]] = {}
        self._sending: dict[int, _Sending] = {}
        self._calls: dict[trio.lowlevel.Task, _Processing] = {}
        # The span of the last call in a handler's task. What the task sends before the next call is
        # a reply, or sent by `on_dead_letter`.
        self._last_calls: WeakKeyDictionary[trio.lowlevel.Task, SpanContext] = WeakKeyDictionary()
        self._subscriptions: dict[Subscription, str] = {}  # and their patterns
        self._dropped_before: dict[str, int] = {}  # by those that have been closed
        self._unmatched = 0

    # Spans

    def before_send(self, event: Event) -> None:
        """See `Instrument`."""
        span = self._tracer.start_span(
            f"send {event.system}/{event.kind}",
            context=self._after_call(),
            kind=SpanKind.PRODUCER,
            attributes={**_attributes(event, "send"), PATH: event.path},
        )
        key, contexts = id(event), self._contexts  # the callback must not keep the bus alive
        reference = weakref.ref(event, lambda _: contexts.pop(key, None))
        contexts[key] = reference, span.get_span_context()
        self._sending[key] = _Sending(event, span, time.perf_counter())

    def _after_call(self) -> Context | None:
        """The context of a send by a handler's task outside of a call."""
        if _is_in_span() or not trio.lowlevel.in_trio_task():
            return None
        last = self._last_calls.get(trio.lowlevel.current_task())
        return None if last is None else trace.set_span_in_context(trace.NonRecordingSpan(last))

    def after_send(self, event: Event, error: BaseException | None) -> None:
        """See `Instrument`."""
        sending = self._sending.pop(id(event))
        attributes = _attributes(event, "send")
        _end(sending.span, attributes, error)
        self._sent.add(1, attributes)
        self._send_seconds.record(time.perf_counter() - sending.begun, attributes)

    def before_handler(self, event: Event, subscription: Subscription) -> None:
        """See `Instrument`."""
        attributes = _attributes(event, "process")
        attributes[SUBSCRIPTION] = _patterns(subscription)
        places: dict[str, _Value] = {FUNCTION: name_of(subscription.handler)}
        places[FILE] = subscription.origin.rpartition(":")[0]
        self._calls[trio.lowlevel.current_task()] = self._begin(event, attributes, places)

    def after_handler(
        self, event: Event, subscription: Subscription, error: BaseException | None
    ) -> None:
        """See `Instrument`."""
        task = trio.lowlevel.current_task()
        processing = self._calls.pop(task)
        self._last_calls[task] = processing.span.get_span_context()
        self._finish(processing, error)

    @contextmanager
    def processing(self, event: Event) -> Iterator[None]:
        """Report the block as a call of a handler is reported, for tasks that read in a loop.

        Not a checkpoint.

        Args:
          event: The event that the block processes.
        """
        processing = self._begin(event, _attributes(event, "process"), {})
        try:
            yield
        except BaseException as error:
            self._finish(processing, error)
            raise
        else:
            self._finish(processing, None)

    def _begin(
        self, event: Event, attributes: dict[str, _Value], more: dict[str, _Value]
    ) -> _Processing:
        made = self._contexts.get(id(event))
        created = None if made is None else made[1]
        parent = None
        if created is not None and not _is_in_span():
            parent = trace.set_span_in_context(trace.NonRecordingSpan(created))
        span = self._tracer.start_span(
            f"process {event.system}/{event.kind}",
            context=parent,
            kind=SpanKind.CONSUMER,
            links=[] if created is None else [Link(created)],
            attributes={**attributes, **more, PATH: event.path},
        )
        token = context.attach(trace.set_span_in_context(span))
        return _Processing(span, attributes, token, time.perf_counter())

    def _finish(self, processing: _Processing, error: BaseException | None) -> None:
        context.detach(processing.token)
        _end(processing.span, processing.attributes, error)
        self._consumed.add(1, processing.attributes)
        self._process_seconds.record(time.perf_counter() - processing.begun, processing.attributes)

    # Observed metrics. They are computed from copies, in the thread of an exporter, and never by
    # calling into trio, whose thread may be the one that waits for the exporter.

    def subscription_opened(self, subscription: Subscription) -> None:
        """See `Instrument`."""
        self._subscriptions[subscription] = _patterns(subscription)

    def subscription_closed(self, subscription: Subscription) -> None:
        """See `Instrument`."""
        patterns = self._subscriptions.pop(subscription)
        dropped = subscription.statistics().dropped
        self._dropped_before[patterns] = self._dropped_before.get(patterns, 0) + dropped

    def events_unmatched(self, events: Sequence[Event]) -> None:
        """See `Instrument`."""
        self._unmatched += len(events)

    def _sums(
        self, count: Callable[[Subscription], int], before: dict[str, int] | None = None
    ) -> list[Observation]:
        sums = {} if before is None else before.copy()
        for subscription, patterns in tuple(self._subscriptions.items()):
            sums[patterns] = sums.get(patterns, 0) + count(subscription)
        return [
            Observation(number, {SYSTEM: _SCOPE, SUBSCRIPTION: patterns})
            for patterns, number in sums.items()
        ]

    def _dropped(self) -> list[Observation]:
        return self._sums(
            lambda subscription: subscription.statistics().dropped, self._dropped_before
        )

    def _all_unmatched(self) -> list[Observation]:
        return [Observation(self._unmatched, {SYSTEM: _SCOPE})]


_OBSERVED: Final[tuple[tuple[str, str, Callable[[Subscription], int]], ...]] = (
    ("trio_events.events.unread", "{event}", lambda s: s.statistics().queued),
    ("trio_events.events.held", "{event}", lambda s: s.statistics().held),
    ("trio_events.senders.waiting", "{sender}", lambda s: s.statistics().tasks_waiting_send),
    ("trio_events.subscriptions", "{subscription}", lambda _: 1),
)


def _observed(
    telemetry: Telemetry, observe: Callable[[Telemetry], list[Observation]]
) -> Callable[[CallbackOptions], list[Observation]]:
    reference = weakref.ref(telemetry)  # a provider keeps its callbacks forever

    def callback(_: CallbackOptions) -> list[Observation]:
        telemetry = reference()
        return [] if telemetry is None else observe(telemetry)

    return callback


def _is_in_span() -> bool:
    return trace.get_current_span().get_span_context().is_valid


def _attributes(event: Event, operation: str) -> dict[str, _Value]:
    return {
        SYSTEM: _SCOPE,
        OPERATION: operation,
        OPERATION_TYPE: operation,
        DESTINATION: f"{event.system}/{event.kind}",
    }


def _patterns(subscription: Subscription) -> str:
    """Its patterns for system and kind. For metrics, there are too many paths."""
    return f"{subscription.system}/{subscription.kind or '**'}"


def _end(span: Span, attributes: dict[str, _Value], error: BaseException | None) -> None:
    """End a span, and add the error to the attributes."""
    if error is not None and is_cancelled(error):
        span.set_attribute(CANCELLED, True)
    elif isinstance(error, Reject):  # a rejection is not a failure
        span.set_attribute(REJECTED, True)
    elif error is not None:
        name, text = type(error).__qualname__, message_of(error)
        attributes[ERROR] = name
        span.set_attribute(ERROR, name)
        try:
            span.record_exception(error)
        except Exception:  # noqa: BLE001  # it calls the `str` of the error, which may raise
            span.add_event("exception", {EXCEPTION_TYPE: name, EXCEPTION_MESSAGE: text})
        span.set_status(Status(StatusCode.ERROR, text))
    span.end()
