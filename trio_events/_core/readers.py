"""The tasks that read from a subscription: those that wait for events, and those that ever did."""

from __future__ import annotations

import inspect
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, TypeAlias, final

import trio

from .._event import Event

Queue: TypeAlias = "OrderedDict[Reader, None]"
"""An ordered set: the longest waiter is the first."""


@final
class Reader:
    """A task that waits for events.

    Handing over the events and taking the reader out of its queue is one step, so there is no
    moment at which a cancellation could lose an event, or let it be read twice.
    """

    # In plain slots: there is one for each time that a reader waits.
    __slots__ = ("_events", "_queue", "max_size", "task")

    def __init__(self, max_size: int | None) -> None:
        self.max_size = max_size
        """The most events that it takes at once; None is no limit."""

        self.task = trio.lowlevel.current_task()
        """The task that made this, and that waits."""

    async def wait(self, queue: Queue) -> list[Event[Any]]:
        """Wait at the end of the queue for the answer: events, or none if there won't be any.

        A checkpoint, always. Cancel-safe: if cancelled, the reader has left the queue, and there
        was no answer.
        """
        self._queue = queue
        queue[self] = None
        try:
            await trio.lowlevel.wait_task_rescheduled(self._abort)
        except BaseException:
            queue.pop(self, None)  # still there if trio had no room on the stack
            raise
        return self._events

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        # It isn't there if the garbage collector closed the channel between trio's decision to
        # cancel the task and this line: then the task goes on already.
        left = self._queue.pop(self, self) is None
        return trio.lowlevel.Abort.SUCCEEDED if left else trio.lowlevel.Abort.FAILED

    def answer(self, events: list[Event[Any]]) -> None:
        """Let the task go on. The reader has been taken out of the queue."""
        self._events = events
        trio.lowlevel.reschedule(self.task)


@final
class KnownReaders:
    """The living tasks that have ever read from a subscription.

    They are who can make room in it, as far as anybody knows.
    """

    __slots__ = ("_last", "_tasks", "unknown")

    def __init__(self) -> None:
        self.unknown = False
        """Whether something has read that is no task, such as a callback."""

        # By weak references, which remove themselves: a task may have much to let go of.
        self._tasks: dict[weakref.ref[trio.lowlevel.Task], None] = {}
        self._last: weakref.ref[trio.lowlevel.Task] | None = None

    def note_current(self) -> None:
        """Note the running task."""
        try:
            self.note(trio.lowlevel.current_task())
        except RuntimeError:  # a callback, or no trio at all
            self.unknown = True

    def note(self, task: trio.lowlevel.Task) -> None:
        """Note a task."""
        if self._last is None or self._last() is not task:
            self._last = weakref.ref(task, _Forget(self._tasks))
            self._tasks.setdefault(self._last)

    def __iter__(self) -> Iterator[trio.lowlevel.Task]:
        for reference in tuple(self._tasks):
            task = reference()
            if task is not None and inspect.getcoroutinestate(task.coro) != inspect.CORO_CLOSED:
                yield task


@final
class _Forget:
    """Removes a dead reference from the tasks, and doesn't keep the readers alive."""

    __slots__ = ("_tasks",)

    def __init__(self, tasks: dict[weakref.ref[trio.lowlevel.Task], None]) -> None:
        self._tasks = tasks

    def __call__(self, reference: weakref.ref[trio.lowlevel.Task]) -> None:
        self._tasks.pop(reference, None)
