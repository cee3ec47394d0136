"""The thing that is sent."""

from __future__ import annotations

from typing import final

import attrs


class _Referable:
    """Gives events their slot for weak references, at the same place as `EventDraft` has it."""

    __slots__ = ("__weakref__",)


@final
@attrs.frozen
class Event(_Referable):
    """One event, as every matching subscription receives it.

    The event itself is frozen. `data` is passed by reference: all subscribers see the same
    object, so change it only if you know who else looks.
    """

    system: str
    """The system that it is about: dot-separated segments, such as `"orders"`."""

    kind: str
    """What happened: dot-separated segments, such as `"order.created"`."""

    path: str
    """Which thing it happened to: any text but the empty one, such as `"/orders/123"`."""

    data: object = None
    """Whatever the sender gave along."""


class EventDraft(_Referable):
    """An event whose fields can still be set. Assigning to its `__class__` makes it an `Event`.

    Python checks that the two have the same layout. It takes half the time of `Event(...)`, or
    0.28 µs less of the 2.5 µs that sending and receiving one event takes.
    """

    __slots__ = ("data", "kind", "path", "system")

    def __init__(self, system: str, kind: str, path: str, data: object) -> None:
        self.system = system
        self.kind = kind
        self.path = path
        self.data = data
