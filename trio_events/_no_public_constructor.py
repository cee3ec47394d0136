"""A way to say that only this package makes objects of a class."""

from __future__ import annotations

from abc import ABCMeta
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")


class NoPublicConstructor(ABCMeta):
    """A metaclass whose classes are made by `_create`, and by calling them never.

    After trio's class of the same name.
    """

    def __call__(cls, *args: object, **kwargs: object) -> NoReturn:
        """Refuse."""
        raise TypeError(f"{cls.__module__}.{cls.__qualname__} has no public constructor")

    def _create(cls: type[T], *args: Any, **kwargs: Any) -> T:
        return super().__call__(*args, **kwargs)  # type: ignore[misc, no-any-return]  # mypy takes `super` for that of `type[T]`
