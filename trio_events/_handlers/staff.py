"""The tasks that the bus owns, which may still use it while it is closing, and how they end."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import NoReturn, TypeVarTuple, Unpack, final

import trio

from .._core.actor import SubscriptionActor
from .._core.notices import ConsumerCancelled, EventsLeft
from .._core.router import LEFT, Router
from .._errors import DeadlockError
from .quiet import Member, OwnedTask, Quiet

ArgsT = TypeVarTuple("ArgsT")


@final
class Staff:
    """The tasks of a bus that run code of the application, and how they end.

    When the bus is closed, they first finish what was accepted. Until then they, and the tasks that
    they start, may use the bus. Other tasks may not.
    """

    __slots__ = (
        "_drain_timeout",
        "_has_consumers",
        "_nursery",
        "_quiet",
        "_router",
        "cut_short",
        "draining",
        "on_closing",
    )

    def __init__(self, nursery: trio.Nursery, router: Router, drain_timeout: float) -> None:
        self._nursery = nursery
        self._router = router
        self._drain_timeout = drain_timeout
        self._quiet = Quiet(router)
        self._has_consumers = False
        self.draining = False
        self.on_closing: dict[Callable[[], None], None] = {}
        """Called when the bus begins to close, to stop bringing in events from outside."""

        self.cut_short: str | None = None
        """Why the tasks are cancelled, if they are."""

    # The tasks

    def join(self, owned: OwnedTask) -> None:
        """Add a task that is about to be started in the nursery."""
        self._quiet.owned[owned] = None

    def begin(self, owned: OwnedTask) -> trio.lowlevel.Task:
        """Note that the running task is this one; returns it."""
        return self._quiet.begin(owned)

    def leave(self, owned: OwnedTask) -> None:
        """Note that the running task, which is this one, has finished."""
        self._quiet.end(owned)
        if self.cut_short is not None and not self._quiet.owned:
            self._report_what_is_left(self.cut_short)

    def note_exception(self, error: BaseException) -> None:
        """Note that an exception leaves a task or the block of the bus, and ends the bus."""
        if self.cut_short is None:
            self.cut_short = "an exception ended the bus"
            if not (is_cancelled(error) or self._router.core.door.has_raised(error)):
                self._note_working()  # otherwise it is too late

    def _note_working(self) -> None:
        for owned in self._quiet.working():
            owned.was_working = True

    @trio.lowlevel.enable_ki_protection
    async def consume(  # noqa: ASYNC910  # that is up to the consumer
        self, owned: OwnedTask, consumer: Callable[[], Awaitable[object]]
    ) -> None:
        """Run a consumer in its own task, from beginning to end.

        Raises:
          BusClosedError: If it was cancelled before `EventBus.start` could return.
        """
        self._has_consumers = True
        task = self.begin(owned)
        try:
            with owned.scope:
                await unprotected(consumer)
            if owned.scope.cancelled_caught:
                self._report_cancelled(owned)
                if task.parent_nursery is not self._nursery:
                    raise self._router.core.door.closed_error(
                        f"; {owned.name} was cancelled before it called task_status.started()"
                    )
        except BaseException as error:  # noqa: ASYNC103  # `Cancelled` is always raised
            if task.parent_nursery is not self._nursery:  # then it leaves `EventBus.start`
                raise
            self.note_exception(error)
            last_word = self.is_last_word(owned, error)
            if last_word or is_cancelled(error):
                self._report_cancelled(owned)
            if not last_word:
                raise
        finally:
            self.leave(owned)

    def is_last_word(self, owned: OwnedTask, error: BaseException) -> bool:
        """Whether the running task raised a BusClosedError only because it is being cancelled.

        A cancelled task that uses the bus before it notices gets that error instead of `Cancelled`.
        """
        rest: BaseException | None = error
        if isinstance(error, BaseExceptionGroup):
            rest = error.split(trio.Cancelled)[1]
        try:
            return (
                rest is not None
                and self._router.core.door.has_raised(rest)
                and (owned.scope.cancel_called or trio.current_effective_deadline() == -math.inf)
            )
        finally:
            del rest  # no reference cycle

    def _report_cancelled(self, owned: OwnedTask) -> None:
        if owned.was_working and self.cut_short is not None:
            self._router.core.notices.add(ConsumerCancelled(owned.name, self.cut_short))

    def includes(self, task: trio.lowlevel.Task | None) -> bool:
        """Whether a task, or the running one if it is None, is owned by the bus."""
        return self._owner(task) is not None

    def _owner(self, task: trio.lowlevel.Task | None = None) -> OwnedTask | None:
        if task is None:
            if not trio.lowlevel.in_trio_task():  # a callback, which the bus doesn't own
                return None
            task = trio.lowlevel.current_task()
        return self._quiet.owner(task)

    # Members, which aren't tasks

    def enlist(self, member: Member) -> None:
        """Add a part of a bridge, which begins to work."""
        self._quiet.members[member] = None

    def release(self, member: Member) -> None:
        """Remove a part of a bridge, which has ended."""
        del self._quiet.members[member]

    # Quiet

    async def wait_idle(self) -> None:
        """See `EventBus.wait_idle`."""
        owned = self._owner()
        if owned is not None:
            raise DeadlockError(
                f"wait_idle() would wait forever: {owned.name}, which calls it, belongs to the bus "
                "and isn't idle meanwhile; call it from a task that the bus doesn't own"
            )
        await self._quiet.wait()

    async def drain(self, subscription: SubscriptionActor) -> None:
        """See `Subscription.drain`."""
        self._check_not_its_own(subscription)
        subscription.close()
        self.route_accepted()
        await self._quiet.wait(subscription)

    def _check_not_its_own(self, subscription: SubscriptionActor) -> None:
        me, my_owner = trio.lowlevel.current_task(), self._owner()
        readers = list(subscription.known_readers)
        if my_owner is None:
            of_its_own = readers == [me]
        else:
            of_its_own = any(self._owner(reader) is my_owner for reader in readers)
        if of_its_own:
            raise DeadlockError(
                f"drain() would wait forever: the task that calls it reads from "
                f"{subscription.description()} itself; call it from another task"
            )

    # The end

    def close(self, reason: str = LEFT) -> None:
        """Close the bus: at once, or when the tasks have finished."""
        if self._router.core.door.closed or self.draining:
            return
        for stop in tuple(self.on_closing):
            stop()
        if not self._quiet.owned and not self._quiet.members:
            self._router.close(reason)
            return
        self.draining = True
        self.route_accepted()  # or that would let senders in while they are dismissed
        self._router.restrict(self.includes, reason)
        self._nursery.start_soon(self._drain, name="trio_events drain")
        self._router.core.instruments.tell("draining_began")

    async def _drain(self) -> None:
        with trio.move_on_after(self._drain_timeout):
            await self._quiet.wait(still=True)
            self._router.close()  # the channels end, and then the tasks
            await self._quiet.wait()
        # This comes first, or tasks waiting in `send` would fail with BusClosedError.
        self._stop(f"drain_timeout ({self._drain_timeout:g} s) expired")
        self._router.close()

    def _stop(self, reason: str) -> None:
        """Cancel the tasks, if there are any. Each of them reports what is left."""
        for member in tuple(self._quiet.members):
            member.stop(reason)
        if self._quiet.owned:
            self.cut_short = self.cut_short or reason
            self._note_working()
            for owned in tuple(self._quiet.owned):
                owned.scope.cancel()

    def _report_what_is_left(self, reason: str) -> None:
        """Report the events that consumers haven't read. Called by the last owned task."""
        if not self._has_consumers:  # each handler has reported its own
            return
        self._router.close()
        me = trio.lowlevel.current_task()
        for subscription in self._router.core.unfinished_now():
            unread = subscription.buffer.unread
            others = any(reader is not me for reader in subscription.known_readers)
            if unread and not others and subscription.open_among is self._router.subscriptions:
                self._router.core.notices.add(EventsLeft(subscription, reason, unread))

    def route_accepted(self) -> None:
        """Route all accepted events to the buffers of their subscriptions."""
        self._router.route_inbox()


@trio.lowlevel.disable_ki_protection
async def unprotected(  # noqa: ASYNC910  # that is up to the function
    function: Callable[[Unpack[ArgsT]], Awaitable[object]], *args: *ArgsT
) -> object:
    """Call a function so that Ctrl-C can interrupt it, unlike its caller."""
    return await function(*args)


def is_cancelled(error: BaseException) -> bool:
    """Whether this is `Cancelled`, or a group of nothing else."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)[1] is None
    return isinstance(error, trio.Cancelled)


def joined(error: BaseException | None, later: BaseException) -> BaseException:
    """One exception for that of a handler, if any, and a later one; neither hides the other.

    `Cancelled` doesn't matter if there is something else to raise.
    """
    if error is None or is_cancelled(error):
        return later
    if is_cancelled(later):
        return error
    return BaseExceptionGroup("a handler failed, and so did on_dead_letter", [error, later])


def raise_as_it_was(error: BaseException) -> NoReturn:
    """Raise an error again without making the exception being handled its context."""
    context = error.__context__
    try:
        raise error
    finally:
        error.__context__ = context
        del error, context  # no reference cycle
