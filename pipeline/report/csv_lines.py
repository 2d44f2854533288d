"""Values as CSV that keeps every digit and runs no formula."""

import csv
import io
from collections.abc import Iterable
from typing import Any


def csv_of(lines: Iterable[Iterable[Any]]) -> str:
    """Lines as CSV in full precision, nothing for None.

    Texts that a spreadsheet would take for a formula are quoted with an apostrophe.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows([[_harmless(value) for value in line] for line in lines])
    return buffer.getvalue()


def _harmless(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return f"'{value}" if value[:1] in ("=", "+", "-", "@", "\t", "\r", "\n") else value
    return repr(value)
