"""A page that begins with the state, however late it is opened: run it with [PORT]."""

from __future__ import annotations

import json
import signal
import sys
from functools import partial
from pathlib import Path

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.types import Message, Receive, Scope, Send

import trio_events as events


async def turn(request: Request) -> Response:
    path, degrees = f"/{request.path_params['room']}", (await request.body()).decode()
    await events.send("heating", "temperature.set", path, degrees)
    return Response(status_code=202)


async def watch(history: events.History, scope: Scope, receive: Receive, send: Send) -> None:
    async def send_whole(message: Message) -> None:
        with trio.CancelScope(shield=True):  # or Starlette cancels the server's clean-up
            await send(message)

    # First the state, then each change; a browser that is too slow gets the newest of each room.
    latest = events.Overflow.LATEST
    async with await events.subscribe("heating", history=history, overflow=latest) as sub:
        lines = (f"data: {json.dumps([event.path, event.data])}\n\n" async for event in sub)
        await StreamingResponse(lines, media_type="text/event-stream")(scope, receive, send_whole)


async def main(port: str) -> None:
    page = HTMLResponse(Path(__file__).with_suffix(".html").read_text("utf-8"))
    room = Route("/rooms/{room}", turn, methods=["POST"])
    config = Config.from_mapping(bind=f"127.0.0.1:{port}", loglevel="WARNING")
    stop = trio.Event()
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            async with events.open_event_bus() as bus:
                stream = partial(watch, await bus.open_history("heating"))
                app = Starlette(routes=[Route("/", page), room, Mount("/state", stream)])
                run = partial(serve, app, config, shutdown_trigger=stop.wait)  # type: ignore[arg-type]  # is ASGI
                (url,) = await nursery.start(run)
                print(f"Open {url} in two browsers.", flush=True)
                await anext(signals)
            stop.set()  # the streams have ended with the bus: the server need not wait for them


if __name__ == "__main__":
    trio.run(main, sys.argv[1] if len(sys.argv) > 1 else "8000")
