"""A figure of a report with its numbers, and result rows as marks in it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.evaluate.metric_names import error_name, is_divergence, is_part
from pipeline.report.columns import Row, plain

LIKELIHOODS = ("nll_bpd", "vlb_bpd", "elbo_bpd")
"""What stands for the likelihood, the first of these that is measured."""

_DISTANCES = ("fid", "clean_fid", "fd_", "")

HOW_SAMPLED = ("sampler", "steps", "log_snr_step", "latents", "dataset")
"""Axes that do not tell models apart."""


@dataclass(frozen=True)
class Figure:
    """One figure of a report.

    Attributes:
        stem: of its files.
        title: headline.
        caption: what is seen.
        png: the picture; None where it is left out.
        csv: its numbers.
        left_out: the sentence why there is no picture.
        highlights: rows of `csv` to be read beside the picture, headings first.
    """

    stem: str
    title: str
    caption: str = ""
    png: bytes | None = None
    csv: str | None = None
    left_out: str | None = None
    highlights: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Mark:
    """A result row in a chart: position, half lengths of its error bars, and what tells it apart.

    Attributes:
        name: of the row.
        series: the model without its sampler, in words.
        family: its baseline.
        sampler: kind of its sampler, or nothing.
        x, y: position.
        x_error, y_error: standard deviation over seeds, else standard error, else 0.
        is_control: a row that is no trained system.
    """

    name: str
    series: str
    family: str
    sampler: str
    x: float
    y: float
    x_error: float = 0.0
    y_error: float = 0.0
    is_control: bool = False


def marks(rows: Sequence[Row], x: str, y: str) -> list[Mark]:
    """Rows that have both metrics, as marks."""
    words = series_words(rows)
    return [
        Mark(
            name=str(row["name"]),
            series=words[i],
            family=plain(row["axes"].get("baseline")),
            sampler=plain(row["axes"].get("sampler")),
            x=float(row["metrics"][x]),
            y=float(row["metrics"][y]),
            x_error=error_of(row, x),
            y_error=error_of(row, y),
            is_control=bool(row["is_control"]),
        )
        for i, row in enumerate(rows)
        if x in row["metrics"] and y in row["metrics"]
    ]


def error_of(row: Row, metric: str) -> float:
    """Half length of an error bar: the standard deviation over seeds, else the standard error, else 0."""
    spread: Mapping[str, Any] = row.get("spread", {}).get(metric, {})
    return float(spread.get("sd") or row["metrics"].get(error_name(metric)) or 0.0)


def series_words(rows: Sequence[Row]) -> list[str]:
    """The model of each row in words: its baseline, and the axes in which the models of that baseline differ."""
    values: dict[tuple[str, str], set[str]] = {}
    names = dict.fromkeys(name for row in rows for name in row["axes"])
    for row in rows:
        for name in names:
            values.setdefault((plain(row["axes"].get("baseline")), name), set()).add(plain(row["axes"].get(name)))
    found: list[str] = []
    for row in rows:
        baseline = plain(row["axes"].get("baseline"))
        words = [baseline]
        for name, value in row["axes"].items():
            if name not in ("baseline", *HOW_SAMPLED) and len(values[baseline, name]) > 1:
                words.append(f"{name}={value:g}" if isinstance(value, int | float) else plain(value))
        found.append(" ".join(word for word in words if word))
    return found


def distance_metric(rows: Sequence[Row], primary: str) -> str | None:
    """What a figure draws as the distance; None where no model has one.

    `fid`, else the primary metric unless it is a likelihood, else `fid` at another number of images, `clean_fid`, a
    distance of another net, and any other divergence.
    """
    present = dict.fromkeys(name for row in rows if not row["is_control"] for name in row["metrics"])
    divergences = [name for name in present if is_divergence(name) and not is_part(name, present)]
    divergences.sort(key=lambda name: next(i for i, start in enumerate(_DISTANCES) if name.startswith(start)))
    preferred = ("fid", *(() if primary.endswith("_bpd") else (primary,)), *divergences)
    return next((name for name in preferred if name in present), None)


def likelihood_metric(rows: Sequence[Row]) -> str | None:
    """The likelihood that most of `LIKELIHOODS` prefers among those that some model has."""
    return next((name for name in LIKELIHOODS if any(name in r["metrics"] and not r["is_control"] for r in rows)), None)


def by_dataset(rows: Sequence[Row], stem: str, draw: Callable[[Sequence[Row], str], Figure]) -> list[Figure]:
    """One figure per data set: values of different data sets are never drawn together."""
    names = dict.fromkeys(plain(row["axes"].get("dataset")) for row in rows)
    if len(names) == 1:
        return [draw(rows, stem)]
    return [draw([r for r in rows if plain(r["axes"].get("dataset")) == name], f"{stem}-{name}") for name in names]


def error_caption(rows: Sequence[Row], *metrics: str) -> str:
    """What the bars of a figure are."""
    if any(metric in row.get("spread", {}) for row in rows for metric in metrics):
        return "Bars: one standard deviation over seeds; one standard error where there is one seed."
    return "Bars: one standard error."
