"""A web page that shows events live: python examples/06_live_page.py [PORT]."""

from __future__ import annotations

import json
import signal
import sys
from functools import partial
from pathlib import Path

import attrs
import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.types import Message, Receive, Scope, Send

import trio_events as events


async def order(request: Request) -> Response:
    item, quantity = request.path_params["item"], (await request.body()).decode()
    await events.send("shop", "item.ordered", f"/shop/{item}", quantity)
    return Response(status_code=202)


async def live(scope: Scope, receive: Receive, send: Send) -> None:
    async def send_whole(message: Message) -> None:
        with trio.CancelScope(shield=True):  # or Starlette cancels the server's clean-up
            await send(message)

    shown = partial(attrs.asdict, filter=attrs.filters.exclude("source"))
    # A browser that is too slow loses the oldest events, and does not hold up the shop.
    async with await events.subscribe("**", overflow=events.Overflow.DROP_OLDEST) as sub:
        lines = (f"data: {json.dumps(shown(event))}\n\n" async for event in sub)
        await StreamingResponse(lines, media_type="text/event-stream")(scope, receive, send_whole)


async def main(port: str) -> None:
    page = HTMLResponse(Path(__file__).with_suffix(".html").read_text("utf-8"))
    shop = Route("/shop/{item:path}", order, methods=["POST"])
    app = Starlette(routes=[Route("/", page), shop, Mount("/events", live)])
    config = Config.from_mapping(bind=f"127.0.0.1:{port}", loglevel="WARNING")
    stop = trio.Event()
    run = partial(serve, app, config, shutdown_trigger=stop.wait)  # type: ignore[arg-type]  # is ASGI
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            async with events.open_event_bus():
                (url,) = await nursery.start(run)
                print(f"Open {url} in a browser.", flush=True)
                await anext(signals)
            stop.set()  # the streams have ended with the bus: the server need not wait for them


if __name__ == "__main__":
    trio.run(main, sys.argv[1] if len(sys.argv) > 1 else "8000")
