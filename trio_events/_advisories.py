"""The bus's own events: system `$bus`, sent while something subscribes to them."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, final

import attrs

from ._core.router import Router
from ._event import Event
from ._instruments import Instrument
from ._names.interest import BUS, Interest

if TYPE_CHECKING:
    from ._handlers.supervision import DeadLetter
    from ._names.policy import Action
    from ._subscription import Subscription

_MAX_REMEMBERED: Final = 4096


@final
@attrs.frozen
class SubscriptionOpened:
    """A subscription has been opened: the data of `subscription.opened`."""

    number: int
    """Its number, unique on its bus."""

    system: str
    kind: str | None
    path: str | None
    overflow: str
    max_buffer_size: int
    origin: str
    """The line that subscribed, or where the handler is defined."""

    handler: str | None
    """The name of its handler, or None."""


@final
@attrs.frozen
class SubscriptionClosed:
    """A subscription has stopped matching events: the data of `subscription.closed`."""

    number: int
    system: str
    kind: str | None
    path: str | None
    overflow: str
    max_buffer_size: int
    origin: str
    handler: str | None
    matched: int
    delivered: int
    queued: int
    dropped: int
    discarded: int
    superseded: int


@final
@attrs.frozen
class LossStarted:
    """A subscription has begun to lose events: the data of `loss.began`."""

    number: int
    origin: str
    dropped: int
    """Events that it has dropped so far, in all episodes."""


@final
@attrs.frozen
class LossOver:
    """An episode of loss is over: the data of `loss.ended`."""

    number: int
    origin: str
    lost: int
    """Events that it dropped in the episode."""


@final
@attrs.frozen
class SendersWaiting:
    """Senders are waiting for room in a subscription: the data of `senders.stalled`."""

    number: int
    origin: str
    waiting: int
    seconds: float
    """How long the first of them has been waiting."""


@final
@attrs.frozen
class HandlingFailed:
    """A handler raised: the data of `handler.failed`, and of `event.failed` if it was for good."""

    number: int
    origin: str
    handler: str
    system: str
    kind: str
    path: str
    error: str
    """The name of the exception's type."""

    message: str
    treatment: str
    """The consequence, such as `Log` or `Propagate`."""


@final
@attrs.frozen
class HandlerSlow:
    """A call of a handler has been running for long: the data of `handler.slow`."""

    number: int
    origin: str
    handler: str
    system: str
    kind: str
    path: str
    seconds: float
    """How long it has been running."""


@final
@attrs.frozen
class RequestsWaiting:
    """Requests of one system and kind are waiting for replies: the data of `request.stalled`."""

    system: str
    kind: str
    path: str
    """The path of the request that has waited longest."""

    waiting: int
    seconds: float
    """How long that request has been waiting."""

    whereabouts: str
    """The subscriptions that received it, and what they are doing."""


@final
@attrs.frozen
class DeadlockRefused:
    """A send or a request got `DeadlockError`: the data of `deadlock.refused`."""

    system: str
    """The system of the event."""

    subscription: str
    """The subscription that it waited for, or those that received the request."""


@final
@attrs.frozen
class AccessDenied:
    """The policy has denied an action: the data of `access.denied`."""

    actor: str
    action: str
    system: str
    times: int


@final
@attrs.frozen
class SendRefused:
    """`send_soon` could not send: the data of `send.refused`."""

    error: str
    """The name of the last exception's type."""

    refused: int
    """How many events have been refused so far."""


@final
@attrs.frozen
class EventUnmatched:
    """Nothing matches events of a kind: the data of `event.unmatched`."""

    system: str
    kind: str
    path: str
    """The path of the latest one."""

    times: int


@final
@attrs.frozen
class BusEnding:
    """The bus is closing: the data of `bus.draining` and `bus.closing`."""

    handlers: int
    """Open subscriptions that have a handler."""

    unread: int
    """Events that have been accepted but not read."""


class Reader(Hashable, Protocol):
    """The actor of a subscription or of a history."""

    closed: bool

    @property
    def interests(self) -> Collection[Interest]:
        """What it matches."""


Counts: TypeAlias = dict[tuple[str, ...], int]


@final
@attrs.define(eq=False)
class Advisories(Instrument):
    """Sends events about what happens on a bus, while something subscribes to `$bus`.

    Unlike other instruments it is called within the step in which something happens, so that its
    events have the right place in the total order. It reports nothing about subscriptions to `$bus`
    themselves, or it would never stop.
    """

    _router: Router
    lost: int = attrs.field(default=0, init=False)
    """Events that were lost because the inbox was full."""

    _readers: dict[Reader, None] = attrs.field(factory=dict, init=False)
    _denied: Counts = attrs.field(factory=dict, init=False)
    _unmatched: Counts = attrs.field(factory=dict, init=False)

    @staticmethod
    def of(router: Router) -> Advisories:
        """The advisories of a bus. They cost nothing until something subscribes to them."""
        advisories = Advisories(router)
        router.core.instruments.on_interests = advisories.heed
        return advisories

    def heed(self, reader: Reader) -> None:
        """Note that the patterns of a subscription or a history have changed."""
        reads = not reader.closed and _reads_these(reader)
        if reads == (reader in self._readers):
            return
        if reads:
            self._readers[reader] = None
        else:
            del self._readers[reader]
        instruments = self._router.core.instruments
        instruments.in_step = self if self._readers else None
        instruments.rewire()

    # About a subscription

    def subscription_opened(self, subscription: Subscription) -> None:
        """See `Instrument`."""
        self._tell_about(subscription, "subscription.opened", SubscriptionOpened)

    def subscription_closed(self, subscription: Subscription) -> None:
        """See `Instrument`."""
        books = subscription.statistics()
        self._tell_about(
            subscription,
            "subscription.closed",
            SubscriptionClosed,
            matched=books.matched,
            delivered=books.delivered,
            queued=books.queued,
            dropped=books.dropped,
            discarded=books.discarded,
            superseded=books.superseded,
        )

    def _tell_about(
        self,
        subscription: Subscription,
        kind: str,
        data: type[SubscriptionOpened | SubscriptionClosed],
        **books: int,
    ) -> None:
        actor = subscription._actor
        facts = data(
            actor.number,
            subscription.system,
            subscription.kind,
            subscription.path,
            subscription.overflow.value,
            actor.buffer.max_buffer_size,
            subscription.origin,
            None if actor.worker is None else actor.worker.name,
            **books,
        )
        self._post_about(subscription, kind, facts)

    def loss_began(self, subscription: Subscription) -> None:
        """See `Instrument`."""
        actor = subscription._actor
        data = LossStarted(actor.number, actor.origin, actor.buffer.dropped)
        self._post_about(subscription, "loss.began", data)

    def loss_ended(self, subscription: Subscription, lost: int) -> None:
        """See `Instrument`."""
        actor = subscription._actor
        self._post_about(subscription, "loss.ended", LossOver(actor.number, actor.origin, lost))

    def senders_stalled(self, subscription: Subscription, seconds: float) -> None:
        """See `Instrument`."""
        actor = subscription._actor
        data = SendersWaiting(actor.number, actor.origin, actor.tasks_waiting_send, seconds)
        self._post_about(subscription, "senders.stalled", data)

    def handler_failed(
        self, subscription: Subscription, event: Event, error: Exception, treatment: str
    ) -> None:
        """A handler has raised."""
        self._tell_failed("handler.failed", subscription, event, error, treatment)

    def handler_slow(self, subscription: Subscription, event: Event, seconds: float) -> None:
        """A call of a handler has been running for long."""
        actor = subscription._actor
        assert actor.worker is not None
        data = HandlerSlow(
            actor.number,
            actor.origin,
            actor.worker.name,
            event.system,
            event.kind,
            event.path,
            seconds,
        )
        self._post_about(subscription, "handler.slow", data)

    def event_failed(self, letter: DeadLetter) -> None:
        """See `Instrument`."""
        worker = letter.subscription._actor.worker
        treatment = "" if worker is None else worker.treatment  # no handler: an export failed
        self._tell_failed(
            "event.failed", letter.subscription, letter.event, letter.error, treatment
        )

    def _tell_failed(
        self,
        kind: str,
        subscription: Subscription,
        event: Event,
        error: Exception,
        treatment: str,
    ) -> None:
        actor = subscription._actor
        data = HandlingFailed(
            actor.number,
            actor.origin,
            "" if actor.worker is None else actor.worker.name,
            event.system,
            event.kind,
            event.path,
            type(error).__qualname__,
            message_of(error),
            treatment,
        )
        self._post_about(subscription, kind, data)

    def _post_about(self, subscription: Subscription, kind: str, data: object) -> None:
        actor = subscription._actor
        if not _reads_these(actor):
            self._post(kind, f"/subscriptions/{actor.number}", data)

    # About the bus

    def events_unmatched(self, events: Sequence[Event]) -> None:
        """See `Instrument`."""
        last = events[-1]
        times = _count(self._unmatched, (last.system, last.kind), len(events))
        if times is not None:
            data = EventUnmatched(last.system, last.kind, last.path, times)
            self._post("event.unmatched", "/", data)

    def deadlock_refused(self, event: Event, subscription: str) -> None:
        """A send or a request that would wait forever is refused."""
        self._post("deadlock.refused", "/", DeadlockRefused(event.system, subscription))

    def requests_stalled(
        self, event: Event, waiting: int, seconds: float, whereabouts: str
    ) -> None:
        """Requests of one system and kind have been waiting for replies."""
        data = RequestsWaiting(event.system, event.kind, event.path, waiting, seconds, whereabouts)
        self._post("request.stalled", "/", data)

    def access_denied(self, actor: str, action: Action, system: str) -> None:
        """See `Instrument`."""
        times = _count(self._denied, (actor, action.value, system))
        if times is not None:
            data = AccessDenied(actor, action.value, system, times)
            self._post("access.denied", f"/actors/{actor}", data)

    def sends_refused(self, error: Exception, refused: int) -> None:
        """`send_soon` could not send."""
        self._post("send.refused", "/", SendRefused(type(error).__qualname__, refused))

    def draining_began(self) -> None:
        """See `Instrument`."""
        self._post("bus.draining", "/", self._ending())

    def bus_closing(self) -> None:
        """The bus is about to be closed."""
        self._post("bus.closing", "/", self._ending())

    def _ending(self) -> BusEnding:
        actors = [actor for actor in self._router.subscriptions if not _reads_these(actor)]
        return BusEnding(
            sum(actor.worker is not None for actor in actors),
            self._router.core.inbox.used + sum(actor.buffer.unread for actor in actors),
        )

    def _post(self, kind: str, path: str, data: object) -> None:
        inbox = self._router.core.inbox
        if inbox.used >= inbox.size:
            self.lost += 1
        else:
            inbox.post(Event(BUS, kind, path, data))


def _reads_these(reader: Reader) -> bool:
    for interest in reader.interests:  # noqa: SIM110  # each subscription asks
        if interest.includes_bus:
            return True
    return False


def _count(counts: Counts, key: tuple[str, ...], more: int = 1) -> int | None:
    """Count; returns the count when it reaches 1, 2, 4, 8 …, or has just passed one of these."""
    before = counts.pop(key, 0)
    if len(counts) >= _MAX_REMEMBERED:
        del counts[next(iter(counts))]  # the one counted least recently
    counts[key] = now = before + more
    return now if now.bit_length() > before.bit_length() else None


def message_of(error: BaseException) -> str:
    """The message of an exception, or a question mark if its `str` raises."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001  # any code may be in there
        return "?"
