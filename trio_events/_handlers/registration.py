"""Handlers and their options, validated before anything has happened."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, TypeVar, final, overload

import attrs

from .._core.buffer import Overflow, check_count
from .._event import Event
from .._names.pattern import ExactPath, shown
from .._terms import Terms
from .supervision import Log, OnError, Propagate

Handler: TypeAlias = Callable[[Event[Any]], Awaitable[object]]
"""An async function that is called with an event."""

HandlerT = TypeVar("HandlerT", bound=Handler)
DataT = TypeVar("DataT")
ResultT = TypeVar("ResultT")


def is_async(function: object) -> bool:
    """Whether calling this returns an awaitable."""
    function = _unwrapped(function)
    call = getattr(type(function), "__call__", None)  # noqa: B004  # it is needed, not just tested
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def name_of(handler: object) -> str:
    """The name of a handler, for messages. Safe if its `repr` raises."""
    return getattr(handler, "__qualname__", None) or shown(handler)


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


def _check_parameters(handler: Callable[..., object], what: str) -> None:
    """Require that a handler can be called with an event alone."""
    try:
        signature = inspect.signature(handler)
    except (ValueError, TypeError):  # as for some callables written in C
        return
    try:
        signature.bind(None)
    except TypeError as error:
        hint = ""
        if next(iter(signature.parameters), None) == "self":
            how = "serve" if what == "responder" else "on"
            hint = f"; to use a method, register it on the object: bus.{how}(obj.method, ...)"
        raise TypeError(
            f"a {what} is called with one argument, the event, and "
            f"{name_of(handler)}{signature} can't be: {error}{hint}"
        ) from None


def check_call(caller: str, function: Any, *args: object, **kwargs: object) -> None:
    """Require an async function that can be called like this.

    Args:
      caller: What the function is passed to, for messages.
      function: The object to check.
      args: The positional arguments that it will be called with.
      kwargs: The keyword arguments.
    """
    if inspect.iscoroutine(function):
        function.close()  # or Python warned that it was never awaited
        name = function.__name__
        raise TypeError(
            f"{caller} takes an async function and its arguments: write {caller}({name}, ...), "
            f"not {caller}({name}(...))"
        )
    if not is_async(function):
        raise TypeError(f"{caller} takes an async function, not {function!r}")
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except ValueError:  # as in `_check_parameters`
        return
    except TypeError as error:
        raise TypeError(
            f"{caller} can't call {name_of(function)} with these arguments: {error}"
        ) from None


@final
@attrs.frozen
class Registration:
    """A handler and its options, validated.

    Raises:
      TypeError: If an argument has the wrong type, or the handler isn't an async function that
        can be called with one argument.
      ValueError: If `concurrency` is less than 1.
    """

    handler: Handler
    terms: Terms
    concurrency: int
    ordered: bool
    on_error: OnError
    replies: bool = False
    """Whether it is a responder, whose results are the data of replies."""
    on_finished: Callable[[Event[Any]], None] | None = None
    """Called with each event that has been handled, or has failed for good."""
    name: str = attrs.field(init=False)
    """The name of the handler, which stays the same even if its `repr` changes."""

    @name.default
    def _name(self) -> str:
        return name_of(self.handler)

    def __attrs_post_init__(self) -> None:
        what = "responder" if self.replies else "handler"
        if not is_async(self.handler):
            raise TypeError(f"a {what} must be an async function, not {self.handler!r}")
        _check_parameters(self.handler, what)
        check_count("concurrency", self.concurrency)
        if not isinstance(self.ordered, bool):
            raise TypeError(f"ordered must be a bool, not {self.ordered!r}")
        on_error: object = self.on_error
        if not isinstance(on_error, OnError):
            hint = ", with parentheses" if isinstance(on_error, type) else ""
            raise TypeError(
                "on_error must be Propagate(), Log(), CloseSubscription() or Retry(), "
                f"not {on_error!r}{hint}"
            )


@final
@attrs.define(eq=False, repr=False)
class HandlerSet:
    """Handlers declared before there is a bus. `EventBus.include` registers them.

    A set can be included in several buses, and several times in one bus.
    """

    registrations: list[Registration] = attrs.field(factory=list, init=False)
    """The declared handlers, in the order of declaration."""

    @overload
    def on(
        self,
        system: str,
        kind: str | None = None,
        *,
        path: str | ExactPath | None = None,
        concurrency: int = 1,
        ordered: bool = False,
        on_error: OnError = Propagate(),  # noqa: B008  # a frozen value
        max_buffer_size: int = 256,
        overflow: Overflow = Overflow.BLOCK,
    ) -> Callable[[HandlerT], HandlerT]: ...

    @overload
    def on(
        self,
        system: str,
        kind: str | None = None,
        *,
        path: str | ExactPath | None = None,
        data: type[DataT],
        concurrency: int = 1,
        ordered: bool = False,
        on_error: OnError = Propagate(),  # noqa: B008  # a frozen value
        max_buffer_size: int = 256,
        overflow: Overflow = Overflow.BLOCK,
    ) -> Callable[
        [Callable[[Event[DataT]], Awaitable[ResultT]]],
        Callable[[Event[DataT]], Awaitable[ResultT]],
    ]: ...

    def on(
        self,
        system: str,
        kind: str | None = None,
        *,
        path: str | ExactPath | None = None,
        data: type[Any] | None = None,
        concurrency: int = 1,
        ordered: bool = False,
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
            raise TypeError('write @handlers.on("system", ...), with a system pattern')
        terms = Terms.of(system, kind, path, max_buffer_size, overflow)
        return self._declare(lambda h: Registration(h, terms, concurrency, ordered, on_error))

    @overload
    def serve(
        self,
        system: str,
        kind: str | None = None,
        *,
        path: str | ExactPath | None = None,
        concurrency: int = 1,
        ordered: bool = False,
        on_error: OnError = Log(),  # noqa: B008  # a frozen value
        max_buffer_size: int = 256,
        overflow: Overflow = Overflow.BLOCK,
    ) -> Callable[[HandlerT], HandlerT]: ...

    @overload
    def serve(
        self,
        system: str,
        kind: str | None = None,
        *,
        path: str | ExactPath | None = None,
        data: type[DataT],
        concurrency: int = 1,
        ordered: bool = False,
        on_error: OnError = Log(),  # noqa: B008  # a frozen value
        max_buffer_size: int = 256,
        overflow: Overflow = Overflow.BLOCK,
    ) -> Callable[
        [Callable[[Event[DataT]], Awaitable[ResultT]]],
        Callable[[Event[DataT]], Awaitable[ResultT]],
    ]: ...

    def serve(
        self,
        system: str,
        kind: str | None = None,
        *,
        path: str | ExactPath | None = None,
        data: type[Any] | None = None,
        concurrency: int = 1,
        ordered: bool = False,
        on_error: OnError = Log(),  # noqa: B008  # a frozen value
        max_buffer_size: int = 256,
        overflow: Overflow = Overflow.BLOCK,
    ) -> Callable[[HandlerT], HandlerT]:
        """Declare the decorated async function as a responder. It is returned unchanged.

        Not a checkpoint. The arguments are those of `EventBus.serve`, and are validated at once.

        Raises:
          TypeError: As `EventBus.serve`.
          ValueError: As `EventBus.serve`.
          InvalidPatternError: As `EventBus.serve`.
        """
        if callable(system):
            raise TypeError('write @handlers.serve("system", ...), with a system pattern')
        terms = Terms.of(system, kind, path, max_buffer_size, overflow)
        return self._declare(
            lambda h: Registration(h, terms, concurrency, ordered, on_error, replies=True)
        )

    def _declare(
        self, register: Callable[[Handler], Registration]
    ) -> Callable[[HandlerT], HandlerT]:
        def declare(handler: HandlerT) -> HandlerT:
            self.registrations.append(register(handler))
            return handler

        return declare

    def __repr__(self) -> str:
        names = ", ".join(registration.name for registration in self.registrations)
        return f"<HandlerSet of {names or 'no handlers'}>"
