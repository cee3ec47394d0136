"""What surrounds the package: its metadata, the names it shows, the files of the repository."""

from __future__ import annotations

import enum
import pickle
import re
import subprocess
import sys
import tomllib
import typing
from importlib import metadata, resources
from pathlib import Path

import pytest

import trio_events
import trio_events.bridge
import trio_events.devtools
import trio_events.telemetry
from trio_events.__main__ import main

ROOT = Path(__file__).parent.parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
WORKFLOW = (ROOT / ".github/workflows/ci.yml").read_text("utf-8")
CLASSIFIERS = PYPROJECT["project"]["classifiers"]
PUBLIC = {
    f"{module.__name__}.{name}": getattr(module, name)
    for module in (
        trio_events,
        trio_events.bridge,
        trio_events.devtools,
        trio_events.telemetry,
    )
    for name in module.__all__
}

# ---------------------------------------------------------------------------------- the metadata


def test_the_version_is_that_of_the_distribution() -> None:
    assert trio_events.__version__ == metadata.version("trio-events")
    with pytest.raises(AttributeError, match="'trio_events' has no attribute 'version'"):
        trio_events.__getattr__("version")


def test_importing_the_package_does_not_import_importlib_metadata() -> None:
    code = (
        "import sys, trio, attrs; before = 'importlib.metadata' in sys.modules; "
        "import trio_events; sys.exit(before != ('importlib.metadata' in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)


def test_the_command_prints_the_versions_that_a_bug_report_needs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert printed.startswith(
        f"trio-events {trio_events.__version__}, trio {metadata.version('trio')}"
    )
    assert ".".join(map(str, sys.version_info[:3])) in printed


def test_the_types_of_every_package_are_announced() -> None:
    # One marker in the top-level package is for its sub-packages as well: PEP 561.
    assert (resources.files(trio_events) / "py.typed").is_file()


def test_ci_tests_the_pythons_and_systems_that_the_classifiers_name() -> None:
    pythons = {c.rpartition(" ")[2] for c in CLASSIFIERS if re.search(r":: 3\.\d+$", c)}
    assert pythons == set(re.findall(r"^ +(3\.\d+)$", WORKFLOW, re.MULTILINE))
    names = {"Linux": "ubuntu", "MacOS": "macos", "Windows": "windows"}
    systems = {c.rpartition(" ")[2] for c in CLASSIFIERS if c.startswith("Operating System")}
    (matrix,) = re.findall(r"os: \[(.*)\]", WORKFLOW)
    assert {names[system] for system in systems} == {
        runner.strip().removesuffix("-latest") for runner in matrix.split(",")
    }


def test_the_lowest_classifier_is_what_pip_requires() -> None:
    minors = [int(m[1]) for c in CLASSIFIERS if (m := re.search(r":: 3\.(\d+)$", c))]
    assert PYPROJECT["project"]["requires-python"] == f">=3.{min(minors)}"


def test_every_extra_is_on_the_page_about_installing() -> None:
    page = (ROOT / "docs/installing.md").read_text("utf-8")
    listed = re.findall(r"^\| `'trio-events\[(\w+)\]'` \|", page, re.MULTILINE)
    assert sorted(listed) == sorted(PYPROJECT["project"]["optional-dependencies"])


def test_pre_commit_runs_the_same_versions_as_make_lint() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text("utf-8")
    pinned = dict(r.split("==") for r in PYPROJECT["dependency-groups"]["lint"] if "[" not in r)
    revisions = dict(re.findall(r"/([a-z]+)(?:-pre-commit)?\n +rev: v(\S+)", hooks))
    assert revisions == {name: pinned[name] for name in ("ruff", "codespell")}


# --------------------------------------------------------------------------------- public names


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_shown_under_the_name_that_can_be_imported(name: str) -> None:
    value = PUBLIC[name]
    module, _, short_name = name.rpartition(".")
    assert value.__module__ == module
    assert pickle.loads(pickle.dumps(value)) is value
    if isinstance(value, type):
        assert repr(value) in {f"<class '{name}'>", f"<enum '{short_name}'>"}


def test_a_traceback_shows_the_public_name_of_an_error() -> None:
    code = "import trio_events; trio_events.is_wanted('a', 'b', '/c')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr.splitlines()[-1].startswith("trio_events.NoBusError: ")


@pytest.mark.parametrize("value", PUBLIC.values(), ids=PUBLIC)
def test_the_annotations_of_a_public_name_can_be_resolved(value: object) -> None:
    typing.get_type_hints(value)


def test_members_of_enums_can_be_pickled() -> None:
    for value in PUBLIC.values():
        if isinstance(value, enum.EnumType):
            for member in list[enum.Enum](value):
                assert pickle.loads(pickle.dumps(member)) is member


# --------------------------------------------------------------------------------- the Makefile


def test_every_command_is_explained_by_make_help() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    commands = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    assert commands == set(re.findall(r"^([a-z-]+):.*?## \S", makefile, re.MULTILINE))
    (phony,) = re.findall(r"^\.PHONY: ((?:.*\\\n)*.*)$", makefile, re.MULTILINE)
    assert commands == set(phony.replace("\\", "").split())
