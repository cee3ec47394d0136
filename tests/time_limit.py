"""A run that would hang fails at once instead."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio
from trio.testing import MockClock

TIME_LIMIT = 3600
"""Seconds on the clock that jumps: longer than anything that a test waits for."""


def run_with_time_limit(program: Callable[[], Awaitable[None]], **options: Any) -> None:
    """Run a program; when all its tasks wait for each other, the clock jumps to the limit."""

    async def limited() -> None:
        with trio.fail_after(TIME_LIMIT):
            await program()

    options.setdefault("clock", MockClock(autojump_threshold=0))
    trio.run(limited, **options)
