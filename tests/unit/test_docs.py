"""The documentation: links lead somewhere, lines are of one width, and the English is plain; so it is in the code."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COLUMNS_MAX = 120

PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "examples/*/README.md", "client/README.md", "bench/results/README.md")
    for path in ROOT.glob(pattern)
)

SOURCES = sorted(
    path
    for folder in ("services", "client", "deploy", "bench", "examples", "tests")
    for path in (ROOT / folder).rglob("*.py")
    if path != Path(__file__)  # it has to name the idioms
)

# "is no X" for "is not an X", "so many" for a number, "mend" for fix, "anew" for again, "lest", "begin" as a noun.
ODD = re.compile(
    r"(?<!there )\b(?:is|are|was|were|be)\s+no\s+(?!longer\b|more\b|\w+er\b)|\bso\s+many\b|\bmend(?:s|ed)?\b"
    r"|\banew\b|\blest\b|\b(?:where|there)(?:of|upon|with)\b|(?:\bits|'s)\s+begin\b"
    r"|(?<!there)_(?:is|are|was|were)_no_(?!longer|more)|_(?:anew|mend)(?![a-z])",  # in names
    re.I,
)
LINE_BREAK = re.compile(r'"?\n[ #]*(?:f?")?')  # with what goes on in the next line: a comment, a string


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """The numbered lines of a page that are neither code nor table."""
    fenced = False
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced and not line.startswith(("|", "    ")):
            yield number, line


def anchors(page: Path) -> set[str]:
    """The fragments by which the page's headings can be linked to, as GitHub makes them."""
    headings = [line.lstrip("#").strip() for _, line in prose(page) if line.startswith("#")]
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_page_and_a_heading(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", page.read_text())
    for target, fragment in links:
        found = (page.parent / target).resolve() if target else page
        assert found.exists(), f"{page}: {target}"
        assert not fragment or fragment in anchors(found), f"{page}: {target}#{fragment}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_lines_are_wrapped_and_english_is_plain(page: Path) -> None:
    for number, line in prose(page):
        assert len(line) <= COLUMNS_MAX, f"{page}:{number}: {len(line)} columns"
        assert not ODD.search(line), f"{page}:{number}: {line}"


def test_english_in_the_code_is_plain() -> None:
    odd = []
    for source in SOURCES:
        text = LINE_BREAK.sub(" ", source.read_text())
        odd += [f"{source.relative_to(ROOT)}: {text[m.start() - 40 : m.end() + 40]}" for m in ODD.finditer(text)]
    assert odd == []


@pytest.mark.parametrize(
    "text",
    [
        "the file is no Parquet",
        "so many bytes",
        "the value and the mend",
        "split anew",
        "lest it break",
        "its begin",
        "test_it_is_no_port",
    ],
)
def test_an_odd_idiom_is_seen(text: str) -> None:
    assert ODD.search(text)


@pytest.mark.parametrize("text", ["there is no such job", "is no longer there", "is not a port", "where it begins"])
def test_plain_english_is_let_pass(text: str) -> None:
    assert not ODD.search(text)
