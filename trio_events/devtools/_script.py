"""`python -m trio_events map SCRIPT`: run an unchanged program with the map."""

from __future__ import annotations

import logging
import runpy
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TextIO

import trio

from .. import _supervisor
from .._bus import EventBus
from .._stderr import write_line
from ._client import MapError
from ._observer import Observer
from ._server import serve_observer

_log: Final = logging.getLogger("trio_events.devtools")


def run_script(script: str, arguments: Sequence[str], report: TextIO | None) -> None:
    """Run a Python program as `python SCRIPT` does, with every bus that it opens on a map.

    Args:
      script: The file.
      arguments: The words after it.
      report: Where the URL of each map is written. None, or a file that can't be written, doesn't
        disturb the program.

    Raises:
      MapError: If the file can't be read.
      BaseException: Whatever the program raises.
    """
    try:
        Path(script).read_bytes()
    except OSError as error:
        raise MapError(f"can't read {script!r}: {error.strerror}") from None
    supervise, argv, path = _supervisor._supervise, sys.argv, sys.path

    @asynccontextmanager
    @trio.lowlevel.enable_ki_protection
    async def mapped(options: _supervisor.Options) -> AsyncGenerator[EventBus]:
        scope = trio.CancelScope()
        try:
            async with supervise(options) as bus:
                observer = Observer(bus)  # now, so that it misses nothing
                trio.lowlevel.spawn_system_task(_serve, observer, scope, report)
                yield bus
        finally:
            scope.cancel()  # until then the bus may have been draining

    _supervisor._supervise = mapped
    sys.argv = [script, *arguments]
    sys.path = [str(Path(script).resolve().parent), *path[1:]]
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        _supervisor._supervise = supervise
        sys.argv, sys.path = argv, path


async def _serve(  # noqa: ASYNC910  # it waits until cancelled, or has failed
    observer: Observer, scope: trio.CancelScope, report: TextIO | None
) -> None:
    # A system task: it belongs to no nursery of the program, and has none of its context variables.
    # An exception that left it would end the program.
    with observer, scope:
        try:
            async with trio.open_nursery() as nursery:
                url = await nursery.start(serve_observer, observer)
                write_line(report, f"The map of the bus: {url}")
                await trio.sleep_forever()
        except* Exception:  # noqa: BLE001  # the program goes on without a map
            _log.exception("the live map has failed")
