"""A task that waits in a queue for what somebody will hand to it."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from typing import Generic, TypeVar, final

import attrs
import trio

Request = TypeVar("Request")
Reply = TypeVar("Reply")


@final
@attrs.define(eq=False)
class Waiter(Generic[Request, Reply]):
    """One task's place in a queue. A queue is an ordered dict, used as an ordered set.

    Handing over the reply and taking the task out of the queue is one step, so there is no
    moment at which a cancellation could lose a reply, or let it be given twice.
    """

    request: Request
    """What the task waits for, for those who serve the queue."""

    ticket: int = 0
    """When it came. A queue is in the order of its tickets, also when waiters change queues."""

    task: trio.lowlevel.Task = attrs.field(factory=trio.lowlevel.current_task, init=False)
    """The task that made this, and that waits."""

    _queue: OrderedDict[Waiter[Request, Reply], None] = attrs.field(init=False)
    _reply: Reply = attrs.field(init=False)

    async def wait(self, queue: OrderedDict[Waiter[Request, Reply], None]) -> Reply:
        """Stand in the queue, at its end, until `wake` is called.

        A checkpoint, always. Cancel-safe: if cancelled, the task stands in no queue, and no
        reply was given to it.
        """
        self._queue = queue
        queue[self] = None

        def abort(_: object) -> trio.lowlevel.Abort:
            del self._queue[self]
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        reply = self._reply
        del self._reply  # it may be an exception, whose traceback will refer to us
        return reply

    def move(self, queue: OrderedDict[Waiter[Request, Reply], None]) -> None:
        """Leave the present queue for another one, at the place that the ticket gives."""
        del self._queue[self]
        self._queue = queue
        # Nearly always the newcomer belongs to the end, so look for those behind it from there.
        behind = list(itertools.takewhile(lambda w: w.ticket > self.ticket, reversed(queue)))
        queue[self] = None
        for other in reversed(behind):
            queue.move_to_end(other)

    def wake(self, reply: Reply) -> None:
        """Leave the queue, and let the task go on. Called once, by another task."""
        del self._queue[self]
        self.answer(reply)

    def answer(self, reply: Reply) -> None:
        """Let the task go on, which has been taken out of its queue."""
        self._reply = reply
        trio.lowlevel.reschedule(self.task)


def first(queue: OrderedDict[Waiter[Request, Reply], None]) -> Waiter[Request, Reply]:
    """The waiter that came first."""
    return next(iter(queue))
