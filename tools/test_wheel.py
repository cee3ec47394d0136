"""Test the wheel that users will install, not the source tree. `make test` runs this.

1. Build the wheel and install it in a fresh environment.
2. Its public types must be complete: pyright --verifytypes.
3. The tests must pass there and cover every branch of the package; those of the bus itself must
   also pass with an instrument on every bus.
4. They must pass on every other Python found here that `requires-python` allows, without those
   of servers, browsers and killed processes, to which the Python makes no difference.
5. They must pass with the oldest dependencies allowed, on the oldest of these Pythons, without
   those of logs in Redis, whose client needs a newer trio.

Steps 3 to 5 run side by side, as many as there are processors, and are shown one after the other.
The first failure ends it. The last line printed is pytest's summary.
"""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

Version = tuple[int, int]

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
PACKAGE = PROJECT["name"].replace("-", "_")

SCRIPTS = "Scripts" if os.name == "nt" else "bin"  # of a virtual environment

ONCE = ("bridge/test_bridge_faults.py", "devtools/test_page.py", "site/test_live_page.py")
"""Tests that one Python is enough for."""

REDIS = ("bridge/test_tls.py", "bridge/test_urls.py", "site/test_packaging.py")
"""Tests that can't even be imported without the client of Redis."""

# The tests run in ROOT, where the source tree lies too. Safe path keeps it off sys.path, there
# and in every process that the tests start.
ENVIRON = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
ENVIRON["PYTHONSAFEPATH"] = "1"


def main() -> None:
    """Run the steps above, in this order."""
    heading("the wheel")
    shutil.rmtree(BUILD, ignore_errors=True)
    run(sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps", f"--wheel-dir={BUILD}", ROOT)

    pythons = find_pythons()
    this: Version = sys.version_info[:2]
    oldest = min(pythons)
    lower_bounds = [dependency.replace(">=", "==") for dependency in PROJECT["dependencies"]]

    heading(f"Python {text(this)}, types")
    venv = install_wheel(pythons[this], "coverage", "--group=tests-redis")
    verify_types(venv)

    # The longest first. Each says under which heading it is shown.
    jobs: list[tuple[str, Callable[[], str]]] = [
        (f"Python {text(this)}, branch coverage", partial(cover, venv)),
        (f"Python {text(this)}, every bus watched", partial(test_watched, venv)),
    ]
    for version in sorted({*pythons, *declared_versions()} - {this}):
        if version in pythons:
            job = partial(test, pythons[version], text(version))
            jobs.append((f"Python {text(version)}", job))
        else:
            heading(f"Python {text(version)} NOT TESTED: it was not found on this machine")
    title = f"Python {text(oldest)}, oldest dependencies: {', '.join(lower_bounds)}"
    jobs.append((title, partial(test_oldest, pythons[oldest], lower_bounds)))

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        results = [(title, pool.submit(job)) for title, job in jobs]
        for title, result in results:
            output = result.exception() or result.result()
            heading(title)
            print(str(output).rstrip(), flush=True)
            if isinstance(output, BaseException):
                pool.shutdown(cancel_futures=True)
                sys.exit("Failed.")


def cover(venv: Path) -> str:
    """Run the tests and see which branches of the package they take."""
    tested = pytest(venv, "coverage", "run", "-m")
    return run(venv / SCRIPTS / "python", "-m", "coverage", "report") + tested


def test_watched(venv: Path) -> str:
    """Run tests of the bus itself with an instrument on every bus: it must change nothing.

    These are the ones that say what the bus does, operation by operation, and the random programs
    whose order and counters are compared with a model: a minute. State machines and explored
    schedules would take several more, and so would what happens at every line, where those that
    call an instrument don't count. Tests of names, pages and bridges open no bus, or a process.
    """
    wings = [f"tests/{wing}" for wing in ("core", "handlers", "history", "requests")]
    slow = ("machine", "schedules", "destructors", "interrupts", "recursion", "growth")
    ignored = [f"--ignore-glob=*/test_*{name}.py" for name in slow]
    return pytest(venv, arguments=[*wings, *ignored], TRIO_EVENTS_WATCHED="1")


def test(python: str, name: str) -> str:
    """Run the tests in an environment of their own."""
    venv = install_wheel(python, name, "--group=tests-redis")
    return pytest(venv, arguments=[f"--ignore=tests/{file}" for file in ONCE])


def test_oldest(python: str, lower_bounds: Sequence[str]) -> str:
    """Run the tests with the oldest dependencies; those that need a server are skipped."""
    venv = install_wheel(python, "oldest", *lower_bounds)
    ignored = [f"--ignore=tests/{file}" for file in (*ONCE, *REDIS)]
    return pytest(venv, arguments=ignored, CI="")  # where skipping them would be a failure


def find_pythons() -> dict[Version, str]:
    """Find the Pythons on this machine that `requires-python` allows."""
    on_path = (shutil.which(f"python3.{minor}") for minor in range(100))
    version_managers = [  # pyenv's own place, and whatever keeps this Python beside others
        Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions"),
        Path(sys.base_prefix).parent,
    ]
    managed = (p for place in version_managers for p in sorted(place.glob("*/bin/python3")))
    pythons: dict[Version, str] = {}
    for candidate in [sys.executable, *filter(None, on_path), *map(str, managed)]:
        version = version_of(candidate)
        if version and version >= parse(PROJECT["requires-python"].removeprefix(">=")):
            pythons.setdefault(version, candidate)
    return pythons


def version_of(python: str) -> Version | None:
    """Ask a Python for its version: None if it does not run, or is no released CPython."""
    ask = "import sys; v = sys.version_info; print(sys.implementation.name, v[3], v[0], v[1])"
    try:
        answer = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None  # a version manager's shim can be on PATH with nothing behind it
    name, level, major, minor = answer.stdout.split()
    return (int(major), int(minor)) if (name, level) == ("cpython", "final") else None


def declared_versions() -> list[Version]:
    """Read from the classifiers which Pythons the package promises to run on."""
    tails = (classifier.rpartition(" :: ")[2] for classifier in PROJECT["classifiers"])
    return [parse(tail) for tail in tails if tail.startswith("3.")]


def install_wheel(python: str, name: str, *requirements: str) -> Path:
    """Make a fresh environment with the wheel, all that its tests need, and `requirements`."""
    venv = BUILD / name
    (wheel,) = BUILD.glob("*.whl")
    run(python, "-m", "venv", "--without-pip", venv)  # this Python's pip can install there
    pip = (sys.executable, "-m", "pip", "--python", venv / SCRIPTS / "python")
    run(
        *pip,
        "install",
        "-qq",
        "--group=tests",
        f"{wheel}[bridge,devtools,examples,telemetry]",
        *requirements,
    )
    return venv


def verify_types(venv: Path) -> None:
    """Demand that pyright knows the type of every public name of the installed package."""
    pyright = Path(sys.executable).with_name("pyright")
    command = [pyright, "--verifytypes", PACKAGE, "--ignoreexternal", "--outputjson"]
    # pyright asks the first Python on PATH where packages are. (--pythonpath follows the link
    # out of the environment, to the Python that it was made with.)
    environ = ENVIRON | {"PATH": f"{venv / SCRIPTS}{os.pathsep}{os.environ['PATH']}"}
    output = subprocess.run(command, cwd=venv, env=environ, stdout=subprocess.PIPE, check=False)
    report = json.loads(output.stdout)
    types = report["typeCompleteness"]
    findings = [("pyright", finding) for finding in report["generalDiagnostics"]]
    findings += [(s["name"], finding) for s in types["symbols"] for finding in s["diagnostics"]]
    for name, finding in findings:
        if finding["severity"] == "error":
            print(f"{name}: {finding['message']}", flush=True)
    known = types["exportedSymbolCounts"]["withKnownType"]
    score = types["completenessScore"]
    print(f"pyright knows {score:.1%} of the public types ({known} symbols)", flush=True)
    if output.returncode or score < 1:
        sys.exit("The public types are not complete.")
    if not Path(types["packageRootDirectory"]).is_relative_to(venv):
        sys.exit(f"pyright checked {types['packageRootDirectory']}, not the wheel.")


def pytest(venv: Path, *runner: str, arguments: Sequence[str] = (), **environ: str) -> str:
    """Run the tests in an environment, having made sure that they get the wheel."""
    python = venv / SCRIPTS / "python"
    where = f"import sys, {PACKAGE} as p; assert p.__file__.startswith(sys.prefix), p.__file__"
    run(python, "-c", where)
    return run(python, "-m", *runner, "pytest", "--quiet", *arguments, **environ)


def run(*command: str | Path, **environ: str) -> str:
    """Run a command in the project's directory; returns what it printed.

    Raises:
      RuntimeError: If it failed; with what it printed.
    """
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=ENVIRON | environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        line = " ".join(map(str, command))
        raise RuntimeError(f"{done.stdout}\nFailed with {done.returncode}: {line}")
    return done.stdout


def heading(line: str) -> None:
    """Say what comes now, before what it prints."""
    print(f"\n== {line}", flush=True)


def parse(version: str) -> Version:
    """Read "3.12" as (3, 12)."""
    major, minor = version.split(".")
    return int(major), int(minor)


def text(version: Version) -> str:
    """Write (3, 12) as "3.12"."""
    return "{}.{}".format(*version)


if __name__ == "__main__":
    main()
