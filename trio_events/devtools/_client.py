"""Asking a live map from another process."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, final
from urllib.parse import SplitResult, urlsplit

import attrs
import h11
import trio

_KINDS: Final = {"mermaid": "text/plain", "stream": "text/event-stream"}
"""The types of the answers that aren't JSON."""


class MapError(Exception):
    """There is no live map at the URL."""


@final
class _CutOffError(MapError):
    """The answer has no end: the program has ended."""


@final
@attrs.define(eq=False)
class Answer:
    """The answer to one request, in pieces as they come."""

    _stream: trio.SocketStream
    _connection: h11.Connection
    _url: str
    _kind: str
    _has_begun: bool = False
    _rest: bytes = b""

    async def piece(self) -> bytes:
        """The next piece; empty if there are no more.

        Raises:
          MapError: If it is not an answer of a live map, or the program has ended.
        """
        try:
            while True:
                await trio.lowlevel.checkpoint()
                event = self._connection.next_event()
                if event is h11.NEED_DATA:
                    self._connection.receive_data(await self._stream.receive_some())
                elif isinstance(event, h11.Response):
                    self._check(event)
                    self._has_begun = True
                elif isinstance(event, h11.Data):
                    return bytes(event.data)
                elif not isinstance(event, h11.InformationalResponse):
                    return b""
        except (h11.RemoteProtocolError, trio.BrokenResourceError):
            if self._has_begun:
                raise _CutOffError(f"the program at {self._url} has ended") from None
            raise MapError(f"{self._url} gives no answer that a live map would give") from None

    def _check(self, response: h11.Response) -> None:
        if response.status_code != 200:
            raise MapError(f"{self._url} answers {response.status_code}: no live map")
        kinds = [value for name, value in response.headers if name == b"content-type"]
        if [kind.partition(b";")[0].strip().lower() for kind in kinds] != [self._kind.encode()]:
            raise MapError(f"{self._url} answers, but not with {self._kind}: no live map")

    async def state(self) -> dict[str, Any] | None:
        """The next state of a stream; None if the program has ended. Raises as `piece`."""
        await trio.lowlevel.checkpoint()
        while b"\n\n" not in self._rest:
            try:
                piece = await self.piece()
            except _CutOffError:
                return None
            if not piece:
                return None
            self._rest += piece
        block, _, self._rest = self._rest.partition(b"\n\n")
        try:
            state = json.loads(block.removeprefix(b"data: "))
        except ValueError:
            state = None
        if not isinstance(state, dict) or "rows" not in state:
            raise MapError(f"{self._url} streams something else than a live map")
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
        request = h11.Request(
            method="GET",
            target=f"{split.path.rstrip('/')}/{what}",
            headers=[("Host", split.netloc), ("Connection", "close")],
        )
    except h11.LocalProtocolError:
        raise _not_a_url(url) from None
    try:
        stream = await trio.open_tcp_stream(str(split.hostname), int(split.port or 0))
    except (OSError, UnicodeError):  # the latter for a name that no host can have
        raise MapError(f"nothing answers at {url}: has the program ended?") from None
    async with stream:
        with suppress(trio.BrokenResourceError):  # there may be an answer all the same
            await stream.send_all(connection.send(request) or b"")
        connection.send(h11.EndOfMessage())
        yield Answer(stream, connection, url, _KINDS.get(what, "application/json"))


async def fetch(url: str, what: str) -> bytes:
    """A whole answer. Raises as `ask` and `Answer.piece`."""
    await trio.lowlevel.checkpoint()
    body = b""
    async with ask(url, what) as answer:
        while piece := await answer.piece():
            body += piece
    return body


async def graph(url: str) -> str:
    """The map as a Mermaid flowchart. Raises as `fetch`."""
    body = await fetch(url, "mermaid")
    if not body.startswith(b"flowchart "):
        raise MapError(f"{url} answers with something else than a graph: no live map")
    return body.decode("utf-8", "replace")


def _parsed(url: str) -> SplitResult:
    try:
        split = urlsplit(url)
        known = split.scheme == "http" and split.hostname and split.port and url.isascii()
    except ValueError:
        known = False
    if not known:
        raise _not_a_url(url)
    return split


def _not_a_url(url: str) -> MapError:
    return MapError(f"{url!r} is not the URL of a live map, such as http://127.0.0.1:PORT/…/")
