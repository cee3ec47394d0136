"""The router's inbox, in which the place of an event is its place in the total order."""

from __future__ import annotations

from typing import ClassVar, Protocol, TypeAlias, final

import attrs
import trio

from .._event import Event
from .._names.interest import Interest
from .pending import Addressee


class Recipient(Addressee, Protocol):
    """A recipient in the routing table, such as a subscription."""

    local_only: ClassVar[bool]
    """Whether it ignores events that a bridge brought."""

    closed: bool
    """Whether it ignores events accepted from now on."""

    def deliver(self, events: list[Event]) -> None:
        """Take in events that match, in order. The list belongs to the recipient."""

    def finish(self) -> None:
        """Finish: no more events will be delivered."""

    def end(self) -> None:
        """Finish at the end of the bus."""


class Source(Protocol):
    """A source of events from before a subscription, such as a history."""

    def matching(self, interest: Interest) -> list[Event]:
        """Its events that match, in order."""


@final
@attrs.frozen(eq=False)
class Subscribe:
    """Route matching events that come after this message to the recipient."""

    recipient: Recipient
    interest: Interest
    source: Source | None = None
    """The source of matching events that came before this message, if any."""


@final
@attrs.frozen(eq=False)
class Unsubscribe:
    """Don't route events that come after this message to the recipient."""

    recipient: Recipient
    interests: tuple[Interest, ...]
    final: bool
    """Whether nothing more will be routed to it."""


Message: TypeAlias = Event | Subscribe | Unsubscribe


@final
@attrs.define(eq=False)
class Inbox:
    """The messages that are in the total order and waiting to be routed.

    This is a memory channel that carries a list of messages. Messages are added to the list until
    the router takes it, so the channel needs room for one list only, and the bound counts the
    events in it. The place of a message in the list is its place in the total order.
    """

    size: int
    """The number of events at which senders begin to wait."""

    direct_size: int = attrs.field(init=False)
    """The number of messages below which a sender may add an event itself: `size`, or 0 while
    instruments watch the sends."""

    messages: list[Message] = attrs.field(factory=list, init=False)
    controls: int = attrs.field(default=0, init=False)
    """The number of messages that aren't events but change the routing table."""

    signalled: bool = attrs.field(default=False, init=False)
    """Whether a list is in the channel, or has been passed to the router."""

    _router: trio.lowlevel.Task | None = attrs.field(default=None, init=False)
    _is_receiving: bool = attrs.field(default=False, init=False)  # the router's task, in `wait`
    _tx: trio.MemorySendChannel[list[Message]] = attrs.field(init=False)
    rx: trio.MemoryReceiveChannel[list[Message]] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.direct_size = self.size
        self._tx, self.rx = trio.open_memory_channel(1)

    @property
    def used(self) -> int:
        """The number of events that are waiting to be routed."""
        return len(self.messages) - self.controls

    def post(self, message: Message) -> None:
        """Give a message its place in the total order, and wake the router if it is asleep.

        Only within a step, which has reserved room on the stack.
        """
        if not self.signalled:
            self.signalled = True
            if self._is_receiving and _runs(self._router):
                # The garbage collector is running a destructor in the middle of the router's own
                # `receive`, which could miss the list, or be resumed before it waits.
                trio.lowlevel.current_trio_token().run_sync_soon(self._signal)
            else:
                self._signal()
        if type(message) is not Event:
            self.controls += 1
        self.messages.append(message)

    def _signal(self) -> None:
        try:
            self._tx.send_nowait(self.messages)
        except trio.ClosedResourceError:  # too late, and everything has been routed
            pass

    async def wait(self) -> None:
        """Wait until there are messages to take. Only for the router's task.

        Raises:
          trio.EndOfChannel: If there will be no more.
        """
        if self._router is None:
            self._router = trio.lowlevel.current_task()
        self._is_receiving = True
        await self.rx.receive()
        self._is_receiving = False
        self.signalled = False

    def take(self) -> list[Message]:
        """Take all waiting messages. Later ones go into a new list."""
        messages, self.messages = self.messages, []
        self.controls = 0
        return messages

    def close(self) -> None:
        """Let the router end when it has taken everything. There must be no more messages."""
        self._tx.close()


def _runs(task: trio.lowlevel.Task | None) -> bool:
    """Whether a task is the running one; outside of trio none is."""
    try:
        return trio.lowlevel.current_task() is task
    except RuntimeError:
        return False
