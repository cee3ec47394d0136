"""Run a bus under everything at once, for as long as you like: python tests/soak.py --seconds 20

Subscribers of every kind come and go: quick ones, slow ones, several at one channel, those that
crash, are cancelled, give up, or never read. Senders send in turn and in bursts, with and without
patience, and all the time with names that nobody has seen before. In the end nothing may be left,
and the books of every subscription must balance; if not, this says so and exits with 1.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import logging
import math
import random
import resource
import statistics
import sys
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, final

import attrs
import trio

from trio_events import (
    Event,
    EventBus,
    History,
    Overflow,
    Subscription,
    SubscriptionOverflowError,
    open_event_bus,
)

SENDERS: Final = 8
SUBSCRIBERS: Final = 30  # at a time
SYSTEMS: Final = ("a", "b", "a.x", "a.y.z", "c.x")
PATTERNS: Final = ("a", "b", "*", "**", "a.*", "a.**", "(a|b|c)", "*.x", "nobody.sends.this")
PATHS: Final = ("/1", "/2", "/3")
KINDS: Final = (None, None, "k", "*", "fresh.*", "**.3")

SAMPLES: Final = 60
"""How often to look at the books and at the memory."""

MAX_SLOPE: Final = 1000.0
"""KiB per 1000 subscriptions that memory may grow. To keep a subscription costs 5 times that."""

JUDGED_FROM: Final = 10.0
"""Seconds that a run must take for its memory to be judged. Before, Python itself is growing."""


class WrongError(Exception):
    """Something is not as the bus has promised."""


class CrashError(Exception):
    """What a crashing subscriber raises."""


def expect(truth: bool, otherwise: str) -> None:
    if not truth:
        raise WrongError(otherwise)


@final
@attrs.define(eq=False)
class Account:
    """What was seen of one subscription."""

    subscription: Subscription
    received: int = 0
    last: Counter[int] = attrs.Factory(Counter)  # the number of each sender's last event

    def note(self, event: Event, *, in_order: bool = True) -> None:
        self.received += 1
        sender, number = tag_of(event)
        if in_order:
            expect(number > self.last[sender], f"{event} came late or twice")
            self.last[sender] = number

    def has_ended(self) -> bool:
        """Whether the channel of a closed subscription has come to its end. Reads the rest."""
        channel = self.subscription.channel()
        try:
            while True:
                self.note(channel.receive_nowait())
        except trio.WouldBlock:
            return False
        except (trio.EndOfChannel, trio.ClosedResourceError, SubscriptionOverflowError):
            return True

    def check(self) -> None:
        """Check the books after the end."""
        books = self.subscription.statistics()
        gone = books.delivered + books.dropped + books.discarded + books.superseded
        expect(books.matched == gone, f"does not balance: {books}")
        expect(books.delivered == self.received, f"{self.received} were received: {books}")
        expect(books.queued == books.held == 0, f"all was read: {books}")
        expect(min(attrs.astuple(books)) >= 0, f"less than nothing: {books}")


def tag_of(event: Event) -> tuple[int, int]:
    """Who sent the event, and how many before it."""
    assert isinstance(event.data, tuple)
    sender, number = event.data
    return sender, number


@final
@attrs.define(eq=False)
class Soak:
    """One run."""

    bus: EventBus
    random: random.Random
    counts: Counter[str] = attrs.Factory(Counter)
    history: History = attrs.field(init=False)
    closed: list[Account] = attrs.Factory(list)
    """Those whose books are still to be checked."""

    alive: weakref.WeakSet[Subscription] = attrs.Factory(weakref.WeakSet)
    samples: list[tuple[int, float]] = attrs.Factory(lambda: [(0, memory())])
    """How many subscriptions there had been, and KiB of memory in use."""

    # The numbers of all that each sender has sent, and of what was seen of it, as one hash.
    sent: Counter[int] = attrs.Factory(Counter)
    seen: Counter[int] = attrs.Factory(Counter)

    async def run(self, seconds: float) -> None:
        self.history = await self.bus.open_history("**", per_path=2, max_events=100)
        async with trio.open_nursery() as nursery:
            witness: Account = await nursery.start(self.see_everything)
            with trio.move_on_after(seconds):
                async with trio.open_nursery() as everybody:
                    for sender in range(SENDERS):
                        everybody.start_soon(self.send_on_and_on, sender)
                    for _ in range(SUBSCRIBERS):
                        everybody.start_soon(self.subscribe_on_and_on)
                    while True:
                        await trio.sleep(seconds / SAMPLES)
                        self.audit()
                        self.samples.append((self.counts["subscriptions"], memory()))
            witness.subscription.close()
        witness.check()
        expect(self.sent == self.seen, "what was seen is not what was sent")

    # Senders

    async def see_everything(  # noqa: ASYNC114  # started once, below
        self, *, task_status: trio.TaskStatus[Account]
    ) -> None:
        account = Account(await self.bus.subscribe("**", max_buffer_size=4096))
        task_status.started(account)
        async for events in account.subscription.channel().batches():
            for event in events:
                account.note(event)
                sender, number = tag_of(event)
                self.seen[sender] = hash((self.seen[sender], number))

    async def send_on_and_on(self, sender: int) -> None:
        for number in itertools.count(1):
            system = self.random.choice(SYSTEMS)
            fresh = self.random.random() < 0.3
            kind = f"fresh.{sender}.{number}" if fresh else "k"
            send = self.random.choice([self.send, self.send, self.send_nowait])
            if await send(system, kind, (sender, number)):
                self.counts["sent"] += 1
                self.sent[sender] = hash((self.sent[sender], number))
            else:
                self.counts["not sent"] += 1
            if number % 100 == 0:  # so much is a burst
                await trio.sleep(self.random.random() / 100)

    async def send(self, system: str, kind: str, tag: tuple[int, int]) -> bool:
        with trio.move_on_after(self.random.choice([0, 0.001, 0.01, math.inf])):
            await self.bus.send(system, kind, self.random.choice(PATHS), tag)
            return True
        return False

    async def send_nowait(self, system: str, kind: str, tag: tuple[int, int]) -> bool:
        try:
            self.bus.send_nowait(system, kind, self.random.choice(PATHS), tag)
        except trio.WouldBlock:
            await trio.lowlevel.checkpoint()
            return False
        return True

    # Subscribers

    async def subscribe_on_and_on(self) -> None:
        while True:
            subscription = await self.bus.subscribe(
                self.random.choice(PATTERNS),
                self.random.choice(KINDS),
                max_buffer_size=self.random.choice([1, 2, 10, 100]),
                overflow=self.random.choice(list(Overflow)),
                history=self.random.choice([None, self.history]),
            )
            self.counts["subscriptions"] += 1
            self.alive.add(subscription)
            account = Account(subscription)
            try:
                with trio.move_on_after(self.random.random() / 10):
                    await self.random.choice(BEHAVIOURS)(self, account)
            except* CrashError:
                self.counts["crashed"] += 1
            except* SubscriptionOverflowError:
                self.counts["overflowed"] += 1
            finally:
                self.random.choice([subscription.close, subscription.channel().close])()
                self.closed.append(account)

    async def read(self, account: Account) -> None:
        async for event in account.subscription:
            account.note(event)

    async def read_slowly(self, account: Account) -> None:
        async for event in account.subscription:
            account.note(event)
            await trio.sleep(self.random.random() / 1000)

    async def read_batches(self, account: Account) -> None:
        max_size = self.random.choice([None, 1, 5])
        async for events in account.subscription.channel().batches(max_size=max_size):
            for event in events:
                account.note(event)

    async def read_in_a_team(self, account: Account) -> None:
        async def read() -> None:
            async for event in account.subscription:
                account.note(event, in_order=False)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(read)

    async def read_and_crash(self, account: Account) -> None:
        async def crash() -> None:
            await trio.sleep(self.random.random() / 20)
            raise CrashError

        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.read, account)
            nursery.start_soon(crash)

    async def read_impatiently(self, account: Account) -> None:
        while True:
            with trio.move_on_after(self.random.random() / 1000):
                account.note(await account.subscription.channel().receive())

    async def read_a_few(self, account: Account) -> None:
        async for event in account.subscription:
            account.note(event)
            if account.received == 10:
                break

    async def read_never(self, account: Account) -> None:
        await trio.sleep(self.random.random() / 200)

    # The books

    def audit(self) -> None:
        """Check and forget the subscriptions that have ended."""
        still_to_end = []
        for account in self.closed:
            if account.has_ended():
                account.check()
                self.counts["audited"] += 1
                self.counts["delivered"] += account.received
            else:
                still_to_end.append(account)
        self.closed = still_to_end
        books = self.history.statistics()
        gone = books.replaced + books.evicted + books.forgotten
        kept = [tag_of(event) for event in self.history.events()]
        expect(books.matched == books.kept + gone, f"does not balance: {books}")
        expect(len(kept) == len(set(kept)) == books.kept <= books.max_events, f"not kept: {books}")
        self.counts["forgotten"] += self.history.forget(self.random.choice(PATHS))

    def slope(self) -> float:
        """By how many KiB memory grew per 1000 subscriptions in the second half of the time."""
        subscriptions, kib = zip(*self.samples[len(self.samples) // 2 :], strict=True)
        if len(set(subscriptions)) < 2:
            return math.nan
        return 1000 * statistics.linear_regression(subscriptions, kib).slope

    def check_that_nothing_is_left(self) -> None:
        """Check it. For after the end of the bus."""
        self.audit()
        expect(not self.closed, f"{len(self.closed)} subscriptions did not end")
        expect(self.counts["audited"] == self.counts["subscriptions"], f"{self.counts}")
        router = self.bus._router
        expect(router.table.is_empty, "something is left in the routing table")
        senders = router.core.senders
        expect(not (router.subscriptions or router.core.inbox.messages), "the router waits")
        expect(not (senders.full or len(senders)), "the router remembers who waited")
        books = self.bus.statistics()
        expect(books.accepted == self.counts["sent"], f"{self.counts['sent']} sent: {books}")
        expect(books.routes_remembered == 0, f"routes are left: {books}")
        gc.collect()
        expect(not self.alive, f"{len(self.alive)} subscriptions are kept in memory")


BEHAVIOURS: Final[tuple[Callable[[Soak, Account], Awaitable[None]], ...]] = (
    Soak.read,
    Soak.read,
    Soak.read_slowly,
    Soak.read_batches,
    Soak.read_in_a_team,
    Soak.read_and_crash,
    Soak.read_impatiently,
    Soak.read_a_few,
    Soak.read_never,
)


def memory() -> float:
    """The memory in use, in KiB; where the system does not say, the most that ever was."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return pages * resource.getpagesize() / 1024


async def soak(seconds: float, seed: int) -> None:
    """Run, check, and print what happened.

    Raises:
      WrongError: If something was not as promised; perhaps in groups.
    """
    tasks = trio.lowlevel.current_statistics().tasks_living
    with trio.fail_after(seconds + 60):
        async with open_event_bus(inbox_size=64) as bus:
            run = Soak(bus, random.Random(seed))
            await run.run(seconds)
    expect(trio.lowlevel.current_statistics().tasks_living == tasks, "tasks are left")
    run.check_that_nothing_is_left()
    slope = run.slope()
    for name, count in sorted(run.counts.items()):
        print(f"{name:>14}: {count}")
    print(f"{'memory':>14}: {memory():.0f} KiB, {slope:+.1f} KiB per 1000 subscriptions")
    expect(not slope > MAX_SLOPE or seconds < JUDGED_FROM, "memory grows")


def main() -> None:
    parser = argparse.ArgumentParser(description="Run a bus under everything at once.")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--seed", type=int, default=None, help="of all that is random, but time")
    arguments = parser.parse_args()
    seed = random.randrange(2**32) if arguments.seed is None else arguments.seed
    print(f"{'seed':>14}: {seed}", flush=True)
    logging.getLogger("trio_events").setLevel(logging.CRITICAL)  # there will be losses
    try:
        trio.run(soak, arguments.seconds, seed)
    except* WrongError as group:
        sys.exit("\n".join(f"WRONG: {error}" for error in errors_of(group)))


def errors_of(group: BaseExceptionGroup[Exception]) -> list[BaseException]:
    """What is in a group, and in the groups in it."""
    return [
        error
        for inner in group.exceptions
        for error in (errors_of(inner) if isinstance(inner, BaseExceptionGroup) else [inner])
    ]


if __name__ == "__main__":
    main()
