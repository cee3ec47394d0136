"""Whether every event was handled, or is in a counter of loss, or in the log of what was left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import final

import attrs
import trio

from trio_events import Event, EventBus, Subscription
from trio_events._core.notices import ConsumerCancelled, EventsLeft, Notice, WorkLeft

from ..observing import assert_balanced


@final
@attrs.define(eq=False)
class Account:
    """What a handler or the tasks of a consumer got from a subscription, and how far they came."""

    begun: list[Event] = attrs.field(factory=list)
    done: list[Event] = attrs.field(factory=list)
    subscription: Subscription = attrs.field(init=False)

    async def work(self, event: Event, act: Callable[[Event], Awaitable[object]]) -> None:
        """Work on an event."""
        self.begun.append(event)
        await act(event)
        self.done.append(event)


@final
@attrs.define(eq=False)
class Accounts:
    """All subscriptions of a bus, and what it reported to have left."""

    bus: EventBus
    accounts: list[Account] = attrs.field(factory=list)
    consumers_cancelled: int = 0
    _named: Counter[object] = attrs.field(factory=Counter)
    _calls: Counter[object] = attrs.field(factory=Counter)

    def __attrs_post_init__(self) -> None:
        self.bus._core.notices.listeners[:] = [self._note]

    def _note(self, notice: Notice) -> None:
        match notice:
            case WorkLeft():
                assert notice.subscription not in self._named, "reported twice"
                self._named[notice.subscription] = notice.events
                self._calls[notice.subscription] = notice.calls
            case EventsLeft():
                assert notice.subscription not in self._named, "reported twice"
                self._named[notice.subscription] = notice.events
            case ConsumerCancelled():
                self.consumers_cancelled += 1

    async def consume(
        self,
        system: str,
        act: Callable[[Event], Awaitable[object]],
        *,
        size: int = 2,
        crew: int = 1,
    ) -> Account:
        """Start tasks of the bus that work on the events of a system, in one consumer."""
        account = Account()
        account.subscription = source = await self.bus.subscribe(system, max_buffer_size=size)
        self.accounts.append(account)

        async def work() -> None:
            async for event in source:
                await account.work(event, act)

        async def consumer() -> None:
            async with trio.open_nursery() as nursery:
                for _ in range(crew):
                    nursery.start_soon(work)

        self.bus.start_soon(work if crew == 1 else consumer)
        return account

    async def handle(
        self,
        system: str,
        act: Callable[[Event], Awaitable[object]],
        *,
        size: int = 2,
        crew: int = 1,
    ) -> Account:
        """Register a handler that works on the events of a system."""
        account = Account()

        async def handler(event: Event) -> None:
            await account.work(event, act)

        account.subscription = await self.bus.on(
            handler, system, concurrency=crew, max_buffer_size=size
        )
        self.accounts.append(account)
        return account

    def check(self, *, complete: bool = False, consumers_are_named: bool = True) -> None:
        """Check that every event is accounted for. For after the end of the bus.

        Args:
          complete: Whether nothing may have been left.
          consumers_are_named: Whether consumers that were cancelled while they worked are reported.
        """
        in_hand = 0
        for account in self.accounts:
            actor = account.subscription._actor
            statistics = account.subscription.statistics()
            assert_balanced(account.subscription)
            assert len(account.begun) == len(set(map(id, account.begun)))
            assert (
                statistics.matched == len(account.begun) + statistics.dropped + self._named[actor]
            )
            cut = len(account.begun) - len(account.done)
            if account.subscription.handler is None:
                in_hand += cut
                assert statistics.queued == self._named[actor]
            else:
                assert cut == self._calls[actor]
                assert statistics.discarded == self._named[actor]
                assert statistics.handling == statistics.queued == 0
            if complete:
                assert account.done == account.begun or len(account.done) == statistics.matched
                assert not self._named[actor]
                assert not cut
        if consumers_are_named:
            assert bool(in_hand) <= bool(self.consumers_cancelled)
        assert not complete or not self.consumers_cancelled
