"""Logs behind TLS, with a certificate of the client."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trustme

from trio_events import open_event_bus
from trio_events.bridge import LogRefusedError, LogUnavailableError, RedisLog, open_bridge

from .logs import paths_in
from .servers import Server


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


def client_context(authority: trustme.CA, certified: trustme.CA | None) -> ssl.SSLContext:
    """What a client trusts, and the certificate that it has, if there is one."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if certified is not None:
        certified.issue_cert("client@example.org").configure_cert(context)
    return context


@asynccontextmanager
async def tls_in_front_of(server: Server, authority: trustme.CA) -> AsyncGenerator[int]:
    """The port of a TLS endpoint of the server, which asks for certificates of the authority."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    async def pass_on(source: trio.abc.ReceiveStream, target: trio.abc.SendStream) -> None:
        async for data in source:
            await target.send_all(data)

    async def serve(client: trio.SSLStream[trio.SocketStream]) -> None:
        behind = await trio.open_tcp_stream("127.0.0.1", server.port)
        try:
            async with client, behind, trio.open_nursery() as nursery:
                nursery.start_soon(pass_on, behind, client)
                await pass_on(client, behind)
                nursery.cancel_scope.cancel()
        except* trio.BrokenResourceError:  # the other side doesn't want to talk
            pass

    async with trio.open_nursery() as nursery:
        serve_tls = partial(trio.serve_ssl_over_tcp, serve, 0, context, host="127.0.0.1")
        (listener,) = await nursery.start(serve_tls)
        yield listener.transport_listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def test_a_log_is_reached_by_tls_with_a_certificate_of_the_client(
    valkey: Server, authority: trustme.CA, tmp_path: Path
) -> None:
    name = tmp_path.name
    with trio.fail_after(30):
        async with tls_in_front_of(valkey, authority) as port, open_event_bus() as bus:
            context = client_context(authority, authority)
            log = RedisLog(port=port, log=name, ssl_context=context)
            assert log.label == f"rediss://127.0.0.1:{port}/0?log={name}"
            bridge = await open_bridge(bus, log)
            await bridge.export("s")
            await bus.send("s", "k", "/1")
            await bridge.flush()
    assert await paths_in(RedisLog(port=valkey.port, log=name)) == ["/1"]


@pytest.mark.parametrize("other", [False, True], ids=["no certificate", "of another authority"])
async def test_a_server_that_does_not_accept_the_certificate_is_unavailable(
    valkey: Server, authority: trustme.CA, other: bool
) -> None:
    """It breaks off, for a reason that this side doesn't see."""
    certified = trustme.CA() if other else None
    with trio.fail_after(30):
        async with tls_in_front_of(valkey, authority) as port:
            log = RedisLog(port=port, ssl_context=client_context(authority, certified))
            with pytest.raises(LogUnavailableError):
                async with log.open() as session:
                    await session.bounds()


async def test_a_server_whose_certificate_is_not_trusted_is_refused(
    valkey: Server, authority: trustme.CA
) -> None:
    with trio.fail_after(30):
        async with tls_in_front_of(valkey, authority) as port, open_event_bus() as bus:
            log = RedisLog(port=port, ssl_context=client_context(trustme.CA(), authority))
            with pytest.raises(LogRefusedError, match="certificate"):
                await open_bridge(bus, log)
