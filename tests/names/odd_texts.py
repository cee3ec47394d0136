"""Texts that are not plain `str` objects, and values whose methods raise."""

from __future__ import annotations

import enum


class Liar(str):
    """A `str` that lies about what it is in every way a subclass can."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return False

    def __ne__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0

    def __str__(self) -> str:
        return "secret"

    def __len__(self) -> int:
        return 0

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def split(self, *_: object, **__: object) -> list[str]:
        return ["secret"]

    def startswith(self, *_: object) -> bool:
        return True

    def __contains__(self, _: object) -> bool:
        return True

    def __iter__(self):  # type: ignore[no-untyped-def]  # it lies
        return iter("***")


class Member(str, enum.Enum):  # noqa: UP042  # what `str()` says of it is not its value
    """Names as applications used to declare them."""

    SYSTEM = "orders"
    PATTERN = "orders.*"
    KIND = "order.created"
    PATH = "/orders/1"
    PATHS = "/orders/*"
    ACTOR = "shop"


class NoRepr:
    """A value that cannot even be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class Impostor:
    """A value that claims to be a `str`."""

    @property  # type: ignore[misc]  # it lies
    def __class__(self) -> type:
        return str
