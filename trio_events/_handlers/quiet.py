"""Detecting quiet: nothing is under way, and every task that the bus owns is waiting to read."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, Protocol, final

import attrs
import trio

from .._core.actor import SubscriptionActor
from .._core.router import Router
from .._event import Event


class Member(Protocol):
    """Something that the bus waits for besides its tasks: a part of a bridge."""

    @property
    def is_idle(self) -> bool:
        """Whether it has nothing left to do."""

    def stop(self, reason: str) -> None:
        """End its tasks, and report what is left."""


@final
@attrs.define(eq=False)
class OwnedTask:
    """A task of the bus that runs code of the application: a consumer, or calls of a handler."""

    name: str
    turns: trio.lowlevel.ParkingLot | None = None
    """The place where the tasks of one handler wait for their turn to read."""

    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    task: trio.lowlevel.Task | None = attrs.field(default=None, init=False)
    """None until it has begun."""

    was_working: bool = attrs.field(default=False, init=False)
    """Whether it was working when it was cancelled, rather than waiting to read."""

    event: Event[Any] | None = attrs.field(default=None, init=False)
    """The event that the handler is being called with."""

    since: float | None = attrs.field(default=None, init=False)
    """When that call was first seen to be running, on trio's clock; None if it has not been."""

    next_report: float = attrs.field(default=0, init=False)
    """When the call is to be reported next, on trio's clock."""


@final
@attrs.define(eq=False)
class _Wait:
    """The tasks that wait for quiet of one subscription, or of the bus."""

    subject: SubscriptionActor | None
    tasks: int = attrs.field(default=0, init=False)
    lot: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot, init=False)
    """The place of those that found no quiet when they came."""

    consumers: set[OwnedTask] = attrs.field(factory=set, init=False)
    """The owners of the tasks that have read from the subscription, and may have ended since."""


def ancestry(task: trio.lowlevel.Task | None) -> Iterator[trio.lowlevel.Task]:
    """A task, the task in one of whose nurseries it runs, and so on."""
    while task is not None:
        yield task
        task = None if task.parent_nursery is None else task.parent_nursery.parent_task


@final
class Quiet(trio.abc.Instrument):
    """Knows the tasks that the bus owns, and notices when all of them are waiting to read.

    A task in a nursery that an owned task has opened is owned as well. Trio calls an instrument at
    every step of every task. So this is an instrument only while something waits for quiet, and
    costs nothing at other times.
    """

    __slots__ = (
        "_begun",
        "_busy",
        "_leaving_nursery",
        "_router",
        "_waits",
        "members",
        "owned",
    )

    def __init__(self, router: Router) -> None:
        self._router = router
        self.owned: dict[OwnedTask, None] = {}
        self.members: dict[Member, None] = {}
        self._begun: dict[trio.lowlevel.Task, OwnedTask] = {}
        # The owned tasks, and their children, that don't wait to read. Kept while there are waits.
        self._busy: set[trio.lowlevel.Task] = set()
        self._waits: dict[SubscriptionActor | None, _Wait] = {}  # by subject
        leave = inspect.unwrap(type(trio.open_nursery()).__aexit__)
        self._leaving_nursery = leave.__code__

    # The tasks

    def begin(self, owned: OwnedTask) -> trio.lowlevel.Task:
        """Note that the running task is this one; returns it."""
        owned.task = trio.lowlevel.current_task()
        self._begun[owned.task] = owned
        return owned.task

    def end(self, owned: OwnedTask) -> None:
        """Note that the running task, which is this one, has finished."""
        assert owned.task is not None
        del self._begun[owned.task]
        del self.owned[owned]

    def owner(self, task: trio.lowlevel.Task | None) -> OwnedTask | None:
        """The owned task that this task is, or in one of whose nurseries it runs."""
        return next((self._begun[each] for each in ancestry(task) if each in self._begun), None)

    def working(self) -> Iterator[OwnedTask]:
        """The owned tasks that aren't waiting to read, or contain a task that isn't."""
        self._look()
        busy = {self.owner(task) for task in self._busy}
        return (owned for owned in self.owned if owned.task is None or owned in busy)

    # Quiet

    def _is_quiet(self, wait: _Wait) -> bool:
        """Whether nothing is under way, on the bus or for one subscription."""
        subject = wait.subject
        if subject is None:
            none_starts = len(self._begun) == len(self.owned)
            if not none_starts or self._busy or self._router.core.inbox.messages:
                return False
            return all(member.is_idle for member in self.members)
        buffer = subject.buffer
        if buffer.unread or buffer.on_the_way:
            return False
        if subject.worker is not None:
            return subject.worker.is_over
        busy = self._busy - self._draining()
        return not any(self.owner(task) in wait.consumers for task in busy)

    def _note_reader(self, wait: _Wait, task: trio.lowlevel.Task) -> None:
        owned = self.owner(task)
        if owned is not None:
            wait.consumers.add(owned)

    def _draining(self) -> set[trio.lowlevel.Task]:
        """The tasks that wait for quiet of a subscription: they don't wait for each other."""
        lots = [wait.lot for wait in self._waits.values() if wait.subject is not None]
        return {task for task in self._busy if any(task.custom_sleep_data is lot for lot in lots)}

    async def wait(self, subject: SubscriptionActor | None = None, *, still: bool = False) -> None:
        """Wait for quiet. A checkpoint, always.

        Args:
          subject: A closed subscription, all of whose events have been routed; None is the bus.
          still: Whether it must still be quiet when the caller resumes.
        """
        if not self._waits:
            self._look()
            trio.lowlevel.add_instrument(self)
        wait = self._waits.setdefault(subject, _Wait(subject))
        wait.tasks += 1
        if subject is not None:
            for reader in subject.known_readers:
                self._note_reader(wait, reader)
        try:
            await trio.lowlevel.checkpoint()
            while not self._is_quiet(wait):
                await wait.lot.park()
                if not still:
                    break
        finally:
            wait.tasks -= 1
            if not wait.tasks:
                del self._waits[subject]
            if not self._waits:
                trio.lowlevel.remove_instrument(self)

    def _look(self) -> None:
        """Find out which tasks are busy now."""
        self._busy.clear()
        tasks = list(self._begun)
        while tasks:
            task = tasks.pop()
            if self._is_busy(task):
                self._busy.add(task)
            for nursery in task.child_nurseries:
                tasks.extend(nursery.child_tasks)

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        """Called by trio: a task is about to run."""
        if self.owner(task) is not None:
            self._busy.add(task)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Called by trio: a task has run, and is waiting or has ended."""
        if self._is_busy(task):
            self._busy.add(task)
        else:
            self._busy.discard(task)
        for wait in self._waits.values():
            if wait.subject is not None and task in wait.subject.known_readers:
                self._note_reader(wait, task)  # now, because it may have ended
            if wait.lot and self._is_quiet(wait):
                wait.lot.unpark_all()

    def _is_busy(self, task: trio.lowlevel.Task) -> bool:
        owned = self.owner(task)
        if owned is None or inspect.getcoroutinestate(task.coro) == inspect.CORO_CLOSED:
            return False
        if task is owned.task and owned.event is not None:  # wherever the handler waits
            return True
        place = task.custom_sleep_data  # trio sets it to None when the wait is over
        if isinstance(place, SubscriptionActor):
            return place.open_among is not self._router.subscriptions
        return not (place is not None and place is owned.turns) and not self._is_at_end(task)

    def _is_at_end(self, task: trio.lowlevel.Task) -> bool:
        """Whether a task is only waiting for the tasks of its innermost nursery."""
        nurseries = task.child_nurseries
        return bool(nurseries and nurseries[-1].child_tasks) and any(
            frame.f_code is self._leaving_nursery for frame, _ in task.iter_await_frames()
        )
