"""What is raised if an extra isn't installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def extra(name: str, what: str) -> Iterator[None]:
    """Around imports of what an extra brings: if a module is missing, name the extra.

    Args:
      name: The extra.
      what: What can't be used without it.

    Raises:
      ModuleNotFoundError: If a module is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        message = f"{what} needs {error.name}: pip install 'trio-events[{name}]'"
        raise ModuleNotFoundError(message, name=error.name) from None
