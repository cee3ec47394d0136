"""An instrument that overrides everything, and puts it on every bus of the tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import attrs

from trio_events import Instrument, _supervisor
from trio_events._instruments import HOOKS

Call = tuple[Any, ...]


@final
class Watcher(Instrument):
    """Notes every call, or counts them."""

    def __init__(self, note: Callable[[Call], object]) -> None:
        self.note = note

    def __repr__(self) -> str:
        return "<Watcher>"


def _method(hook: str) -> Callable[..., None]:
    def method(self: Watcher, *about: object) -> None:
        self.note((hook, *about))

    return method


for _hook in HOOKS:
    setattr(Watcher, _hook, _method(_hook))


def watch_every_bus() -> None:
    """Have every bus that is opened from now on watched in all that it does."""
    supervise = _supervisor._supervise

    def watched(options: _supervisor.Options) -> Any:
        watcher = Watcher(lambda call: None)
        return supervise(attrs.evolve(options, instruments=(*options.instruments, watcher)))

    _supervisor._supervise = watched
