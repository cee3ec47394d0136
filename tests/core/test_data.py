"""Subscriptions that say what the data of their events is. For type checkers: see `typing/`."""

from __future__ import annotations

import attrs
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_events import open_event_bus

from ..observing import assert_books


@attrs.frozen
class Order:
    number: int


async def test_the_data_is_not_checked(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("orders", data=Order)
        sent = (Order(1), None, "order")
        for data in sent:
            await bus.send("orders", "k", "/x", data)
        await wait_all_tasks_blocked()
        assert_books(subscription, queued=3)
        assert [subscription.receive_nowait().data for _ in range(3)] == list(sent)
