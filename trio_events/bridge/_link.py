"""What the parts of a bridge share: the bus, the log, and the counters."""

from __future__ import annotations

import inspect
from collections import Counter
from typing import Any, Protocol, final

import attrs
import trio

from .._bus import EventBus
from .._errors import BusClosedError, DeadlockError
from .._event import Event
from .._handlers.quiet import ancestry
from .._handlers.staff import Staff
from .._handlers.supervision import DeadLetter
from .._names.errors import InvalidEventError
from .._names.interest import Interest
from .._requests import adopt
from ._envelope import CloudEvent, MalformedError
from ._line import Line, Operation, Reports, T, pauses
from ._log import EventLog, LogUnavailableError


class Exporting(Protocol):
    """An export, as others need it."""

    @property
    def interest(self) -> Interest:
        """What it exports."""

    @property
    def is_open(self) -> bool:
        """Whether it exports what is accepted from now on."""

    @property
    def matched(self) -> int:
        """Events that were accepted so far."""

    def runs_in(self, task: trio.lowlevel.Task) -> bool:
        """Whether this is the task that exports."""

    async def wait_settled(self, target: int) -> None:
        """Wait until so many are stored."""

    def close(self) -> None:
        """Export what was accepted so far, and no more."""


class Following(Protocol):
    """A follower, as others need it."""

    def close(self) -> None:
        """Send nothing more."""


class Sharing(Protocol):
    """A member of a group, as others need it."""

    def stop_claiming(self) -> None:
        """Take nothing new."""

    def close(self) -> None:
        """Take nothing new, and end when the handler has finished what it has."""


@final
@attrs.define(eq=False)
class Link:
    """One bus, one log, and what goes on between them."""

    bus: EventBus
    log: EventLog
    name: str
    """Where the events that are exported come from, in `Source.origin`."""

    reports: Reports = attrs.field(init=False)
    counts: Counter[str] = attrs.field(factory=Counter, init=False)
    closed: bool = attrs.field(default=False, init=False)
    seen: int = attrs.field(default=0, init=False)
    """The highest position that is known."""

    exports: dict[Exporting, None] = attrs.field(factory=dict, init=False)
    """Those that have something to do, and those that have left something undone."""

    followers: dict[Following, None] = attrs.field(factory=dict, init=False)
    groups: dict[Sharing, None] = attrs.field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self.reports = Reports(self.log.label, self.bus._core.notices)

    @property
    def staff(self) -> Staff:
        """Whom the bus waits for when it is closed."""
        return self.bus._staff

    # The log

    async def attempt(self, operation: Operation[T]) -> T:
        """Carry out an operation, waiting until the log can be reached.

        A checkpoint, always. If cancelled, it may have been carried out or not.

        Raises:
          LogRefusedError: If the log doesn't allow it.
          BusClosedError: If the bus is closed meanwhile.
        """
        sleep = pauses()
        while True:
            try:
                async with self.log.open() as session:
                    answer = await operation(session)
            except LogUnavailableError as error:
                self.reports.begin_trouble(operation, error)
                try:
                    await sleep()
                    self.check_open()
                except BaseException:
                    self.reports.end_trouble(operation, succeeded=False)
                    raise
            else:
                self.reports.end_trouble(operation, succeeded=True)
                return answer

    def open_line(self) -> Line:
        """A connection to the log for one task."""
        line = Line(self.log, self.reports)
        self.bus._nursery.start_soon(line.run, name=f"trio_events bridge to {self.log.label}")
        return line

    def note_seen(self, position: int) -> None:
        """There is, or was, an entry at this position."""
        self.seen = max(self.seen, position)

    # The bus

    async def arrive(self) -> None:
        """Make sure that the caller may begin something new, and give others a turn."""
        await self.bus._arrive()
        self.check_open()

    def check_open(self) -> None:
        """Require that the bus and the bridge are open.

        Raises:
          BusClosedError: If the bus is closed, or closing.
          trio.ClosedResourceError: If the bridge was closed.
        """
        if not self.bus._core.door.is_open:
            raise self.closed_error()
        if self.closed:
            raise trio.ClosedResourceError(f"the bridge to {self.log.label} was closed")

    def closed_error(self, consequence: str = "") -> BusClosedError:
        """The error of a closed bus."""
        return self.bus._core.door.closed_error(consequence)

    def is_own(self, writer: str) -> bool:
        """Whether an export of this bus is the writer, through whichever bridge."""
        return writer in self.bus._writers

    def check_names(self, event: Event[Any]) -> None:
        """Require that the event may have its names.

        Raises:
          MalformedError: If not.
        """
        try:
            self.bus._router.checked_names(event.system, event.kind)
        except InvalidEventError as error:
            raise MalformedError(str(error)) from error

    def is_request(self, event: Event[Any]) -> bool:
        """Whether it was sent by `request`."""
        return id(event) in self.bus._core.requests.known

    def adopt(self, event: Event[Any], envelope: CloudEvent) -> None:
        """Let it be replied to if it is a request of another process."""
        if envelope.request is True:
            adopt(self.bus._router, event)

    def check_send(self, system: str) -> None:
        """Require that the bus's actor may send to a system.

        Raises:
          Exception: If it may not, or whatever the policy raises.
        """
        self.bus._permits.check_send(system)

    async def send(self, event: Event[Any]) -> None:
        """`EventBus.send`, for an event that has been checked and comes from the log."""
        core = self.bus._core
        await next(core.pace.steps)()
        if core.instruments.watched_sends:
            await self.bus._send_watched(event)
        elif (sender := self.bus._router.offer(event, wait=True)) is not None:
            await sender.wait()
            core.pace.restart()

    async def bury(self, letter: DeadLetter) -> None:
        """Tell the bus's hook about a dead letter. A checkpoint, always."""
        self.bus._core.instruments.tell("event_failed", letter)
        hook = self.bus._on_dead_letter
        if hook is not None and inspect.isawaitable(result := hook(letter)):
            await result
        await trio.lowlevel.checkpoint()

    # The end

    async def flush(self) -> None:
        """Wait until everything that was accepted and is exported is stored.

        Raises:
          DeadlockError: If an export itself would wait.
        """
        self.bus._core.door.check_here()
        for export in self.exports:
            if any(map(export.runs_in, ancestry(trio.lowlevel.current_task()))):
                raise DeadlockError(
                    "flush would wait for the export that has called on_dead_letter",
                    system=str(export.interest.system),
                    kind=None if export.interest.kind is None else str(export.interest.kind),
                )
        await trio.lowlevel.checkpoint()
        self.staff.route_accepted()
        for export, target in [(export, export.matched) for export in self.exports]:
            await export.wait_settled(target)

    def stop_inflow(self) -> None:
        """Bring in nothing new: the bus, or the bridge, is being closed."""
        for follower in tuple(self.followers):
            follower.close()
        for group in self.groups:
            group.stop_claiming()

    def leave_group(self, group: Sharing) -> None:
        """A member of a group has ended."""
        del self.groups[group]
        if self.closed:
            self._close_exports()

    def close(self) -> None:
        """Bring in nothing new; export what was accepted, and what handlers of groups send."""
        self.bus._core.door.check_here()
        if not self.closed:
            self.closed = True
            del self.staff.on_closing[self.stop_inflow]
            self.stop_inflow()
            for group in tuple(self.groups):
                group.close()
            self._close_exports()

    def _close_exports(self) -> None:
        if not self.groups:  # otherwise a handler may still have something to send
            for export in tuple(self.exports):
                export.close()
