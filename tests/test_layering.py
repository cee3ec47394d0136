"""The modules import one way, and the pure ones do without trio."""

import ast
import subprocess
import sys
from pathlib import Path

import trio_events

PACKAGE = Path(trio_events.__file__).parent

LAYERS = [
    {"_no_public_constructor", "_event", "_pace", "_waiting"},
    {"_errors"},
    {"_pattern"},
    {"_routing", "_policy", "_overflow"},
    {"_actor", "_terms"},
    {"_subscription", "_paths"},
    {"_router", "_supervision", "_waiter"},
    {"_handlers"},
    {"_bus"},
    {"_ambient"},
    {"__init__"},
    {"testing", "__main__"},
]
PURE = {"_no_public_constructor", "_event", "_pattern", "_routing", "_policy"}


def imports(module: str) -> tuple[set[str], set[str]]:
    """The modules of the package that a module imports, wherever it does, and the others."""
    inner, outer = set(), set()
    tree = ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert (node.level, bool(node.module)) == (1, True), f"{module}: `from ._x import y`"
            assert node.module
            inner.add(node.module)
        elif isinstance(node, ast.ImportFrom):
            outer.add(str(node.module).partition(".")[0])
        elif isinstance(node, ast.Import):
            outer |= {alias.name.partition(".")[0] for alias in node.names}
    return inner, outer


def test_every_module_has_a_layer() -> None:
    assert sorted(path.stem for path in PACKAGE.glob("*.py")) == sorted(set().union(*LAYERS))


def test_imports_point_to_lower_layers_only() -> None:
    below: set[str] = set()
    for layer in LAYERS:
        for module in sorted(layer):
            inner, _ = imports(module)
            assert inner <= below, f"{module} imports {sorted(inner - below)}"
        below |= layer


def test_pure_modules_do_not_import_trio() -> None:
    for module in sorted(PURE):
        _, outer = imports(module)
        assert "trio" not in outer, module


def test_the_package_depends_on_trio_and_attrs_only() -> None:
    for layer in LAYERS:
        for module in sorted(layer):
            _, outer = imports(module)
            allowed = {"trio", "attrs"} | {
                "testing": {"hypothesis"},
                "_event": {"typing_extensions"},  # for type checkers, which bring it along
            }.get(module, set())
            assert outer - sys.stdlib_module_names <= allowed, module


def test_importing_the_package_imports_neither_hypothesis_nor_pytest() -> None:
    code = "import sys, trio_events; sys.exit(not sys.modules.keys().isdisjoint(sys.argv[1:]))"
    subprocess.run([sys.executable, "-c", code, "hypothesis", "pytest"], timeout=60, check=True)
