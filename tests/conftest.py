"""A test that would hang fails at once instead."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

TIME_LIMIT = 3600
"""Seconds on the clock that jumps: longer than anything that a test waits for."""


def run_with_time_limit(test: Callable[[], Awaitable[None]], **options: Any) -> None:
    """Run a test; when all its tasks wait for each other, the clock jumps to the limit."""

    async def limited() -> None:
        with trio.fail_after(TIME_LIMIT):
            await test()

    trio.run(limited, **options)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Limit all tests whose clock jumps."""
    for item in items:
        if isinstance(item, pytest.Function) and "autojump_clock" in item.fixturenames:
            item.add_marker(pytest.mark.trio(run=run_with_time_limit), append=False)
