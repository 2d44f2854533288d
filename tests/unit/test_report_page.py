"""The report page: self-contained, nothing in it is markup by accident, and it sorts in a browser."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipeline.report.figure import Figure
from pipeline.report.page import Entry, Page, flat, page_html
from pipeline.report.table import result_table
from tests.browser import page_dom
from tests.report_cases import FD, row

PNG = b"\x89PNG picture"


class Reader(HTMLParser):
    """Start tags with their attributes, tags that are open, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.stack: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.stack or self.stack[-1] not in ("script", "style"):
            self.text += data


def page(name: str = "a", **changes: object) -> Page:
    rows = [row(name, 1.0), row("b", 9.0), row("c", 10.0), row("d", None)]  # in the order of the table
    rows[3]["reasons"] = {FD: "no <images>"}
    entries = [Entry(str(entry["name"]), protocol={"net": FD}, strip=PNG, sheet=PNG) for entry in rows]
    content = {
        "title": "quick & small",
        "lead": ("One sentence.",),
        "table": result_table(rows, FD),
        "entries": entries,
        "figures": (Figure("pareto", "Cost", "A caption.", PNG), Figure("x", "Density", left_out="nothing <measured>")),
        "skipped": (("gud basis=pca", "needs haar"),),
        "merged": (("ddpm twin", "ddpm"),),
        "texts": {"Grid": "name: <b>"},
    }
    return Page(**{**content, **changes})  # type: ignore[arg-type]


def test_the_page_is_well_formed_and_names_its_parts() -> None:
    reader = Reader(page_html(page()))
    assert reader.stack == []
    ids = {attributes["id"] for _, attributes in reader.tags if "id" in attributes}
    assert {"results", "figures", "samples", "rows", "left-out", "grid", "row-1", "row-4", "pareto"} <= ids
    links = {str(attributes["href"])[1:] for tag, attributes in reader.tags if tag == "a"}
    assert links <= ids


def test_the_page_loads_nothing() -> None:
    text = page_html(page())
    reader = Reader(text)
    sources = [attributes[key] for _, attributes in reader.tags for key in ("src", "href") if key in attributes]
    assert all(str(source).startswith(("data:image/png;base64,", "#")) for source in sources)
    assert "default-src 'none'" in text
    assert not re.search(r"https?://|@import|url\(", text)


def test_names_reasons_and_texts_are_no_markup() -> None:
    text = page_html(page(name="<script>alert(1)</script>"))
    reader = Reader(text)
    assert [tag for tag, _ in reader.tags].count("script") == 1
    assert "<script>alert(1)</script>" in reader.text
    assert "no <images>" in reader.text
    assert "nothing <measured>" in reader.text
    assert "name: <b>" in reader.text


def test_absent_values_skipped_and_merged_combinations_have_their_reasons() -> None:
    text = Reader(page_html(page())).text
    assert "gud basis=pca: needs haar" in text
    assert "ddpm twin: the same as ddpm" in text
    assert "Left out: nothing <measured>." in text


def test_a_section_without_content_has_no_heading() -> None:
    text = page_html(page(skipped=(), merged=(), figures=()))
    assert 'id="left-out"' not in text
    assert 'href="#figures"' not in text


def test_cells_sort_by_their_numbers_and_tell_all_digits() -> None:
    reader = Reader(page_html(page()))
    titles = [str(attributes.get("title")) for tag, attributes in reader.tags if attributes.get("data-v") == "9.0"]
    assert titles == ["9.0; standard error 0.1"]


def test_the_same_content_gives_the_same_bytes() -> None:
    assert page_html(page()) == page_html(page())


def test_nested_settings_become_dotted_names() -> None:
    nested = {"a": {"b": 1, "c": [1.5, 2.0]}, "d": None, "e": "x", "f": [{"k": 1}, {"k": 2}], "g": [], "h": False}
    assert flat(nested) == {"a.b": "1", "a.c": "1.5, 2", "e": "x", "f": "k 1, k 2", "h": "False"}
    assert flat({"n": list(range(40))}) == {"n": "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, ... (40 in all)"}


@pytest.mark.slow
def test_a_click_sorts_by_number_with_absent_values_last_and_an_anchor_opens_its_row(tmp_path: Path) -> None:
    click = """<script>
      document.querySelectorAll('table.sortable th button')[2].click();
      document.querySelectorAll('table.sortable th button')[2].click();
      location.hash = '#row-2';
    </script>"""
    path = tmp_path / "report.html"
    path.write_text(page_html(page()).replace("</body>", f"{click}</body>"))
    dom = page_dom(f"file://{path}", tmp_path, wait_ms=2000)
    table = dom[dom.index("<tbody>") : dom.index("</tbody>")]
    assert re.findall(r'title="(\w)">\d</a>', table) == ["c", "b", "a", "d"]
    assert 'aria-sort="descending"' in dom
    assert re.search(r'<details id="row-2" open="">', dom)
    assert not re.search(r'<details id="row-1" open', dom)
