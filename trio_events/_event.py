"""Events."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Generic, TypeVar, cast, final

import attrs

if TYPE_CHECKING:  # Python has defaults of type variables from 3.13 on, type checkers anywhere
    from typing_extensions import TypeVar as _TypeVar

    DataT_co = _TypeVar("DataT_co", covariant=True, default=object)
else:
    DataT_co = TypeVar("DataT_co", covariant=True)


class _Referable:
    """The slot for weak references, at the same place in events as in `EventDraft`."""

    __slots__ = ("__weakref__",)


@final
@attrs.frozen
class Source:
    """The log entry from which a bridge received an event: see `trio_events.bridge`."""

    log: str
    """The log, such as `"redis://127.0.0.1:6379/0"`."""

    position: int
    """The position of the entry in the log. Pass it to `follow` as `after` to resume there."""

    id: str
    """A text that identifies the event, in every process and every time it is received."""

    origin: str
    """The name of the bridge that exported it."""

    time: datetime.datetime | None
    """When it was exported, by the exporter's clock."""

    attempt: int = 1
    """How many times it has been given to a handler of the group, including this time."""


@final
@attrs.frozen
class Event(_Referable, Generic[DataT_co]):
    """One event, as every matching subscription receives it.

    The event itself is frozen. `data` is passed by reference: all subscribers get the same object,
    so don't change it unless you know who else has it. For type checkers, `Event[Order]` is an
    event whose data is an `Order`, and the data of an `Event` can be any object.
    """

    system: str
    """The part of the application that it is about, in dot-separated segments: `"orders.eu"`."""

    kind: str
    """What happened, in dot-separated segments: `"order.created"`."""

    path: str
    """The thing that it happened to, any text that isn't empty: `"/orders/123"`."""

    # Not part of the hash, so that events can be in sets whatever their data.
    data: DataT_co = attrs.field(default=None, hash=False)
    """The payload passed to `send`."""

    source: Source | None = attrs.field(default=None, eq=False, repr=False, kw_only=True)
    """The log entry that it came from; None if it was sent in this process. Ignored by `==`."""

    @property
    def accepted(self) -> bool:
        """Whether this is a reply that accepts a request: see `EventBus.request`.

        True if the last segment of the kind is `accept` or `accepted`.
        """
        return self.kind.rpartition(".")[2] in {"accept", "accepted"}


class EventDraft(_Referable):
    """An event whose fields can still be set. Assigning to its `__class__` makes it an `Event`.

    Python checks that the two have the same layout. It takes a third of the time of `Event(...)`,
    and without an `__init__` two thirds of what it would take with one.
    """

    __slots__ = ("data", "kind", "path", "source", "system")

    system: str
    kind: str
    path: str
    data: object
    source: Source | None


def quick_event(system: str, kind: str, path: str, data: object) -> Event:
    """Make an event from names that were validated before."""
    draft = EventDraft()
    draft.system = system
    draft.kind = kind
    draft.path = path
    draft.data = data
    draft.source = None
    draft.__class__ = Event  # type: ignore[assignment]  # see EventDraft
    return cast(Event, draft)
