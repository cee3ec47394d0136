"""Which tasks may use the bus: all of them, its own ones while it is closing, or none."""

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
    """The check that every operation on the bus begins with, before anything has happened."""

    _token: trio.lowlevel.TrioToken | None
    home: int = attrs.field(factory=get_ident, init=False)
    """The thread of the bus."""

    thread: int = attrs.field(init=False)
    """The thread in which operations are admitted: `home`, or `NOWHERE` while a method of an
    instrument runs. That way, the check for the thread covers both."""

    is_open: bool = attrs.field(default=True, init=False)
    """Whether all tasks may use the bus."""

    closed: bool = attrs.field(default=False, init=False)
    """Whether none may."""

    _admits: Admits | None = attrs.field(default=None, init=False)
    _reason: str = attrs.field(default="", init=False)  # why not all may
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
          NoBusError: If it isn't.
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
          NoBusError: If it isn't.
        """
        self.check_here()
        if not trio.lowlevel.in_trio_run() or (
            trio.lowlevel.current_trio_token() is not self._token
        ):
            raise NoBusError("this must be called in the trio run of the bus")

    def check_open(self) -> None:
        """Require that the running task may use the bus.

        Raises:
          BusClosedError: If it may not.
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
        """Admit no task from now on."""
        self.closed = True
        self.is_open = False
        self._reason = self._reason or reason

    def closed_error(self, consequence: str = "") -> BusClosedError:
        """Make an error that `has_raised` will recognise as one of this bus."""
        error = BusClosedError(f"the bus is closed: {self._reason}{consequence}")
        self._errors.add(error)
        return error

    def has_raised(self, error: BaseException) -> bool:
        """Whether this bus has made the error, or all errors in the group."""
        if isinstance(error, BaseExceptionGroup):
            return all(map(self.has_raised, error.exceptions))
        return isinstance(error, BusClosedError) and error in self._errors
