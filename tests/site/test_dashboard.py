"""The dashboard, examples/09_dashboard.py: its streams, its server, and the page in a browser."""

from __future__ import annotations

import importlib.util
import json
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_events as events

from ..browser import needs_chromium, open_tab
from .test_live_page import TIME_LIMIT, Browser, Server, serving

DASHBOARD = Path(__file__).parent.parent.parent / "examples" / "09_dashboard.py"


@pytest.fixture
def dashboard() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dashboard", DASHBOARD)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shown(browser: Browser) -> list[list[Any]]:
    """What a browser has got: pairs of path and data."""
    lines = [message["body"] for message in browser.got if message.get("body")]
    return [json.loads(line.removeprefix(b"data: ")) for line in lines]


async def test_a_late_browser_gets_the_state_and_a_slow_one_the_newest_of_each_room(
    dashboard: ModuleType, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        with Browser() as slow, Browser() as late:
            async with events.open_event_bus() as bus:
                watch = partial(dashboard.watch, await bus.open_history("heating"))
                connections = [(each.receive, each.send) for each in (slow, late)]
                nursery.start_soon(watch, {"type": "http"}, *connections[0])
                await wait_all_tasks_blocked()
                for number in range(1000):
                    await bus.send("heating", "temperature.set", f"/{number % 2}", number)
                late.reads.set()
                nursery.start_soon(watch, {"type": "http"}, *connections[1])
                await wait_all_tasks_blocked()
                assert shown(late) == [["/0", 998], ["/1", 999]]
                await bus.send("heating", "temperature.set", "/0", 1000)
            slow.reads.set()
            await wait_all_tasks_blocked()
            assert shown(late)[2:] == [["/0", 1000]]
            assert len(shown(slow)) < 300
            assert dict(shown(slow)) == {"/0": 1000, "/1": 999}


async def turn(server: Server, room: str, degrees: str) -> None:
    await server.order(f"/rooms/{room}", degrees)


async def test_the_server_streams_the_state_and_then_each_change() -> None:
    with trio.fail_after(TIME_LIMIT):
        async with serving(DASHBOARD) as server:
            for degrees in ("20", "21"):
                await turn(server, "attic", degrees)
            async with server.request("GET", "/state/") as stream:
                await stream.until(b"\r\n\r\n")
                assert await stream.until(b"\n\n") == b'data: ["/attic", "21"]'
                await turn(server, "kitchen", "19")
                assert await stream.until(b"\n\n") == b'data: ["/kitchen", "19"]'
                await server.stop()
                assert await stream.to_the_end() == b""


@needs_chromium
async def test_the_page_begins_with_the_state_and_follows_it(tmp_path: Path) -> None:
    output = "document.getElementById('room %s')?.lastChild.textContent === '%s °C'"
    with trio.fail_after(TIME_LIMIT):
        async with serving(DASHBOARD) as server, open_tab(tmp_path) as tab:
            await turn(server, "attic", "12.5")
            await tab.call("Page.navigate", url=f"http://127.0.0.1:{server.port}/")
            await tab.wait_until(output % ("attic", "12.5"))
            await turn(server, "cellar", "9")  # a room that the page does not know
            await tab.wait_until(output % ("cellar", "9"))
            slider = "document.getElementById('room attic').children[1]"
            await tab.evaluate(f"{slider}.value = 14; {slider}.oninput({{target: {slider}}})")
            await tab.wait_until(output % ("attic", "14"))
            await server.stop()
            await tab.wait_until("document.querySelector('#state').textContent === 'connecting'")
