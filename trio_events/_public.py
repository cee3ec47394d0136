"""Public names are shown under the module that they are imported from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, get_type_hints


def show_under(module: str, values: Iterable[Any]) -> None:
    """Make tracebacks, `repr` and pickles show `module.Name` instead of the defining module.

    Args:
      module: The public module.
      values: Classes and functions.
    """
    for value in values:
        if isinstance(value, type):
            # The annotations are strings that refer to names in the defining module.
            value.__annotations__ = get_type_hints(value, include_extras=True)
        value.__module__ = module
