"""Headless Chromium, at the other end of its DevTools protocol, for tests of pages."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

needs_chromium = pytest.mark.skipif(
    shutil.which("chromium") is None and not os.environ.get("TRIO_EVENTS_CHROMIUM"),
    reason="there is no chromium on PATH (on Debian: apt-get install chromium)",
)


@attrs.define
class Reader:
    """Reads from a stream up to a separator."""

    stream: trio.abc.ReceiveStream
    _read: bytes = b""

    async def until(self, separator: bytes) -> bytes:
        while separator not in self._read:
            more = await self.stream.receive_some()
            assert more, f"the stream ended after {self._read!r}"
            self._read += more
        before, _, self._read = self._read.partition(separator)
        return before

    async def to_the_end(self) -> bytes:
        while more := await self.stream.receive_some():
            self._read += more
        read, self._read = self._read, b""
        return read


@asynccontextmanager
async def running(*command: str, **options: Any) -> AsyncGenerator[trio.Process]:
    """Run a program, and kill it at the end of the block if it has not ended."""
    process = await trio.lowlevel.open_process(command, **options)
    try:
        yield process
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


CHROMIUM = [
    "chromium",
    *["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"],
    *["--disable-background-networking", "--disable-component-update", "--disable-sync"],
    *["--disable-dev-shm-usage", "--remote-debugging-pipe", "about:blank"],
]

# It reads commands from file 3, and writes the answers to file 4.
PIPES = 'exec "$@" 3<&0 4>&1 </dev/null >/dev/null'


@attrs.define
class Tab:
    """A tab of Chromium, at the other end of its DevTools protocol."""

    commands: trio.abc.SendStream
    answers: Reader
    session: str | None = None
    _number: int = 0

    async def call(self, method: str, **parameters: object) -> Any:
        self._number += 1
        message: dict[str, object] = {"id": self._number, "method": method, "params": parameters}
        if self.session is not None:
            message["sessionId"] = self.session
        await self.commands.send_all(json.dumps(message).encode() + b"\0")
        while True:  # there are events, too
            answer = json.loads(await self.answers.until(b"\0"))
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    async def evaluate(self, script: str) -> Any:
        answer = await self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def wait_until(self, condition: str, *, seconds: int = 10) -> None:
        """Wait until a condition holds of the page: it is told of each change, and does not poll.

        Raises:
          AssertionError: If it does not hold in time; with what is on the page.
        """
        script = """new Promise(resolve => {
            const look = () => (%s) && resolve(true)
            const all = {childList: true, subtree: true, characterData: true, attributes: true}
            new MutationObserver(look).observe(document, all)
            look()
            setTimeout(resolve, %d, false)
        })"""
        if not await self.evaluate(script % (condition, seconds * 1000)):
            page = await self.evaluate("document.body?.innerText")
            raise AssertionError(f"not within {seconds} s: {condition}\n{page}")

    async def rows(self) -> list[list[str]]:
        """What stands in the table."""
        script = "[...document.querySelectorAll('tbody tr')]"
        script += ".map(row => [...row.cells].map(cell => cell.textContent))"
        rows: list[list[str]] = await self.evaluate(script)
        return rows

    async def color(self, scheme: str) -> str:
        """The background of the page, for somebody who likes it light or dark."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        await self.call("Emulation.setEmulatedMedia", features=[feature])
        color: str = await self.evaluate("getComputedStyle(document.body).backgroundColor")
        return color


@asynccontextmanager
async def open_tab(profile: Path) -> AsyncGenerator[Tab]:
    command = [*CHROMIUM, f"--user-data-dir={profile}"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    async with running("sh", "-c", PIPES, "sh", *command, **pipes) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        tab = Tab(process.stdin, Reader(process.stdout))
        target = await tab.call("Target.createTarget", url="about:blank")
        attached = await tab.call("Target.attachToTarget", flatten=True, **target)
        tab.session = attached["sessionId"]
        yield tab
        tab.session = None
        await tab.call("Browser.close")
        await process.wait()
