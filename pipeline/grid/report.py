"""The report of a grid as files: tables, figures, sample sheets and one HTML page, from the store alone."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from pipeline.baselines import BASELINES
from pipeline.config import DataError
from pipeline.evaluate.metric_names import error_name, is_part
from pipeline.grid.overview import resolved_yaml
from pipeline.grid.plan import Plan
from pipeline.grid.records import primary_metric
from pipeline.grid.report_sheets import first_block, first_line, has_images, nearest_sheet, num_shown, preview_of
from pipeline.grid.tables import Group, compared_rows, grid_table, grouped_rows
from pipeline.report.columns import Row, metric_columns
from pipeline.report.distance_nll import distance_nll_figure
from pipeline.report.figure import Figure, by_dataset, distance_metric
from pipeline.report.formats import csv_text, latex_text, markdown_text, terminal_text
from pipeline.report.page import Entry, Page, flat, page_html
from pipeline.report.pareto import pareto_figure
from pipeline.report.slices import Slice, slices, slices_figure
from pipeline.report.table import number, ranked
from pipeline.store import Artifact, Store

INLINE_BYTES = 24_000_000
"""Sample sheets that the page holds at most; beyond, it has the first images of every row only."""

TABLE_WIDTH = 400


def write_report(plan: Plan, store: Store, folder: str | Path, *, each_seed: bool = False) -> Iterator[Path | str]:
    """Write the report of what is finished, and yield each file, and a sentence for each figure that is left out.

    Files: `table.{txt,csv,md,tex}`; `pareto`, `distance_nll` and `slices` as PNG and CSV (one each per data set where
    there are several); `samples/<row>.png`, and `<row>-nearest.png` where copies of training images were looked for;
    `report.html`, which holds all of it.

    Args:
        plan: of the grid.
        store: has the results.
        folder: is made where it is missing; files of an earlier report are replaced.
        each_seed: rows of single seeds in place of means over seeds.

    Raises:
        DataError: no row is finished.
    """
    groups = grouped_rows(plan, store, each_seed=each_seed)
    if not groups:
        raise DataError(f"grid {plan.grid.name}: none of its {len(plan.cells)} rows is finished in this store; run it")
    primary = primary_metric(plan)
    rows = report_rows(groups, primary)
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    table = grid_table(plan, store, each_seed=each_seed)
    texts = {
        "table.txt": terminal_text(table, width=TABLE_WIDTH),
        "table.csv": csv_text(table),
        "table.md": markdown_text(table),
        "table.tex": latex_text(table),
    }
    for name, text in texts.items():
        yield _written(target / name, text.encode())
    figures = report_figures(rows, groups, primary)
    for figure in figures:
        if figure.png is not None:
            yield _written(target / f"{figure.stem}.png", figure.png)
        if figure.csv is not None:
            yield _written(target / f"{figure.stem}.csv", figure.csv.encode())
        if figure.left_out is not None:
            yield f"{figure.stem}.png is left out: {figure.left_out}"
    sheets: dict[str, Artifact] = {}
    for group in groups:
        for row in group.rows:
            block = first_block(row.cell.tasks.samples, store)
            if block is not None:
                sheets[row.cell.name] = block
                yield _written(target / "samples" / f"{_file_name(row.cell.name)}.png", preview_of(block))
    copies: dict[str, bytes] = {}
    for group in groups:
        pairs = group.rows[0].result.row["protocol"].get("memorisation", {}).get("pairs", [])
        picture = nearest_sheet(group.cell, pairs, store)
        if picture is not None:
            copies[group.name] = picture
            yield _written(target / "samples" / f"{_file_name(group.cell.name)}-nearest.png", picture)
    by_name = {group.name: group for group in groups}
    pictures = [preview_of(sheets[group.cell.name]) for group in groups if group.cell.name in sheets]
    inlines = sum(map(len, (*pictures, *copies.values()))) <= INLINE_BYTES
    entries = [_entry(row, by_name[str(row["name"])], sheets, primary, inlines=inlines) for row in rows]
    if inlines:
        entries = [replace(entry, nearest=copies.get(entry.name)) for entry in entries]
    page = Page(
        title=plan.grid.name,
        lead=_lead(plan, groups, primary),
        table=replace(table, notes=tuple(note for note in table.notes if not note.startswith("skipped: "))),
        entries=entries,
        figures=figures,
        skipped=plan.skipped,
        merged=plan.merged,
        texts=_grid_texts(plan),
    )
    yield _written(target / "report.html", page_html(page).encode())


def report_rows(groups: Sequence[Group], primary: str) -> list[Row]:
    """Compared rows in the order of the table, each with `is_control`."""
    controls = {group.name: BASELINES[group.cell.params["baseline"]].control is not None for group in groups}
    rows = [{**row, "is_control": controls[row["name"]]} for row in compared_rows(groups, primary)]
    return ranked(rows, primary)


def report_figures(rows: Sequence[Row], groups: Sequence[Group], primary: str) -> list[Figure]:
    """Pareto front, distance against likelihood, and rows at equal cost."""
    by_name = {group.name: group for group in groups}

    def equal_cost(some: Sequence[Row], stem: str) -> Figure:
        metric = distance_metric(some, primary)
        found = [] if metric is None else [_compared(entry, by_name, metric) for entry in slices(some, metric)]
        return slices_figure(found, stem, metric)

    return [
        *by_dataset(rows, "pareto", lambda some, stem: pareto_figure(some, stem, primary)),
        *by_dataset(rows, "distance_nll", lambda some, stem: distance_nll_figure(some, stem, primary)),
        *by_dataset(rows, "slices", equal_cost),
    ]


def _compared(entry: Slice, by_name: Mapping[str, Group], metric: str) -> Slice:
    """The rows of a slice compared among each other."""
    compared = compared_rows([by_name[str(row["name"])] for row in entry.rows], metric)
    return Slice(
        entry.nfe, tuple({**row, **own, "is_control": False} for row, own in zip(entry.rows, compared, strict=True))
    )


def _lead(plan: Plan, groups: Sequence[Group], primary: str) -> list[str]:
    seeds = plan.grid.seeds
    finished = sum(len(group.rows) for group in groups)
    data = ", ".join(dict.fromkeys(str(cell.params["dataset"]) for cell in plan.cells))
    metrics = ", ".join(plan.grid.evaluate.metrics)
    lead = [
        f"Data set {data}. {finished} of {len(plan.cells)} rows are finished; {len(plan.trainings)} trainings; "
        f"{'seeds' if len(seeds) > 1 else 'seed'} {', '.join(map(str, seeds))}. Sorted by {primary}, smallest first. "
        f"Measured: {metrics}.",
        f"Plan {plan.fingerprint[:12]}. Every number comes from artifacts of the store that are addressed by what they "
        "were made from.",
    ]
    if any(len(group.rows) < group.num_planned for group in groups):
        lead.append("Some means are over fewer seeds than planned: those that are finished.")
    return lead


def _grid_texts(plan: Plan) -> dict[str, str]:
    given = plan.grid.model_dump(mode="json", exclude_unset=True)
    short = yaml.safe_dump(given, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)
    return {"What the file sets": short, "With every default, and the cells": resolved_yaml(plan)}


def _entry(row: Row, group: Group, sheets: Mapping[str, Artifact], primary: str, *, inlines: bool) -> Entry:
    metrics: dict[str, float] = row["metrics"]
    known = [name for name in metric_columns([row], primary) if name in metrics]
    wholes = list(dict.fromkeys([*known, *(name for name in metrics if not is_part(name, metrics))]))
    shown: dict[str, str] = {}
    for name in wholes:
        shown[name] = _value_text(row, name)
        if f"{name}_jk" in metrics:
            shown[f"{name}_jk"] = _value_text(row, f"{name}_jk")
    seeds: list[list[str]] = []
    if len(group.rows) > 1:
        seeds = [["seed", *wholes]]
        for single in group.rows:
            values = single.metrics
            errors = {name: values.get(error_name(name)) for name in wholes}
            texts = [number(values[name], errors[name]) if name in values else "-" for name in wholes]
            seeds.append([str(single.cell.params["seed"]), *texts])
    first = next((single.cell.name for single in group.rows if single.cell.name in sheets), None)
    strip = sheet = None
    caption = ""
    if first is not None:
        block = sheets[first]
        strip = first_line(preview_of(block), num_shown(block), is_image=has_images(block))
        sheet = preview_of(block) if inlines else f"All images: samples/{_file_name(first)}.png"
        caption = f"Samples 0 to {num_shown(block) - 1} of {first}"
    return Entry(
        name=group.name,
        is_control=bool(row["is_control"]),
        shown=f"{primary} {shown[primary]}" if primary in shown else "",
        metrics=shown,
        reasons=row["reasons"],
        protocol=flat(_protocol(row, group)),
        seeds=seeds,
        strip=strip,
        sheet=sheet,
        sheet_caption=caption,
    )


def _value_text(row: Row, name: str) -> str:
    spread: Mapping[str, Any] = row.get("spread", {}).get(name, {})
    value = row["metrics"][name]
    if not spread:
        return number(value, row["metrics"].get(error_name(name)))
    return f"{number(value, spread['sd'])} ({spread['n']} seeds)"


def _protocol(row: Row, group: Group) -> dict[str, Any]:
    """What a number of this row has to be read with: of the measurement, of the training, and where it is stored."""
    protocol = dict(row["protocol"])
    tasks = group.cell.tasks
    if tasks.training is not None:
        identity = tasks.training.spec.identity()
        kept = ("steps", "batch", "optimiser", "lr", "ema", "flips", "dequantise", "precision")
        protocol["training"] = {name: identity["train"][name] for name in kept if name in identity["train"]}
        keys = [row.cell.tasks.training.key.fingerprint[:12] for row in group.rows if row.cell.tasks.training]
        protocol["training"]["artifact"] = keys
    return {**protocol, "artifact": [single.cell.key.fingerprint[:12] for single in group.rows]}


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._=-]+", "_", name)


def _written(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
