"""What several tests do to see what the bus does: books, turns, cancellation at a checkpoint."""

from __future__ import annotations

import functools
import itertools
import types
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Generic, TypeVar, final

import attrs
import trio
from trio.testing import wait_all_tasks_blocked

from trio_events import Event, EventBus, EventChannel, Subscription
from trio_events._core.router import Router

T = TypeVar("T")


def assert_books(
    subscription: Subscription,
    *,
    delivered: int = 0,
    queued: int = 0,
    held: int = 0,
    dropped: int = 0,
    discarded: int = 0,
    superseded: int = 0,
    tasks_waiting_send: int = 0,
    handling: int = 0,
    failures: int = 0,
) -> None:
    """The books are exactly these; what matched follows from the law."""
    assert attrs.asdict(subscription.statistics()) == {
        "matched": delivered + queued + dropped + discarded + superseded,
        "delivered": delivered,
        "queued": queued,
        "held": held,
        "dropped": dropped,
        "discarded": discarded,
        "superseded": superseded,
        "tasks_waiting_send": tasks_waiting_send,
        "handling": handling,
        "failures": failures,
    }


def assert_balanced(subscription: Subscription) -> None:
    """The books obey the law, whatever is in them."""
    books = subscription.statistics()
    gone = books.dropped + books.discarded + books.superseded
    assert books.matched == books.delivered + books.queued + gone
    assert 0 <= books.held <= books.queued
    assert min(attrs.astuple(books)) >= 0


def paths(events: Iterable[Event]) -> list[str]:
    """What tests tell events apart by."""
    return [event.path for event in events]


def drain(channel: EventChannel) -> list[str]:
    """The paths of all that can be read without waiting."""
    found = []
    while True:
        try:
            found.append(channel.receive_nowait().path)
        except (trio.WouldBlock, trio.EndOfChannel):
            return found


def wake(router: Router) -> None:
    """Do what the router's task does when there are messages."""
    router.core.inbox.rx.receive_nowait()
    router.core.inbox.signalled = False
    router.route_inbox()


def tasks_living() -> int:
    """How many tasks there are in the whole run."""
    return trio.lowlevel.current_statistics().tasks_living


def remembered(routes: Mapping[str, Mapping[str, object]]) -> Iterator[tuple[str, str]]:
    """The systems and kinds of remembered routes."""
    return ((system, kind) for system, kinds in routes.items() for kind in kinds)


@asynccontextmanager
async def tidy(bus: EventBus) -> AsyncIterator[None]:
    """After the block the same tasks, subscriptions, waiters and routes are there as before it.

    Events may be sent in it: to remember that nobody wants one is to leave nothing behind.
    """

    def everything() -> list[object]:
        router, statistics = bus._router, bus.statistics()
        table = router.table
        routes = [table.match(*names) for names in list(remembered(table.routes))]
        return [
            attrs.evolve(statistics, accepted=0, unmatched=0, routes_remembered=0),
            tasks_living(),
            len(router.table),
            {target for route in routes for target in route.items}
            <= {*router.subscriptions, *router.histories},
        ]

    await wait_all_tasks_blocked()
    before = everything()
    yield
    await wait_all_tasks_blocked()
    assert everything() == before


@final
@attrs.define(eq=False)
class Turns(trio.abc.Instrument):
    """Counts how often trio resumes one task."""

    task: trio.lowlevel.Task
    count: int = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task:
            self.count += 1


@contextmanager
def counted_turns() -> Iterator[Turns]:
    """Count how often the running task gave others a turn in the block."""
    turns = Turns(trio.lowlevel.current_task())
    trio.lowlevel.add_instrument(turns)
    try:
        yield turns
    finally:
        trio.lowlevel.remove_instrument(turns)


@final
@attrs.define(eq=False)
class Cancellation(Generic[T]):
    """Runs one operation and cancels it when it reaches a certain checkpoint.

    Checkpoint 0 is the moment before the operation begins, checkpoint n the n-th time that it
    hands over to trio.
    """

    checkpoint: int
    reached: bool = False
    cancelled: bool = False
    result: T | None = None

    async def run(self, operation: Callable[[], Coroutine[Any, Any, T]]) -> None:
        """Run the operation. It is `cancelled`, or there is a `result`; its errors get out."""
        with trio.CancelScope() as scope:

            def on_checkpoint(number: int) -> None:
                if number == self.checkpoint:
                    self.reached = True
                    scope.cancel()

            on_checkpoint(0)
            self.result = await _observed(operation(), on_checkpoint)
        self.cancelled = scope.cancelled_caught


@types.coroutine
def _observed(
    coroutine: Coroutine[Any, Any, T], on_checkpoint: Callable[[int], None]
) -> Generator[Any, Any, T]:
    """Await a coroutine, and call something each time before it hands over to trio."""
    resume: Callable[[], Any] = functools.partial(coroutine.send, None)
    for number in itertools.count(1):
        try:
            trap = resume()
        except StopIteration as finished:
            result: T = finished.value
            return result
        on_checkpoint(number)
        try:
            answer = yield trap
        except BaseException as error:  # noqa: ASYNC103  # the coroutine gets it
            resume = functools.partial(coroutine.throw, error)
        else:
            resume = functools.partial(coroutine.send, answer)
    raise AssertionError("there is always another number")


async def at_every_checkpoint(scene: Callable[[Cancellation[T]], Awaitable[None]]) -> int:
    """Play a scene cancelled at checkpoint 0, 1, 2, ... until its operation has no more of them.

    Returns:
      How many checkpoints the operation has, the one before it begins not counted.
    """
    for checkpoint in itertools.count():
        cancellation = Cancellation[T](checkpoint)
        await scene(cancellation)
        if not cancellation.reached:
            return checkpoint - 1
    raise AssertionError("there is always another number")
