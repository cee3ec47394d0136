"""A metaclass for classes that only this package can instantiate."""

from __future__ import annotations

from abc import ABCMeta
from typing import Any, ClassVar, NoReturn, TypeVar

T = TypeVar("T")


class NoPublicConstructor(ABCMeta):
    """A metaclass of classes that are instantiated by `_create`, and never by calling them.

    Modelled on trio's class of the same name. A class can name the public function that makes its
    objects in `_made_by`; the error message then mentions it.
    """

    _made_by: ClassVar[str | None] = None

    def __call__(cls, *args: object, **kwargs: object) -> NoReturn:
        """Raise: there is no public constructor."""
        use = "" if cls._made_by is None else f": use {cls._made_by}"
        raise TypeError(f"{cls.__qualname__} has no public constructor{use}")

    def _create(cls: type[T], *args: Any, **kwargs: Any) -> T:
        return super().__call__(*args, **kwargs)  # type: ignore[misc, no-any-return]  # mypy takes `super` for that of `type[T]`
