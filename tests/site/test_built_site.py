"""The built documentation: links, titles, orphans, and what its search finds.

`make docs` runs this on what it has built. Elsewhere it is skipped.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urlsplit

import attrs
import pytest

SITE = Path(os.environ.get("TRIO_EVENTS_SITE", ""))
if Path() == SITE:
    pytest.skip("TRIO_EVENTS_SITE is not set: run `make docs`", allow_module_level=True)

from sphinx.search.en import SearchEnglish  # noqa: E402  # only there when docs are built


@attrs.define
class Page(HTMLParser):
    """What a page has: its title, headings, anchors, links and images."""

    title: str = ""
    headings: list[str] = attrs.field(factory=list)
    anchors: set[str] = attrs.field(factory=set)
    links: list[str] = attrs.field(factory=list)
    described: bool = True
    """Whether each image has a text for people who can't see it."""

    _inside: str = ""

    def __attrs_post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        named = dict(attributes)
        self.anchors |= {value for key, value in attributes if key == "id" and value}
        if tag in {"title", "h1"}:
            self._inside = tag
            if tag == "h1":
                self.headings.append("")
        for key in ("href", "src"):
            if target := named.get(key):
                self.links.append(target)
        if tag == "img":
            self.described &= bool(named.get("alt"))
        if tag == "svg" and "role" in named:
            self.described &= bool(named.get("aria-label"))

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "title":
            self.title += data
        elif self._inside == "h1":
            self.headings[-1] += data


def read(path: Path) -> Page:
    page = Page()
    page.feed(path.read_text("utf-8"))
    return page


PAGES = {path.relative_to(SITE).as_posix(): read(path) for path in sorted(SITE.glob("**/*.html"))}
WRITTEN = [
    name for name in PAGES if name not in {"genindex.html", "search.html", "py-modindex.html"}
]


def internal_links(name: str) -> Iterator[tuple[str, str]]:
    """The files in the site that a page refers to, each with the anchor or ""."""
    for link in PAGES[name].links:
        target, anchor = urldefrag(link)
        if not urlsplit(target).scheme and not target.startswith("//"):
            path = target.partition("?")[0]
            place = (SITE / name).parent / unquote(path) if path else SITE / name
            yield os.path.relpath(place, SITE).replace(os.sep, "/"), anchor


def test_the_site_was_built() -> None:
    assert "index.html" in PAGES
    assert len(WRITTEN) > 30


@pytest.mark.parametrize("name", WRITTEN)
def test_every_link_leads_somewhere(name: str) -> None:
    for target, anchor in internal_links(name):
        assert (SITE / target).exists(), target
        if anchor and target in PAGES:
            assert anchor in PAGES[target].anchors, f"{target}#{anchor}"


@pytest.mark.parametrize("name", WRITTEN)
def test_every_page_has_one_heading_and_described_pictures(name: str) -> None:
    page = PAGES[name]
    assert len(page.headings) == 1
    assert page.headings[0].strip("¶ #")
    assert page.described


def test_every_page_has_a_title_of_its_own() -> None:
    titles = [PAGES[name].title for name in WRITTEN]
    assert all(title.strip() for title in titles)
    assert len(set(titles)) == len(titles)


def test_every_page_can_be_reached_from_the_front_page() -> None:
    reached, todo = {"index.html"}, ["index.html"]
    while todo:
        for target, _ in internal_links(todo.pop()):
            if target in PAGES and target not in reached:
                reached.add(target)
                todo.append(target)
    assert set(WRITTEN) <= reached


def test_every_page_links_to_the_repository() -> None:
    for name in WRITTEN:
        links = PAGES[name].links
        assert any(link.startswith("https://github.com/trio-events/") for link in links), name


def search_index() -> dict[str, Any]:
    text = (SITE / "searchindex.js").read_text("utf-8")
    index: dict[str, Any] = json.loads(text.removeprefix("Search.setIndex(").removesuffix(")"))
    return index


@pytest.mark.parametrize(
    ("word", "page"),
    [
        ("asyncio", "coming-from/asyncio"),
        ("FastAPI", "how-to/web"),
        ("Starlette", "how-to/web"),
        ("WebSocket", "how-to/web"),
        ("SSE", "how-to/web"),
        ("once", "coming-from/pyee-and-blinker"),
        ("middleware", "how-to/web"),
        ("debounce", "how-to/recipes"),
        ("hangs", "how-to/my-program-hangs"),
        ("deadlock", "how-to/my-program-hangs"),
        ("NATS", "coming-from/nats"),
        ("FastStream", "coming-from/faststream"),
        ("kafka", "coming-from/comparison"),
        ("pytest", "how-to/testing"),
        ("fixture", "how-to/testing"),
        ("broadcast", "how-to/recipes"),
        ("retry", "how-to/handlers"),
        ("priority", "how-to/recipes"),
        ("Windows", "reference/compatibility"),
    ],
)
def test_the_search_finds(word: str, page: str) -> None:
    stem = SearchEnglish({}).stem(word.lower())
    index = search_index()
    found: set[str] = set()
    for terms in (index["terms"], index["titleterms"]):
        numbers = terms.get(stem, [])
        found |= {
            index["docnames"][n] for n in ([numbers] if isinstance(numbers, int) else numbers)
        }
    assert page in found


def test_users_do_not_meet_the_predecessor_of_this_package() -> None:
    allowed = re.compile(
        r"coming-from/|contributing/|reference/(semantics|conformance)|changelog|examples"
    )
    for name in WRITTEN:
        if not allowed.match(name):
            text = re.sub(
                r"<nav.*?</nav>|<aside.*?</aside>",
                "",
                (SITE / name).read_text("utf-8"),
                flags=re.DOTALL,
            )
            main = text.partition("<article")[2].partition("</article>")[0]
            assert not re.search(r"\bLua\b|\bWippy\b|the original", main), name
