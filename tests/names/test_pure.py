"""The modules of names and patterns import without trio, directly and through others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import trio_events

PACKAGE = Path(trio_events.__file__).parent
MODULES = sorted(path.stem for path in (PACKAGE / "_names").glob("*.py"))

WITHOUT_TRIO = """
import importlib, sys, types
sys.modules["trio"] = None
package = types.ModuleType("trio_events")  # the real one imports trio
package.__path__ = [sys.argv[1]]
sys.modules["trio_events"] = package
importlib.import_module(sys.argv[2])
assert not any(name.split(".")[0] == "trio" for name in sys.modules if sys.modules[name])
"""


@pytest.mark.parametrize("module", MODULES)
def test_a_module_of_names_imports_without_trio(module: str) -> None:
    name = f"trio_events._names.{module}".removesuffix(".__init__")
    command = [sys.executable, "-c", WITHOUT_TRIO, str(PACKAGE), name]
    subprocess.run(command, timeout=60, check=True)


def test_a_module_with_trio_would_be_noticed() -> None:
    command = [sys.executable, "-c", WITHOUT_TRIO, str(PACKAGE), "trio_events._errors"]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert done.returncode == 1
    assert b"trio" in done.stderr
