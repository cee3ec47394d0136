"""The data behind the map, `top` and `graph`: an instrument that remembers the latest events."""

from __future__ import annotations

import linecache
import reprlib
import statistics
import time
import weakref
from collections import deque
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any, Final, TypeAlias, final

import attrs
import trio

from .._bus import EventBus
from .._closing import Closing
from .._core.buffer import check_count
from .._event import Event
from .._instruments import Instrument
from .._names.policy import Action
from .._requests import Reject
from .._subscription import Subscription
from ._parties import ELSEWHERE, Lines, acting, handler_name, party_of, running_task, short_name
from ._problems import problems
from ._rows import Row, Watched

_MAX_NAMES: Final = 500
"""How many kinds, and how many parties, are kept apart."""

OTHERS: Final = "others"
_SHOWN: Final = 60
"""How many of the latest events are in a state."""

_ROW_STAYS: Final = 10.0
"""Seconds for which a row stays after the last of its subscriptions has been closed."""

Kind: TypeAlias = tuple[str, str]
State: TypeAlias = dict[str, Any]

_handled: ContextVar[Record | None] = ContextVar("trio_events.devtools.handled", default=None)
"""The event that the running task is handling."""

_repr: Final = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = 100


@final
@attrs.define(eq=False)
class Call:
    """A call of a handler."""

    handler: str
    begun: float
    seconds: float | None = None
    error: str | None = None


@final
@attrs.define(eq=False)
class Record:
    """What is known about one event."""

    number: int
    """In the order of sending."""

    at: float
    event: Event
    party: str
    line: str
    cause: Record | None
    receivers: int = 0
    unmatched: bool = False
    """Whether no subscription, history or request matched it."""

    calls: tuple[Call, ...] = ()
    fate: str = "waits"


@final
@attrs.define(eq=False)
class _Sent:
    """The events of one kind that one party sends."""

    line: str
    count: int = 0


@final
class Observer(Closing, Instrument):
    """Watches a bus from now on until `close`, and records what the map shows.

    It keeps the latest events and their data alive, and each event takes about four times as many
    instructions as without it. Use it to look at a program, but don't leave it on.

    Args:
      bus: The bus.
      max_events: How many of the latest events to keep.

    Raises:
      TypeError: If `max_events` isn't an int.
      ValueError: If it is less than 1.
    """

    def __init__(self, bus: EventBus, max_events: int = 2000) -> None:
        check_count("max_events", max_events)
        self._bus = bus
        self._instruments = bus._core.instruments
        self._lines = Lines()
        self._max_events = max_events
        self._began = time.time(), time.perf_counter()
        self._count = 0
        self._records: dict[int, Record] = {}  # by the identity of their events
        self._order: deque[Record] = deque()
        self._log: deque[tuple[int, Record]] = deque(maxlen=max_events)  # in the order of routing
        self._logged = 0
        self._sent: dict[tuple[str, Kind], _Sent] = {}
        self._kinds: dict[Kind, list[int]] = {}  # how many, and how many of them unmatched
        self._names: dict[str, str] = {}  # of tasks, and what they are called
        self._tasks: dict[str, weakref.WeakSet[trio.lowlevel.Task]] = {}
        self._latest_task: trio.lowlevel.Task | None = None
        self._latest_party = ""
        self._watched: dict[Subscription, Watched] = {}
        self._rows: dict[tuple[object, ...], Row] = {}
        self._row_count = 0
        self._routed: dict[tuple[Kind, tuple[Subscription, ...]], int] = {}
        self._running: dict[trio.lowlevel.Task, tuple[Record | None, Call]] = {}
        self._durations: dict[str, deque[float]] = {}
        self._denied: deque[dict[str, Any]] = deque(maxlen=20)
        bus.add_instrument(self)

    def close(self) -> None:
        """Stop watching. Not a checkpoint. Idempotent."""
        if self in self._instruments:
            self._bus.remove_instrument(self)

    # Hooks

    def subscription_opened(self, subscription: Subscription) -> None:
        """See `Instrument`."""
        handler = subscription.handler
        reader = "" if handler is None else self._party(handler_name(handler))
        watched = Watched(subscription, time.perf_counter(), reader, handler is not None)
        self._watched[subscription] = watched

    def subscription_closed(self, subscription: Subscription) -> None:
        """See `Instrument`."""
        self._assign_routed()
        watched = self._watched.pop(subscription)
        row = self._row_of(watched)
        row.take_over(watched)
        row.latest = time.perf_counter()

    def before_send(self, event: Event) -> None:
        """See `Instrument`."""
        party = acting.get() or self._running_party()
        line = self._lines.sending()
        self._count += 1
        record = Record(self._count, time.perf_counter(), event, party, line, _handled.get())
        self._records[id(event)] = record
        self._order.append(record)
        if len(self._order) > self._max_events:
            oldest = self._order.popleft()
            del self._records[id(oldest.event)]
            oldest.cause = None  # or it would keep its causes alive
        sent = self._sent.get((party, (event.system, event.kind)))
        if sent is None:
            sent = self._sent.setdefault((party, self._kind(event)), _Sent(line))
        sent.count += 1

    def after_send(self, event: Event, error: BaseException | None) -> None:
        """See `Instrument`."""
        record = self._records.get(id(event))
        if record is None:
            return
        if error is None:
            record.fate = "sent"
        else:
            record.fate = type(error).__name__
            self._note(record)

    def events_routed(
        self, events: Sequence[Event], subscriptions: tuple[Subscription, ...]
    ) -> None:
        """See `Instrument`."""
        kind = self._kind(events[0])
        self._kinds[kind][0] += len(events)
        key = kind, subscriptions
        self._routed[key] = self._routed.get(key, 0) + len(events)
        if len(self._routed) > _MAX_NAMES:
            self._assign_routed()
        records, receivers = self._records, len(subscriptions)
        for event in events:
            record = records.get(id(event))
            if record is not None:
                record.receivers = receivers
                self._note(record)

    def events_unmatched(self, events: Sequence[Event]) -> None:
        """See `Instrument`."""
        self._kinds[self._kind(events[0])][1] += len(events)
        for event in events:
            record = self._records.get(id(event))
            if record is not None:
                record.unmatched = True

    def event_received(self, event: Event, subscription: Subscription) -> None:
        """See `Instrument`."""
        watched = self._watched.get(subscription)
        if watched is None:  # it has been closed
            is_handled = subscription.handler is not None
        else:
            is_handled, watched.was_read = watched.is_handled, True
        if is_handled:
            return
        _handled.set(None if self._instruments.is_of_list else self._records.get(id(event)))
        if watched is not None and not watched.is_read_here():
            watched.reader = acting.get() or self._running_party()

    def before_handler(self, event: Event, subscription: Subscription) -> None:
        """See `Instrument`."""
        record = self._records.get(id(event))
        party = self._party(handler_name(subscription.handler))
        call = Call(party, time.perf_counter())
        if record is not None:
            record.calls = (*record.calls, call)
        self._running[trio.lowlevel.current_task()] = record, call
        acting.set(party)
        _handled.set(record)

    def after_handler(
        self, event: Event, subscription: Subscription, error: BaseException | None
    ) -> None:
        """See `Instrument`."""
        # The context variables stay as they are until the next call. What the task sends before
        # that is a reply, or sent by `on_dead_letter`.
        _, call = self._running.pop(trio.lowlevel.current_task())
        call.seconds = time.perf_counter() - call.begun
        # A rejection is not a failure.
        call.error = None if error is None or isinstance(error, Reject) else _text(error)
        durations = self._durations.get(call.handler)
        if durations is None:
            durations = self._durations[call.handler] = deque(maxlen=200)
        durations.append(call.seconds)

    def loss_began(self, subscription: Subscription) -> None:
        """See `Instrument`."""
        if subscription in self._watched:
            self._watched[subscription].is_losing = True

    def loss_ended(self, subscription: Subscription, lost: int) -> None:
        """See `Instrument`."""
        if subscription in self._watched:
            self._watched[subscription].is_losing = False

    def access_denied(self, actor: str, action: Action, system: str) -> None:
        """See `Instrument`."""
        denied = {"actor": actor, "action": str(action.value), "system": system}
        if self._denied and self._denied[-1] | {"times": 0} == denied | {"times": 0}:
            self._denied[-1]["times"] += 1
        else:
            self._denied.append(denied | {"times": 1})

    # Names, of which a limited number is kept

    def _kind(self, event: Event) -> Kind:
        kind = event.system, event.kind
        if kind not in self._kinds:
            if len(self._kinds) >= _MAX_NAMES:
                kind = OTHERS, OTHERS
            self._kinds.setdefault(kind, [0, 0])
        return kind

    def _party(self, name: str) -> str:
        if name not in self._tasks:
            if len(self._tasks) >= _MAX_NAMES:
                name = OTHERS
            self._tasks.setdefault(name, weakref.WeakSet())
        return name

    def _running_party(self) -> str:
        task = running_task()
        if task is None:
            return ELSEWHERE
        if task is self._latest_task:
            return self._latest_party
        party = self._names.get(task.name)
        if party is None:
            if len(self._names) >= 2 * _MAX_NAMES:
                self._names.clear()
            party = self._names[task.name] = self._party(short_name(task.name))
        self._latest_task, self._latest_party = task, party
        self._tasks[party].add(task)
        return party

    def _note(self, record: Record) -> None:
        self._logged += 1
        self._log.append((self._logged, record))

    # Rows of subscriptions

    def _row_of(self, watched: Watched) -> Row:
        row = self._rows.get(watched.key)
        if row is None:
            self._row_count += 1
            row = self._rows[watched.key] = Row(self._row_count, watched)
        return row

    def _waiting_reader(self, subscription: Subscription) -> str:
        """The party that is waiting for the first event of a subscription, if any."""
        for task in subscription._actor.known_readers:
            return self._party(party_of(task))
        return ""

    def _assign_routed(self) -> None:
        """Add the counts of routed events to the subscriptions that got them."""
        routed, self._routed = self._routed, {}
        for (kind, subscriptions), count in routed.items():
            for subscription in subscriptions:
                watched = self._watched.get(subscription)
                if watched is not None:
                    watched.routed[kind] = watched.routed.get(kind, 0) + count

    def _current_rows(self) -> list[Row]:
        self._assign_routed()
        now = time.perf_counter()
        for row in self._rows.values():
            row.members.clear()
        for watched in self._watched.values():
            if not watched.reader:
                watched.reader = self._waiting_reader(watched.subscription)
            row = self._row_of(watched)
            row.members.append(watched)
            row.latest = now
        self._rows = {key: row for key, row in self._rows.items() if row.latest > now - _ROW_STAYS}
        return list(self._rows.values())

    # What is shown

    def state(self, since: int = 0) -> State:
        """Everything that the map shows, as strings, numbers, lists and dictionaries.

        Args:
          since: The position of the last event already shown. Only later events are included.

        Returns:
          A value that `json.dumps` accepts.
        """
        now = time.perf_counter()
        bus = self._bus.statistics()
        rows = [row.show(self._show_waiting, now) for row in self._current_rows()]
        names = {kind: f"{kind[0]}/{kind[1]}" for kind in self._kinds}
        latest = [entry for entry in self._latest(_SHOWN) if entry[0] > since]
        state = {
            "time": self._wall(now),
            "up": now - self._began[1],
            "accepted": bus.accepted,
            "unmatched": bus.unmatched,
            "refused": bus.refused,
            "waiting": bus.tasks_waiting_send,
            "inbox": bus.current_inbox_used,
            "inbox_size": bus.inbox_size,
            "rows": rows,
            "parties": [{"name": name, "tasks": len(tasks)} for name, tasks in self._tasks.items()],
            "kinds": [
                {
                    "id": names[kind],
                    "system": kind[0],
                    "kind": kind[1],
                    "count": count,
                    "unmatched": unmatched,
                }
                for kind, (count, unmatched) in self._kinds.items()
            ],
            "sends": [
                {"party": party, "kind": names[kind], "count": sent.count, "line": sent.line}
                for (party, kind), sent in self._sent.items()
            ],
            "routes": [
                {"kind": names[kind], "row": row.number, "count": count}
                for row in self._rows.values()
                for kind, count in row.all_routed().items()
            ],
            "calls": {
                name: [statistics.median(seconds), max(seconds)]
                for name, seconds in self._durations.items()
            },
            "running": [
                {
                    "party": call.handler,
                    "for": now - call.begun,
                    "number": None if record is None else record.number,
                }
                for record, call in self._running.values()
            ],
            "denied": list(self._denied),
            "position": self._logged,
            "events": [self._show(record) for _, record in latest],
        }
        state["problems"] = problems(state)
        return state

    def _latest(self, count: int) -> list[tuple[int, Record]]:
        start = max(len(self._log) - count, 0)
        return [self._log[number] for number in range(start, len(self._log))]

    def _show_waiting(self, subscription: Subscription) -> list[dict[str, Any]]:
        return [
            {
                "party": party_of(sender.task),
                "kind": f"{sender.event.system}/{sender.event.kind}",
                "for": trio.current_time() - sender.since,
            }
            for sender in subscription.waiting_senders()
        ]

    def _show(self, record: Record) -> dict[str, Any]:
        event = record.event
        return {
            "number": record.number,
            "at": self._wall(record.at),
            "system": event.system,
            "kind": event.kind,
            "path": event.path[:200],
            "data": _text(event.data),
            "party": record.party,
            "line": record.line,
            "fate": record.fate,
            "receivers": record.receivers,
            "unmatched": record.unmatched,
            "calls": [
                {"handler": call.handler, "seconds": call.seconds, "error": call.error}
                for call in record.calls
            ],
        }

    def _wall(self, moment: float) -> float:
        wall, counter = self._began
        return wall + moment - counter

    def tree(self, number: int) -> dict[str, Any] | None:
        """The tree of everything that followed from the first cause of an event.

        Args:
          number: The `"number"` of the event in `state()["events"]`.

        Returns:
          The first cause as in `state()["events"]`, with a list `"effects"` in it and in each of
          these; None if the event isn't among the last `max_events`.
        """
        first = next((record for record in self._order if record.number == number), None)
        if first is None:
            return None
        while first.cause is not None and id(first.cause.event) in self._records:
            first = first.cause
        effects: dict[Record, list[Record]] = {}
        for record in self._order:
            if record.cause is not None:
                effects.setdefault(record.cause, []).append(record)
        shown: dict[Record, dict[str, Any]] = {first: self._show(first) | {"effects": []}}
        queue = deque([first])
        while queue and len(shown) < 300:  # more than a reader can follow
            cause = queue.popleft()
            for record in effects.get(cause, ()):
                shown[record] = self._show(record) | {"effects": []}
                shown[cause]["effects"].append(shown[record])
                queue.append(record)
        return shown[first]

    def source(self, place: str) -> list[tuple[int, str]] | None:
        """The source around a line that has sent an event or subscribed.

        Args:
          place: The line, as `"file:line"`.

        Returns:
          The numbers and texts of the lines; None for any other line.
        """
        known = {sent.line for sent in self._sent.values()}
        known |= {row.origin for row in self._rows.values()}
        if place not in known:
            return None
        file, _, number = place.rpartition(":")
        lines = linecache.getlines(file)
        if not lines:  # the file is gone, or never existed
            return None
        around = range(max(int(number) - 4, 1), min(int(number) + 4, len(lines)) + 1)
        return [(n, lines[n - 1].rstrip("\n")[:200]) for n in around]

    def mermaid(self) -> str:
        """The map as a Mermaid flowchart of senders, kinds and receivers."""
        self._current_rows()
        lines = ["flowchart LR"]
        nodes: dict[str, str] = {}

        def node(what: str, text: str, shape: str) -> str:
            key = f"{what} {text}"
            if key not in nodes:
                nodes[key] = f"{what}{len(nodes)}"
                label = _escaped(text)
                lines.append(f"    {nodes[key]}{shape.replace('?', label)}")
            return nodes[key]

        def party(name: str) -> str:
            return node("p", name or "nobody", '["?"]')

        def kind(of: Kind) -> str:
            return node("k", f"{of[0]} {of[1]}", '(["?"])')

        arrows = [f"    {party(who)} --> {kind(what)}" for who, what in self._sent]
        for row in self._rows.values():
            for what in row.all_routed():
                arrows.append(f"    {kind(what)} --> {party(row.party)}")
        return "\n".join([*lines, *dict.fromkeys(arrows)]) + "\n"


def _escaped(text: str) -> str:
    return "".join(c if c.isalnum() or c in " ._-/$" else f"#{ord(c)};" for c in text)


def _text(value: object) -> str:
    try:
        text = _repr.repr(value)
    except Exception:  # noqa: BLE001  # any code may run there
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 120 else text[:119] + "…"
