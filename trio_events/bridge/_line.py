"""A connection to a log that outlives trouble."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final, Generic, TypeAlias, TypeVar, final

import attrs
import trio

from .._core.notices import BridgeReport, Notices
from ._log import EventLog, LogSession

T = TypeVar("T")
Operation: TypeAlias = Callable[[LogSession], Awaitable[T]]

_PAUSES: Final = (0.05, 5.0)
"""Seconds until the next attempt: at first, and at most."""


def pauses() -> Callable[[], Awaitable[None]]:
    """A function that sleeps: each time about twice as long, up to 5 s."""
    pause, longest = _PAUSES

    async def sleep() -> None:
        nonlocal pause
        # With jitter, so that not all processes come back in the same moment.
        await trio.sleep(random.uniform(pause / 2, pause))
        pause = min(2 * pause, longest)

    return sleep


@final
@attrs.define(eq=False)
class Reports:
    """What a bridge reports to people: its trouble with the log, and what it had to pass over."""

    label: str
    """What the log is called."""

    _notices: Notices
    retries: int = attrs.field(default=0, init=False)
    reconnects: int = attrs.field(default=0, init=False)
    error: str | None = attrs.field(default=None, init=False)
    """Why an operation is being repeated, if one is."""

    _in_trouble: set[object] = attrs.field(factory=set, init=False)
    _repeated: Counter[str] = attrs.field(factory=Counter, init=False)

    def add(self, text: str, level: int = logging.ERROR) -> None:
        """Report something."""
        self._notices.add(BridgeReport(level, f"{self.label}: {text}"))

    def repeat(self, what: str, text: str) -> None:
        """Report what happens often: the first, second, fourth, eighth … time."""
        self._repeated[what] += 1
        count = self._repeated[what]
        if count & (count - 1) == 0:
            self.add(text if count == 1 else f"{text} ({what}: {count} so far)")

    def begin_trouble(self, who: object, error: Exception) -> None:
        """An operation has failed, and will be repeated."""
        self.retries += 1
        self.error = str(error) or type(error).__name__
        if not self._in_trouble:
            self.add(f"operations fail and are repeated: {self.error}", logging.WARNING)
        self._in_trouble.add(who)

    def end_trouble(self, who: object, *, succeeded: bool) -> None:
        """Its operation has succeeded, or isn't needed any more."""
        if who in self._in_trouble:
            self._in_trouble.remove(who)
            if not self._in_trouble:
                self.error = None
                if succeeded:
                    self.reconnects += 1
                    self.add("operations succeed again", logging.INFO)


@final
@attrs.define(eq=False)
class _Call(Generic[T]):
    operation: Operation[T]
    answered: trio.Event = attrs.field(factory=trio.Event, init=False)
    answer: T = attrs.field(init=False)
    _attempt: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)

    async def attempt(self, session: LogSession) -> bool:
        """Try once; returns whether there is an answer. There isn't if it was given up."""
        with trio.CancelScope() as self._attempt:
            self.answer = await self.operation(session)
            self.answered.set()
        return self.answered.is_set()

    def give_up(self) -> None:
        self._attempt.cancel()


@final
@attrs.define(eq=False)
class Line:
    """A connection to a log, in a task of its own, that carries out the calls of another task.

    What fails is repeated with a fresh session until it succeeds. So a caller doesn't notice that
    the log is away, other than by waiting, and none of its own code runs inside a session.
    """

    _log: EventLog
    _reports: Reports
    _call: _Call[Any] | None = attrs.field(default=None, init=False)
    _called: trio.Event = attrs.field(factory=trio.Event, init=False)
    _scope: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)

    async def call(self, operation: Operation[T]) -> T:
        """Carry out an operation, as often as it takes. For one task at a time.

        A checkpoint, always. If cancelled, it may have been carried out or not.
        """
        call = self._call = _Call(operation)
        self._called.set()
        try:
            await call.answered.wait()
        except BaseException:
            self._end_call(call, succeeded=False)
            call.give_up()
            raise
        answer: T = call.answer
        return answer

    def close(self) -> None:
        """End the task. Not a checkpoint."""
        self._scope.cancel()

    async def run(self) -> None:
        """Carry out calls until the line is closed."""
        with self._scope:
            sleep = pauses()
            while True:
                await self._next_call()
                try:
                    async with self._log.open() as session:
                        # A session in which a call was given up isn't used again.
                        while await (call := await self._next_call()).attempt(session):
                            self._end_call(call, succeeded=True)
                            sleep = pauses()
                except Exception as error:  # noqa: BLE001  # trouble never ends the bus
                    if self._call is not None:  # otherwise nothing has been lost but a connection
                        self._reports.begin_trouble(self, error)
                        await sleep()

    def _end_call(self, call: _Call[Any], *, succeeded: bool) -> None:
        if self._call is call:
            self._call = None
            self._reports.end_trouble(self, succeeded=succeeded)

    async def _next_call(self) -> _Call[Any]:
        while self._call is None:
            self._called = trio.Event()
            await self._called.wait()
        return self._call  # noqa: ASYNC910  # what follows is a checkpoint
