"""A table as text for the terminal, CSV, Markdown and LaTeX."""

import io
import re

from rich.console import Console, Group
from rich.table import Table as RichTable
from rich.text import Text

from pipeline.report.csv_lines import csv_of
from pipeline.report.table import Table

_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
}
_CSV_ENDINGS = {
    "value": "",
    "se": "_se",
    "sd": "_sd",
    "n": "_seeds",
    "low": "_mean_low",
    "high": "_mean_high",
    "p": "_p",
    "p_holm": "_p_holm",
    "mark": "_mark",
    "reason": "_absent",
}
"""Fields of a cell, and how the names of their columns end."""

_IMAGE_ERRORS = "in square brackets the standard error by the images of one row, root mean square over seeds"


def terminal_table(table: Table) -> Group:
    """The table with its notes below, for a rich console; best values are bold."""
    drawn = RichTable()
    for position, name in enumerate(table.headings):
        is_number = any(isinstance(row[position].value, float | int) for row in table.rows)
        drawn.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for row in table.rows:
        drawn.add_row(*(f"[bold]{_plain(cell.text)}[/]" if cell.mark == "*" else _plain(cell.text) for cell in row))
    return Group(drawn, *(Text(_clean(note)) for note in table.notes))


def terminal_text(table: Table, *, width: int = 120) -> str:
    """The same without colours, as plain text."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(terminal_table(table))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def csv_text(table: Table) -> str:
    """Full precision: a column per value, and further ones where some row has them.

    `_se` is the error by the images of one row; over seeds `_sd` is the standard deviation, `_seeds` their number,
    `_mean_low` and `_mean_high` the interval of the mean; `_p` and `_p_holm` belong to the difference to the best row;
    `_mark` says how it compares, `_absent` why there is no value. Texts that a spreadsheet would take for a formula are
    quoted with an apostrophe.
    """
    parts = [(position, part) for position in range(len(table.columns)) for part in _csv_parts(table, position)]
    names = [table.columns[position] + _CSV_ENDINGS[part] for position, part in parts]
    return csv_of([names, *([getattr(row[position], part) for position, part in parts] for row in table.rows)])


def markdown_text(table: Table) -> str:
    """A pipe table with the notes below; means over seeds have both errors."""
    lines = ["| " + " | ".join(_escaped(name) for name in table.headings) + " |", "|" + "---|" * len(table.columns)]
    for row in table.rows:
        shown = [(_escaped(cell.detailed_text), cell.mark) for cell in row]
        lines.append("| " + " | ".join(f"**{text}**" if mark == "*" else text for text, mark in shown) + " |")
    if notes := _notes(table):
        lines += ["", *(f"- {_escaped(note)}" for note in notes)]
    return "\n".join(lines) + "\n"


def latex_text(table: Table) -> str:
    """A booktabs tabular; means over seeds have both errors; notes are comments."""
    alignment = "".join(
        "r" if any(isinstance(row[position].value, float | int) for row in table.rows) else "l"
        for position in range(len(table.columns))
    )
    lines = [f"\\begin{{tabular}}{{{alignment}}}", r"\toprule"]
    lines += [" & ".join(_latex(name) for name in table.headings) + r" \\", r"\midrule"]
    for row in table.rows:
        shown = [(_latex(cell.detailed_text), cell.mark) for cell in row]
        texts = (rf"\textbf{{{text}}}" if mark == "*" else text for text, mark in shown)
        lines.append(" & ".join(texts) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}", *(f"% {' '.join(note.split())}" for note in _notes(table))]
    return "\n".join(lines) + "\n"


def _notes(table: Table) -> tuple[str, ...]:
    return (*table.notes, *((_IMAGE_ERRORS,) if table.has_image_errors else ()))


def _csv_parts(table: Table, position: int) -> list[str]:
    cells = [row[position] for row in table.rows]
    present = [part for part in _CSV_ENDINGS if any(getattr(cell, part) not in (None, "") for cell in cells)]
    return ["value", *(part for part in present if part != "value")]


def _plain(text: str) -> str:
    """Brackets in a value are no rich markup."""
    return _clean(text).replace("[", r"\[")


def _clean(text: str) -> str:
    """No control characters reach the terminal."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", text)


def _escaped(text: str) -> str:
    return re.sub(r"([\\|*`~<>\[\]])", r"\\\1", " ".join(text.split()))


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))
