"""Asking a live map from another process."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, final
from urllib.parse import SplitResult, urlsplit

import attrs
import h11
import trio


class MapError(Exception):
    """There is no live map at the URL."""


@final
@attrs.define(eq=False)
class Answer:
    """The answer to one request, in pieces as they come."""

    _stream: trio.SocketStream
    _connection: h11.Connection
    _url: str
    _rest: bytes = b""

    async def piece(self) -> bytes:
        """The next piece; empty if there are no more, or the program has ended.

        Raises:
          MapError: If it is not an answer of a live map.
        """
        try:
            while True:
                await trio.lowlevel.checkpoint()
                event = self._connection.next_event()
                if event is h11.NEED_DATA:
                    self._connection.receive_data(await self._stream.receive_some())
                elif isinstance(event, h11.Response):
                    if event.status_code != 200:
                        raise MapError(f"{self._url} answers {event.status_code}: no live map")
                elif isinstance(event, h11.Data):
                    return bytes(event.data)
                else:
                    return b""
        except (h11.RemoteProtocolError, trio.BrokenResourceError):
            return b""  # noqa: ASYNC910  # there has been a checkpoint

    async def state(self) -> dict[str, Any] | None:
        """The next state of a stream; None if there are no more. Raises as `piece`."""
        await trio.lowlevel.checkpoint()
        while b"\n\n" not in self._rest:
            piece = await self.piece()
            if not piece:
                return None
            self._rest += piece
        block, _, self._rest = self._rest.partition(b"\n\n")
        state: dict[str, Any] = json.loads(block.removeprefix(b"data: "))
        return state


@asynccontextmanager
async def ask(url: str, what: str) -> AsyncGenerator[Answer]:
    """Ask the map at a URL for something.

    Raises:
      MapError: If there is none.
    """
    split = _parsed(url)
    connection = h11.Connection(h11.CLIENT)
    try:
        stream = await trio.open_tcp_stream(str(split.hostname), int(split.port or 0))
    except OSError:
        raise MapError(f"nothing answers at {url}: has the program ended?") from None
    async with stream:
        request = h11.Request(
            method="GET",
            target=f"{split.path.rstrip('/')}/{what}",
            headers=[("Host", split.netloc), ("Connection", "close")],
        )
        await stream.send_all(connection.send(request) or b"")
        connection.send(h11.EndOfMessage())
        yield Answer(stream, connection, url)


async def fetch(url: str, what: str) -> bytes:
    """A whole answer. Raises as `ask`."""
    await trio.lowlevel.checkpoint()
    body = b""
    async with ask(url, what) as answer:
        while piece := await answer.piece():
            body += piece
    return body


def _parsed(url: str) -> SplitResult:
    try:
        split = urlsplit(url)
        known = split.scheme == "http" and split.hostname and split.port and url.isascii()
    except ValueError:
        known = False
    if not known:
        raise MapError(f"{url!r} is not the URL of a live map, such as http://127.0.0.1:PORT/…/")
    return split
