"""The server of the map: who gets in, what it answers, and what cannot disturb it."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote, urlsplit

import attrs
import h11
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_events import EventBus, open_event_bus
from trio_events.devtools import Observer, _server, serve_map

from ..observing import tasks_living

TIME_LIMIT = 30  # seconds on the wall


@attrs.frozen
class Map:
    bus: EventBus
    url: str
    nursery: trio.Nursery

    @property
    def port(self) -> int:
        return int(urlsplit(self.url).port or 0)

    @property
    def path(self) -> str:
        return urlsplit(self.url).path

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    async def ask(self, what: str = "", **options: Any) -> tuple[int, dict[str, str], bytes]:
        """One request; returns status, headers and body."""
        return await self.request(target=self.path + what, **options)

    async def request(
        self, *, target: str, method: str = "GET", host: str | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        connection = h11.Connection(h11.CLIENT)
        async with await self.connect() as stream:
            headers = [("Host", host or f"127.0.0.1:{self.port}")]
            request = h11.Request(method=method, target=target, headers=headers)
            await stream.send_all(connection.send(request) or b"")
            await stream.send_all(connection.send(h11.EndOfMessage()) or b"")
            status, found, body = 0, dict[str, str](), b""
            while True:
                event = connection.next_event()
                if event is h11.NEED_DATA:
                    connection.receive_data(await stream.receive_some())
                elif isinstance(event, h11.Response):
                    status = event.status_code
                    found = {name.decode(): value.decode() for name, value in event.headers}
                elif isinstance(event, h11.Data):
                    body += event.data
                else:
                    return status, found, body

    async def raw(self, data: bytes) -> bytes:
        """What comes back for these bytes."""
        async with await self.connect() as stream:
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.send_all(data)
            answer = b""
            with contextlib.suppress(trio.BrokenResourceError):
                while more := await stream.receive_some():
                    answer += more
            return answer


@asynccontextmanager
async def mapped() -> AsyncIterator[Map]:
    with trio.fail_after(TIME_LIMIT):
        async with open_event_bus() as bus, trio.open_nursery() as nursery:
            url = await nursery.start(serve_map, bus)
            yield Map(bus, url, nursery)
            nursery.cancel_scope.cancel()


async def test_it_listens_on_the_loopback_address_under_a_random_path() -> None:
    async with mapped() as one, mapped() as other:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{22}/", one.url)
        assert one.path != other.path
        for target in (
            "/",
            "/favicon.ico",
            "/state",
            other.path,
            one.path[:-1],
            one.path[:-2] + "/",
            "//[/x",
            "http://[/x",
            "http://a]b/",
        ):
            status, _, _ = await one.request(target=target)
            assert status == 404, target
        assert (await one.ask("nothing"))[0] == 404
        with socket.socket() as elsewhere, pytest.raises(ConnectionRefusedError):
            elsewhere.settimeout(5)
            elsewhere.connect(("127.0.0.2", one.port))


async def test_a_foreign_host_is_refused() -> None:
    async with mapped() as served:
        port = served.port
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{port + 1}"):
            assert (await served.ask(host=host))[0] == 403
        for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"LocalHost:{port}"):
            assert (await served.ask(host=host))[0] == 200
        none = await served.raw(f"GET {served.path} HTTP/1.0\r\n\r\n".encode())
        assert none.startswith(b"HTTP/1.1 403 ")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS"])
async def test_nothing_but_get_is_answered(method: str) -> None:
    async with mapped() as served:
        answer = await served.raw(
            f"{method} {served.path}state HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n"
            "Content-Length: 0\r\n\r\n".encode()
        )
        assert answer.startswith(b"HTTP/1.1 404 ")


async def test_the_page_and_what_belongs_to_it() -> None:
    async with mapped() as served:
        for name, kind in (("", "html"), ("page.css", "css"), ("page.js", "javascript")):
            status, headers, body = await served.ask(name)
            assert (status, headers["content-type"]) == (200, f"text/{kind}; charset=utf-8")
            assert body
            assert headers["content-security-policy"] == (
                "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
                "img-src data:"
            )
            assert headers["x-content-type-options"] == "nosniff"
            assert b"http://" not in body.replace(b"http://www.w3.org/2000/svg", b"")
            assert b"https://" not in body


async def test_state_tree_source_and_mermaid() -> None:
    async with mapped() as served:
        subscription = await served.bus.subscribe("a")
        await served.bus.send("a", "k", "/1")
        await wait_all_tasks_blocked()
        state = json.loads((await served.ask("state"))[2])
        (event,) = state["events"]
        again = json.loads((await served.ask(f"state?number={state['position']}"))[2])
        assert again["events"] == []
        tree = json.loads((await served.ask(f"tree?number={event['number']}"))[2])
        assert tree == event | {"effects": []}
        for odd in ("tree", "tree?number=x", "tree?number=-1", "tree?number=" + "9" * 50):
            assert json.loads((await served.ask(odd))[2]) is None
        place = quote(subscription.origin)
        lines = json.loads((await served.ask(f"source?place={place}"))[2])
        assert any("served.bus.subscribe" in line for _, line in lines)
        assert json.loads((await served.ask("source?place=/etc/passwd:1"))[2]) is None
        assert (await served.ask("mermaid"))[2].startswith(b"flowchart LR\n")


async def read_states(stream: trio.SocketStream, count: int) -> list[dict[str, Any]]:
    data = b""
    while data.count(b"\n\n") < count:
        data += await stream.receive_some()
    blocks = re.findall(rb"data: (.*)\n\n", data)
    return [json.loads(block) for block in blocks[:count]]


@asynccontextmanager
async def streaming(served: Map) -> AsyncIterator[trio.SocketStream]:
    async with await served.connect() as stream:
        head = f"GET {served.path}stream HTTP/1.1\r\nHost: localhost:{served.port}\r\n\r\n"
        await stream.send_all(head.encode())
        yield stream


async def test_a_stream_has_each_event_once() -> None:
    async with mapped() as served, streaming(served) as stream:
        await read_states(stream, 1)
        await served.bus.send("a", "k", "/1")
        seen = [e["path"] for state in await read_states(stream, 2) for e in state["events"]]
        await served.bus.send("a", "k", "/2")
        seen += [e["path"] for state in await read_states(stream, 2) for e in state["events"]]
        assert seen == ["/1", "/2"]


async def test_a_page_that_does_not_read_disturbs_no_other_and_gets_no_backlog() -> None:
    async with mapped() as served, streaming(served) as slow, streaming(served) as other:
        for number in range(3000):
            await served.bus.send("a", "k", f"/{number}" + "x" * 150, "y" * 100)
        states = await read_states(other, 2)
        assert len(states[-1]["events"]) <= 60
        assert (await served.ask("state"))[0] == 200
        slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


async def test_it_works_while_the_bus_is_stuck() -> None:
    async with mapped() as served:
        full = await served.bus.subscribe("a", max_buffer_size=1)
        await served.bus.send("a", "k", "/1")
        await wait_all_tasks_blocked(0.01)
        served.nursery.start_soon(served.bus.send, "a", "k", "/2")
        await wait_all_tasks_blocked(0.01)
        state = json.loads((await served.ask("state"))[2])
        assert state["waiting"] == 1
        assert state["problems"][0]["text"].startswith("nobody holds up ")
        full.close()


BROKEN = [
    b"",
    b"GET",
    b"\0\0\0\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"X-Y: " + b"z" * 65536 + b"\r\n\r\n",
    b"\x16\x03\x01" + b"\0" * 50,  # somebody tries TLS
]


@pytest.mark.parametrize("data", BROKEN)
async def test_an_invalid_request_is_refused_and_the_next_one_answered(data: bytes) -> None:
    async with mapped() as served:
        async with await served.connect() as stream:
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.send_all(data)
                await stream.send_eof()
            answer = b""
            with contextlib.suppress(trio.BrokenResourceError):
                while more := await stream.receive_some():
                    answer += more
        assert not answer or re.match(rb"HTTP/1.1 4\d\d ", answer)
        assert (await served.ask())[0] == 200


async def test_half_a_request_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_server, "_PATIENCE", 0.05)
    async with mapped() as served, await served.connect() as stream:
        await stream.send_all(b"GET /")
        assert await stream.receive_some() == b""


async def test_two_hundred_connections() -> None:
    async with mapped() as served:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(200):
                await stack.enter_async_context(await served.connect())
            assert (await served.ask())[0] == 200
        assert (await served.ask())[0] == 200


@pytest.mark.parametrize("size", [0, 1, 4, 20, 60, 200])
async def test_a_page_may_go_at_any_point(size: int) -> None:
    async with mapped() as served:
        for what in ("", "state", "stream"):
            head = f"GET {served.path}{what} HTTP/1.1\r\nHost: localhost:{served.port}\r\n\r\n"
            async with await served.connect() as stream:
                await stream.send_all(head.encode()[:size] if size < 60 else head.encode())
                if size >= 60:
                    await stream.receive_some(size)
                stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        assert (await served.ask())[0] == 200


async def test_a_fault_of_the_map_ends_neither_the_program_nor_the_map(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    async with mapped() as served:
        with monkeypatch.context() as patch:
            patch.setattr(Observer, "state", fail)
            head = f"GET {served.path}state HTTP/1.1\r\nHost: localhost:{served.port}\r\n\r\n"
            assert await served.raw(head.encode()) == b""
        assert (await served.ask("state"))[0] == 200
        assert [r.getMessage() for r in caplog.records] == [
            "the live map could not answer a request"
        ]


async def test_when_it_is_cancelled_no_task_and_no_instrument_is_left() -> None:
    async with open_event_bus() as bus:
        before = tasks_living()
        async with trio.open_nursery() as nursery:
            url = await nursery.start(serve_map, bus)
            assert bus._core.instruments.active
            port = urlsplit(url).port
            assert port is not None
            async with await trio.open_tcp_stream("127.0.0.1", port):
                nursery.cancel_scope.cancel()
        await wait_all_tasks_blocked()
        assert tasks_living() == before
        assert not bus._core.instruments.watched_sends
        with pytest.raises(OSError, match="connect"):
            await trio.open_tcp_stream("127.0.0.1", port)


async def test_a_port_that_is_taken_is_an_error_and_nothing_is_left() -> None:
    async with mapped() as served, open_event_bus() as bus:
        with pytest.raises(OSError, match="in use"):
            await serve_map(bus, served.port)
        assert not bus._core.instruments.watched_sends


@pytest.mark.parametrize(
    ("port", "error"),
    [
        (-1, ValueError),
        (65536, ValueError),
        (True, TypeError),
        (80.0, TypeError),
        ("80", TypeError),
    ],
)
async def test_a_port_that_is_none_is_refused_before_anything_has_happened(
    port: Any, error: type[Exception]
) -> None:
    async with open_event_bus() as bus:
        with pytest.raises(error, match="port must be"), trio.fail_after(TIME_LIMIT):
            await serve_map(bus, port)
        assert not bus._core.instruments.watched_sends
