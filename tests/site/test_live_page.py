"""The live page, examples/06_live_page.py: its pieces, its server, and the page in a browser."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_events as events

from ..browser import Reader, needs_chromium, open_tab, running

pytest.importorskip("hypercorn", reason="the live page needs pip install 'trio-events[examples]'")
pytest.importorskip("starlette", reason="the live page needs pip install 'trio-events[examples]'")

LIVE_PAGE = Path(__file__).parent.parent.parent / "examples" / "06_live_page.py"
TIME_LIMIT = 30  # seconds on the wall; a test takes two on an idle machine


# Its pieces, in this process


@pytest.fixture
def live_page() -> ModuleType:
    spec = importlib.util.spec_from_file_location("live_page", LIVE_PAGE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@attrs.define
class Browser:
    """The other end of one ASGI connection; leaving the block is leaving the page."""

    reads: trio.Event = attrs.field(factory=trio.Event)
    leaves: trio.Event = attrs.field(factory=trio.Event)
    got: list[Any] = attrs.field(factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.leave()

    def leave(self) -> None:
        self.leaves.set()
        self.reads.set()  # the server then gives up what it was sending

    async def receive(self) -> dict[str, Any]:
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        await self.reads.wait()
        self.got.append(message)

    def paths(self) -> list[str]:
        lines = [message["body"] for message in self.got if message.get("body")]
        assert all(line.startswith(b"data: {") and line.endswith(b"}\n\n") for line in lines)
        return [json.loads(line.removeprefix(b"data: "))["path"] for line in lines]


async def test_the_subscription_of_a_browser_ends_when_it_leaves(
    live_page: ModuleType, autojump_clock: MockClock
) -> None:
    async with events.open_event_bus() as bus, trio.open_nursery() as nursery:
        with Browser() as browser, Browser() as slow_browser:
            browser.reads.set()
            for each in browser, slow_browser:
                nursery.start_soon(live_page.live, {"type": "http"}, each.receive, each.send)
            await wait_all_tasks_blocked()
            assert bus.statistics().open_subscriptions == 2
            browser.leave()
            await wait_all_tasks_blocked()
            assert bus.statistics().open_subscriptions == 1
            slow_browser.leave()  # while something is being sent to it
            await wait_all_tasks_blocked()
            assert bus.statistics().open_subscriptions == 0
            assert not nursery.child_tasks


async def test_a_slow_browser_loses_the_oldest_events_and_delays_no_other(
    live_page: ModuleType, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        with Browser() as browser:
            async with events.open_event_bus() as bus:
                connection = (browser.receive, browser.send)
                nursery.start_soon(live_page.live, {"type": "http"}, *connection)
                await wait_all_tasks_blocked()
                for number in range(1000):
                    await bus.send("shop", "item.ordered", f"/{number}")
            browser.reads.set()
            await wait_all_tasks_blocked()
            assert browser.paths() == [f"/{number}" for number in range(1000 - 256, 1000)]
            assert not browser.got[-1]["more_body"]


# Its server, in a process


@attrs.frozen
class Server:
    process: trio.Process
    output: Reader
    port: int

    @asynccontextmanager
    async def request(self, method: str, target: str, body: str = "") -> AsyncGenerator[Reader]:
        """Send a request, and read the response. HTTP/1.0, because that has no chunks."""
        async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
            head = f"{method} {target} HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n"
            await stream.send_all((head + body).encode("ascii"))
            yield Reader(stream)

    async def order(self, target: str, quantity: str) -> None:
        async with self.request("POST", target, quantity) as response:
            assert (await response.to_the_end()).startswith(b"HTTP/1.1 202 ")

    async def stop(self) -> None:
        """Stop it as an operator would: it has nothing to complain of."""
        self.process.send_signal(signal.SIGTERM)
        assert (await self.output.to_the_end()).decode() == ""
        assert await self.process.wait() == 0


@asynccontextmanager
async def serving(example: Path = LIVE_PAGE) -> AsyncGenerator[Server]:
    command = [sys.executable, "-W", "error", str(example), "0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    async with running(*command, **pipes) as process:
        assert process.stdout is not None
        output = Reader(process.stdout)
        line = (await output.until(b"\n")).decode()
        assert line.startswith("Open http://127.0.0.1:"), line
        port = int(line.partition(" in ")[0].rpartition(":")[2])
        yield Server(process, output, port)


async def test_the_server_streams_each_event_to_every_client_until_it_is_stopped() -> None:
    with trio.fail_after(TIME_LIMIT):
        async with (
            serving() as server,
            server.request("GET", "/events/") as ada,
            server.request("GET", "/events/") as grace,
        ):
            for listener in ada, grace:
                head = (await listener.until(b"\r\n\r\n")).lower()
                assert head.startswith(b"http/1.1 200 ")
                assert b"\r\ncontent-type: text/event-stream; charset=utf-8" in head
            orders = [("/shop/tea", "2"), ("/shop/a cake", "3\n\ndata: 4")]
            for path, data in orders:
                await server.order(path.replace(" ", "%20"), data)
            for listener in ada, grace:
                for path, data in orders:
                    line = await listener.until(b"\n\n")
                    assert json.loads(line.removeprefix(b"data: ")) == {
                        "system": "shop",
                        "kind": "item.ordered",
                        "path": path,
                        "data": data,
                    }
            await server.stop()
            for listener in ada, grace:
                assert await listener.to_the_end() == b""


async def test_the_server_serves_the_page() -> None:
    with trio.fail_after(TIME_LIMIT):
        async with serving() as server, server.request("GET", "/") as response:
            head, _, page = (await response.to_the_end()).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            assert page == LIVE_PAGE.with_suffix(".html").read_bytes()
            await server.stop()


# The page, in a browser


@needs_chromium
async def test_the_page_shows_events_live_in_a_browser(tmp_path: Path) -> None:
    with trio.fail_after(TIME_LIMIT):
        async with serving() as server, open_tab(tmp_path) as tab:
            await tab.call("Page.navigate", url=f"http://127.0.0.1:{server.port}/")
            await tab.wait_until("document.querySelector('#state')?.textContent === 'live'")
            assert await tab.rows() == []

            await server.order("/shop/%3Cb%3Etea%3C/b%3E", "2")  # text, not a tag
            await tab.wait_until("document.querySelectorAll('tbody tr').length === 1")
            await tab.evaluate("document.querySelector('#item').value = 'a cake'")
            await tab.evaluate("document.querySelector('button').click()")
            await tab.wait_until("document.querySelectorAll('tbody tr').length === 2")
            assert await tab.rows() == [
                ["shop", "item.ordered", "/shop/a cake", "1"],
                ["shop", "item.ordered", "/shop/<b>tea</b>", "2"],
            ]

            assert await tab.color("light") == "rgb(255, 255, 255)"
            assert await tab.color("dark") == "rgb(23, 25, 28)"

            await server.stop()  # while the page listens
            await tab.wait_until("document.querySelector('#state').textContent === 'connecting'")
