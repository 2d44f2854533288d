"""Tables of the documentation: up to date, complete, and with an example of every validity rule."""

from pathlib import Path

import pytest

from pipeline.grid.reference import BLOCKS, MARKED, filled, refused
from pipeline.grid.validity import RULES

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_of_a_page_are_those_of_the_code(page: Path) -> None:
    text = page.read_text()
    assert filled(text) == text, "run `make docs`"


def test_every_table_stands_on_a_page() -> None:
    assert {name for page in PAGES for _, name, _ in MARKED.findall(page.read_text())} == set(BLOCKS)


def test_every_validity_rule_has_an_example() -> None:
    assert set(refused()) == {rule.name for rule in RULES}


@pytest.mark.parametrize("name", BLOCKS)
def test_every_key_has_a_meaning(name: str) -> None:
    """A comment beside the field, an entry of the docstring's `Attributes`, or one of `MEANINGS`."""
    rows = [line for line in BLOCKS[name]().splitlines() if line.startswith("| `")]
    if any(line.startswith("| key ") for line in BLOCKS[name]().splitlines()):
        assert [row for row in rows if row.endswith("|  |")] == []


def test_a_place_for_an_unknown_table_is_an_error() -> None:
    with pytest.raises(KeyError):
        filled("<!-- begin nothing -->\n<!-- end nothing -->")
