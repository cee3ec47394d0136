"""A handler and the terms on which it is called, checked before anything has happened."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, TypeVar, final

import attrs

from .._core.buffer import Overflow, check_count
from .._event import Event
from .._names.pattern import ExactPath
from .._terms import Terms
from .supervision import OnError, Propagate

Handler: TypeAlias = Callable[[Event[Any]], Awaitable[object]]
"""An async function that is called with an event."""

HandlerT = TypeVar("HandlerT", bound=Handler)


def is_async(function: object) -> bool:
    """Whether calling this gives something to await."""
    function = _unwrapped(function)
    call = getattr(type(function), "__call__", None)  # noqa: B004  # not whether, but what
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def name_of(handler: object) -> str:
    """What to call a handler in a message."""
    return getattr(handler, "__qualname__", None) or repr(handler)


def place_of(handler: object) -> str | None:
    """The file and line where a handler is defined, or None if that isn't known."""
    function = inspect.unwrap(_unwrapped(handler))  # type: ignore[arg-type]  # any object will do
    if not inspect.isroutine(function):
        function = getattr(type(function), "__call__", None)  # noqa: B004  # as above
    code = getattr(function, "__code__", None)
    return None if code is None else f"{code.co_filename}:{code.co_firstlineno}"


def _unwrapped(function: object) -> object:
    while isinstance(function, functools.partial):
        function = function.func
    return function


def _check_parameters(handler: Callable[..., object]) -> None:
    """Require that a handler can be called with an event alone."""
    try:
        signature = inspect.signature(handler)
    except ValueError:  # some callables written in C have none
        return
    try:
        signature.bind(None)
    except TypeError as error:
        hint = ""
        if next(iter(signature.parameters), None) == "self":
            hint = "; to use a method, register it on the object: bus.on(obj.method, ...)"
        raise TypeError(
            f"a handler is called with one argument, the event, and "
            f"{name_of(handler)}{signature} can't be: {error}{hint}"
        ) from None


@final
@attrs.frozen
class Registration:
    """A handler and the terms on which it is called, all of them checked.

    Raises:
      TypeError: If something is of the wrong type, or the handler isn't an async function that
        can be called with one argument.
      ValueError: If `concurrency` is less than 1.
    """

    handler: Handler
    terms: Terms
    concurrency: int
    on_error: OnError
    on_finished: Callable[[Event[Any]], None] | None = None
    """Called with each event that has been handled, or has failed for good."""

    def __attrs_post_init__(self) -> None:
        if not is_async(self.handler):
            raise TypeError(f"a handler must be an async function, not {self.handler!r}")
        _check_parameters(self.handler)
        check_count("concurrency", self.concurrency)
        on_error: object = self.on_error
        if not isinstance(on_error, OnError):
            hint = ", with parentheses" if isinstance(on_error, type) else ""
            raise TypeError(
                "on_error must be Propagate(), Log(), CloseSubscription() or Restart(), "
                f"not {on_error!r}{hint}"
            )


@final
@attrs.define(eq=False, repr=False)
class HandlerSet:
    """Handlers that are declared before there is a bus. `EventBus.include` puts them to work.

    A set may be included in several buses, and in one bus several times.
    """

    registrations: list[Registration] = attrs.field(factory=list, init=False)
    """What was declared, in this order."""

    def on(
        self,
        system: str,
        kind: str | None = None,
        *,
        path: str | ExactPath | None = None,
        concurrency: int = 1,
        on_error: OnError = Propagate(),  # noqa: B008  # a frozen value
        max_buffer_size: int = 256,
        overflow: Overflow = Overflow.BLOCK,
    ) -> Callable[[HandlerT], HandlerT]:
        """Declare the decorated async function a handler; it stays what it is.

        Not a checkpoint. The arguments are those of `EventBus.on`, which are checked at once.

        Raises:
          TypeError: As `EventBus.on`.
          ValueError: As `EventBus.on`.
          InvalidPatternError: As `EventBus.on`.
        """
        if callable(system):
            raise TypeError('write @handlers.on("system", ...), with the pattern of the systems')
        terms = Terms.of(system, kind, path, max_buffer_size, overflow)

        def declare(handler: HandlerT) -> HandlerT:
            self.registrations.append(Registration(handler, terms, concurrency, on_error))
            return handler

        return declare

    def __repr__(self) -> str:
        names = ", ".join(name_of(r.handler) for r in self.registrations)
        return f"<HandlerSet of {names or 'no handlers'}>"
