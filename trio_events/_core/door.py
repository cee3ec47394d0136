"""Who may use the bus: everybody, those whom it owns while it is closing, or nobody."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from threading import get_ident
from typing import TypeAlias, final

import attrs
import trio

from .._errors import BusClosedError, NoBusError
from .._instruments import NOWHERE

Admits: TypeAlias = Callable[[trio.lowlevel.Task | None], bool]
"""Whether a task, or the running one if it is None, may use the bus."""


@final
@attrs.define(eq=False)
class Door:
    """Where every operation of the bus passes. Synchronous, and nothing has happened before."""

    _token: trio.lowlevel.TrioToken | None
    home: int = attrs.field(factory=get_ident, init=False)
    """The thread of the bus."""

    thread: int = attrs.field(init=False)
    """The thread in which operations are admitted: `home`, or `NOWHERE` while a method of an
    instrument runs. So that costs callers nothing."""

    is_open: bool = attrs.field(default=True, init=False)
    """Whether everybody may use the bus."""

    closed: bool = attrs.field(default=False, init=False)
    """Whether nobody may."""

    _admits: Admits | None = attrs.field(default=None, init=False)
    _reason: str = attrs.field(default="", init=False)  # why not everybody may
    _errors: weakref.WeakSet[BusClosedError] = attrs.field(factory=weakref.WeakSet, init=False)

    def __attrs_post_init__(self) -> None:
        self.thread = self.home

    def check_unlocked(self) -> None:
        """Require that the caller isn't a method of an instrument.

        Raises:
          RuntimeError: If it is.
        """
        if self.thread == NOWHERE and get_ident() == self.home:
            raise RuntimeError("an instrument must not use the bus that it watches")

    def check_here(self) -> None:
        """Require that the caller is in the thread of the bus.

        Raises:
          NoBusError: If not.
          RuntimeError: If the caller is a method of an instrument.
        """
        if get_ident() != self.thread:
            self.check_unlocked()
            raise NoBusError(
                "this must be called in the trio run of the bus; from elsewhere, use send_soon "
                "or trio.from_thread"
            )

    def check_run(self) -> None:
        """Require that the caller is in the trio run of the bus, which may be over.

        Raises:
          NoBusError: If not.
        """
        self.check_here()
        if not trio.lowlevel.in_trio_run() or (
            trio.lowlevel.current_trio_token() is not self._token
        ):
            raise NoBusError("this must be called in the trio run of the bus")

    def check_open(self) -> None:
        """Require that the running task may use the bus.

        Raises:
          BusClosedError: If not.
        """
        if not self.is_open and not self.admits(None):
            raise self.closed_error()

    def admits(self, task: trio.lowlevel.Task | None) -> bool:
        """Whether a task, or the running one if it is None, may use the bus."""
        if self.closed:
            return False
        return self._admits is None or self._admits(task)

    def restrict(self, admits: Admits, reason: str) -> None:
        """Admit only certain tasks from now on."""
        self._admits = admits
        self.is_open = False
        self._reason = reason

    def close(self, reason: str) -> None:
        """Admit nobody from now on."""
        self.closed = True
        self.is_open = False
        self._reason = self._reason or reason

    def closed_error(self, consequence: str = "") -> BusClosedError:
        """An error that `has_raised` will recognise as one of this bus."""
        error = BusClosedError(f"the bus is closed: {self._reason}{consequence}")
        self._errors.add(error)
        return error

    def has_raised(self, error: BaseException) -> bool:
        """Whether the error says that this very bus is closed, or is a group of such errors."""
        if isinstance(error, BaseExceptionGroup):
            return all(map(self.has_raised, error.exceptions))
        return isinstance(error, BusClosedError) and error in self._errors
