"""The modules import one way, and the pure ones do without trio."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import trio_events

PACKAGE = Path(trio_events.__file__).parent

LAYERS = [
    {
        "_closing",
        "_no_public_constructor",
        "_event",
        "_extras",
        "_origin",
        "_stderr",
        "_public",
        "_names.errors",
    },
    {"_names.__init__", "_core.__init__", "_handlers.__init__"},
    {"_errors"},
    {"_names.pattern", "_names.relations"},  # the methods of a pattern are in the latter
    {"_names.interest"},
    {"_names.routing"},
    {"_names.policy"},
    {"_names.permits"},
    {"_core.deadlock", "_core.notices", "_core.pace", "_core.readers", "_core.buffer"},
    {"_instruments"},
    {"_core.door"},
    {"_core.pending"},
    {"_core.inbox"},
    {"_core.senders"},
    {"_core.actor"},
    {"_core.router"},
    {"_history"},
    {"_terms"},
    {"_handlers.quiet"},
    {"_handlers.staff"},
    {"_subscription", "_advisories"},
    {"_requests", "_handlers.supervision"},
    {"_handlers.registration"},
    {"_handlers.calling"},
    {"_bus"},
    {"_supervisor"},
    {"_ambient"},
    {"__init__"},
    {"_strategies"},
    {"testing", "telemetry", "bridge._log", "bridge._envelope"},
    {"devtools._problems", "devtools._parties", "devtools._client"},
    {"devtools._rows"},
    {"devtools._observer", "devtools._trace", "devtools._top"},
    {"devtools._server"},
    {"devtools._script", "devtools.__init__"},
    {"devtools._commands"},
    {"bridge._line", "bridge._sqlite", "bridge._redis"},
    {"bridge._link", "bridge._urls"},
    {"bridge._export", "bridge._follower", "bridge._command"},
    {"__main__"},
    {"bridge._group"},
    {"bridge._bridge"},
    {"bridge.__init__"},
]
METHODS = {"_names.pattern", "_names.relations"}
PURE = {module for layer in LAYERS for module in layer if module.startswith("_names.")} | {
    "_core.deadlock",
    "_core.notices",
    "_event",
    "_instruments",
    "_no_public_constructor",
    "_origin",
}


def imports(module: str) -> tuple[set[str], set[str]]:
    """The modules of the package that a module imports, wherever it does, and the others."""
    inner, outer = set(), set()
    *wing, _ = module.split(".")
    file = PACKAGE.joinpath(*module.split(".")).with_suffix(".py")
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in executed(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            above = wing[: len(wing) + 1 - node.level]
            modules = [node.module] if node.module else [alias.name for alias in node.names]
            inner |= {".".join([*above, module]) for module in modules}
        elif isinstance(node, ast.ImportFrom):
            outer.add(str(node.module).partition(".")[0])
        elif isinstance(node, ast.Import):
            outer |= {alias.name.partition(".")[0] for alias in node.names}
    return inner, outer


def executed(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a module, without those that only type checkers read."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield node
            yield from executed(node)


def test_every_module_has_a_layer() -> None:
    files = [*PACKAGE.glob("*.py"), *PACKAGE.glob("*/*.py")]
    modules = [".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in files]
    assert sorted(modules) == sorted(set().union(*LAYERS))


def test_imports_point_to_lower_layers_only() -> None:
    below: set[str] = set()
    for layer in LAYERS:
        for module in sorted(layer):
            inner, _ = imports(module)
            allowed = below | (layer if module in METHODS else set())
            assert inner <= allowed, f"{module} imports {sorted(inner - allowed)}"
        below |= layer


def test_pure_modules_do_not_import_trio() -> None:
    for module in sorted(PURE):
        inner, outer = imports(module)
        assert "trio" not in outer, module
        assert inner <= PURE, f"{module} imports {sorted(inner - PURE)}"


def test_the_package_depends_on_trio_and_attrs_only() -> None:
    for layer in LAYERS:
        for module in sorted(layer):
            _, outer = imports(module)
            extra = {"h11", "rich"} if module.startswith("devtools.") else set()
            allowed = (
                {"trio", "attrs"}
                | extra
                | {
                    "_strategies": {"hypothesis"},
                    "telemetry": {"opentelemetry"},
                    "bridge._command": {"msgspec"},
                    "bridge._envelope": {"msgspec"},
                    # anyio: whose errors coredis lets through
                    "bridge._redis": {"coredis", "anyio"},
                    "_event": {"typing_extensions"},  # for type checkers, which bring it along
                }.get(module, set())
            )
            assert outer - sys.stdlib_module_names <= allowed, module


@pytest.mark.parametrize("module", ["trio_events", "trio_events.testing"])
def test_importing_the_package_imports_nothing_that_an_extra_brings(module: str) -> None:
    code = f"import sys, {module}; sys.exit(not sys.modules.keys().isdisjoint(sys.argv[1:]))"
    unwanted = ["hypothesis", "pytest", "h11", "rich", "opentelemetry", "msgspec", "coredis"]
    unwanted += ["trio_events.bridge", "trio_events.devtools"]
    subprocess.run([sys.executable, "-c", code, *unwanted], timeout=60, check=True)


def test_a_bridge_over_sqlite_does_without_coredis() -> None:
    code = (
        "import sys; from trio_events.bridge import SqliteLog, open_bridge; "
        "sys.exit('coredis' in sys.modules or 'anyio' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)


@pytest.mark.parametrize(
    ("code", "missing", "says"),
    [
        ("import trio_events.bridge", "msgspec", "trio_events.bridge needs msgspec: [bridge]"),
        ("import trio_events.devtools", "h11", "trio_events.devtools needs h11: [devtools]"),
        (
            "import trio_events.telemetry",
            "opentelemetry",
            "trio_events.telemetry needs opentelemetry: [telemetry]",
        ),
        (
            "from trio_events.bridge import RedisLog",
            "anyio",  # which coredis brings
            "trio_events.bridge.RedisLog needs anyio: [redis]",
        ),
        (
            "from trio_events.testing import names",
            "hypothesis",
            "trio_events.testing.names needs hypothesis: [testing]",
        ),
        (
            """
import trio, trio_events, trio_events.bridge
async def main():
    async with trio_events.open_event_bus() as bus:
        await trio_events.bridge.open_bridge(bus, "redis://127.0.0.1")
trio.run(main)
""",
            "anyio",  # which coredis brings
            "a log at redis:// needs anyio: [redis]",
        ),
    ],
)
def test_a_missing_extra_is_named_in_one_line(code: str, missing: str, says: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.modules[{missing!r}] = None\n{code}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    advice = says.replace("[", "pip install 'trio-events[") + "'"
    assert done.stderr.splitlines()[-1] == f"ModuleNotFoundError: {advice}"
    assert done.stderr.count("Traceback") == 1  # without that of the import
