"""Result rows as a table: sorted by the primary metric, values with errors, and marks for what cannot be told apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]
"""{axes, metrics, reasons, protocol} of the result stage, and `comparison` where rows were compared."""

LEADING_AXES = ("dataset", "baseline")
FAMILIES = (
    "elbo_bpd",
    "prior_kl_bpd",
    "nll_bpd",
    "kid",
    "precision",
    "recall",
    "pairwise_ratio",
    "class_share_min",
    "w2",
    "nfe",
)
_ROUNDING = 1e-9
BEST, TIED = "*", "~"


@dataclass(frozen=True)
class Cell:
    """One entry: a number with its standard error and mark, a text, or nothing with the reason why."""

    value: float | str | None = None
    se: float | None = None
    mark: str = ""
    reason: str | None = None

    @property
    def text(self) -> str:
        """The entry for people: two digits of the error decide how many of the value are shown."""
        if self.value is None:
            return "-"
        if isinstance(self.value, str):
            return self.value
        return _number(self.value, self.se) + (f" {self.mark}" if self.mark else "")


@dataclass(frozen=True)
class Table:
    """Columns, rows of cells in the order of the ranking, and notes to be printed below."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()

    @property
    def headings(self) -> tuple[str, ...]:
        """Columns for people: the feature net, which a note names, is left out of all but the distance itself."""
        return tuple(_heading(column) for column in self.columns)


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
    ordered = sorted(rows, key=lambda row: _rank(row, primary))
    axes = _axes(ordered)
    metrics = tuple(columns) or _metrics(ordered, primary)
    counts = {row["protocol"].get("num_images") for row in ordered} - {None}
    shows_counts = len(counts) > 1
    if shows_counts and not columns and any(f"{primary}_jk" in row["metrics"] for row in ordered):
        metrics = (primary, f"{primary}_jk", *metrics[1:])
    reasons: dict[str, str] = {}
    body = []
    for row in ordered:
        cells = [_axis_cell(row["axes"].get(axis)) for axis in axes]
        cells += [_metric_cell(row, metric, reasons) for metric in metrics]
        if shows_counts:
            cells.append(Cell(row["protocol"].get("num_images")))
        body.append(tuple(cells))
    notes = _notes(ordered, metrics, reasons)
    if shows_counts:
        notes.append(
            "rows differ in their number of images: distances have a bias of order 1/images; jk is without most of it"
        )
    notes += [f"skipped: {label}: {reason}" for label, reason in skipped]
    names = (*axes, *metrics, *(("images",) if shows_counts else ()))
    return Table(names, tuple(body), tuple(notes))


def _rank(row: Row, primary: str) -> tuple[bool, float, str]:
    value = row["metrics"].get(primary)
    return value is None, 0.0 if value is None else float(value), str(sorted(row["axes"].items(), key=str))


def _axes(rows: Sequence[Row]) -> tuple[str, ...]:
    """Axes that tell rows apart, the data set and the baseline first; a lone row shows its baseline."""
    names = dict.fromkeys((*LEADING_AXES, *(name for row in rows for name in row["axes"])))
    values = {name: {_plain(row["axes"].get(name)) for row in rows} for name in names}
    return tuple(name for name in names if len(values[name]) > 1 or (name == "baseline" and values[name] != {""}))


def _metrics(rows: Sequence[Row], primary: str) -> tuple[str, ...]:
    """Primary first, then the known families in order; parts of an error (_se, _jk, _low, _high) are no columns."""
    present = dict.fromkeys(name for row in rows for name in (*row["metrics"], *row["reasons"]))
    chosen = [primary]
    for family in FAMILIES:
        chosen += [name for name in present if name == family or name.startswith(f"{family}_clf_")]
    return tuple(dict.fromkeys(chosen))


def _axis_cell(value: Any) -> Cell:
    if value is None:
        return Cell("")
    return Cell(_plain(value))


def _metric_cell(row: Row, metric: str, reasons: dict[str, str]) -> Cell:
    value = row["metrics"].get(metric)
    if value is None:
        reason = row["reasons"].get(metric)
        if reason is not None:
            reasons.setdefault(reason, metric)
        return Cell(reason=reason)
    se = row["metrics"].get(f"{metric.removesuffix('_bpd').removesuffix('_jk')}_se")
    compared = row.get("comparison", {}).get(metric)
    mark = ""
    if compared is not None:
        mark = BEST if compared["best"] else "" if compared["significant"] else TIED
    return Cell(float(value), se, mark)


def _notes(rows: Sequence[Row], metrics: Sequence[str], reasons: Mapping[str, str]) -> list[str]:
    notes = []
    if any(metric in row.get("comparison", {}) for row in rows for metric in metrics):
        notes.append(f"{BEST} best model; {TIED} cannot be told from it (95% interval of the difference, paired)")
    shortened = [_heading(metric) for metric in metrics if _heading(metric) != metric]
    nets = dict.fromkeys(net for row in rows if (net := row["protocol"].get("net")) is not None)
    if shortened:
        notes.append(f"{', '.join(shortened)}: features of {' and '.join(nets)}")
    notes += [f"no {metric}: {reason}" for reason, metric in reasons.items()]
    notes += dict.fromkeys(row["reasons"]["num_images"] for row in rows if "num_images" in row["reasons"])
    return notes


def _heading(column: str) -> str:
    family, _, rest = column.partition("_clf_")
    if family == "fd":
        return "jk" if rest.endswith("_jk") else column
    return family


def _plain(value: Any) -> str:
    """An axis value as text: mappings by their kind and remaining fields."""
    if value is None:
        return ""
    if isinstance(value, Mapping):
        rest = [f"{key}={_plain(item)}" for key, item in value.items() if key not in ("kind", "preset")]
        return " ".join([str(value.get("preset", value.get("kind", "custom"))), *rest])
    if isinstance(value, list | tuple):
        return ",".join(_plain(item) for item in value)
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def _number(value: float, se: float | None) -> str:
    if se is None or not se > _ROUNDING * abs(value):  # images that are all alike leave nothing but rounding
        if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e9):
            return str(int(value))
        return f"{value:.4g}"
    digits = max(0, -_exponent(se) + 1)
    return f"{value:.{digits}f} ± {se:.{digits}f}"


def _exponent(value: float) -> int:
    """Decimal exponent of a positive number after rounding to two digits."""
    return int(f"{value:.1e}".split("e")[1])
