"""The tasks that read from a subscription: those that wait for events, and those that ever did."""

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
"""An ordered set: the longest waiter is the first."""


@final
@attrs.define(eq=False)
class Reader:
    """A task that waits for events.

    Handing over the events and taking the reader out of its queue is one step, so there is no
    moment at which a cancellation could lose an event, or let it be read twice.
    """

    max_size: int | None
    """The most events that it takes at once; None is no limit."""

    _queue: Queue
    task: trio.lowlevel.Task = attrs.field(factory=trio.lowlevel.current_task, init=False)
    """The task that made this, and that waits."""

    events: list[Event[Any]] = attrs.field(init=False)
    """The answer, if there was one: events, or none if there won't be any."""

    def abort(self, _: object) -> trio.lowlevel.Abort:
        """For trio, when the task is cancelled: it has then left the queue, without an answer."""
        # It isn't there if the garbage collector closed the channel between trio's decision to
        # cancel the task and this line: then the task goes on already.
        left = self._queue.pop(self, self) is None
        return trio.lowlevel.Abort.SUCCEEDED if left else trio.lowlevel.Abort.FAILED

    def answer(self, events: list[Event[Any]]) -> None:
        """Let the task go on. The reader has been taken out of the queue."""
        self.events = events
        trio.lowlevel.reschedule(self.task)


@final
@attrs.define(eq=False)
class KnownReaders:
    """The living tasks that have ever read from a subscription.

    They are who can make room in it, as far as anybody knows.
    """

    unknown: bool = attrs.field(default=False, init=False)
    """Whether something has read that is no task, such as a callback."""

    # By weak references, which remove themselves: a task may have much to let go of.
    # Made for the first one: many subscriptions are idle.
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

    def __iter__(self) -> Iterator[trio.lowlevel.Task]:
        for reference in tuple(self._tasks or ()):
            task = reference()
            if task is not None and inspect.getcoroutinestate(task.coro) != inspect.CORO_CLOSED:
                yield task
