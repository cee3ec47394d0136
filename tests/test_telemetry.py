"""OpenTelemetry: which spans there are, whose children, with what, and what is counted."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import attrs
import pytest
import trio
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_events as events
from trio_events import (
    BusClosedError,
    Event,
    EventBus,
    Log,
    Overflow,
    PolicyDeniedError,
    Reject,
    Retry,
    RulePolicy,
    open_event_bus,
)
from trio_events.telemetry import REJECTED, Telemetry


@attrs.define
class Seen:
    """What an application's exporters get."""

    exporter: InMemorySpanExporter
    reader: InMemoryMetricReader
    tracer: trace.Tracer
    telemetry: Telemetry

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span

    def parent_of(self, span: ReadableSpan) -> str | None:
        if span.parent is None:
            return None
        names = {each.context.span_id: each.name for each in self.spans if each.context}
        return names[span.parent.span_id]

    def traces(self) -> int:
        return len({span.context.trace_id for span in self.spans if span.context})

    def metrics(self) -> dict[str, list[tuple[dict[str, Any], Any]]]:
        data = self.reader.get_metrics_data()
        found: dict[str, list[tuple[dict[str, Any], Any]]] = {}
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    found[metric.name] = [
                        (
                            dict(point.attributes or {}),
                            getattr(point, "value", None)
                            if hasattr(point, "value")
                            else point.count,
                        )
                        for point in metric.data.data_points
                    ]
        return found


@pytest.fixture
def seen() -> Seen:
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers, meters = TracerProvider(), MeterProvider([reader])
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    telemetry = Telemetry(tracer_provider=tracers, meter_provider=meters)
    return Seen(exporter, reader, tracers.get_tracer("application"), telemetry)


async def charge(event: Event) -> None:
    async with trio.open_nursery() as nursery:  # noqa: ASYNC112  # a child task is wanted
        nursery.start_soon(events.send, "payments", "payment.received", event.path)


async def fail(event: Event) -> None:
    raise ValueError("no such address")


async def test_a_request_and_all_that_follows_from_it_are_one_trace(
    seen: Seen, autojump_clock: MockClock
) -> None:
    async with open_event_bus(instruments=[seen.telemetry]) as bus:
        await bus.on(charge, "orders", "order.placed")
        await bus.on(fail, "payments", on_error=Log())
        with seen.tracer.start_as_current_span("POST /orders"):
            await bus.send("orders", "order.placed", "/orders/1", {"secret": 1})
    assert seen.traces() == 1
    sent, charged = seen.one("send orders/order.placed"), seen.one("process orders/order.placed")
    paid, failed = (
        seen.one("send payments/payment.received"),
        seen.one("process payments/payment.received"),
    )
    assert [seen.parent_of(span) for span in (sent, charged, paid, failed)] == [
        "POST /orders",
        "send orders/order.placed",
        "process orders/order.placed",
        "send payments/payment.received",
    ]
    assert (sent.kind, charged.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert sent.attributes == {
        "messaging.system": "trio_events",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "orders/order.placed",
        "trio_events.path": "/orders/1",
    }
    assert charged.attributes == {
        "messaging.system": "trio_events",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "orders/order.placed",
        "messaging.destination.subscription.name": "orders/order.placed",
        "code.function.name": "charge",
        "code.file.path": __file__,
        "trio_events.path": "/orders/1",
    }
    for process, send in ((charged, sent), (failed, paid)):
        (link,) = process.links
        assert send.context is not None
        assert link.context.span_id == send.context.span_id
    assert failed.status.status_code is StatusCode.ERROR
    assert failed.attributes is not None
    assert failed.attributes["error.type"] == "ValueError"
    assert [event.name for event in failed.events] == ["exception"]
    assert charged.status.status_code is StatusCode.UNSET


async def test_within_another_span_a_call_is_its_child_and_linked(
    seen: Seen, autojump_clock: MockClock
) -> None:
    async def handler(event: Event) -> None:
        pass

    async with open_event_bus(instruments=[seen.telemetry]) as bus:
        with seen.tracer.start_as_current_span("worker"):
            await bus.on(handler, "a")
        await bus.send("a", "k", "/1")
    process, send = seen.one("process a/k"), seen.one("send a/k")
    assert seen.parent_of(process) == "worker"
    assert send.context is not None
    assert [link.context.span_id for link in process.links] == [send.context.span_id]
    assert process.attributes is not None
    assert process.attributes["messaging.destination.subscription.name"] == "a/**"


async def test_calls_at_once_each_have_a_span(seen: Seen, autojump_clock: MockClock) -> None:
    async def handler(event: Event) -> None:
        await trio.sleep(1)
        await events.send("b", "done", event.path)

    async with open_event_bus(instruments=[seen.telemetry]) as bus:
        await bus.on(handler, "a", concurrency=4)
        for number in range(4):
            await bus.send("a", "k", f"/{number}")
    assert len(seen.named("process a/k")) == 4
    paths = {
        span.context.span_id: span.attributes["trio_events.path"]  # type: ignore[index]
        for span in seen.named("process a/k")
    }
    for span in seen.named("send b/done"):
        assert span.parent is not None
        assert span.attributes is not None
        assert paths[span.parent.span_id] == span.attributes["trio_events.path"]


async def test_a_request_and_its_reply_are_one_trace(seen: Seen, autojump_clock: MockClock) -> None:
    async def answer(event: Event) -> None:
        if event.path == "/2":
            raise Reject("sold out")

    async with open_event_bus(instruments=[seen.telemetry]) as bus:
        await bus.serve(answer, "a", "ask")
        for path in ("/1", "/2"):
            await bus.request("a", "ask", path)
        await bus.send("a", "other", "/3")  # this task is no handler's
    assert seen.traces() == 3
    assert seen.parent_of(seen.one("send a/accepted")) == "process a/ask"
    assert seen.parent_of(seen.one("send a/rejected")) == "process a/ask"
    for call in seen.named("process a/ask"):
        assert seen.parent_of(call) == "send a/ask"
        assert call.status.status_code is StatusCode.UNSET
    rejected = [dict(call.attributes or {}).get(REJECTED) for call in seen.named("process a/ask")]
    assert rejected == [None, True]


async def test_each_attempt_is_a_span(seen: Seen, autojump_clock: MockClock) -> None:
    attempts = 0

    async def handler(event: Event) -> None:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise ValueError

    async with open_event_bus(instruments=[seen.telemetry]) as bus:
        await bus.on(handler, "a", on_error=Retry())
        await bus.send("a", "k", "/1")
        await trio.sleep(5)
    statuses = [span.status.status_code for span in seen.named("process a/k")]
    assert statuses == [StatusCode.ERROR, StatusCode.ERROR, StatusCode.UNSET]
    assert seen.traces() == 1


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("it has no text")


async def test_an_exception_whose_text_raises_is_reported_like_any_other(
    seen: Seen, autojump_clock: MockClock
) -> None:
    async def handler(event: Event) -> None:
        if event.path == "/1":
            raise Unprintable

    async with open_event_bus(instruments=[seen.telemetry]) as bus:
        await bus.on(handler, "a", on_error=Log())
        await bus.send("a", "k", "/1")
        await bus.send("a", "k", "/2")
    failed, succeeded = seen.named("process a/k")
    assert failed.attributes is not None
    assert failed.attributes["error.type"] == "Unprintable"
    assert (failed.status.status_code, failed.status.description) == (StatusCode.ERROR, "?")
    (recorded,) = failed.events
    assert recorded.name == "exception"
    assert recorded.attributes == {"exception.type": "Unprintable", "exception.message": "?"}
    assert succeeded.status.status_code is StatusCode.UNSET


async def test_a_cancelled_call_and_a_cancelled_send(seen: Seen, autojump_clock: MockClock) -> None:
    async with open_event_bus(instruments=[seen.telemetry], drain_timeout=1) as bus:

        async def handler(event: Event) -> None:
            await trio.sleep_forever()

        await bus.on(handler, "a")
        await bus.send("a", "k", "/1")
        await bus.subscribe("b", max_buffer_size=1)
        await bus.send("b", "k", "/1")
        await wait_all_tasks_blocked()
        with trio.move_on_after(0.5):
            await bus.send("b", "k", "/2")
    for span in (seen.one("process a/k"), seen.named("send b/k")[1]):
        assert span.status.status_code is StatusCode.UNSET
        assert span.attributes is not None
        assert span.attributes["trio_events.cancelled"] is True
        assert "error.type" not in span.attributes
        assert span.events == ()


async def test_a_send_that_waits_lasts_and_one_that_is_refused_is_an_error(
    seen: Seen, autojump_clock: MockClock
) -> None:
    policy = RulePolicy([events.Allow(a, "a") for a in ("events.send", "events.subscribe")])
    async with (
        open_event_bus(instruments=[seen.telemetry], policy=policy) as bus,
        trio.open_nursery() as nursery,
    ):
        full = await bus.subscribe("a", max_buffer_size=1)
        await bus.send("a", "k", "/1")
        await wait_all_tasks_blocked()
        nursery.start_soon(bus.send, "a", "k", "/2")
        await wait_all_tasks_blocked()
        assert len(seen.named("send a/k")) == 1
        await full.receive()
        await wait_all_tasks_blocked()
        assert len(seen.named("send a/k")) == 2
        with pytest.raises(trio.WouldBlock):
            bus.send_nowait("a", "k", "/3")
        with pytest.raises(PolicyDeniedError):
            await bus.send("b", "k", "/4")
        bus.close()
        with pytest.raises(BusClosedError):
            await bus.send("a", "k", "/5")
    found = [
        (s.attributes["trio_events.path"], s.attributes.get("error.type"))  # type: ignore[index, union-attr]
        for s in seen.spans
    ]
    assert found == [
        ("/1", None),
        ("/2", None),
        ("/3", "WouldBlock"),
        ("/5", "BusClosedError"),
    ]


async def test_what_a_thread_sends_belongs_to_its_trace(
    seen: Seen, autojump_clock: MockClock
) -> None:
    async with open_event_bus(instruments=[seen.telemetry]) as bus:

        def in_thread() -> None:
            with seen.tracer.start_as_current_span("in a thread"):
                bus.send_soon("a", "k", "/1")

        thread = threading.Thread(target=in_thread)
        thread.start()
        thread.join()
        await wait_all_tasks_blocked()
    assert seen.parent_of(seen.one("send a/k")) == "in a thread"


async def test_a_reader_in_a_loop_says_when_it_processes(
    seen: Seen, autojump_clock: MockClock
) -> None:
    async def read(bus: EventBus, subscription: events.Subscription) -> None:
        async for event in subscription:
            try:
                with seen.telemetry.processing(event):
                    await bus.send("b", "k", event.path)
                    if event.path == "/bad":
                        raise ValueError
            except ValueError:
                pass

    async with open_event_bus(instruments=[seen.telemetry]) as bus, trio.open_nursery() as nursery:
        nursery.start_soon(read, bus, await bus.subscribe("a"))
        for path in ("/good", "/bad"):
            await bus.send("a", "k", path)
            await wait_all_tasks_blocked()
        with seen.telemetry.processing(Event("c", "k", "/unknown")):  # that was never sent
            bus.close()
    good, bad = seen.named("process a/k")
    assert (good.status.status_code, bad.status.status_code) == (StatusCode.UNSET, StatusCode.ERROR)
    assert [seen.parent_of(span) for span in seen.named("send b/k")] == ["process a/k"] * 2
    assert seen.one("process c/k").links == ()


async def test_what_is_counted_and_observed(seen: Seen, autojump_clock: MockClock) -> None:
    async with (
        open_event_bus(instruments=[seen.telemetry]) as bus,
        trio.open_nursery() as nursery,
    ):
        full = await bus.subscribe("a", max_buffer_size=1)
        losing = [
            await bus.subscribe("a", "k", max_buffer_size=1, overflow=Overflow.DROP_OLDEST)
            for _ in range(2)
        ]
        await bus.on(fail, "f", on_error=Log())
        for system in ("a", "a", "n", "f"):
            await bus.send(system, "k", "/1")
        await wait_all_tasks_blocked()
        nursery.start_soon(bus.send, "a", "k", "/2")
        await wait_all_tasks_blocked()
        losing[0].close()
        with ThreadPoolExecutor(1) as exporter:  # trio's thread waits for it, as in `shutdown()`
            found = exporter.submit(seen.metrics).result(timeout=60)

        def by_pattern(name: str) -> dict[str, Any]:
            return {a["messaging.destination.subscription.name"]: v for a, v in found[name]}

        assert by_pattern("trio_events.events.unread") == {"a/**": 2, "a/k": 1, "f/**": 0}
        assert by_pattern("trio_events.events.held") == {"a/**": 1, "a/k": 0, "f/**": 0}
        assert by_pattern("trio_events.senders.waiting") == {"a/**": 1, "a/k": 0, "f/**": 0}
        assert by_pattern("trio_events.subscriptions") == {"a/**": 1, "a/k": 1, "f/**": 1}
        assert by_pattern("trio_events.events.dropped") == {"a/**": 0, "a/k": 2, "f/**": 0}
        assert [value for _, value in found["trio_events.events.unmatched"]] == [1]
        sent = found["messaging.client.sent.messages"]
        by_name = {a["messaging.destination.name"]: v for a, v in sent}
        assert by_name == {"a/k": 2, "n/k": 1, "f/k": 1}
        ((consumed, count),) = found["messaging.client.consumed.messages"]
        assert (consumed["error.type"], count) == ("ValueError", 1)
        assert "messaging.client.operation.duration" in found
        assert "messaging.process.duration" in found
        assert all("trio_events.path" not in a for points in found.values() for a, _ in points)
        full.channel().close()
    assert seen.metrics()["trio_events.events.dropped"]


async def test_nothing_is_left_behind(seen: Seen, autojump_clock: MockClock) -> None:
    async with open_event_bus(instruments=[seen.telemetry], drain_timeout=0) as bus:
        await bus.on(charge, "orders")
        kept = await bus.subscribe(
            "(orders|payments)", max_buffer_size=5, overflow=Overflow.DROP_OLDEST
        )
        for number in range(300):
            with trio.move_on_after(0.01 if number % 7 == 0 else 10):
                await bus.send("orders", "order.placed", f"/{number}")
            await wait_all_tasks_blocked()
        assert len(seen.telemetry._contexts) <= 15
        kept.channel().close()
    gc.collect()
    assert seen.telemetry._contexts == {}
    assert seen.telemetry._sending == {}
    assert seen.telemetry._calls == {}
    assert seen.telemetry._subscriptions == {}


def test_without_a_provider_the_global_one_is_used_and_nothing_is_kept_alive(seen: Seen) -> None:
    async def main(instrument: Telemetry) -> None:
        async with open_event_bus(instruments=[instrument]) as bus:
            await bus.on(charge, "orders")
            await bus.send("orders", "order.placed", "/1")

    trio.run(main, Telemetry())
    exporter = seen.reader
    seen.telemetry = Telemetry()
    gc.collect()
    data = exporter.get_metrics_data()  # the callbacks of the one that has gone observe nothing
    assert data is None or not [
        metric
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if list(metric.data.data_points)
    ]
