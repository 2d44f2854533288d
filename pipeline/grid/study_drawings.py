"""The figures of a GUD study, each drawn as soon as the store has what it shows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.diffusion.processes import SpectralSpec
from pipeline.diffusion.schedules.gud import GudSpec
from pipeline.grid.plan import Cell, Plan
from pipeline.grid.records import finished_rows
from pipeline.grid.study_gaps import gaps
from pipeline.grid.study_points import (
    Family,
    StudyPoint,
    evaluated_system,
    softness_curves,
    softness_panels,
    study_points,
)
from pipeline.grid.study_schedules import (
    Data,
    Ends,
    Spec,
    paper_cases,
    schedule_drawing,
    sheet_drawing,
    stem,
    strip_drawing,
)
from pipeline.report.gud_curves import STANDARD_A, Curve, softness_chart
from pipeline.report.gud_drawing import Drawing
from pipeline.report.gud_gap import NATS_PER_BIT, gap_chart, gap_table
from pipeline.report.gud_maps import MapPanel, softness_maps
from pipeline.store import Store

FAMILIES: tuple[Family, ...] = ("nll", "elbo", "fd")
SEQUENTIAL = ("columns", "haar_columns")
_WORDS = {"nll": "NLL", "elbo": "bound on the NLL", "fd": "feature distance"}


def study_drawings(plan: Plan, store: Store) -> Iterator[Drawing]:
    """Schedules, strips, curves, maps and the amortisation gap of a grid's GUD rows, as far as they exist."""
    cells = [cell for cell in plan.cells if _process(cell) is not None]
    finished = {row.cell.key: row.result for row in finished_rows(plan, store)}
    points = study_points((cell, finished.get(cell.key)) for cell in cells)
    names = list(dict.fromkeys(str(cell.params["dataset"]) for cell in cells))
    for name in names:
        own = [cell for cell in cells if cell.params["dataset"] == name]
        of_name = [point for point in points if point.settings["dataset"] == name]
        for drawing in chain(_schedules(own, store), metric_drawings(of_name, name)):
            yield replace(drawing, stem=f"{drawing.stem}-{name}") if len(names) > 1 else drawing


def metric_drawings(points: Sequence[StudyPoint], dataset: str) -> Iterator[Drawing]:
    """Curves and maps of every metric, and the amortisation gap, of one data set's points."""
    for family in FAMILIES:
        ordering_r, curves = softness_curves(points, family)
        if curves:
            yield _curve_drawing(curves, ordering_r, family, dataset)
    for family in FAMILIES:
        panels = softness_panels(points, family)
        if panels:
            yield _map_drawing(panels, points, family, dataset)
    yield from _gap_drawing(points, dataset)


def bars(counts: NDArray[np.int64]) -> str:
    """What error bars are, given the number of trainings behind every value."""
    several, single = counts[counts > 1], bool((counts == 1).any())
    if several.size == 0:
        return "Error bars: sampling error of a point's one row."
    many = f"{several.min()}" if several.min() == several.max() else f"{several.min()} to {several.max()}"
    text = f"Error bars: standard deviation of the mean over trainings ({many} per point)"
    return f"{text}; open marks: one training, sampling error of its row." if single else f"{text}."


def _curve_drawing(curves: Sequence[Curve], ordering_r: float, family: Family, dataset: str) -> Drawing:
    counts = np.concatenate([curve.num_seeds for curve in curves])
    png = softness_chart(
        curves,
        ylabel=f"{_metric_label(family, dataset)}, lower is better",
        title=f"{dataset}: {_WORDS[family]} against softness",
        caption=f"{bars(counts)} ordering_r = {ordering_r:g}.",
    )
    arrays: dict[str, NDArray[Any]] = {
        "label": np.array([curve.label for curve in curves]),
        "curve": np.concatenate([np.full(len(curve.softness_a), i) for i, curve in enumerate(curves)]),
        "softness_a": np.concatenate([curve.softness_a for curve in curves]),
        "value": np.concatenate([curve.values for curve in curves]),
        "error": np.concatenate([curve.errors for curve in curves]),
        "num_seeds": counts,
        "is_standard": np.concatenate([curve.standard for curve in curves]),
        "ordering_r": np.array(ordering_r),
    }
    return Drawing(f"softness-{family}", png, arrays)


def _map_drawing(panels: Sequence[MapPanel], points: Sequence[StudyPoint], family: Family, dataset: str) -> Drawing:
    seeds = {point.seed for point in points if point.value(family) is not None}
    caption = f"Means over {len(seeds)} trainings per point." if len(seeds) > 1 else "One training per map."
    png = softness_maps(
        panels,
        label=f"{_metric_label(family, dataset)}, lower is better",
        unit="" if family == "fd" else "bits/dim",
        title=f"{dataset}: {_WORDS[family]} over softness and ordering",
        caption=f"{caption} Below: the box, in the same colours.",
    )
    arrays: dict[str, NDArray[Any]] = {"label": np.array([panel.label for panel in panels])}
    for i, panel in enumerate(panels):
        for part, lattice in (("map", panel.coarse), ("fine", panel.fine)):
            if lattice is None:
                continue
            arrays |= {f"{part}_{i}_softness_a": lattice.softness_a, f"{part}_{i}_ordering_r": lattice.ordering_r}
            arrays |= {f"{part}_{i}_value": lattice.values, f"{part}_{i}_state": lattice.states}
        zoom = panel.zoom()
        arrays[f"best_{i}"] = np.array(panel.best() or (np.nan, np.nan, np.nan))
        arrays[f"box_{i}"] = np.array((np.nan,) * 4 if zoom is None else zoom.box)
    return Drawing(f"map-{family}", png, arrays)


def _gap_drawing(points: Sequence[StudyPoint], dataset: str) -> Iterator[Drawing]:
    found = gaps(points)
    if not found:
        return
    counts = np.array([gap.num_seeds for gap in found if gap.seed is None])
    about = "Error bars: standard error of the mean over images."
    if counts.max() > 1:
        about = "Error bars: standard deviation of the mean over trainings; small marks: single trainings."
    caption = f"Paired image by image, same seed; positive: one network for all points is worse. {about}"
    png = gap_chart(found, title=f"{dataset}: amortisation gap", caption=caption)
    columns = ("task", "budget", "metric", "softness_a", "ordering_r", "num_images", "num_seeds")
    arrays: dict[str, NDArray[Any]] = {name: np.array([getattr(gap, name) for gap in found]) for name in columns}
    arrays["seed"] = np.array([-1 if gap.seed is None else gap.seed for gap in found])
    for name, values in (("difference", [g.difference for g in found]), ("se", [g.se for g in found])):
        arrays[f"{name}_bits_per_dim"] = np.array(values)
        arrays[f"{name}_nats_per_dim"] = NATS_PER_BIT * np.array(values)
    yield Drawing("amortisation-gap", png, arrays, {".md": gap_table(found)})


def _metric_label(family: Family, dataset: str) -> str:
    return {"nll": "NLL, bits/dim", "elbo": "bound on the NLL, bits/dim", "fd": f"FD (fd_clf_{dataset})"}[family]


def _schedules(cells: Sequence[Cell], store: Store) -> Iterator[Drawing]:
    """Pictures of the schedules themselves; nothing before the statistics are in the store."""
    statistics = store.find(cells[0].tasks.statistics.key)
    dataset = store.find(cells[0].tasks.dataset.key)
    if statistics is None or dataset is None:
        return
    data = Data(str(cells[0].params["dataset"]), statistics, tuple(dataset.meta["shape"]), dataset)
    specs = list({stem(spec): spec for cell in cells if (spec := _process(cell)) is not None}.values())
    linear = [spec for spec in specs if spec["schedule"]["kind"] == "gud"]
    sequential = [spec for spec in specs if spec["schedule"]["kind"] in SEQUENTIAL]
    ends = Ends()
    if linear:
        ends = Ends(**{name: linear[0]["schedule"][name] for name in ("log_snr_data", "log_snr_prior")})
    bases = dict.fromkeys(spec["basis"] for spec in linear)
    cases = {stem(spec): (case, spec) for basis in bases for case, spec in paper_cases(basis, ends)}
    cases |= {stem(spec): ("", spec) for spec in (*_few(linear), *sequential) if stem(spec) not in cases}
    for case, spec in cases.values():
        yield schedule_drawing(data, spec, case=case)
    yield sheet_drawing(data, ends, sequential)
    strips = strip_drawing(data, ends, basis="fourier" if "fourier" in bases else "dct", own=sequential)
    if strips is not None:
        yield strips


def _process(cell: Cell) -> Spec | None:
    """Tree of a cell's process, where it is one of the schedules that a study is about."""
    system = evaluated_system(cell)
    process = None if system is None else system.process
    if not isinstance(process, SpectralSpec):
        return None
    is_wanted = isinstance(process.schedule, GudSpec) or getattr(process.schedule, "kind", "") in SEQUENTIAL
    return process.model_dump(mode="json") if is_wanted else None


def _few(specs: Sequence[Spec]) -> Iterator[Spec]:
    """Of processes that differ in their point alone: the smallest, the standard and the largest softness_a at the
    smallest ordering_r, and the largest ordering_r at the softness_a next to standard."""
    families: dict[str, list[Spec]] = {}
    for spec in specs:
        families.setdefault(stem(_at(spec, 0.0, 0.0)), []).append(spec)
    for family in families.values():
        places = sorted({_place(spec) for spec in family}, key=lambda place: (place[1], place[0]))
        row = [place for place in places if place[1] == places[0][1]]
        last = [place for place in places if place[1] == places[-1][1]]
        chosen = [row[0], row[-1], *(place for place in row if place[0] == STANDARD_A)]
        chosen.append(min(last, key=lambda place: abs(place[0] - STANDARD_A)))
        for a, r in sorted(set(chosen)):
            yield _at(family[0], a, r)


def _place(spec: Spec) -> tuple[float, float]:
    schedule: Mapping[str, Any] = spec["schedule"]
    return schedule["softness_a"], schedule["ordering_r"]


def _at(spec: Spec, a: float, r: float) -> Spec:
    return {**spec, "schedule": {**spec["schedule"], "softness_a": a, "ordering_r": r}}
