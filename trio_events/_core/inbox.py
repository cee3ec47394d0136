"""The router's inbox: a place in it is a place in the total order. It is also the bus's door."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from threading import get_ident
from typing import Protocol, TypeAlias, final

import attrs
import trio

from .._errors import BusClosedError, NoBusError
from .._event import Event
from .._names.interest import Interest
from .notices import Notices


class Recipient(Hashable, Protocol):
    """What the routing table leads to, such as a subscription."""

    closed: bool
    """Whether it wants no event that is accepted from now on."""

    def deliver(self, events: list[Event]) -> None:
        """Take in events that match, in order. The list belongs to the recipient."""

    def finish(self) -> None:
        """Nothing more will be delivered."""


@final
@attrs.frozen(eq=False)
class Subscribe:
    """Route matching events that come after this message to the recipient."""

    recipient: Recipient
    interest: Interest


@final
@attrs.frozen(eq=False)
class Unsubscribe:
    """Don't route events that come after this message to the recipient."""

    recipient: Recipient
    interests: tuple[Interest, ...]
    final: bool
    """Whether nothing will be routed to it any more."""


Message: TypeAlias = Event | Subscribe | Unsubscribe


@final
class Inbox:
    """The messages that have their place in the total order and wait to be routed.

    It is a memory channel that carries a list of messages. Until the router takes it, messages are
    added to the list; so the channel needs room for one list only, and the bound counts the events
    in it. The place of a message in the list is its place in the total order.

    It also knows who may use the bus: everybody, those whom `admits` accepts, or nobody.

    Everything here is synchronous. In plain slots, because every event passes through here.
    """

    __slots__ = (
        "_admits",
        "_controls",
        "_errors",
        "_notices",
        "_router",
        "_thread",
        "_token",
        "_tx",
        "closed",
        "limit",
        "messages",
        "rx",
        "signalled",
        "size",
    )

    def __init__(self, size: int, notices: Notices, token: trio.lowlevel.TrioToken | None) -> None:
        self.size = size
        """Events at which senders begin to wait."""

        self.messages: list[Message] = []
        self._controls = 0  # messages that are no events
        self._tx, self.rx = trio.open_memory_channel[list[Message]](1)
        self.signalled = False  # a list is in the channel, or has been handed to the router
        self._router: trio.lowlevel.Task | None = None
        self._notices = notices
        self._token = token
        self._thread = get_ident()
        self.closed = False
        self._admits: Callable[[trio.lowlevel.Task | None], bool] | None = None
        self._errors = weakref.WeakSet[BusClosedError]()

        self.limit = size
        """The length of `messages` at which a sender has to be looked at more closely."""

    @property
    def used(self) -> int:
        """How many events wait to be routed."""
        return len(self.messages) - self._controls

    @property
    def has_controls(self) -> bool:
        """Whether a message waits that changes the routing table."""
        return self._controls > 0

    def post(self, message: Message) -> None:
        """Give a message its place in the total order, and wake the router if it sleeps."""
        if not self.signalled:
            self._signal()
        if type(message) is not Event:
            self._controls += 1
        self.messages.append(message)

    def _signal(self) -> None:
        with self._notices:
            self.signalled = True
            self._tx.send_nowait(self.messages)
        if self._is_router():
            # A destructor posts, called by the garbage collector in the middle of the router's
            # own `receive`. That may not see the list any more, and go to sleep.
            trio.lowlevel.current_trio_token().run_sync_soon(self._signal_again)

    def _is_router(self) -> bool:
        try:
            return trio.lowlevel.current_task() is self._router
        except RuntimeError:  # a callback, or no trio at all
            return False

    def _signal_again(self) -> None:
        statistics = self.rx.statistics()
        if statistics.tasks_waiting_receive and statistics.current_buffer_used:
            self._tx.send_nowait(self.rx.receive_nowait())

    async def wait(self) -> None:
        """Wait until there are messages to take. For the router's task alone.

        Raises:
          trio.EndOfChannel: If there will be none any more.
        """
        self._router = trio.lowlevel.current_task()
        await self.rx.receive()
        self.signalled = False

    def take(self) -> list[Message]:
        """All messages that wait. Later ones go into a new list."""
        messages, self.messages = self.messages, []
        self._controls = 0
        return messages

    # The door

    def check_here(self) -> None:
        """Raise if the caller is in another thread, before anything has happened.

        Raises:
          NoBusError: If so.
        """
        if get_ident() != self._thread:
            raise NoBusError(
                "this must be called in the trio run of the bus; from elsewhere, use send_soon "
                "or trio.from_thread"
            )

    def check_run(self) -> None:
        """The same, thorough enough to see that the run of the bus is over.

        Raises:
          NoBusError: If the caller is not in the trio run of the bus.
        """
        self.check_here()
        if trio.lowlevel.current_trio_token() is not self._token:
            raise NoBusError("this must be called in the trio run of the bus")

    def check_open(self) -> None:
        """Raise if the running task may not use the bus, because it is closed.

        Raises:
          BusClosedError: If so.
        """
        if self.closed or not self.admitted(None):
            raise self.closed_error(
                "the bus is closed: its `async with` block was left, or close() was called"
            )

    def admitted(self, task: trio.lowlevel.Task | None) -> bool:
        """Whether a task, or the running one if it is None, may use the bus while it is open."""
        return self._admits is None or self._admits(task)

    def restrict(self, admits: Callable[[trio.lowlevel.Task | None], bool]) -> None:
        """Admit only certain tasks from now on."""
        self._admits = admits
        self.limit = 0

    def close(self) -> None:
        """Admit nobody from now on. What waits can still be taken."""
        self.closed = True
        self.limit = 0

    def end(self) -> None:
        """Let the router end: there will be no messages."""
        self._tx.close()

    def closed_error(self, message: str) -> BusClosedError:
        """An error that `has_raised` will recognise as one of this bus."""
        error = BusClosedError(message)
        self._errors.add(error)
        return error

    def has_raised(self, error: BaseException) -> bool:
        """Whether the error says that this very bus is closed."""
        return isinstance(error, BusClosedError) and error in self._errors
