"""What happens to the event and the subscription when a handler fails."""

from __future__ import annotations

import math
import random
import traceback
from collections.abc import Iterator
from typing import Any, TypeAlias, final

import attrs

from .._core.buffer import check_count
from .._event import Event
from .._subscription import Subscription


def check_seconds(name: str, value: object) -> None:
    """Require a time in seconds: a number of at least 0."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    if not value >= 0:  # nor is NaN
        raise ValueError(f"{name} must be at least 0 seconds, not {value}")
    try:
        float(value)
    except OverflowError:
        raise ValueError(f"{name} must be a number of seconds that fits in a float") from None


@final
@attrs.frozen
class Propagate:
    """Let the exception leave through the supervisor, as in structured concurrency.

    The bus and everything in its block are cancelled, and `open_event_bus` raises the exception,
    with a note that names the event, the handler and the subscription.
    """


@final
@attrs.frozen
class Log:
    """Log the exception with its traceback, and continue with the next event."""


@final
@attrs.frozen
class CloseSubscription:
    """Log the exception, and end the subscription as `EventChannel.close` does.

    Events that the handler has not been called with are discarded. Running calls finish.
    """


Verdict: TypeAlias = Propagate | Log | CloseSubscription
"""What to do about an event that isn't retried."""


def _check_attempts(_: object, attribute: attrs.Attribute[int], value: object) -> None:
    check_count(attribute.name, value)


def _check_pause(_: object, attribute: attrs.Attribute[float], value: object) -> None:
    check_seconds(attribute.name, value)
    if value == math.inf:
        raise ValueError(f"{attribute.name} must be a finite number of seconds")


def _check_jitter(_: object, attribute: attrs.Attribute[float], value: object) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"jitter must be a number, not {value!r}")
    if not 0 <= value <= 1:  # nor is NaN
        raise ValueError(f"jitter must be a fraction between 0 and 1, not {value}")


def _check_only(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    classes = value if isinstance(value, tuple) else (value,)
    if not classes or not all(isinstance(c, type) and issubclass(c, Exception) for c in classes):
        raise TypeError(f"only must be a subclass of Exception, or a tuple of them, not {value!r}")


def _check_then(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, Propagate | Log | CloseSubscription):
        hint = ", with parentheses" if isinstance(value, type) else ""
        raise TypeError(
            f"then must be Propagate(), Log() or CloseSubscription(), not {value!r}{hint}"
        )


@final
@attrs.frozen
class Retry:
    """Log the exception, wait, and call the handler again with the same event.

    The pauses are part of handling the event: with `concurrency=1`, the next event waits until this
    one is done. Only exceptions that match `only` are retried, and groups whose members all do.
    When the attempts are used up, or the exception isn't retried, the event becomes a dead letter,
    and `then` decides what happens next.

    Raises:
      TypeError: If an argument has the wrong type.
      ValueError: If `attempts` is less than 1, a time isn't a finite number of at least 0 seconds,
        or `jitter` isn't between 0 and 1.
    """

    attempts: int = attrs.field(default=3, validator=_check_attempts)
    """The most calls for one event, including the first one."""

    backoff: float = attrs.field(default=0.1, kw_only=True, validator=_check_pause)
    """Seconds to wait before the second call. The pause doubles before each further call."""

    max_backoff: float = attrs.field(default=30.0, kw_only=True, validator=_check_pause)
    """The longest pause, in seconds."""

    jitter: float = attrs.field(default=0.1, kw_only=True, validator=_check_jitter)
    """The fraction by which each pause is lengthened or shortened at random, so that calls that
    failed together aren't repeated together: 0.1 is up to 10 %."""

    only: type[Exception] | tuple[type[Exception], ...] = attrs.field(
        default=Exception, kw_only=True, validator=_check_only
    )
    """The exceptions to retry."""

    then: Verdict = attrs.field(default=Propagate(), kw_only=True, validator=_check_then)
    """What to do when the event has become a dead letter."""

    def covers(self, failure: Exception) -> bool:
        """Whether to retry after this failure."""
        if isinstance(failure, ExceptionGroup):
            return failure.split(self.only)[1] is None
        return isinstance(failure, self.only)

    def pause(self, attempt: int) -> float:
        """Seconds to wait after the n-th call, with jitter."""
        try:
            pause = min(math.ldexp(self.backoff, attempt - 1), self.max_backoff)
        except OverflowError:
            pause = self.max_backoff
        return pause * random.uniform(1 - self.jitter, 1 + self.jitter)


OnError: TypeAlias = Verdict | Retry
"""What to do when a handler fails."""


def verdict_of(on_error: OnError) -> Verdict:
    """What to do about an event that isn't retried."""
    return on_error.then if isinstance(on_error, Retry) else on_error


@final
@attrs.frozen(eq=False)
class DeadLetter:
    """An event whose handling has failed for good."""

    event: Event
    """The event."""

    error: Exception
    """The exception of the last call."""

    subscription: Subscription
    """The subscription of the handler."""


def split(error: BaseException) -> tuple[Exception | None, BaseException | None]:
    """Split an exception into the failure, and the rest, such as `Cancelled`, to raise again.

    A group is treated by its members: it may have some of both.
    """
    if isinstance(error, BaseExceptionGroup):
        failure, rest = error.split(Exception)
        return failure, rest
    return (error, None) if isinstance(error, Exception) else (None, error)


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The exceptions in a group, and in the groups in it; or the exception itself."""
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from leaves(member)
    else:
        yield error


def text_of(error: Exception) -> str:
    """The type and the text of an exception, as a traceback shows them."""
    return "".join(traceback.format_exception_only(error)).strip()
