"""What a request costs while many others are pending: `make bench-requests`.

Each figure is the median over rounds; cases that are compared are interleaved round by round, so
that whatever else the machine does hits them alike. Nothing here fails: it only tells.
"""

from __future__ import annotations

import gc
import platform
import statistics
from time import perf_counter

import trio
import trio.testing

from trio_events import EventBus, Subscription, open_event_bus

ROUNDS = 7
REQUESTS = 500  # that are timed
PENDING = (10, 100, 1_000, 10_000)


async def answer(bus: EventBus, requests: Subscription) -> None:
    """Reply to each request that asks for it; the others stay pending."""
    async for request in requests:
        if request.data == "answer":
            await bus.send("orders", "order.accepted", request.path)


async def measure(pending: int) -> tuple[float, float]:
    """Seconds from a request to its reply, and for a reply to somebody who waits for it."""
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        requests = await bus.subscribe("orders", "order.place")
        nursery.start_soon(answer, bus, requests)
        for number in range(pending):
            nursery.start_soon(bus.request, "orders", "order.place", f"/pending/{number}")
        await trio.testing.wait_all_tasks_blocked()
        gc.collect()

        start = perf_counter()
        for number in range(REQUESTS):
            await bus.request("orders", "order.place", f"/orders/{number}", "answer")
        round_trip = (perf_counter() - start) / REQUESTS

        for number in range(REQUESTS):
            nursery.start_soon(bus.request, "orders", "order.place", f"/more/{number}")
        await trio.testing.wait_all_tasks_blocked()
        gc.collect()
        start = perf_counter()
        for number in range(REQUESTS):
            await bus.send("orders", "order.accepted", f"/more/{number}")
        await trio.testing.wait_all_tasks_blocked()
        reply = (perf_counter() - start) / REQUESTS
        nursery.cancel_scope.cancel()
    return round_trip, reply


def main() -> None:
    """Measure and print."""
    gc.disable()  # or the tasks that wait would be looked at again and again, as any task is
    print(f"Python {platform.python_version()}, trio {trio.__version__}, {ROUNDS} rounds")
    rounds = [{pending: trio.run(measure, pending) for pending in PENDING} for _ in range(ROUNDS)]
    for which, title in enumerate(("request and reply, one after the other", "only the reply")):
        print(f"\n{title}, by the number of other pending requests")
        for pending in PENDING:
            times = [r[pending][which] for r in rounds]
            ratios = sorted(r[pending][which] / r[PENDING[0]][which] for r in rounds)
            print(
                f"  {pending:>6,} {statistics.median(times) * 1e6:9.2f} µs   ratio "
                f"{statistics.median(ratios):5.2f}   ({ratios[1]:.2f} to {ratios[-2]:.2f})"
            )


if __name__ == "__main__":
    main()
