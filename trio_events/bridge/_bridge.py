"""Bridges: the handle, and opening one."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Final, final

import attrs

from .._bus import EventBus
from .._core.buffer import Overflow, check_count
from .._handlers.registration import Handler, Registration
from .._handlers.supervision import OnError, Propagate, check_seconds
from .._names.interest import Interest
from .._names.pattern import ExactPath
from .._no_public_constructor import NoPublicConstructor
from .._origin import caller
from .._subscription import Subscription
from .._terms import Terms
from ._envelope import Types
from ._export import Export, ExportActor
from ._follower import Follower
from ._group import Group, GroupActor
from ._link import Link
from ._log import EventLog, LogSession, check_after
from ._urls import open_log

_NO_TYPES: Final[Mapping[str, type]] = MappingProxyType({})


@final
@attrs.frozen
class BridgeStatistics:
    """The state of a bridge, and its counters since it was opened."""

    connected: bool
    """Whether the log can be used: no operation on it is being retried."""

    error: str | None
    """The error because of which an operation is being retried, or None."""

    exported: int
    """Events that were appended to the log."""

    refused: int
    """Events that couldn't be exported because of their data."""

    imported: int
    """Entries that were sent on the bus."""

    own: int
    """Entries that followers skipped because this bus had exported them."""

    unwanted: int
    """Entries that the patterns of a follower, or of a group, don't match."""

    denied: int
    """Entries that the policy of the bus doesn't allow to be sent."""

    malformed: int
    """Entries that aren't events, or whose data can't be converted."""

    missed: int
    """Entries that were removed before a follower read them, or a group handled them."""

    rewound: int
    """How many times the end of the log went back, for example because it was restored."""

    handled: int
    """Events that handlers of groups have finished."""

    repeated: int
    """Events delivered to such a handler that had been delivered before."""

    buried: int
    """Events that were given up after `max_attempts`."""

    retries: int
    """Operations on the log that failed and were retried."""

    reconnects: int
    """How many times the bridge has recovered from failures."""

    position: int
    """The highest known position in the log."""


async def open_bridge(bus: EventBus, log: str | EventLog, *, name: str | None = None) -> Bridge:
    """Connect a bus with a log, so that events can go from one to the other.

    The bus owns the bridge, and closes it when it is closed itself. After this has returned,
    problems with the log never end the bus.

    A checkpoint, always. It waits until the log can be reached; set a time limit with
    `trio.fail_after`. Cancel-safe: if cancelled, there is no bridge.

    Args:
      bus: The bus. The bridge subscribes and sends as its actor, see `EventBus.for_actor`.
      log: The log, or a URL such as `"sqlite:///events.db"` or `"redis://127.0.0.1"`.
      name: The `Source.origin` of exported events; None is the name of the host.

    Raises:
      TypeError: If an argument has the wrong type.
      ValueError: If the URL isn't the URL of a log.
      LogRefusedError: If the log can never be used: the folder doesn't exist, the file isn't a log,
        or the password is wrong.
      NoBusError: If the caller is not in the trio run of the bus.
      BusClosedError: If the bus was closed, before or meanwhile.
    """
    if not isinstance(bus, EventBus):
        raise TypeError(f"bus must be an EventBus, not {bus!r}")
    if name is None:
        name = socket.gethostname()
    if not isinstance(name, str):
        raise TypeError(f"name must be a str, not {name!r}")
    link = Link(bus, open_log(log), name)
    await link.arrive()
    _, last = await link.attempt(_bounds)
    await link.arrive()
    link.note_seen(last)
    link.staff.on_closing[link.stop_inflow] = None
    bridge: Bridge = Bridge._create(link)
    return bridge


@final
@attrs.define(eq=False, repr=False)
class Bridge(metaclass=NoPublicConstructor):
    """A connection of one bus with one log. Get one from `open_bridge`."""

    _made_by: ClassVar = "open_bridge"
    _link: Link

    async def export(
        self,
        system: str,
        kind: str | None = None,
        *,
        path: str | ExactPath | None = None,
        max_buffer_size: int = 1024,
        overflow: Overflow = Overflow.BLOCK,
    ) -> Subscription:
        """Append matching events of this bus to the log, from now on.

        Each is appended once, in the order of the bus. Events that came from a log are never
        exported. While the log is unavailable, events wait in the buffer of the subscription; when
        that is full, `overflow` decides. An event whose data can't be written as JSON, or takes
        more than 256 KiB, is a dead letter.

        A checkpoint, always. Cancel-safe: if cancelled, nothing is exported.

        Args:
          system: As in `EventBus.subscribe`.
          kind: As in `EventBus.subscribe`.
          path: As in `EventBus.subscribe`.
          max_buffer_size: How many events may wait for the next batch.
          overflow: As in `EventBus.subscribe`.

        Returns:
          The subscription that is exported. Close it to end the export.

        Raises:
          ValueError: If another export of this bridge may match the same events.
          LogRefusedError: If the log doesn't allow it.
          trio.ClosedResourceError: If the bridge was closed.
          EventBusError: As `EventBus.subscribe`.
        """
        terms, origin = Terms.of(system, kind, path, max_buffer_size, overflow), caller()
        link = self._link
        await link.arrive()
        _check_no_overlap("export", terms.interest, _exported(link))
        await link.attempt(self._append_nothing)
        await link.arrive()
        _check_no_overlap("export", terms.interest, _exported(link))
        subscription = link.bus._subscribe(terms, origin, actor_type=ExportActor)
        export = Export(link, subscription, link.open_line())
        link.bus._writers.add(export.writer)
        link.exports[export] = None
        link.staff.enlist(export)
        link.bus._nursery.start_soon(export.run, name=f"trio_events export {terms.interest}")
        return subscription

    async def follow(
        self,
        system: str,
        kind: str | None = None,
        *,
        path: str | ExactPath | None = None,
        after: int | None = None,
        types: Mapping[str, type] = _NO_TYPES,
    ) -> Follower:
        """Send matching events that other buses append to the log on this bus.

        They are sent in the order of the log, each at most once. Like `EventBus.send`, this waits
        for subscriptions that are full; unread events stay in the log. Events that this bus has
        exported itself don't come back.

        A checkpoint, always. Cancel-safe: if cancelled, nothing is followed.

        Args:
          system: As in `EventBus.subscribe`.
          kind: As in `EventBus.subscribe`.
          path: As in `EventBus.subscribe`.
          after: The position after which to begin: 0 is the beginning of the log, None its current
            end, and `event.source.position` of an event resumes after that event.
          types: The class that data is converted to, by kind of event: an attrs class, a dataclass,
            or anything else that msgspec supports. Other data becomes dicts, lists, strings and
            numbers.

        Raises:
          ValueError: If another follower of this bridge may match the same events, or `after` is
            negative.
          LogRefusedError: If the log doesn't allow it.
          trio.ClosedResourceError: If the bridge was closed.
          EventBusError: As `EventBus.subscribe`.
        """
        interest, decoders = Interest.of(system, kind, path), Types.of(types)
        check_after(after)
        link = self._link
        await link.arrive()
        _check_no_overlap("follow", interest, _followed(link))

        async def look(session: LogSession) -> int:
            _, last = await session.bounds()
            await session.read(last if after is None else after, 1, 0)
            return last

        last = await link.attempt(look)
        await link.arrive()
        _check_no_overlap("follow", interest, _followed(link))
        start = last if after is None else after
        follower: Follower = Follower._create(
            link, link.open_line(), interest, decoders, start, last
        )
        link.followers[follower] = None
        link.bus._nursery.start_soon(follower._run, name=f"trio_events follow {interest}")
        return follower

    async def on(
        self,
        handler: Handler,
        system: str,
        kind: str | None = None,
        *,
        path: str | ExactPath | None = None,
        group: str,
        concurrency: int = 1,
        on_error: OnError = Propagate(),  # noqa: B008  # a frozen value
        after: int | None = None,
        lease: float = 30.0,
        max_attempts: int = 5,
        types: Mapping[str, type] = _NO_TYPES,
    ) -> Subscription:
        """Have an async function called with events of the log that a group shares.

        Each event goes to one member of the group, and is acknowledged when the handler has
        returned or has finally failed. If the member dies, hangs or loses its connection before
        that, another one gets the event within 1.5 leases. So a handler may get an event twice,
        with the same `source.id` and a higher `source.attempt`.

        The handler is supervised and drained like those of `EventBus.on`, and has the context
        variables of the caller. It doesn't get events of this bus, unless they are exported.

        A checkpoint, always. Cancel-safe: if cancelled, nothing is handled.

        Args:
          handler: The async function.
          system: As in `EventBus.subscribe`.
          kind: As in `EventBus.subscribe`.
          path: As in `EventBus.subscribe`.
          group: The name of the group. The patterns of a group can't be changed.
          concurrency: How many calls may run at a time in this member. They begin in the order of
            the log.
          on_error: As in `EventBus.on`. With `Propagate`, the event isn't acknowledged.
          after: As in `follow`, if the group is new; an existing group continues where it is.
          lease: How many seconds after the last sign of life of a member others get its events.
          max_attempts: After how many deliveries an event is given up and becomes a dead letter.
          types: As in `follow`.

        Raises:
          LogRefusedError: If the log doesn't allow it, or the group has other patterns.
          trio.ClosedResourceError: If the bridge was closed.
          TypeError: As `EventBus.on`.
          ValueError: If a number is too small, or the group has no name.
          EventBusError: As `EventBus.subscribe`.
        """
        terms = Terms.of(system, kind, path, concurrency, Overflow.BLOCK)
        origin, decoders, link = caller(), Types.of(types), self._link
        check_after(after)
        _check_lease(lease)
        check_count("max_attempts", max_attempts)
        if not isinstance(group, str):
            raise TypeError(f"group must be a str, not {group!r}")
        if not group:
            raise ValueError("group must not be empty")
        # To raise before anything has happened.
        Registration(handler, terms, concurrency, False, on_error)
        await link.arrive()
        link.bus._check_subscribe(terms.interest)

        async def join(session: LogSession) -> int:
            start = (await session.bounds())[1] if after is None else after
            await session.join(group, str(terms.interest), start)
            return start

        start = await link.attempt(join)
        await link.arrive()
        member = Group(
            link, group, terms.interest, start, concurrency, lease, max_attempts, decoders
        )
        registration = Registration(
            handler, terms, concurrency, False, on_error, on_finished=member.note_finished
        )
        member.start(link.bus._start(registration, origin, GroupActor))
        return member.subscription

    async def flush(self) -> None:
        """Wait until all events that this bridge exports, and that were sent before, are stored.

        After that, they survive the death of this process. This waits while the log is
        unavailable.

        A checkpoint, always. Several tasks may call this at once; they share the work.

        Raises:
          BusClosedError: If the bus was closed before all of them were stored.
          DeadlockError: If this is called by `on_dead_letter` for an event that can't be exported:
            the export goes on when that has returned.
          NoBusError: If the caller is not in the thread of the bus.
        """
        await self._link.flush()

    def close(self) -> None:
        """Read no more from the log, and export what was accepted. Not a checkpoint. Idempotent.

        Handlers of groups finish their events, and events that they send are still exported. Then
        their events are acknowledged, and the tasks of the bridge end.

        Raises:
          NoBusError: If the caller is not in the thread of the bus.
        """
        self._link.close()

    def statistics(self) -> BridgeStatistics:
        """The state and the counters now. Not a checkpoint."""
        link = self._link
        counts, reports = link.counts, link.reports
        return BridgeStatistics(
            connected=reports.error is None,
            error=reports.error,
            exported=counts["exported"],
            refused=counts["refused"],
            imported=counts["imported"],
            own=counts["own"],
            unwanted=counts["unwanted"],
            denied=counts["denied"],
            malformed=counts["malformed"],
            missed=counts["missed"],
            rewound=counts["rewound"],
            handled=counts["handled"],
            repeated=counts["repeated"],
            buried=counts["buried"],
            retries=reports.retries,
            reconnects=reports.reconnects,
            position=link.seen,
        )

    def __repr__(self) -> str:
        link = self._link
        state = "closed" if link.closed else f"{len(link.exports)} exports"
        return f"<Bridge {link.name!r} to {link.log.label}, {state}>"

    async def _append_nothing(self, session: LogSession) -> None:
        await session.append(secrets.token_hex(6), 1, [], 0)


async def _bounds(session: LogSession) -> tuple[int, int]:
    return await session.bounds()


def _exported(link: Link) -> list[Interest]:
    return [export.interest for export in link.exports if export.is_open]


def _followed(link: Link) -> list[Interest]:
    followers = (each for each in link.followers if isinstance(each, Follower))
    return [follower._interest for follower in followers if not follower._closed]


def _check_no_overlap(verb: str, interest: Interest, others: Iterable[Interest]) -> None:
    """Require that no event can match twice, because it would be exported or sent twice.

    Raises:
      ValueError: If one can.
    """
    for other in others:
        kinds = interest.kind is None or other.kind is None or interest.kind.overlaps(other.kind)
        if kinds and interest.system.overlaps(other.system):
            raise ValueError(
                f"{verb} of {interest} overlaps that of {other}: use one pattern for both, such as "
                "'(orders|payments).**'"
            )


def _check_lease(lease: Any) -> None:
    """Require a duration that works with a log."""
    check_seconds("lease", lease)
    if not 0.01 <= lease <= 86_400:
        raise ValueError(f"lease must be between 0.01 and 86400 seconds, not {lease}")
