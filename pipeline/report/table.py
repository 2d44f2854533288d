"""Result rows as a table: sorted by the primary metric, values with errors, and marks for what cannot be told apart."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.evaluate.metric_names import error_name
from pipeline.report.columns import Row, axis_columns, headings, metric_columns, net_of, nets_of, plain

_ROUNDING = 1e-9
BEST, TIED, UNKNOWN = "*", "~", "?"


@dataclass(frozen=True)
class Cell:
    """One entry: a number with its errors and mark, a text, or nothing with the reason why.

    Attributes:
        value: of one row, or the mean over seeds.
        se: standard error by the images of one row.
        mark: how it compares with the best value of its column.
        reason: why there is no value.
        sd: standard deviation over seeds.
        n: number of seeds behind the value.
        low, high: interval of the mean over seeds.
        p, p_holm: of the difference to the best value, raw and corrected over the column.
    """

    value: float | str | None = None
    se: float | None = None
    mark: str = ""
    reason: str | None = None
    sd: float | None = None
    n: int | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_holm: float | None = None

    @property
    def text(self) -> str:
        """For people: value ± se, or mean ± sd (n); two digits of the error decide how many of the value are shown."""
        if self.value is None:
            return "-"
        if isinstance(self.value, str):
            return self.value
        shown = number(self.value, self.se) if self.n is None else f"{number(self.value, self.sd)} ({self.n})"
        return shown + (f" {self.mark}" if self.mark else "")

    @property
    def detailed_text(self) -> str:
        """`text`, and behind a mean over seeds the error of the images of one row in square brackets."""
        if self.n is None or self.se is None or not isinstance(self.value, float):
            return self.text
        shown = f"{number(self.value, self.sd)} ({self.n}) [{number(self.se, None, digits=2)}]"
        return shown + (f" {self.mark}" if self.mark else "")


@dataclass(frozen=True)
class Table:
    """Columns, what they are called for people, rows of cells in the order of the ranking, and notes for below."""

    columns: tuple[str, ...]
    headings: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()

    @property
    def has_image_errors(self) -> bool:
        """Whether some cell has both a scatter over seeds and an error by its images."""
        return any(cell.n is not None and cell.se is not None for row in self.rows for cell in row)


def result_table(
    rows: Sequence[Row], primary: str, *, skipped: Sequence[tuple[str, str]] = (), columns: Sequence[str] = ()
) -> Table:
    """The table of a grid.

    Args:
        rows: result rows in any order.
        primary: the metric to sort by, lowest first; rows without it come last.
        skipped: combinations that were not run, each with its reason; they become notes.
        columns: metrics to show; by default those that some row has, and the axes that tell rows apart.
    """
    ordered = ranked(rows, primary)
    axes = axis_columns(ordered)
    metrics = tuple(columns) or metric_columns(ordered, primary)
    shows_counts = len({str(row["protocol"].get("num_images")) for row in ordered} - {"None"}) > 1
    if shows_counts and not columns and any(f"{primary}_jk" in row["metrics"] for row in ordered):
        metrics = (primary, f"{primary}_jk", *metrics[1:])
    reasons: dict[str, str] = {}
    compared = {metric for row in ordered for metric in row.get("comparison", {})}
    body = []
    for row in ordered:
        cells = [Cell(plain(row["axes"].get(axis))) for axis in axes]
        cells += [_metric_cell(row, metric, reasons, compared) for metric in metrics]
        if shows_counts:
            cells.append(_count_cell(row["protocol"].get("num_images")))
        body.append(tuple(cells))
    notes = [*_notes(body), *_name_notes(ordered, metrics, primary)]
    notes += [f"no {metric}: {reason}" for reason, metric in reasons.items()]
    notes += dict.fromkeys(row["reasons"]["num_images"] for row in ordered if "num_images" in row["reasons"])
    if shows_counts:
        notes.append(
            "rows differ in their number of images: distances have a bias of order 1/images; jk is without most of it"
        )
    notes += [f"skipped: {label}: {reason}" for label, reason in skipped]
    names = (*axes, *metrics, *(("images",) if shows_counts else ()))
    return Table(names, headings(names, nets_of(ordered, metrics)), tuple(body), tuple(notes))


def ranked(rows: Sequence[Row], primary: str) -> list[Row]:
    """Rows by the primary metric, smallest first; those without it come last."""

    def rank(row: Row) -> tuple[bool, float, str]:
        value = row["metrics"].get(primary)
        return value is None, 0.0 if value is None else float(value), str(sorted(row["axes"].items(), key=str))

    return sorted(rows, key=rank)


def _metric_cell(row: Row, metric: str, reasons: dict[str, str], compared: Collection[str]) -> Cell:
    value = row["metrics"].get(metric)
    if value is None:
        reason = row["reasons"].get(metric)
        if reason is not None:
            reasons.setdefault(reason, metric)
        return Cell(reason=reason)
    spread: Mapping[str, Any] = row.get("spread", {}).get(metric, {})
    entry: Mapping[str, Any] = row.get("comparison", {}).get(metric, {})
    mark = UNKNOWN if metric in compared else ""
    if entry:
        mark = BEST if entry["best"] else "" if entry["significant"] else TIED
    return Cell(
        float(value),
        row["metrics"].get(error_name(metric)),
        mark,
        **{name: spread.get(name) for name in ("sd", "n", "low", "high")},
        **{name: entry.get(name) for name in ("p", "p_holm")},
    )


def _count_cell(count: Any) -> Cell:
    """Number of images; of seeds that differ in it, all numbers as text."""
    return Cell(plain(count) if isinstance(count, list) else count)


def _notes(body: Sequence[Sequence[Cell]]) -> list[str]:
    """What marks and errors mean, as far as they occur."""
    cells = [cell for row in body for cell in row]
    marks = {cell.mark for cell in cells}
    over_seeds = any(cell.n is not None for cell in cells)
    notes = []
    if marks & {BEST, TIED}:
        notes.append(
            f"{BEST} best model; {TIED} cannot be told from it (5% level, paired differences where rows share images, "
            f"corrected by Holm over each column{', and the scatter over seeds' if over_seeds else ''})"
        )
    if UNKNOWN in marks:
        notes.append(f"{UNKNOWN} not compared with the best: the error of the difference is not known")
    if over_seeds:
        notes.append("mean ± standard deviation over seeds (their number); without a number: value ± standard error")
    return notes


def _name_notes(rows: Sequence[Row], metrics: Sequence[str], primary: str) -> list[str]:
    """Which features short headings stand for, and what sorts a table without `fid`."""
    nets = nets_of(rows, metrics)
    notes = []
    for net in nets:
        shown = zip(headings(metrics, nets), metrics, strict=True)
        short = [
            name
            for name, metric in shown
            if name != metric and net in (net_of(metric, nets), metric.removesuffix("_jk"))
        ]
        if short:
            notes.append(f"{', '.join(short)}: features of {net}")
    if primary != "fid" and rows and not any("fid" in row["metrics"] for row in rows):
        notes.append(f"sorted by {primary}: fid is not measured in these rows")
    return notes


def number(value: float, error: float | None, *, digits: int = 4) -> str:
    """A value with as many digits as its error supports, and the error; without one, so many significant digits."""
    if error is None or not error > _ROUNDING * abs(value):  # images that are all alike leave nothing but rounding
        if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e9):
            return str(int(value))
        return f"{value:.{digits}g}"
    places = max(0, -_exponent(error) + 1)
    return f"{value:.{places}f} ± {error:.{places}f}"


def _exponent(value: float) -> int:
    """Decimal exponent of a positive number after rounding to two digits."""
    return int(f"{value:.1e}".split("e")[1])
