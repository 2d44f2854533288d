"""What a reader sees on opening the link: the shared view of the runs table and the note above it.

The shared view is the browser application's own state, stored in an experiment tag; it is no public interface of
MLflow, so its version is pinned and `tests/e2e/test_tracking_page.py` looks at the page.
"""

import json
import math
from collections.abc import Collection, Mapping, Sequence

from pipeline.tracking.target import RESULTS_VIEW, TRAININGS_VIEW, fragment

VIEW_TAG = "mlflow.sharedViewState."
NOTE_TAG = "mlflow.note.content"
KIND_TAG = "mlflow.experimentKind"  # without it the page asks the reader what kind of experiment this is
EXPERIMENT_KIND = "custom_model_development"
MAX_NOTE_ROWS = 20
RUN_NAME, CREATED, DURATION = "attributes.`Run Name`", "runDateAndNestInfo", "duration"  # the page's own columns
WIDTHS = {RUN_NAME: 260, CREATED: 144, DURATION: 80}  # pixels
NARROWEST, WIDEST = 80, 130


def width(column: str) -> int:
    """Pixels that show the column's name, within limits; with the page's defaults only five columns fit."""
    name = column.partition(".")[2]
    return min(max(NARROWEST, 7 * len(name) + 16), WIDEST)


def column_id(column: str, metrics: Collection[str]) -> str:
    """The page's own name of a column: metrics.`fid` or params.`schedule`; a prefix in the request wins."""
    for group in ("metrics", "params", "tags", "attributes"):
        if column.startswith(f"{group}."):
            return f"{group}.`{column.removeprefix(f'{group}.')}`"
    return f"{'metrics' if column in metrics else 'params'}.`{column}`"


def view_state(columns: Sequence[str], *, metrics: Collection[str], primary: str, ascending: bool, kind: str) -> str:
    """JSON of the runs table: the columns, sorted by `primary`, runs of one kind only."""
    selected = [column_id(column, metrics) for column in columns]
    return json.dumps(
        {
            "searchFilter": f"tags.kind = '{kind}'",
            "orderByKey": f"metrics.`{primary}`",
            "orderByAsc": ascending,
            "startTime": "ALL",
            "lifecycleFilter": "Active",
            "datasetsFilter": [],
            "modelVersionFilter": "All Runs",
            "selectedColumns": selected,
            "columnOrder": [RUN_NAME, CREATED, *selected, DURATION],
            "columnWidths": {**WIDTHS, **{column: width(column) for column in selected}},
            "runsExpanded": {},
            "runsPinned": [],
            "runsHidden": [],
            "runsHiddenMode": "FIRST_10_RUNS",
            "runsVisibilityMap": {},
            "groupBy": None,
            "groupsExpanded": {},
            "useGroupedValuesInCharts": True,
            "hideEmptyCharts": True,
            "viewMaximized": False,
            "runListHidden": False,
            "isAccordionReordered": False,
            "autoRefreshEnabled": True,
            "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
        },
        sort_keys=True,
    )


def cell(value: object) -> str:
    """One cell of the note: short numbers, no character that would end the cell or start markup."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else str(value)
    text = " ".join(str(value).split())
    return "".join(f"\\{letter}" if letter in "\\|`*_<>[]" else letter for letter in text)


def note(grid_name: str, rows: Sequence[Mapping[str, object]], *, experiment_id: str, primary: str) -> str:
    """Markdown above the runs: the best rows in the order given, and links to both views."""
    lines = [
        f"[Result table]({fragment(experiment_id, RESULTS_VIEW)}) | "
        f"[trainings]({fragment(experiment_id, TRAININGS_VIEW)}) | {cell(grid_name)}, sorted by {cell(primary)}",
    ]
    if rows:
        names = list(dict.fromkeys(name for row in rows for name in row))
        best = ", ".join(cell(value) for value in [next(iter(rows[0].values()), None), rows[0].get(primary)] if value)
        lines[0] = f"Best: {best} | {lines[0]}"
        lines += ["", "| " + " | ".join(map(cell, names)) + " |", "|" + "---|" * len(names)]
        lines += ["| " + " | ".join(cell(row.get(name)) for name in names) + " |" for row in rows[:MAX_NOTE_ROWS]]
        if len(rows) > MAX_NOTE_ROWS:
            lines += ["", f"{len(rows) - MAX_NOTE_ROWS} more rows below."]
    return "\n".join(lines)
