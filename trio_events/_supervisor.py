"""Opening an event bus: the supervisor that owns its tasks, and the exceptions that leave it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from functools import partial
from types import TracebackType
from typing import Any, final

import attrs
import trio

from ._advisories import Advisories
from ._bus import ANYBODY, EventBus, current_bus
from ._core.buffer import check_count
from ._core.pace import Pace
from ._core.router import Router
from ._errors import NoBusError
from ._handlers.calling import DeadLetterHook
from ._handlers.staff import Staff, is_cancelled, raise_as_it_was
from ._handlers.supervision import check_seconds
from ._instruments import Instrument, check_instrument
from ._names.permits import Permits
from ._names.policy import Policy
from ._subscription import make_subscription

opening_hooks: ContextVar[tuple[Callable[[EventBus], None], ...]] = ContextVar(
    "trio_events.opening_hooks", default=()
)
"""Functions to call with each bus that has been opened: see `trio_events.testing`."""


@final
@attrs.frozen
class Options:
    """The arguments of `open_event_bus`, validated."""

    policy: Policy | None
    inbox_size: int
    checkpoint_every: int
    max_subscriptions: int
    drain_timeout: float
    slow_handler_after: float
    on_dead_letter: DeadLetterHook | None
    instruments: tuple[Instrument, ...]

    def __attrs_post_init__(self) -> None:
        policy: object = self.policy
        if policy is not None and not callable(getattr(policy, "allows", None)):
            raise TypeError(
                "policy must have a method allows(actor, action, system), as RulePolicy([...]) "
                f"does, and {policy!r} has none"
            )
        check_count("inbox_size", self.inbox_size)
        check_count("checkpoint_every", self.checkpoint_every)
        check_count("max_subscriptions", self.max_subscriptions)
        check_seconds("drain_timeout", self.drain_timeout)
        check_seconds("slow_handler_after", self.slow_handler_after)
        if not self.slow_handler_after:
            raise ValueError("slow_handler_after must be more than 0 seconds")
        hook = self.on_dead_letter
        if hook is not None and not callable(hook):
            raise TypeError(f"on_dead_letter must be a plain or async function, not {hook!r}")
        for instrument in self.instruments:
            check_instrument(instrument)


def open_event_bus(
    *,
    policy: Policy | None = None,
    inbox_size: int = 256,
    checkpoint_every: int = 64,
    max_subscriptions: int = 4096,
    drain_timeout: float = 10.0,
    slow_handler_after: float = 10.0,
    on_dead_letter: DeadLetterHook | None = None,
    instruments: Iterable[Instrument] = (),
) -> AbstractAsyncContextManager[EventBus]:
    """Open an event bus for the block, and for all tasks that are started in it.

    Leaving the block normally closes the bus as `EventBus.close` does: it waits until handlers and
    consumers of the bus have finished, but not for other readers. Leaving it by an exception
    cancels everything that belongs to the bus, and logs what had not been handled. However, if the
    bus is already closing and the exception is a `BusClosedError` that it has raised, handlers and
    consumers finish first. A single exception leaves as itself, not wrapped in a group. Entering
    is not a checkpoint, leaving is.

    Args:
      policy: Decides who may send and subscribe to which systems; None allows everything.
      inbox_size: How many events may wait to be routed before senders wait.
      checkpoint_every: At least one in every `checkpoint_every` operations on the bus yields to
        other tasks; 1 is trio's usual rule. A checkpoint takes ten times as long as routing an
        event.
      max_subscriptions: How many subscriptions may be open at a time.
      drain_timeout: How many seconds handlers and consumers have to finish after the bus is closed.
        Then they are cancelled, and what is left is counted and logged.
      slow_handler_after: How many seconds a call of a handler may run before it is logged, to
        within a second. It is logged again each time that its duration has doubled, until its
        subscription is closed. `math.inf` turns this off.
      on_dead_letter: A function, async or not, that is called with a `DeadLetter` for each event
        whose handling has failed for good. The handler's task waits for it, so dead letters can't
        pile up. Its exceptions leave through the supervisor, beside the handler's own if that
        propagates.
      instruments: Instruments that watch the bus from the beginning; see `Instrument`.

    Raises:
      TypeError: If a number isn't one, `on_dead_letter` isn't a function, an instrument isn't an
        `Instrument`, or `policy` has no method `allows`.
      ValueError: If a number is less than 1, `drain_timeout` is less than 0, or
        `slow_handler_after` isn't more than 0.
      NoBusError: When the block is entered, if trio isn't running.
    """
    return _Opening(
        Options(
            policy,
            inbox_size,
            checkpoint_every,
            max_subscriptions,
            drain_timeout,
            slow_handler_after,
            on_dead_letter,
            tuple(instruments),
        )
    )


@final
class _Opening(AbstractAsyncContextManager[EventBus, None]):
    """What `open_event_bus` returns. It protects entering and leaving from Ctrl-C.

    An interrupt in the middle of contextlib's own code would leave the nursery open.
    """

    def __init__(self, options: Options) -> None:
        self._manager = _supervise(options)

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> EventBus:
        if not trio.lowlevel.in_trio_run():
            raise NoBusError(
                "an event bus needs trio: start the program with trio.run(main), not asyncio.run"
            )
        return await self._manager.__aenter__()

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._manager.__aexit__(exc_type, exc_value, traceback)  # noqa: ASYNC102  # a nursery's own exit

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"open_event_bus() is not an event bus yet, so it has no {name!r}: write "
            "`async with open_event_bus() as bus:`"
        )


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def _supervise(options: Options) -> AsyncGenerator[EventBus]:
    body_error: BaseException | None = None
    postponed: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            trio_token = trio.lowlevel.current_trio_token()
            permits = Permits(options.policy, ANYBODY)
            router = Router.of(
                options.inbox_size,
                Pace(options.checkpoint_every),
                trio_token,
                make_handle=lambda actor: make_subscription(actor, router, permits, staff),
            )
            permits.on_denied = partial(router.core.instruments.tell, "access_denied")
            for instrument in options.instruments:
                router.core.instruments.add(instrument)
            staff = Staff(nursery, router, options.drain_timeout)
            nursery.start_soon(router.run, name="trio_events router")
            requests, end_hopeless = router.core.requests, router.core.senders.end_hopeless
            nursery.start_soon(requests.run, end_hopeless, name="trio_events requests")
            bus = EventBus._create(
                router,
                router.core,
                nursery,
                staff,
                permits,
                trio_token,
                options.max_subscriptions,
                options.slow_handler_after,
                options.on_dead_letter,
                Advisories.of(router),
            )
            for hook in opening_hooks.get():
                hook(bus)
            token = current_bus.set(bus)
            try:
                yield bus
            except BaseException as error:  # noqa: ASYNC103  # a postponed error is raised below
                if staff.draining and router.core.door.has_raised(error):
                    postponed = error  # the handlers finish first
                else:
                    body_error = error
                    staff.note_exception(error)
                    nursery.cancel_scope.cancel()  # or handlers that wait in `send` would fail, too
                    router.close()
                    raise
            else:
                staff.close()
            finally:
                current_bus.reset(token)
    except BaseExceptionGroup as group:
        cause = _cause(group, body_error, postponed)
        if cause is group:
            raise
        try:
            raise_as_it_was(cause)
        finally:
            del body_error, postponed, cause  # no reference cycles
    if postponed is not None:
        try:
            raise_as_it_was(postponed)
        finally:
            del postponed


def _cause(
    group: BaseExceptionGroup[BaseException],
    body_error: BaseException | None,
    postponed: BaseException | None,
) -> BaseException:
    """The one exception that caused a group from the supervisor's nursery, or else a group."""
    # The actors raise Cancelled, too, which is irrelevant if there is another exception.
    errors = [error for error in group.exceptions if not is_cancelled(error)]
    if postponed is not None:
        if not errors:
            return postponed
        return BaseExceptionGroup(group.message, [*errors, postponed])
    if len(errors) > 1 or (not errors and body_error is None):
        return group
    if errors and (body_error is None or is_cancelled(body_error)):
        return errors[0]
    assert body_error is not None
    return body_error  # rather than `errors[0]`, which is a copy of it if it is a group
