"""The documentation: links lead somewhere, lines are of one width, and the English is plain."""

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

# "is no X" for "is not an X", "so many" for a number, "mend" for fix.
ODD = re.compile(
    r"(?<!there )\b(?:is|are|was|were|be) no (?!longer\b|more\b|\w+er\b)|\bso many\b|\bmend(?:s|ed)?\b", re.I
)


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
