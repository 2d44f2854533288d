"""Rows of a GUD study as points (softness_a, ordering_r), and the curves and maps that they make."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pipeline.baselines.system import SystemSpec
from pipeline.diffusion.processes import SpectralSpec
from pipeline.diffusion.schedules.gud import GudSpec
from pipeline.evaluate.comparison import Result
from pipeline.grid.plan import Cell
from pipeline.report.gud_curves import Curve
from pipeline.report.gud_maps import Lattice, MapPanel, State

Family = Literal["nll", "elbo", "fd"]
Place = tuple[float, float]
"""softness_a and ordering_r."""
Settings = tuple[tuple[str, str], ...]

OF_TRAINING = ("training", "amortise")
"""Settings that say how a network was trained, as overrides of `train` do; all others say what it is asked to do."""
NAMES = {"pca": "PCA", "dct": "DCT", "fourier": "Fourier", "haar": "Haar", "pixel": "pixel"}
TRAININGS = {"amortised": "amortised", "per_cell": "own network", "oracle": "exact predictor"}
COARSE_SHARE = 0.5
"""A value whose points reach over less than this of the other axis belongs to a finer set inside a box."""
_DIGITS = 9


@dataclass(frozen=True, eq=False)
class StudyPoint:
    """One row: a point, a seed, how its network was trained, and what was measured.

    Attributes:
        settings: what else decides the row, by name, without the sampler; `dataset`, `basis`, `prior` and `training`
            (`amortised`, `per_cell` or `oracle`) are always there.
        sampler: in short; likelihoods do not depend on it.
        place: softness_a and ordering_r.
        seed: of training and sampling.
        images: that the training passed, steps x batch; None without a training.
        result: what was measured, or None where nothing is finished.
    """

    settings: Mapping[str, str]
    sampler: str
    place: Place
    seed: int
    images: int | None = None
    result: Result | None = None

    @property
    def metrics(self) -> Mapping[str, float]:
        """Empty where nothing is finished."""
        return {} if self.result is None else self.result.row["metrics"]

    @property
    def task(self) -> Settings:
        """The settings that do not say how the network was trained: rows that share them can be compared."""
        return _of_task(tuple(self.settings.items()))

    def series(self, family: Family) -> Settings:
        """What rows of one curve or map share."""
        sampler = (("sampler", self.sampler),) if family == "fd" else ()
        return (*self.settings.items(), *sampler)

    def value(self, family: Family) -> tuple[float, float] | None:
        """The metric and its standard error (NaN without one); bits/dim for likelihoods."""
        name = f"{family}_bpd"
        if family == "fd":
            name = "fid" if "fid" in self.metrics else f"fd_clf_{self.settings['dataset']}"
        if name not in self.metrics:
            return None
        error = self.metrics.get(f"{name.removesuffix('_bpd')}_se", float("nan"))
        return float(self.metrics[name]), float(error)


def study_points(cells: Iterable[tuple[Cell, Result | None]]) -> list[StudyPoint]:
    """The cells whose process has the component-wise linear schedule, in order; others are left out.

    The point is read off the system that is evaluated, so that standard diffusion counts under any of its names.
    """
    points: list[StudyPoint] = []
    for cell, result in cells:
        system = evaluated_system(cell)
        process = None if system is None else system.process
        if system is None or not isinstance(process, SpectralSpec) or not isinstance(process.schedule, GudSpec):
            continue
        schedule, params = process.schedule, cell.params
        amortise = getattr(system.objective, "amortise", None)
        training = "per_cell" if amortise is None else "amortised"
        ordering = schedule.ordering
        settings: dict[str, Any] = {
            "dataset": params["dataset"],
            "basis": process.basis,
            "prior": process.prior,
            "ordering": ordering if isinstance(ordering, str) else "x".join(f"{label:g}" for label in ordering),
            "log_snr_data": f"{schedule.log_snr_data:g}",
            "log_snr_prior": f"{schedule.log_snr_prior:g}",
            "clip": schedule.clip,
            "centre": process.centre,
            "prediction": system.prediction,
            "loss": getattr(system.objective, "loss", system.objective.kind),
            "weighting": getattr(system.objective, "weighting", ""),
            "training": training if system.network.is_trained else "oracle",
            "amortise": "" if amortise is None else str(amortise),
        }
        settings |= {name: value for name, value in params.items() if _is_override(name)}
        train = None if cell.tasks.training is None else cell.tasks.training.spec.train  # pyright: ignore[reportAttributeAccessIssue]
        length = f"steps of {params['log_snr_step']:g} in log SNR" if "log_snr_step" in params else params.get("steps")
        sampler = f"{params.get('sampler', '')} {length}"
        place = (round(schedule.softness_a, _DIGITS), round(schedule.ordering_r, _DIGITS))
        images = None if train is None else int(train.steps) * int(train.batch)
        named = {name: str(value) for name, value in settings.items()}
        points.append(StudyPoint(named, sampler, place, int(params["seed"]), images, result))
    return points


def evaluated_system(cell: Cell) -> SystemSpec | None:
    """The system that a row samples and scores; None for control rows."""
    tasks = cell.tasks
    for task in (*tasks.samples, *tasks.likelihoods):
        system = getattr(task.spec, "system", None)
        if isinstance(system, SystemSpec):
            return system
    return None


def mean_over_seeds(values: Sequence[tuple[float, float]]) -> tuple[float, float, int]:
    """Mean, error and number of trainings.

    With two or more trainings the error is the standard deviation of their mean; with one it is the row's own.
    """
    if len(values) == 1:
        return (*values[0], 1)
    found = np.array([value for value, _ in values])
    return float(found.mean()), float(found.std(ddof=1) / np.sqrt(len(found))), len(found)


def grouped(points: Iterable[StudyPoint], family: Family) -> dict[Settings, dict[Place, list[StudyPoint]]]:
    """Points by series and place, one per seed; of samplers that do not matter the first one that has a value.

    Points without the metric, which may not name a sampler, belong to every sampler of their settings.
    """
    points = list(points)
    measured: dict[Settings, dict[Settings, None]] = {}
    for point in points:
        if point.value(family) is not None:
            measured.setdefault(tuple(point.settings.items()), {})[point.series(family)] = None
    groups: dict[Settings, dict[Place, dict[int, StudyPoint]]] = {}
    for point in points:
        own, has_value = (point.series(family),), point.value(family) is not None
        for series in own if has_value else measured.get(tuple(point.settings.items()), own):
            seeds = groups.setdefault(series, {}).setdefault(point.place, {})
            known = seeds.get(point.seed)
            if known is None or (has_value and known.value(family) is None):
                seeds[point.seed] = point
    return {
        series: {place: list(seeds.values()) for place, seeds in sorted(places.items())}
        for series, places in groups.items()
    }


def softness_curves(points: Sequence[StudyPoint], family: Family) -> tuple[float, list[Curve]]:
    """The smallest ordering_r of all points, and the metric against softness_a there, one curve per series.

    A curve keeps the softness of points that are not measured, with NaN. Series without any value are left out.
    """
    smallest = min((point.place[1] for point in points), default=0.0)
    groups = grouped((point for point in points if point.place[1] == smallest), family)
    tasks = list(dict.fromkeys(_of_task(series) for series in groups))  # also of what is left out: colours stay
    groups = {series: places for series, places in groups.items() if any(_measured(p, family) for p in places.values())}
    shown = labels(list(groups))
    trainings = list(dict.fromkeys(_of_training(series) for series in groups))
    curves: list[Curve] = []
    for series, places in groups.items():
        rows = [mean_over_seeds(_measured(at, family) or [(np.nan, np.nan)]) for at in places.values()]
        curves.append(
            Curve(
                label=shown[series],
                colour=tasks.index(_of_task(series)),
                dashes=trainings.index(_of_training(series)),
                softness_a=np.array([a for a, _ in places]),
                values=np.array([row[0] for row in rows]),
                errors=np.array([row[1] for row in rows]),
                num_seeds=np.array([len(_measured(at, family)) for at in places.values()]),
                has_standard=smallest == 0.0 and _has_standard(series),
            )
        )
    return smallest, curves


def softness_panels(points: Sequence[StudyPoint], family: Family) -> list[MapPanel]:
    """Maps over softness_a and ordering_r, one per series with at least two values of each; [] without any value."""
    panels: dict[Settings, MapPanel] = {}
    has_values = False
    for series, places in grouped(points, family).items():
        coarse, fine = coarse_and_fine(list(places))
        if min(map(len, coarse)) < 2 or 2 * len(places) <= len(coarse[0]) * len(coarse[1]):
            continue
        inside = None if fine is None else _lattice(fine, places, family)
        panels[series] = MapPanel("", _lattice(coarse, places, family), inside, _has_standard(series))
        has_values = has_values or panels[series].best() is not None
    shown = labels(list(panels))
    named = [MapPanel(shown[series], panel.coarse, panel.fine, panel.has_standard) for series, panel in panels.items()]
    return named if has_values else []


Axes = tuple[list[float], list[float]]


def coarse_and_fine(places: Sequence[Place]) -> tuple[Axes, Axes | None]:
    """softness_a and ordering_r of the points over the whole range, and of a denser set inside a box, if there is one.

    A value belongs to the whole range where its points reach over most of the other axis.
    """
    known = set(places)
    coarse = tuple(
        sorted(x for x, reach in _reaches(places, axis).items() if reach > COARSE_SHARE - 1e-6) for axis in (0, 1)
    )
    rest = [place for place in known if place[0] not in coarse[0] or place[1] not in coarse[1]]
    if not rest or min(map(len, coarse)) < 2:
        every = (sorted({a for a, _ in known}), sorted({r for _, r in known}))
        return (every if rest else (coarse[0], coarse[1])), None
    return (coarse[0], coarse[1]), (sorted({a for a, _ in rest}), sorted({r for _, r in rest}))


def labels(series: Sequence[Settings]) -> dict[Settings, str]:
    """What tells series apart: basis, prior and training always, other settings where they differ."""
    names = dict.fromkeys(name for settings in series for name, _ in settings)
    values = {name: {dict(settings).get(name, "") for settings in series} for name in names}
    always = ("dataset", "basis", "prior", "training")
    shown: dict[Settings, str] = {}
    for settings in series:
        known = dict(settings)
        parts = [NAMES.get(known["basis"], known["basis"]), f"{known['prior']} prior", TRAININGS[known["training"]]]
        parts += [
            known[name] if name in ("sampler", "amortise") else f"{name} {known[name]}"
            for name in names
            if name not in always and known.get(name) and len(values[name] - {"" if name == "amortise" else None}) > 1
        ]
        shown[settings] = ", ".join(parts)
    return shown


def _measured(points: Sequence[StudyPoint], family: Family) -> list[tuple[float, float]]:
    return [value for point in points if (value := point.value(family)) is not None]


def _lattice(axes: Axes, places: Mapping[Place, Sequence[StudyPoint]], family: Family) -> Lattice:
    values = np.full((len(axes[1]), len(axes[0])), np.nan)
    states = np.full(values.shape, State.OUTSIDE, dtype=np.int8)
    for row, r in enumerate(axes[1]):
        for column, a in enumerate(axes[0]):
            points = places.get((a, r))
            if points is None:
                continue
            found = _measured(points, family)
            if found:
                values[row, column], states[row, column] = mean_over_seeds(found)[0], State.MEASURED
                continue
            is_started = any(point.metrics for point in points)
            states[row, column] = State.NOT_PROMOTED if is_started else State.UNFINISHED
    return Lattice(np.array(axes[0]), np.array(axes[1]), values, states)


def _reaches(places: Sequence[Place], axis: int) -> dict[float, float]:
    """For each value on one axis the share of the other axis's range that its points reach over."""
    other = [place[1 - axis] for place in places]
    whole = (max(other) - min(other)) or 1.0
    ends: dict[float, list[float]] = {}
    for place in places:
        ends.setdefault(place[axis], []).append(place[1 - axis])
    return {x: (max(found) - min(found)) / whole for x, found in ends.items()}


def _has_standard(series: Settings) -> bool:
    """Whether softness_a = 1, ordering_r = 0 is standard diffusion."""
    known = dict(series)
    return (known["prior"], known["ordering"], known["clip"]) == ("standard", "variance", "False")


def _of_task(series: Settings) -> Settings:
    return tuple((k, v) for k, v in series if k not in OF_TRAINING and not _is_train(k))


def _of_training(series: Settings) -> Settings:
    return tuple((k, v) for k, v in series if k in OF_TRAINING or _is_train(k))


def _is_override(name: str) -> bool:
    return name.split(".", 1)[0] in ("network", "train", "class_conditional")


def _is_train(name: str) -> bool:
    return name.split(".", 1)[0] == "train"
