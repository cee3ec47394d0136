"""The page of the map in headless Chromium: what it shows, and what it makes of markup."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio

from trio_events import EventBus, Overflow, open_event_bus
from trio_events.devtools import serve_map

from ..browser import Reader, Tab, needs_chromium, open_tab, running
from .shop import do_business

pytestmark = needs_chromium

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "08_map.py"
TIME_LIMIT = 60  # seconds on the wall
PICTURES = os.environ.get("TRIO_EVENTS_PICTURES")  # a directory for screenshots to look at
NODE = "document.querySelector('[data-node=\"p:%s\"]')"

ROW = "[...document.querySelectorAll('tbody tr')].find(row => row.cells[3].textContent === %r)"
FAULTS = """
window.faults = []
addEventListener("error", event => faults.push(event.message))
addEventListener("unhandledrejection", event => faults.push(String(event.reason)))
addEventListener("securitypolicyviolation", event => faults.push(event.violatedDirective))
"""


@attrs.define
class Page:
    """A tab that shows a map."""

    tab: Tab

    async def problems(self) -> list[str]:
        texts: list[str] = await self.tab.evaluate(
            "[...document.querySelectorAll('.problem b')].map(each => each.textContent)"
        )
        return texts

    async def until_it_shows(self, text: str) -> None:
        await self.tab.wait_until(f"document.body.textContent.includes({json.dumps(text)})")

    async def click(self, element: str) -> None:
        await self.tab.evaluate(
            f"{element}.dispatchEvent(new MouseEvent('click', {{bubbles: true}}))"
        )

    async def detail(self) -> str:
        text: str = await self.tab.evaluate("document.querySelector('#detail').innerText")
        return text

    async def picture(self, name: str) -> bytes:
        shot = await self.tab.call("Page.captureScreenshot", format="png")
        data = base64.b64decode(shot["data"])
        if PICTURES:
            await trio.Path(PICTURES, f"{name}.png").write_bytes(data)
        return data


@attrs.define
class MappedPage(Page):
    """The map of a bus of the test."""

    bus: EventBus
    nursery: trio.Nursery
    server: trio.CancelScope


@asynccontextmanager
async def opened(profile: Path, **size: int) -> AsyncIterator[MappedPage]:
    with trio.fail_after(TIME_LIMIT):
        async with (
            open_tab(profile) as tab,
            open_event_bus(drain_timeout=0) as bus,
            trio.open_nursery() as nursery,
        ):
            scope = trio.CancelScope()

            async def serve(task_status: trio.TaskStatus[str]) -> None:  # noqa: ASYNC128  # the map does
                with scope:
                    await serve_map(bus, task_status=task_status)

            url = await nursery.start(serve)
            metrics = {"width": 1400, "height": 900, "deviceScaleFactor": 1, "mobile": False}
            await tab.call("Emulation.setDeviceMetricsOverride", **(metrics | size))
            await tab.call("Page.enable")
            await tab.call(
                "Page.addScriptToEvaluateOnNewDocument",
                source=FAULTS,
            )
            await tab.call("Page.navigate", url=url)
            await tab.wait_until("document.querySelector('#state')?.textContent === 'live'")
            yield MappedPage(tab, bus, nursery, scope)
            assert await tab.evaluate("faults") == []
            nursery.cancel_scope.cancel()


async def test_a_shop_on_the_map(tmp_path: Path) -> None:
    async with opened(tmp_path) as page:
        tab = page.tab
        await do_business(page.bus, page.nursery)
        await page.until_it_shows("report holds up ship")

        # The stall is red, at both ends.
        await tab.wait_until(f"{NODE % 'report'}.classList.contains('bad')")
        assert "1 waiting" in await tab.evaluate(f"{NODE % 'report'}.textContent")
        bad = await tab.evaluate(
            "[...document.querySelectorAll('.wire.bad')].map(w => w.dataset.edge)"
        )
        assert len(bad) == 1
        assert bad[0].startswith("p:ship|k:shipping/parcel.sent|p:report|")
        said = await page.problems()
        assert said[0] == "report holds up ship"
        assert {"ship has failed once", "nobody has read orders"} <= set(said)
        assert any("loses events" in each for each in said)
        dropped = await tab.evaluate("document.querySelector('#dropped').className")
        assert dropped == "warning"

        # A click shows the line that subscribed, and who waits.
        await page.click(NODE % "report")
        await tab.wait_until("document.querySelector('#detail pre .here')")
        line = await tab.evaluate("document.querySelector('#detail pre .here').textContent")
        assert 'bus.subscribe("shipping", "parcel.sent", max_buffer_size=2)' in line
        assert "ship for" in await page.detail()

        # The tree has the right parents.
        await page.click(ROW % "parcel.sent")
        await tab.wait_until("document.querySelectorAll('#detail .tree .event').length >= 3")
        nested = await tab.evaluate(
            "(function names(list) { return [...list.children].map(item => ["
            "item.querySelector('.event').textContent.split(' ')[0],"
            "...names(item.querySelector(':scope > ul') || {children: []})]) })"
            "(document.querySelector('#detail > .tree'))"
        )
        assert nested == [["order.placed", ["payment.received", ["parcel.sent"]]]]
        assert await tab.evaluate("document.querySelectorAll('.event.this').length") == 1

        # What has nothing to do with a box fades while it is pointed at.
        await tab.evaluate(f"{NODE % 'report'}.dispatchEvent(new MouseEvent('mouseenter'))")
        faint = await tab.evaluate(
            "[...document.querySelectorAll('g.faint')].map(g => g.dataset.node)"
        )
        assert not {"p:report", "p:ship", "p:charge", "p:customer"} & set(faint)
        assert faint
        await tab.evaluate(f"{NODE % 'report'}.dispatchEvent(new MouseEvent('mouseleave'))")
        assert await tab.evaluate("document.querySelectorAll('.faint').length") == 0

        # Light and dark, and not blank.
        light, dark = await tab.color("light"), await tab.color("dark")
        assert light != dark
        pictures = {len(await page.picture("dark"))}
        await tab.color("light")
        pictures.add(len(await page.picture("light")))
        assert min(pictures) > 20_000

        # By keyboard.
        await tab.evaluate(
            f"{NODE % 'charge'}.dispatchEvent(new KeyboardEvent('keydown', {{key: 'Enter'}}))"
        )
        await page.until_it_shows("take")
        assert (await page.detail()).splitlines()[1] == "charge"
        await tab.evaluate("dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape'}))")
        assert await tab.evaluate("document.querySelector('#detail').hidden")
        label = await tab.evaluate(f"{NODE % 'charge'}.getAttribute('aria-label')")
        assert label == (
            "charge, handler. reads orders · order.placed. sends payments payment.received"
        )

        # The filter, and the pause.
        await tab.evaluate("filter.value = 'PARCEL'; filter.dispatchEvent(new Event('input'))")
        kinds = await tab.evaluate(
            "[...document.querySelectorAll('tbody tr')].filter(r => !r.hidden)"
            ".map(r => r.cells[3].textContent)"
        )
        assert set(kinds) == {"parcel.sent"}

        # The program goes.
        page.server.cancel()
        await tab.wait_until("!document.querySelector('#gone').hidden")


async def test_the_shop_of_the_example_and_its_pictures(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", str(EXAMPLE)]
    with trio.fail_after(TIME_LIMIT):
        async with (
            running(*command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process,
            open_tab(tmp_path) as tab,
        ):
            assert process.stdout is not None
            line = (await Reader(process.stdout).until(b"\n")).decode()
            await tab.call(
                "Emulation.setDeviceMetricsOverride",
                width=1440,
                height=860,
                deviceScaleFactor=1,
                mobile=False,
            )
            await tab.call("Page.navigate", url=line.removeprefix("The map: "))
            for text in ("report holds up ship", "nobody wants health alive", "loses events"):
                await tab.wait_until(f"document.body?.textContent.includes({text!r})", seconds=30)
            page = Page(tab)
            await page.click(ROW % "mail.queued")
            await tab.wait_until("document.querySelectorAll('#detail .tree .event').length >= 3")
            for scheme in ("light", "dark"):
                await tab.color(scheme)
                assert len(await page.picture(f"map-{scheme}")) > 50_000


async def test_an_unmatched_kind_and_a_bar_for_what_gets_everything(tmp_path: Path) -> None:
    async with opened(tmp_path) as page:
        await page.bus.subscribe("**", path="/x", overflow=Overflow.DROP_OLDEST)
        await page.bus.send("health", "alive", "/shop")
        await page.until_it_shows("nobody wants health alive")
        await page.until_it_shows("Everything goes to")
        await page.tab.wait_until("document.querySelector('.socket.unmatched')")
        assert await page.tab.evaluate("document.querySelectorAll('.tap').length") == 1
        await page.click("document.querySelector('.tap')")
        await page.until_it_shows("reads everything")
        await page.click("[...document.querySelectorAll('.problem')].pop()")
        assert await page.tab.evaluate("!document.querySelector('#detail').hidden")


MARKUP = "<img src=x onerror=faults=1>"


async def test_markup_is_text_wherever_it_comes_from(tmp_path: Path) -> None:
    async with opened(tmp_path) as page:
        code = compile(
            "async def go(bus):\n"
            "    await bus.subscribe(S, overflow=O)\n"
            "    await bus.send(S, S, S, S)\n",
            f"{MARKUP}.py",
            "exec",
        )
        names = {"S": MARKUP, "O": Overflow.DROP_OLDEST}
        exec(code, names)
        go = names["go"]
        assert callable(go)
        page.nursery.start_soon(go, page.bus, name=MARKUP)
        await page.tab.wait_until("document.querySelectorAll('tbody tr').length === 1")
        assert (
            await page.tab.evaluate("document.querySelector('tbody tr').cells[3].textContent")
            == MARKUP
        )
        for each in ("[data-node]", "tbody tr", ".problem"):
            await page.click(f"document.querySelector({each!r})")
            await page.tab.wait_until("!document.querySelector('#detail').hidden")
        assert await page.tab.evaluate("document.querySelectorAll('img').length") == 0


async def test_many_services_fit_one_screen_folded(tmp_path: Path) -> None:
    async with opened(tmp_path) as page:

        async def run_service(bus: EventBus, number: int) -> None:
            for kind in range(5):
                await bus.send(f"service{number}", f"thing.done{kind}", "/1")
            await trio.sleep_forever()

        for number in range(1, 12):
            await page.bus.subscribe(f"service{number}", overflow=Overflow.DROP_OLDEST)
        for _ in range(300):
            await page.bus.subscribe("service3", "*.done1", overflow=Overflow.DROP_OLDEST)
        for number in range(12):
            page.nursery.start_soon(run_service, page.bus, number, name=f"service {number}")
        await page.tab.wait_until("!document.querySelector('#fold').hidden")
        await page.tab.wait_until("document.body.textContent.includes('5 kinds')")
        await page.tab.wait_until("document.body.textContent.includes('×300')")
        inside = """(() => {
            const stage = document.querySelector('#stage').getBoundingClientRect()
            return [...document.querySelectorAll('[data-node]')].every(node => {
                const box = node.querySelector('.card, rect').getBoundingClientRect()
                return box.left >= stage.left && box.right <= stage.right
                    && box.top >= stage.top && box.bottom <= stage.bottom
            })
        })()"""
        assert await page.tab.evaluate(inside)
        folded = await page.tab.evaluate("document.querySelectorAll('.socket:not(.in)').length")
        await page.click("document.querySelector('#fold')")
        unfolded = await page.tab.evaluate("document.querySelectorAll('.socket:not(.in)').length")
        assert (folded, unfolded) == (12, 60)


async def test_on_a_phone_nothing_is_wider_than_the_screen(tmp_path: Path) -> None:
    async with opened(tmp_path, width=390, height=844) as page:
        await do_business(page.bus, page.nursery)
        await page.until_it_shows("report holds up ship")
        assert await page.tab.evaluate("document.documentElement.scrollWidth") <= 390
        order = await page.tab.evaluate(
            "['main', 'aside', '#log'].map(each => document.querySelector(each))"
            ".map(each => each.getBoundingClientRect().top)"
        )
        assert order == sorted(order)
        assert len(await page.picture("phone")) > 10_000


async def test_zoom_and_drag(tmp_path: Path) -> None:
    async with opened(tmp_path) as page:
        await do_business(page.bus, page.nursery)
        await page.until_it_shows("report holds up ship")

        async def box() -> list[float]:
            view = await page.tab.evaluate("map.getAttribute('viewBox')")
            return [float(number) for number in view.split()]

        await page.tab.evaluate("var map = document.querySelector('#map')")
        whole = await box()
        await page.click("document.querySelector('#in')")
        closer = await box()
        assert closer[2] < whole[2]
        await page.tab.evaluate(
            "map.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight'}))"
        )
        assert (await box())[0] > closer[0]
        await page.click("document.querySelector('#fit')")
        assert await box() == whole
