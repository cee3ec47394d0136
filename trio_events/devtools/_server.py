"""The server of the live map: HTTP on the loopback address, with only h11 and trio."""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias, final
from urllib.parse import SplitResult, parse_qs, urlsplit

import attrs
import h11
import trio

from .._bus import EventBus
from .._names.pattern import shown
from ._observer import Observer

_log: Final = logging.getLogger("trio_events.devtools")

_EVERY: Final = 0.25
"""Seconds between two states."""

_SHARE: Final = 0.05
"""The fraction of the time that computing states may take."""

_PATIENCE: Final = 30.0
"""Seconds to receive a request, and for a page to receive what it is sent."""

_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:"
)
_HEADERS: Final = (
    ("Cache-Control", "no-store"),
    ("Connection", "close"),
    ("Content-Security-Policy", _POLICY),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
)
_FILES: Final = {
    "": ("_page.html", "text/html; charset=utf-8"),
    "page.css": ("_page.css", "text/css; charset=utf-8"),
    "page.js": ("_page.js", "text/javascript; charset=utf-8"),
}


async def serve_map(  # noqa: ASYNC114, ASYNC128  # `serve_listeners` starts it
    bus: EventBus,
    port: int = 0,
    *,
    max_events: int = 2000,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the live map of a bus to browsers on this machine, until cancelled.

    Start it with `url = await nursery.start(serve_map, bus)`. It listens on 127.0.0.1 only, under a
    random path that is part of the URL, and no request can change the program. It works even while
    the bus is stuck. See `Observer` for the cost.

    A checkpoint, always. When it ends, it leaves no task and no instrument behind.

    Args:
      bus: The bus.
      port: The port to listen on; 0 means any free port.
      max_events: As for `Observer`.
      task_status: Passes the URL to `nursery.start`.

    Raises:
      TypeError: If `port` or `max_events` isn't an int.
      ValueError: If `port` isn't from 0 to 65535, or `max_events` is less than 1.
      OSError: If the port isn't free.
    """
    if not isinstance(port, int) or isinstance(port, bool):
        raise TypeError(f"port must be an int, not {shown(port)}")
    if not 0 <= port <= 65535:
        raise ValueError(f"port must be from 0 to 65535, not {port}")
    with Observer(bus, max_events) as observer:
        await serve_observer(observer, port, task_status=task_status)


async def serve_observer(  # noqa: ASYNC114, ASYNC128  # `serve_listeners` calls `started`
    observer: Observer, port: int = 0, *, task_status: trio.TaskStatus[str]
) -> None:
    """Like `serve_map`, with an existing observer."""
    (listener,) = await trio.open_tcp_listeners(port, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    server = _Server(observer, port, secrets.token_urlsafe(16))
    await trio.serve_listeners(
        server.handle,
        [listener],
        task_status=_Renamed(task_status, f"http://127.0.0.1:{port}/{server.secret}/"),
    )


_Send: TypeAlias = Callable[[h11.Event], Awaitable[None]]


@final
@attrs.frozen
class _Renamed(trio.TaskStatus[Any]):
    """Reports a URL, where trio would report its listeners."""

    _status: trio.TaskStatus[str]
    _url: str

    def started(self, value: object = None) -> None:
        self._status.started(self._url)


@final
class _RefusedError(Exception):
    """A request that is answered with a status and a line of text, not a page."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status, self.reason = status, reason


@final
@attrs.define(eq=False)
class _Server:
    """Answers one request on each connection."""

    observer: Observer
    port: int
    secret: str
    _pages: int = attrs.field(default=0, init=False)  # that show the map

    async def handle(self, stream: trio.SocketStream) -> None:
        """Answer the request of a connection. An error ends the connection only."""
        connection = h11.Connection(h11.SERVER)
        send = partial(_send, stream, connection)
        async with stream:
            try:
                try:
                    with trio.fail_after(_PATIENCE):
                        request = await _read(stream, connection)
                    await self._answer(request, send)
                except _RefusedError as refused:
                    await _respond(send, "text/plain", refused.reason.encode(), refused.status)
            except (OSError, trio.BrokenResourceError, trio.TooSlowError, h11.ProtocolError):
                pass
            except Exception:  # noqa: BLE001  # a fault here must not end the program
                _log.exception("the live map could not answer a request")

    async def _answer(self, request: h11.Request, send: _Send) -> None:
        hosts = [value.lower() for name, value in request.headers if name == b"host"]
        allowed = [f"{name}:{self.port}".encode() for name in ("127.0.0.1", "localhost")]
        if len(hosts) != 1 or hosts[0] not in allowed:
            raise _RefusedError(403, "only for this machine")
        try:
            url = urlsplit(request.target.decode("ascii", "replace"))
        except ValueError:
            raise _RefusedError(404, "no such page") from None
        secret, slash, what = url.path.removeprefix("/").partition("/")
        known = secrets.compare_digest(secret.encode(), self.secret.encode())
        if request.method != b"GET" or not known or not slash:
            raise _RefusedError(404, "no such page")
        await self._serve(what, url, send)

    async def _serve(self, what: str, url: SplitResult, send: _Send) -> None:
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        if what in _FILES:
            name, kind = _FILES[what]
            await _respond(send, kind, Path(__file__).with_name(name).read_bytes())
        elif what == "stream":
            await self._stream(send)
        elif what == "state":
            await _respond(send, "application/json", _json(self.observer.state(_number(query, 0))))
        elif what == "tree":
            tree = self.observer.tree(_number(query, -1))
            await _respond(send, "application/json", _json(tree))
        elif what == "source":
            lines = self.observer.source(query.get("place", ""))
            await _respond(send, "application/json", _json(lines))
        elif what == "mermaid":
            text = self.observer.mermaid().encode("utf-8", "replace")
            await _respond(send, "text/plain; charset=utf-8", text)
        else:
            raise _RefusedError(404, "no such page")

    async def _stream(self, send: _Send) -> None:
        """Send states, as server-sent events. A slow page gets fewer of them, never a backlog."""
        await send(_head(200, "text/event-stream; charset=utf-8"))
        position = 0
        self._pages += 1
        try:
            while True:
                began = time.perf_counter()
                state = self.observer.state(position)
                position = state["position"]
                data = b"data: " + _json(state) + b"\n\n"
                took = time.perf_counter() - began
                await send(h11.Data(data=data))
                await trio.sleep(max(_EVERY, took * self._pages / _SHARE))
        finally:
            self._pages -= 1


async def _read(stream: trio.SocketStream, connection: h11.Connection) -> h11.Request:
    while True:
        await trio.lowlevel.checkpoint()
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError as error:
            raise _RefusedError(error.error_status_hint, "that is no request") from None
        if event is h11.NEED_DATA:
            connection.receive_data(await stream.receive_some())
        elif isinstance(event, h11.Request):
            return event
        else:
            raise _RefusedError(400, "that is no request")


async def _send(stream: trio.SocketStream, connection: h11.Connection, event: h11.Event) -> None:
    data = connection.send(event)
    with trio.fail_after(_PATIENCE):
        await stream.send_all(data or b"")


def _head(status: int, kind: str, size: int | None = None) -> h11.Response:
    length = [] if size is None else [("Content-Length", str(size))]
    return h11.Response(status_code=status, headers=[*_HEADERS, ("Content-Type", kind), *length])


async def _respond(send: _Send, kind: str, body: bytes, status: int = 200) -> None:
    await send(_head(status, kind, len(body)))
    await send(h11.Data(data=body))
    await send(h11.EndOfMessage())


def _json(value: object) -> bytes:
    return json.dumps(value).encode("ascii")


def _number(query: dict[str, str], otherwise: int) -> int:
    text = query.get("number", "")
    return int(text) if text.isdecimal() and text.isascii() and len(text) < 16 else otherwise
