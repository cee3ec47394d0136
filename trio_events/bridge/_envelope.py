"""Events to and from the entries of a log: CloudEvents 1.0 in JSON."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, Final, final

import attrs
import msgspec

from .._event import Event, Source

MAX_EVENT_SIZE: Final = 256 * 1024
"""Bytes of the largest entry."""


class MalformedError(Exception):
    """An entry is not an event, or not one that can be read."""


@final
class CloudEvent(msgspec.Struct, kw_only=True):
    """An entry. Attributes that aren't listed here are ignored."""

    specversion: str = "1.0"
    id: str
    source: str
    type: str
    subject: str
    time: datetime.datetime | None = None
    system: str
    request: Any = msgspec.UNSET  # True if something waits for a reply
    data: msgspec.Raw = msgspec.Raw(b"null")

    @property
    def writer(self) -> str:
        """Who appended it."""
        return self.id.rpartition("-")[0]


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(CloudEvent).decode


def encode(
    event: Event[Any],
    writer: str,
    number: int,
    origin: str,
    time: datetime.datetime,
    *,
    is_request: bool = False,
) -> bytes:
    """An event as an entry.

    Raises:
      Exception: Any one, if the data can't be written as JSON.
      ValueError: If the entry is too large.
    """
    entry = _encode(
        CloudEvent(
            id=f"{writer}-{number}",
            source=origin,
            type=event.kind,
            subject=event.path,
            time=time,
            system=event.system,
            request=is_request or msgspec.UNSET,
            data=msgspec.Raw(_encode(event.data)),
        )
    )
    if len(entry) > MAX_EVENT_SIZE:
        raise ValueError(f"it takes {len(entry)} bytes, and at most {MAX_EVENT_SIZE} are allowed")
    return entry


def decode(entry: bytes) -> CloudEvent:
    """What an entry is, without reading its data.

    Raises:
      MalformedError: If it isn't an event.
    """
    if len(entry) > MAX_EVENT_SIZE:
        raise MalformedError(f"{len(entry)} bytes are too many")
    try:
        envelope = _decode(entry)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise MalformedError(str(error)) from error
    if envelope.specversion.partition(".")[0] != "1":
        raise MalformedError(f"it has version {envelope.specversion!r} of CloudEvents, not 1")
    return envelope


@final
@attrs.frozen
class Types:
    """The types as which the data of events is read, by the kind of the event."""

    _decoders: Mapping[str, msgspec.json.Decoder[Any]]

    @staticmethod
    def of(types: Mapping[str, type]) -> Types:
        """Those types.

        Raises:
          TypeError: If it is no mapping, or msgspec can't read something as one of them.
        """
        if not isinstance(types, Mapping):
            raise TypeError(f"types must be a mapping from kinds to types, not {types!r}")
        return Types({kind: msgspec.json.Decoder(type_) for kind, type_ in types.items()})

    def event(self, envelope: CloudEvent, log: str, position: int, attempt: int) -> Event[Any]:
        """The event in an entry.

        Raises:
          MalformedError: If its data can't be read as its type.
        """
        decoder = self._decoders.get(envelope.type, _ANY)
        try:
            data = decoder.decode(envelope.data)
        except Exception as error:  # the type may have code of its own
            raise MalformedError(f"its data can't be read: {error}") from error
        source = Source(log, position, envelope.id, envelope.source, envelope.time, attempt)
        return Event(envelope.system, envelope.type, envelope.subject, data, source=source)


_ANY: Final[msgspec.json.Decoder[Any]] = msgspec.json.Decoder()
