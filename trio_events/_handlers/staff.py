"""Whom the bus owns, who may still use it while it is closing, and when all is quiet."""

from __future__ import annotations

from typing import Protocol, final

import trio

from .._core.router import LEFT, Router


class Member(Protocol):
    """A handler at work."""

    @property
    def is_idle(self) -> bool:
        """Whether it has nothing left to do."""

    def stop(self, reason: str) -> None:
        """End its tasks, and report what is left."""


@final
class Staff:
    """The handlers of a bus, and how they end.

    When the bus is closed, they finish what was accepted first: until then they, and the tasks
    that they start, may use the bus, and nobody else.
    """

    __slots__ = (
        "_changed",
        "_drain_timeout",
        "_members",
        "_nursery",
        "_quiet",
        "_router",
        "draining",
    )

    def __init__(self, nursery: trio.Nursery, router: Router, drain_timeout: float) -> None:
        self._nursery = nursery
        self._router = router
        self._drain_timeout = drain_timeout
        self._members: dict[Member, None] = {}
        self.draining = False
        # Those that may have become idle, or busy, since the drain looked.
        self._changed: dict[Member, None] = {}
        self._quiet = trio.lowlevel.ParkingLot()

    def join(self, member: Member) -> None:
        """A handler begins to work."""
        self._members[member] = None
        self.note_change(member)

    def leave(self, member: Member) -> None:
        """A handler has ended."""
        del self._members[member]
        self.note_change(member)

    def includes(self, task: trio.lowlevel.Task | None) -> bool:
        """Whether a task, or the running one if it is None, is a handler or was started by one."""
        if task is None:
            if not trio.lowlevel.in_trio_task():  # a callback, which no handler is
                return False
            task = trio.lowlevel.current_task()
        while task is not None and task.parent_nursery is not self._nursery:
            task = None if task.parent_nursery is None else task.parent_nursery.parent_task
        return task is not None

    def note_change(self, *members: Member) -> None:
        """These may have become idle, or busy, or the inbox empty."""
        if self.draining:
            self._changed.update(dict.fromkeys(members))
            self._quiet.unpark_all()

    def close(self, reason: str = LEFT) -> None:
        """Close the bus: at once, or when the handlers have finished."""
        if self._router.core.door.closed or self.draining:
            return
        if not self._members:
            self._router.close(reason)
            return
        self.draining = True
        self._router.after_routing = self.note_change
        self._router.core.door.restrict(self.includes, reason)
        self._router.core.senders.dismiss(self._router.core.door)
        self._nursery.start_soon(self._drain, name="trio_events drain")
        self._router.core.instruments.tell("draining_began")

    async def _drain(self) -> None:
        with trio.move_on_after(self._drain_timeout):
            await self._wait_quiet()
        # First of all, or handlers that wait in `send` would fail with BusClosedError.
        for member in tuple(self._members):
            member.stop(f"drain_timeout ({self._drain_timeout:g} s) expired")
        self._router.close()

    async def _wait_quiet(self) -> None:
        """Wait until no handler has anything left to do. A checkpoint, always."""
        await trio.lowlevel.checkpoint()
        self._changed = self._members.copy()
        busy: dict[Member, None] = {}
        while True:
            self._changed, changed = {}, self._changed
            for member in changed:
                if member in self._members and not member.is_idle:
                    busy[member] = None
                else:
                    busy.pop(member, None)
            if not busy and not self._router.core.inbox.messages:
                return
            await self._quiet.park()

    def route_accepted(self) -> None:
        """Let every event that was accepted reach the buffers of its subscriptions."""
        self._router.route_inbox()
