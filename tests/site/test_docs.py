"""The code in the documentation runs and prints what the pages say, and links lead somewhere.

How a page is written for it:

- A block of `python` is a whole program, and runs as one.
- If its first line is a comment with a file name, as in `# test_shop.py`, and the name begins so,
  pytest runs it. It can import the other files of the page.
- A block of `text` that follows a program, introduced by "It prints:" or "It logs:", is its
  output. "It prints `…`." does for one line. A program that logs a warning must say so; of a
  traceback that is logged with it, nothing is shown.
- A block of `console` is `python -m trio_events …` after a `$`, and what that prints.
- A block of `py` does not run: code with other libraries, or what not to write. Nor do `sh` and
  `toml`.

Time does not pass: where a program sleeps, the clock jumps.
"""

import ast
import functools
import logging
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

import trio_events
import trio_events.bridge
import trio_events.devtools
import trio_events.telemetry
import trio_events.testing
from trio_events.__main__ import main

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.glob("**/*.md")])

FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
KNOWN = {"python", "py", "text", "console", "sh", "toml", "lua", ""}
SHORT_OUTPUT = re.compile(r"\s*It prints `(?P<line>[^`\n]*)`\.")
OUTPUT = re.compile(rf"(?:{SHORT_OUTPUT.pattern})?\s*It (?P<verb>prints|logs)(?:, [^:`]*)?:")


@attrs.define
class Block:
    """One fenced block."""

    page: Path
    line: int
    language: str
    body: str
    prints: str | None = None
    logs: str = ""

    @property
    def file(self) -> str:
        """The name that its first line gives it."""
        named = re.match(r"# (\w+\.py)\n", self.body)
        return named[1] if named else "app.py"

    @property
    def is_test(self) -> bool:
        """Whether pytest runs it."""
        return self.file.startswith("test_")


def blocks_of(page: Path) -> Iterator[Block]:
    """The blocks of a page, outputs attached to the programs that they are of."""
    text = page.read_text(encoding="utf-8")
    program: Block | None = None
    end = 0
    for match in FENCE.finditer(text):
        between, end = text[end : match.start()].strip(), match.end()
        line = text.count("\n", 0, match.start()) + 1
        block = Block(page, line, match["info"].strip(), match["body"])
        if block.language.startswith("{"):
            continue
        assert block.language in KNOWN, f"{page}:{line}: {block.language}"
        if block.language == "text":
            what = OUTPUT.fullmatch(between)
            assert program is not None, f"{page}:{line}: output of no program"
            assert what is not None, f"{page}:{line}: say of which program this is the output"
            if what["verb"] == "prints":
                program.prints = block.body
            else:
                program.logs = block.body
            continue
        program = None
        if block.language == "python":
            program = block
            if short := SHORT_OUTPUT.match(text, end):
                block.prints = short["line"] + "\n"
        yield block


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def written_in(language: str) -> list[object]:
    """Parameters: the blocks of a language."""
    return [
        pytest.param(block, id=f"{block.page.relative_to(ROOT)}:{block.line}")
        for block in BLOCKS
        if block.language == language and not block.is_test
    ]


@pytest.mark.parametrize("block", written_in("python"))
def test_a_program_does_what_the_page_says(
    block: Block,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = trio.testing.MockClock(autojump_threshold=0)
    if "_thread" not in block.body:  # while another thread works, the clock would jump on
        monkeypatch.setattr(trio, "run", functools.partial(trio.run, clock=clock))
    with caplog.at_level(logging.WARNING):
        exec(compile(block.body, block.file, "exec"), {"__name__": "__main__"})
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "".join(f"{record.getMessage()}\n" for record in caplog.records) == block.logs
    if block.prints is not None:
        assert printed.out == block.prints


# These have to be imported by themselves. Here they are already, so that no program would fail.
SUBMODULES = {"trio": {"testing"}, "trio_events": {"bridge", "devtools", "telemetry", "testing"}}


@pytest.mark.parametrize("block", written_in("python"))
def test_a_program_imports_the_modules_that_it_uses(block: Block) -> None:
    imported, names = set[str](), dict[str, str]()
    tree = ast.parse(block.body)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                imported.add(alias.name)
                names[alias.asname or alias.name.partition(".")[0]] = alias.name
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = names.get(node.value.id, "").partition(".")[0]
            if node.attr in SUBMODULES.get(module, ()):
                assert f"{module}.{node.attr}" in imported


@pytest.mark.parametrize("block", written_in("console"))
def test_a_command_prints_what_the_page_says(
    block: Block, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = ""
    for line in block.body.splitlines():
        if line.startswith("$ "):
            shown += line + "\n"
            python, dash_m, module, *words = shlex.split(line[2:])
            assert [python, dash_m, module] == ["python", "-m", "trio_events"]
            try:
                main(words)
            except SystemExit:
                pass  # help
            printed = capsys.readouterr()
            shown += printed.out + printed.err
    assert shown == block.body


def test_the_tests_on_the_pages_pass(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\ntrio_mode = true\nfilterwarnings = error\n")
    files = 0
    for number, page in enumerate(PAGES):
        place = tmp_path / f"page{number}"
        blocks = [b for b in BLOCKS if b.page == page and b.language == "python"]
        if not any(block.is_test for block in blocks):
            continue
        place.mkdir()
        for block in blocks:
            if block.file != "app.py":
                assert not (place / block.file).exists(), f"{page}: two files {block.file}"
                (place / block.file).write_text(block.body, encoding="utf-8")
                files += block.is_test
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--import-mode=prepend",
    ]
    done = subprocess.run(
        [*command, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert files


def test_few_blocks_do_not_run() -> None:
    pages = {block.page for block in BLOCKS if block.language == "py"}
    others = {page for page in pages if page.parent.name != "coming-from"}
    assert {page.name for page in others} <= {
        "web.md",
        "my-program-hangs.md",
        "live-map.md",
        "telemetry.md",
    }


# Links


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, made as GitHub and MyST make them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    slug: Callable[[str], str] = lambda h: re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-")  # noqa: E731
    return {slug(re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)) for heading in headings}


def links() -> list[object]:
    """Parameters: every link to something in the repository."""
    return [
        pytest.param(page, target, id=f"{page.relative_to(ROOT)}->{target}")
        for page in PAGES
        for target in dict.fromkeys(re.findall(r"\]\(([^)\s]+)\)", prose(page)))
        if not re.match(r"[a-z]+:", target)
    ]


@pytest.mark.parametrize(("page", "target"), links())
def test_a_link_leads_somewhere(page: Path, target: str) -> None:
    path, _, anchor = target.partition("#")
    other = (page.parent / path).resolve() if path else page
    assert other.exists()
    assert other.is_relative_to(ROOT)
    if anchor:
        assert anchor in anchors(other)
    if page.is_relative_to(DOCS):
        assert other.is_relative_to(DOCS), "this link would not work in the built pages"


def test_links_to_the_published_site_and_the_repository_lead_to_files_that_exist() -> None:
    site, repository = "https://trio-events.readthedocs.io", "https://github.com/trio-events"
    texts = [*PAGES, ROOT / "SECURITY.md", ROOT / "pyproject.toml", *ROOT.glob(".github/**/*.*")]
    found = 0
    for text in texts:
        links = re.findall(rf"(?:{site}|{repository})[^)>\s\"]*", text.read_text("utf-8"))
        for link in links:
            if page := re.fullmatch(rf"{site}/en/latest/(.*)\.html", link):
                assert (DOCS / f"{page[1]}.md").exists(), f"{text}: {link}"
            elif path := re.fullmatch(rf"{repository}/trio_events/(?:blob|tree)/main/(.*)", link):
                assert (ROOT / path[1]).exists(), f"{text}: {link}"
            found += 1
    assert found


def test_the_readme_has_no_relative_links() -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(ROOT / "README.md"))
    assert [target for target in targets if not target.startswith("https://")] == []


def test_every_page_is_in_the_table_of_contents() -> None:
    trees = re.findall(
        r"^```\{toctree\}\n(.*?)^```$",
        (DOCS / "index.md").read_text("utf-8"),
        re.MULTILINE | re.DOTALL,
    )
    contents = [
        line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")
    ]
    pages = {page.relative_to(DOCS).with_suffix("").as_posix() for page in DOCS.glob("**/*.md")}
    assert sorted(contents) == sorted(pages - {"index"})


def test_every_example_is_on_the_page_of_examples() -> None:
    text = (DOCS / "examples.md").read_text("utf-8")
    for program in (ROOT / "examples").glob("*.py"):
        assert f"/blob/main/examples/{program.name})" in text


def test_every_public_name_is_in_the_reference() -> None:
    text = "".join(page.read_text("utf-8") for page in (DOCS / "reference").glob("*.md"))
    modules = [
        trio_events,
        trio_events.bridge,
        trio_events.devtools,
        trio_events.telemetry,
        trio_events.testing,
    ]
    for module in modules:
        for name in module.__all__:
            assert len(re.findall(rf"^\.\. auto\w+:: {name}$", text, re.MULTILINE)) == 1, name
