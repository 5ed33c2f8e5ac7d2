"""Links of the pages, without a network: files and headings are there, addresses are https and can be listed (pytest -s)."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PAGES = [*sorted(REPOSITORY.glob("*.md")), *sorted((REPOSITORY / "docs").glob("*.md"))]
LINK = re.compile(r"!?\[[^\]\n]*\]\(([^)\s]+)\)")


def prose(page):
    """The page without its code."""
    return re.sub(r"(?ms)^```.*?^```$|`[^`\n]+`", "", page.read_text())


def anchors(page):
    """What a code host, and the built pages, call the headings."""
    headings = re.findall(r"(?m)^#+ (.+)$", re.sub(r"(?ms)^```.*?^```$", "", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page):
    return LINK.findall(prose(page))


def broken(page):
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if "://" not in link and not (target.exists() and (not anchor or anchor in anchors(target))):
            yield link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_and_headings_are_there(page):
    assert not list(broken(page))


def test_what_is_broken_is_told(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A heading: (1), `x`\n[a](#a-heading-1-x) [b](#none) [c](page.md#a-heading-1-x) [d](none.md) `[e](code.md)`\n"
    )
    assert list(broken(page)) == ["#none", "none.md"]


def test_addresses():
    foreign = {(link, page.name) for page in PAGES for link in links(page) if "://" in link}
    print("", *(f"{link}  {page}" for link, page in sorted(foreign)), sep="\n")
    assert len(foreign) > 10
    for link, page in foreign:
        assert re.fullmatch(r"https://[\w.-]+\.\w{2,}(/\S*)?", link), f"{page}: {link}"
