"""One small adapter for each peer. All of them are given the same load.

An adapter is a function that is given a load and returns the seconds a delivery took. It writes its
own loops, because a call through a common interface would cost as much as a delivery. The clock
runs from the first publish until the last subscriber has counted its last event.

What is bounded is bounded to 256 events, which is the default of the bus. Where nothing is bounded
and publishing never waits, the publisher gives the others a turn every 256 events. Peers are
imported in their adapters: one that is missing must not stop the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, TypeAlias

from ..measuring import Case, Load
from . import on_asyncio, on_trio, synchronous

Adapter: TypeAlias = Callable[[Load], float]

BUS: Final = "trio_events, async for"
BUS_BATCHES: Final = "trio_events, batches()"
BUS_BURSTS: Final = "trio_events, send_nowait and batches()"
BUSES: Final = frozenset({BUS, BUS_BATCHES, BUS_BURSTS})
TRIO_CHANNELS: Final = "trio memory channels by hand"
TRIO_BURSTS: Final = "trio memory channels by hand, send_nowait"
ASYNCIO_QUEUES: Final = "asyncio.Queue by hand"
PYEE: Final = "pyee"

OURS: Final[Mapping[str, Adapter]] = {
    BUS: on_trio.bus,
    BUS_BATCHES: on_trio.bus_batches,
}

BY_HAND: Final[Mapping[str, Adapter]] = {
    TRIO_CHANNELS: on_trio.channels,
    ASYNCIO_QUEUES: on_asyncio.queues,
}

IN_BURSTS: Final[Mapping[str, Adapter]] = {
    BUS_BURSTS: on_trio.bus_bursts,
    TRIO_BURSTS: on_trio.channels_bursts,
}

ASYNCIO_LIBRARIES: Final[Mapping[str, Adapter]] = {
    "aiopubsub": on_asyncio.aiopubsub,
    "asphalt": on_asyncio.asphalt,
    "broadcaster": on_asyncio.broadcaster,
    "bubus": on_asyncio.bubus,
    "frequenz-channels": on_asyncio.frequenz_channels,
}

TRIO_LIBRARIES: Final[Mapping[str, Adapter]] = {
    "pyee on trio": on_trio.pyee,
}

SYNCHRONOUS: Final[Mapping[str, Adapter]] = {
    "blinker": synchronous.blinker,
    "psygnal": synchronous.psygnal,
    PYEE: synchronous.pyee,
    "PyPubSub": synchronous.pypubsub,
}

DISTRIBUTIONS: Final = (
    "aiopubsub",
    "asphalt",
    "blinker",
    "broadcaster",
    "bubus",
    "frequenz-channels",
    "psygnal",
    "pyee",
    "Pypubsub",
)
"""What to look up versions of."""


def cases(adapters: Mapping[str, Adapter], load: Load) -> dict[str, Case]:
    """A case for each adapter with this load."""
    return {name: partial(adapter, load) for name, adapter in adapters.items()}
