"""Which columns a result table has, in which order, and what they are called."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.evaluate.metric_names import is_distance, is_part

Row = Mapping[str, Any]
"""{axes, metrics, reasons, protocol} of the result stage; `comparison` where rows were compared; `spread` and `seeds`
where a row stands for several seeds."""

LEADING_AXES = ("dataset", "baseline")

FAMILIES = (
    "fid",
    "clean_fid",
    "fd",
    "elbo_bpd",
    "prior_kl_bpd",
    "nll_bpd",
    "vlb_bpd",
    "kid",
    "cmmd",
    "precision",
    "recall",
    "density",
    "coverage",
    "inception_score",
    "memorisation_ratio",
    "memorised_share",
    "num_copies",
    "pairwise_ratio",
    "class_share_min",
    "class_accuracy",
    "w2",
    "sliced_w2",
    "energy_distance",
    "nfe",
)
"""Metrics in the order of their columns; a family is one name and every name that goes on behind it after `_`."""

_OF_A_CLASS = re.compile(r"_class_?\d+$")


def axis_columns(rows: Sequence[Row]) -> tuple[str, ...]:
    """Axes that tell rows apart, the data set and the baseline first; a lone row shows its baseline."""
    names = dict.fromkeys((*LEADING_AXES, *(name for row in rows for name in row["axes"])))
    values = {name: {plain(row["axes"].get(name)) for row in rows} for name in names}
    return tuple(name for name in names if len(values[name]) > 1 or (name == "baseline" and values[name] != {""}))


def metric_columns(rows: Sequence[Row], primary: str) -> tuple[str, ...]:
    """Primary first, then the known families in order; parts of an error and values of one class are no columns."""
    present = dict.fromkeys(name for row in rows for name in (*row["metrics"], *row["reasons"]))
    wholes = [name for name in present if not is_part(name, present) and not _OF_A_CLASS.search(name)]
    chosen = [primary]
    for family in FAMILIES:
        chosen += [name for name in wholes if name == family or name.startswith(f"{family}_")]
    return tuple(dict.fromkeys(chosen))


def headings(columns: Sequence[str], nets: Sequence[str]) -> tuple[str, ...]:
    """Columns for people: a feature net that a note names is left out of all but the distance itself.

    Args:
        columns: full names.
        nets: distances whose nets may be left out, such as fd_clf_digits.
    """
    short = [_short(column, nets) for column in columns]
    return tuple(name if short.count(name) == 1 else column for name, column in zip(short, columns, strict=True))


def nets_of(rows: Sequence[Row], columns: Sequence[str]) -> tuple[str, ...]:
    """Distances that are named by the rows' protocols or by the columns, and that other metrics are named after."""
    named = [row["protocol"].get("net") for row in rows]
    named += [column.removesuffix("_jk") for column in columns if is_distance(column)]
    return tuple(dict.fromkeys(net for net in named if isinstance(net, str) and net.startswith("fd_")))


def net_of(column: str, nets: Sequence[str]) -> str | None:
    """The distance whose features a column was measured in, or None where its name does not say."""
    return next((net for net in nets if column.endswith(f"_{net.removeprefix('fd_')}") and column != net), None)


def _short(column: str, nets: Sequence[str]) -> str:
    if is_distance(column):
        return "jk" if column.endswith("_jk") else column
    net = net_of(column, nets)
    return column if net is None else column.removesuffix(f"_{net.removeprefix('fd_')}")


def plain(value: Any) -> str:
    """An axis value as text: mappings by their kind and remaining fields."""
    if value is None:
        return ""
    if isinstance(value, Mapping):
        rest = [f"{key}={plain(item)}" for key, item in value.items() if key not in ("kind", "preset")]
        return " ".join([str(value.get("preset", value.get("kind", "custom"))), *rest])
    if isinstance(value, list | tuple):
        return ",".join(plain(item) for item in value)
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)
