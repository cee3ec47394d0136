"""What OpenTelemetry costs an event with one handler: `make bench-telemetry`.

CPU time, the median of the rounds; each round begins with another way, so that drift of the machine
hits all alike.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Final

import trio
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON
from opentelemetry.trace import NoOpTracerProvider

from trio_events import Event, Instrument, open_event_bus
from trio_events.telemetry import Telemetry

EVENTS: Final = 3_000
ROUNDS: Final = 9


class _Nowhere(SpanExporter):
    """Takes what it gets."""

    def export(self, spans: object) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def _not_at_all() -> Sequence[Instrument]:
    return ()


def _by_the_api_alone() -> Sequence[Instrument]:
    return (Telemetry(tracer_provider=NoOpTracerProvider(), meter_provider=NoOpMeterProvider()),)


def _sampled_out() -> Sequence[Instrument]:
    tracers = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    return (Telemetry(tracer_provider=tracers, meter_provider=MeterProvider()),)


def _recorded() -> Sequence[Instrument]:
    tracers = TracerProvider(sampler=ALWAYS_ON, shutdown_on_exit=False)
    tracers.add_span_processor(BatchSpanProcessor(_Nowhere()))
    return (Telemetry(tracer_provider=tracers, meter_provider=MeterProvider()),)


WAYS: Final[dict[str, Callable[[], Sequence[Instrument]]]] = {
    "without telemetry": _not_at_all,
    "the API alone": _by_the_api_alone,
    "not sampled": _sampled_out,
    "recorded": _recorded,
}


async def measure(instruments: Sequence[Instrument]) -> float:
    """The CPU time of one event and its call, in microseconds."""

    async def handler(event: Event) -> None:
        pass

    async with open_event_bus(instruments=instruments) as bus:
        await bus.on(handler, "orders")
        began = time.process_time()
        for _ in range(EVENTS):
            await bus.send("orders", "order.placed", "/orders/1")
        await bus.wait_idle()
        return (time.process_time() - began) / EVENTS * 1e6


def main() -> None:
    """Measure each way in turn, and print."""
    found: dict[str, list[float]] = {name: [] for name in WAYS}
    names = list(WAYS)
    for number in range(ROUNDS):
        for name in names[number % 4 :] + names[: number % 4]:
            found[name].append(trio.run(measure, WAYS[name]()))
    for name, figures in found.items():
        print(f"{name:20} {statistics.median(figures):6.1f} µs")


if __name__ == "__main__":
    main()
