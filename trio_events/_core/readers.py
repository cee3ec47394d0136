"""The tasks that read from a subscription: those that are waiting, and all that ever read."""

from __future__ import annotations

import inspect
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, TypeAlias, final

import attrs
import trio

from .._event import Event

Queue: TypeAlias = "OrderedDict[Reader, None]"
"""An ordered set; the longest waiter is first."""


@final
@attrs.define(eq=False)
class Reader:
    """A task that is waiting for events.

    Passing the events and removing the reader from its queue is one step, so a cancellation can
    never lose an event, or let it be read twice.
    """

    max_size: int | None
    """The most events that it takes at once; None means no limit."""

    _queue: Queue
    task: trio.lowlevel.Task = attrs.field(factory=trio.lowlevel.current_task, init=False)
    """The task that created this, and is waiting."""

    events: list[Event[Any]] = attrs.field(init=False)
    """The answer, once there is one: events, or an empty list if there won't be any."""

    def abort(self, _: object) -> trio.lowlevel.Abort:
        """Called by trio when the task is cancelled: leave the queue, without an answer."""
        # It isn't in the queue if the garbage collector closed the channel between trio's decision
        # to cancel the task and this line. Then the task has already been rescheduled.
        left = self._queue.pop(self, self) is None
        return trio.lowlevel.Abort.SUCCEEDED if left else trio.lowlevel.Abort.FAILED

    def answer(self, events: list[Event[Any]]) -> None:
        """Wake the task. The reader has been removed from the queue."""
        self.events = events
        trio.lowlevel.reschedule(self.task)


@final
@attrs.define(eq=False)
class KnownReaders:
    """The living tasks that have ever read from a subscription.

    As far as is known, these are the tasks that can make room in it.
    """

    unknown: bool = attrs.field(default=False, init=False)
    """Whether something other than a task has read, such as a callback."""

    # By weak references that remove themselves, because a task may keep many objects alive.
    # Created for the first task, because many subscriptions are idle.
    _tasks: dict[weakref.ref[trio.lowlevel.Task], None] | None = attrs.field(
        default=None, init=False
    )
    _last: weakref.ref[trio.lowlevel.Task] | None = attrs.field(default=None, init=False)

    def note_current(self) -> None:
        """Note the running task."""
        if trio.lowlevel.in_trio_task():
            self.note(trio.lowlevel.current_task())
        else:  # a callback, or no trio at all
            self.unknown = True

    def note(self, task: trio.lowlevel.Task) -> None:
        """Note a task."""
        if self._last is None or self._last() is not task:
            if self._tasks is None:
                self._tasks = {}
            tasks = self._tasks  # the callback must not keep the readers alive
            self._last = weakref.ref(task, lambda reference: tasks.pop(reference, None))
            tasks.setdefault(self._last)

    def __contains__(self, task: trio.lowlevel.Task) -> bool:
        return self._tasks is not None and weakref.ref(task) in self._tasks

    def __iter__(self) -> Iterator[trio.lowlevel.Task]:
        for reference in tuple(self._tasks or ()):
            task = reference()
            if task is not None and inspect.getcoroutinestate(task.coro) != inspect.CORO_CLOSED:
                yield task
