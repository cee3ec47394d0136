"""The thing that is sent."""

from __future__ import annotations

from typing import final

import attrs


@final
@attrs.frozen
class Event:
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
