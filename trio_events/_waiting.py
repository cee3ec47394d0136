"""A task that waits in a queue for what somebody will hand to it."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Generic, TypeAlias, TypeVar, final

import attrs
import trio

Request = TypeVar("Request")
Reply = TypeVar("Reply")


@final
@attrs.define(eq=False)
class Waiter(Generic[Request, Reply]):
    """One task's place in a queue.

    Handing over the reply and taking the task out of the queue is one step, so there is no
    moment in which a cancellation could lose a reply or have it given twice. That is what
    `trio.Event` and `trio.lowlevel.ParkingLot` do not give us.
    """

    request: Request
    """What the task waits for, for those who serve the queue."""

    ticket: int = 0
    """When it came. A queue is ordered by its tickets, also when waiters change queues."""

    _queue: Queue[Request, Reply] = attrs.field(factory=OrderedDict, init=False)
    _task: trio.lowlevel.Task = attrs.field(factory=trio.lowlevel.current_task, init=False)
    _reply: Reply = attrs.field(init=False)

    async def wait(self, queue: Queue[Request, Reply]) -> Reply:
        """Stand in the queue until `wake` is called.

        A checkpoint, always. Cancel-safe: if cancelled, the task stands in no queue and no
        reply has been given to it.
        """
        self.move(queue)

        def abort(_: object) -> trio.lowlevel.Abort:
            self._leave()
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        return self._reply

    def move(self, queue: Queue[Request, Reply]) -> None:
        """Leave the present queue for another one, at the place that the ticket gives."""
        self._leave()
        self._queue = queue
        later = [other for other in queue if other.ticket > self.ticket]
        queue[self] = None
        for other in later:
            queue.move_to_end(other)

    def wake(self, reply: Reply) -> None:
        """Leave the queue and let the task go on. Called by another task, once."""
        self._leave()
        self._reply = reply
        trio.lowlevel.reschedule(self._task)

    def _leave(self) -> None:
        self._queue.pop(self, None)


Queue: TypeAlias = "OrderedDict[Waiter[Request, Reply], None]"
"""Waiters in the order of their tickets. (An ordered set with a cheap way to take out any.)"""


def first(queue: OrderedDict[Waiter[Request, Reply], None]) -> Waiter[Request, Reply]:
    """The waiter that came first."""
    return next(iter(queue))
