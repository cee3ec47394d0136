"""What holds for every test."""

from __future__ import annotations

import os

import pytest

from .time_limit import run_with_time_limit
from .watching import watch_every_bus

if os.environ.get("TRIO_EVENTS_WATCHED"):  # watching must change nothing that a test sees
    watch_every_bus()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let tests whose clock jumps fail at once when they would hang."""
    for item in items:
        if isinstance(item, pytest.Function) and "autojump_clock" in item.fixturenames:
            item.add_marker(pytest.mark.trio(run=run_with_time_limit), append=False)
