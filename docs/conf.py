"""How Sphinx makes the pages. `make docs` runs it, with warnings as errors and without a network."""

from __future__ import annotations

import sys
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

HERE = Path(__file__).parent
sys.path.append(str(HERE / "_ext"))

project = "trio_events"
author = "The trio_events authors"
copyright = author

extensions = [
    "diagrams",
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
]
nitpicky = True
# They stand in signatures only, and are not worth an inventory.
nitpick_ignore = [
    ("py:class", "hypothesis.strategies.SearchStrategy"),
    ("py:class", "opentelemetry.metrics.MeterProvider"),
    ("py:class", "opentelemetry.trace.TracerProvider"),
]
nitpick_ignore_regex = [
    ("py:class", r"(trio_events\._[\w.]+\.)?\w+T(_co)?")
]  # type variables
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "trio_events"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
myst_heading_anchors = 3
pygments_style = "default"
pygments_dark_style = "github-dark"

# Inventories, by hand: a build must not need the network. They are in the first version of the
# format, which is plain text, and hold what these pages refer to. Add a line when a name is missing.
intersphinx_mapping = {
    name: (url, str(HERE / "inventories" / f"{name}.inv"))
    for name, url in [
        ("python", "https://docs.python.org/3/"),
        ("trio", "https://trio.readthedocs.io/en/stable/"),
        ("attrs", "https://www.attrs.org/en/stable/"),
    ]
}

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
# In docstrings, `send` is a link if there is such a thing, else just code.
default_role = "py:obj"


def setup(app: Sphinx) -> None:
    """Connect what follows."""
    app.connect("missing-reference", find_public_name, priority=100)
    app.connect("missing-reference", accept_plain_code, priority=900)
    app.connect(
        "autodoc-process-docstring", keep_colons, priority=400
    )  # before napoleon
    app.connect("autodoc-process-signature", show_signature)


def find_public_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.reference | None:
    """Find what annotations and docstrings name as it is named inside the package."""
    module, _, name = node["reftarget"].rpartition(".")
    if module.startswith("trio_events._"):
        target = f"trio_events.{name}"
    elif node["reftype"] == "obj":  # in a docstring of `trio_events.testing`
        target = f"trio_events.{node['reftarget']}"
    else:
        return None
    domain, doc = env.domains.python_domain, node["refdoc"]
    return domain.resolve_xref(env, doc, app.builder, "obj", target, node, content)


def accept_plain_code(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.TextElement | None:
    """What stands in single backquotes in a docstring need not be the name of anything."""
    return content if node["reftype"] == "obj" else None


def show_signature(
    app: Sphinx,
    what: str,
    name: str,
    obj: object,
    options: object,
    arguments: str | None,
    returns: str | None,
) -> tuple[str | None, str | None]:
    """Show how things are used, which is not always what they are to `inspect`."""
    made_by_us = type(obj).__name__ in {"NoPublicConstructor", "EnumType"}
    if made_by_us or (isinstance(obj, type) and issubclass(obj, BaseException)):
        return "", None  # nobody else constructs these
    if returns and returns.startswith(
        "~collections.abc.AsyncGenerator["
    ):  # before its decorator
        yielded = returns.partition("[")[2]
        return arguments, f"~contextlib.AbstractAsyncContextManager[{yielded}"
    return arguments, returns


def keep_colons(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """In the docstring of an attribute, napoleon takes what stands before a colon for its type."""
    if what in {"attribute", "property", "data"} and lines:
        lines.insert(0, "\\")  # which shows nothing, joined to the next line
