"""The report of a grid as one HTML page that needs nothing beside it."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from pipeline.report.figure import Figure
from pipeline.report.page_style import SCRIPT, STYLE
from pipeline.report.table import BEST, Cell, Table

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""The page loads nothing, whoever serves it."""


@dataclass(frozen=True)
class Entry:
    """What the page says about one row, in the order of the table.

    Attributes:
        name: of the row.
        is_control: a row that is no trained system.
        shown: its primary value.
        metrics: every metric as text.
        reasons: why a metric is absent.
        protocol: fields without which its numbers cannot be compared, flat.
        seeds: values of single seeds, headings first; empty for one seed.
        strip: PNG of its first images, or None.
        sheet: PNG of more of them, or the sentence why there is none here.
        sheet_caption: which images.
        nearest: PNG of the images that are nearest to a training image, or None.
    """

    name: str
    is_control: bool = False
    shown: str = ""
    metrics: Mapping[str, str] = field(default_factory=dict[str, str])
    reasons: Mapping[str, str] = field(default_factory=dict[str, str])
    protocol: Mapping[str, str] = field(default_factory=dict[str, str])
    seeds: Sequence[Sequence[str]] = ()
    strip: bytes | None = None
    sheet: bytes | str | None = None
    sheet_caption: str = ""
    nearest: bytes | None = None


@dataclass(frozen=True)
class Page:
    """Content of the page.

    Attributes:
        title: name of the grid.
        lead: sentences below it.
        table: the result table.
        entries: of its rows, in the same order.
        figures: with a picture or the sentence why there is none.
        skipped: combinations that were not run, each with its reason.
        merged: combinations that are identical to a row, with its name.
        texts: documents to be folded away, by headline.
    """

    title: str
    lead: Sequence[str]
    table: Table
    entries: Sequence[Entry]
    figures: Sequence[Figure] = ()
    skipped: Sequence[tuple[str, str]] = ()
    merged: Sequence[tuple[str, str]] = ()
    texts: Mapping[str, str] = field(default_factory=dict[str, str])


def page_html(page: Page) -> str:
    """The whole document; its bytes depend on the content alone."""
    sections = {
        "results": ("Results", _results(page)),
        "figures": ("Figures", "".join(_figure(figure) for figure in page.figures)),
        "samples": ("Samples", _samples(page.entries)),
        "rows": ("Rows", "".join(_entry(entry, number) for number, entry in enumerate(page.entries, start=1))),
        "left-out": ("Not run", _not_run(page)),
        "grid": ("Grid file", "".join(_text(name, text) for name, text in page.texts.items())),
    }
    kept = {anchor: (name, body) for anchor, (name, body) in sections.items() if body}
    links = "".join(f'<a href="#{anchor}">{name}</a>' for anchor, (name, _) in kept.items())
    body = "".join(f'<section><h2 id="{a}">{name}</h2>\n{text}</section>\n' for a, (name, text) in kept.items())
    lead = "".join(f"<p>{escape(sentence)}</p>" for sentence in page.lead)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(page.title)}</title>\n<style>{STYLE}</style></head>\n"
        f"<body><h1>{escape(page.title)}</h1>\n{lead}\n<nav>{links}</nav>\n{body}<script>{SCRIPT}</script></body></html>\n"
    )


def _results(page: Page) -> str:
    table = page.table
    is_number = [any(isinstance(row[i].value, float | int) for row in table.rows) for i in range(len(table.columns))]
    kinds = [' class="num"' if numeric else "" for numeric in is_number]
    names = zip(table.columns, table.headings, kinds, strict=True)
    head = '<th class="num"><button>#</button></th>' + "".join(
        f'<th{kind} title="{escape(column)}"><button>{escape(heading)}</button></th>' for column, heading, kind in names
    )
    body: list[str] = []
    for number, (row, entry) in enumerate(zip(table.rows, page.entries, strict=True), start=1):
        link = (
            f'<td class="num" data-v="{number}"><a href="#row-{number}" title="{escape(entry.name)}">{number}</a></td>'
        )
        cells = "".join(_cell(cell, numeric) for cell, numeric in zip(row, is_number, strict=True))
        kind = ' class="control"' if entry.is_control else ""
        body.append(f"<tr{kind}>{link}{cells}</tr>\n")
    return (
        f'<div class="wide"><table class="sortable"><thead><tr>{head}</tr></thead>\n<tbody>{"".join(body)}</tbody>'
        f"</table></div>\n{_list(table.notes, 'notes')}"
    )


def _cell(cell: Cell, is_number: bool) -> str:
    if cell.value is None:
        return f'<td class="{"num " if is_number else ""}absent" data-v="" title="{escape(cell.reason or "")}">-</td>'
    if isinstance(cell.value, str):
        return f"<td>{escape(cell.value)}</td>"
    text = cell.text.removesuffix(f" {cell.mark}") if cell.mark else cell.text
    best = " best" if cell.mark == BEST else ""
    mark = f'<span class="mark">{escape(cell.mark)}</span>' if cell.se is not None or cell.mark else ""
    return f'<td class="num{best}" data-v="{cell.value!r}" title="{escape(_details(cell))}">{escape(text)}{mark}</td>'


def _details(cell: Cell) -> str:
    """All digits and errors of a value, shown where the pointer rests."""
    parts = [f"{cell.value!r}"]
    if cell.n is not None:
        parts.append(f"{cell.n} seeds, sd {cell.sd:.4g}, mean in [{cell.low:.6g}, {cell.high:.6g}] (95%)")
    if cell.se is not None:
        parts.append(f"standard error {cell.se:.4g}")
    if cell.p is not None and cell.mark != BEST:
        parts.append(f"against the best: p = {cell.p:.2g}, after Holm {cell.p_holm:.2g}")
    return "; ".join(parts)


def _figure(figure: Figure) -> str:
    title = f'<h3 id="{escape(figure.stem)}">{escape(figure.title)}</h3>'
    if figure.png is None:
        picture = f'<p class="muted">Left out: {escape(figure.left_out or "")}.</p>'
    else:
        caption = f"<figcaption>{escape(figure.caption)}</figcaption>"
        picture = f"<figure>{_image(figure.png, figure.title)}{caption}</figure>"
    return f"{title}\n{picture}{_plain_table(figure.highlights)}\n"


def _samples(entries: Sequence[Entry]) -> str:
    strips = [(number, entry) for number, entry in enumerate(entries, start=1) if entry.strip is not None]
    if not strips:
        return ""
    lines = "".join(
        f'<a href="#row-{number}">{escape(entry.name)}</a>{_image(entry.strip or b"", f"samples of {entry.name}")}'
        for number, entry in strips
    )
    caption = (
        "The first images of every row by their index, not chosen. Rows that share seed and shape start from the same "
        "noise, so a column shows what each model makes of it."
    )
    return f'<p class="muted">{caption}</p>\n<div class="strips">{lines}</div>\n'


def _entry(entry: Entry, number: int) -> str:
    value = f'<span class="value">{escape(entry.shown)}</span>' if entry.shown else ""
    blocks = [_facts("Metrics", entry.metrics), _facts("Absent, and why", entry.reasons)]
    blocks += [_facts("Protocol", entry.protocol)]
    if entry.seeds:
        blocks.append(f"<div><h3>Seeds</h3>{_plain_table(entry.seeds)}</div>")
    sheet = ""
    if isinstance(entry.sheet, bytes):
        sheet = f"<h3>{escape(entry.sheet_caption)}</h3>{_image(entry.sheet, 'samples', 'sheet')}"
    elif entry.sheet:
        sheet = f'<p class="muted">{escape(entry.sheet)}</p>'
    if entry.nearest is not None:
        caption = "Images nearest to a training image, nearest first; below each line the training images"
        sheet += f"<h3>{caption}</h3>{_image(entry.nearest, 'nearest training images', 'sheet')}"
    body = f'<div class="columns">{"".join(blocks)}</div>\n{sheet}'
    return f'<details id="row-{number}"><summary>{value}{number}. {escape(entry.name)}</summary>\n{body}</details>\n'


def _facts(title: str, facts: Mapping[str, str]) -> str:
    if not facts:
        return ""
    rows = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in facts.items())
    return f'<div><h3>{escape(title)}</h3><table class="facts"><tbody>{rows}</tbody></table></div>'


def _not_run(page: Page) -> str:
    skipped = [f"{label}: {reason}" for label, reason in page.skipped]
    merged = [f"{label}: the same as {name}" for label, name in page.merged]
    return _list(skipped, "plain") + (f"<h3>Merged</h3>{_list(merged, 'plain')}" if merged else "")


def _text(name: str, text: str) -> str:
    return f"<details><summary>{escape(name)}</summary><pre>{escape(text)}</pre></details>\n"


def _list(lines: Sequence[str], kind: str) -> str:
    if not lines:
        return ""
    return f'<ul class="{kind}">' + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>\n"


def _plain_table(lines: Sequence[Sequence[str]]) -> str:
    """Headings first; nothing for headings alone."""
    if len(lines) < 2:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in lines[0])
    body = "".join("<tr>" + "".join(f"<td>{escape(value)}</td>" for value in line) + "</tr>" for line in lines[1:])
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _image(png: bytes, text: str, kind: str = "") -> str:
    name = f' class="{kind}"' if kind else ""
    return f'<img{name} alt="{escape(text)}" src="data:image/png;base64,{base64.b64encode(png).decode("ascii")}">'


MAX_LISTED = 12
"""Items of a list that a protocol shows."""


def flat(value: Any, prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted names and texts; nothing for what is empty, of long lists the beginning."""
    if isinstance(value, Mapping):
        parts = [flat(item, f"{prefix}.{key}" if prefix else str(key)) for key, item in value.items()]
        return {name: text for part in parts for name, text in part.items()}
    if value is None or value == []:
        return {}
    if isinstance(value, list | tuple):
        items = [_listed(item) for item in value[:MAX_LISTED]]
        return {prefix: ", ".join(items) + (f", ... ({len(value)} in all)" if len(value) > MAX_LISTED else "")}
    return {prefix: f"{value:g}" if isinstance(value, float) else str(value)}


def _listed(item: Any) -> str:
    """An item of a list: a value, or fields by name."""
    parts = flat(item, "")
    return " ".join(f"{name} {text}" if name else text for name, text in parts.items())
