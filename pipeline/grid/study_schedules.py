"""The schedules of a GUD study as arrays and pictures: single components, whole sheets, strips of test images.

Everything is built from the statistics artifact of the store through the real process.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.baselines.system import read_statistics
from pipeline.config import ConfigError
from pipeline.diffusion.processes import SpectralProcess, build_process
from pipeline.diffusion.randomness import NoiseStream
from pipeline.report.gud_drawing import Drawing
from pipeline.report.gud_schedules import ComponentCurves, SheetPanel, component_chart, schedule_sheet
from pipeline.report.gud_strips import Strip, strip_sheet
from pipeline.shards import read_split, to_float, to_levels
from pipeline.store import Artifact

NUM_COMPONENTS = 8
NUM_TIMES = 201
NUM_STRIP_TIMES = 8
NUM_STRIP_IMAGES = 2
MAX_SHEET_ROWS = 512
GREY_LEVELS = 256
SOFTER_A = 0.3
FREQUENCY_A = 2.0
"""softness_a of the frequency strip: a hierarchy that is seen."""

Spec = dict[str, Any]
"""Tree of a spectral process."""

PRIORS = {"standard": "standard prior", "data": "data prior"}
NAMES = {"pca": "PCA", "dct": "DCT", "fourier": "Fourier", "haar": "Haar", "pixel": "pixel"}


@dataclass(frozen=True, eq=False)
class Data:
    """What the pictures of one data set are made from.

    Attributes:
        name: of the data set.
        statistics: its artifact.
        shape: of one datum.
        dataset: its artifact, or None where it is not in the store.
    """

    name: str
    statistics: Artifact
    shape: tuple[int, ...]
    dataset: Artifact | None = None

    def process(self, spec: Spec) -> SpectralProcess:
        """The process with the data's own statistics.

        Raises:
            ConfigError: it does not exist for data of this shape or size.
        """
        built = build_process(spec, self.shape, read_statistics(self.statistics, spec["basis"]))
        assert isinstance(built, SpectralProcess)
        return built


@dataclass(frozen=True)
class Ends:
    """What all pictures of a study share: its smallest log SNR at t = 0 and largest at t = 1."""

    log_snr_data: float = 7.0
    log_snr_prior: float = -7.0

    def gud(self, basis: str, prior: str, softness_a: float, **more: Any) -> Spec:
        """Tree of a process with a component-wise linear schedule between these ends."""
        ends = {"log_snr_data": self.log_snr_data, "log_snr_prior": self.log_snr_prior}
        schedule = {"kind": "gud", "softness_a": softness_a, **ends, **more}
        return {"kind": "spectral", "basis": basis, "centre": "mean", "prior": prior, "schedule": schedule}


def sequential(basis: str, **schedule: Any) -> Spec:
    """Tree of a process with a sequential schedule, standard prior."""
    return {"kind": "spectral", "basis": basis, "centre": "mean", "prior": "standard", "schedule": schedule}


def paper_cases(basis: str, ends: Ends) -> Iterator[tuple[str, Spec]]:
    """The four cases of GUD figure 2 in order: raw a = 1 (standard diffusion), raw a = 0, white a = 1, white a = 0."""
    for letter, prior, a in (("a", "standard", 1.0), ("b", "standard", 0.0), ("c", "data", 1.0), ("d", "data", 0.0)):
        is_standard = prior == "standard" and a == 1.0
        words = "standard diffusion" if is_standard else "no hierarchy" if a == 0 else "whitened standard diffusion"
        yield f"case {letter}: {words}", ends.gud(basis, prior, a)


def schedule_drawing(data: Data, spec: Spec, *, case: str = "") -> Drawing:
    """`schedules-<case>`: gamma, sigma and log SNR over t of eight components spread over the order of variance.

    Raises:
        ConfigError: the process does not exist for these data.
    """
    process = data.process(spec)
    assert process.variances is not None
    order = _order(process)
    chosen = order[np.unique(np.linspace(0, len(order) - 1, NUM_COMPONENTS).round().astype(int))]
    t = np.linspace(0.0, 1.0, NUM_TIMES)
    marginal = process.marginal(torch.from_numpy(t))
    spread = (len(t), process.dim)
    variances = process.variances.numpy()[chosen]
    rank = np.empty(process.dim, dtype=np.int64)
    rank[np.argsort(-process.variances.numpy(), kind="stable")] = np.arange(1, process.dim + 1)
    values = {
        "gamma": marginal.gamma.expand(spread).numpy()[:, chosen],
        "sigma": (marginal.sigma / marginal.scale).expand(spread).numpy()[:, chosen],
        "log_snr": marginal.log_snr.expand(spread).numpy()[:, chosen],
    }
    levels = _levels(spec)
    names = _names(process, chosen, rank)
    title = f"{data.name}: {describe(spec)}"
    caption = (f"{case}. " if case else "") + _about_levels(spec)
    png = component_chart(ComponentCurves(t, names, levels=levels, **values), title=title, caption=caption)
    arrays: dict[str, NDArray[Any]] = {"t": t, "component": chosen, "rank": rank[chosen], "variance": variances}
    arrays |= values
    arrays |= {"level_name": np.array([level[0] for level in levels]), "level": np.array([x[2] for x in levels])}
    return Drawing(f"schedules-{stem(spec)}", png, arrays)


def sheet_drawing(data: Data, ends: Ends, own: Sequence[Spec] = ()) -> Drawing:
    """`schedule-sheet`: log SNR of all components over time for standard, softer, harder and sequential schedules.

    Args:
        data: the data set.
        ends: of the linear schedules.
        own: sequential processes of the study, shown in place of the defaults.
    """
    basis = "pca" if _exists(data, ends.gud("pca", "standard", 1.0)) is None else "dct"
    hardest = ends.log_snr_data - ends.log_snr_prior
    candidates: list[tuple[str, Spec]] = [
        ("standard", ends.gud(basis, "standard", 1.0)),
        ("softer", ends.gud(basis, "standard", SOFTER_A)),
        ("harder: autoregressive", ends.gud(basis, "standard", hardest, ordering="rank", clip=True)),
        ("columns", _own(own, "columns") or sequential("pixel", kind="columns", overlap_b=0.5)),
        ("Haar levels x columns", _own(own, "haar_columns") or _haar_columns(data)),
    ]
    t = np.linspace(0.0, 1.0, NUM_TIMES)
    panels: list[SheetPanel] = []
    possible, skipped = _possible(data, candidates)
    for name, spec in possible:
        process = data.process(spec)
        order = _order(process)
        rows = order[np.unique(np.linspace(0, len(order) - 1, MAX_SHEET_ROWS).round().astype(int))]
        log_snr = process.marginal(torch.from_numpy(t)).log_snr.expand(len(t), process.dim).numpy()[:, rows]
        kind = spec["schedule"]["kind"]
        ylabel = {"columns": "columns, left to right", "haar_columns": "coarse to fine, columns inside"}.get(kind)
        panels.append(SheetPanel(name, settings(spec), log_snr.T, ylabel or f"{NAMES[basis]} components by variance"))
    caption = "Rows: components, those generated first at the top. Blue: signal, red: noise; the line is log SNR = 0."
    png = schedule_sheet(panels, title=f"{data.name}: schedules", caption=" ".join([caption, *_sentences(skipped)]))
    arrays: dict[str, NDArray[Any]] = {"t": t, "skipped": np.array(skipped, dtype=np.str_)}
    arrays["title"] = np.array([panel.title for panel in panels])
    arrays["settings"] = np.array([panel.note for panel in panels])
    arrays |= {f"log_snr_{place}": panel.log_snr for place, panel in enumerate(panels)}
    return Drawing("schedule-sheet", png, arrays)


def _possible(data: Data, candidates: Sequence[tuple[str, Spec]]) -> tuple[list[tuple[str, Spec]], list[str]]:
    """The named processes that the data can have, and a sentence for each of the others."""
    reasons = {name: _exists(data, spec) for name, spec in candidates}
    possible = [(name, spec) for name, spec in candidates if reasons[name] is None]
    return possible, [f"{name}: {reason}" for name, reason in reasons.items() if reason is not None]


def strip_drawing(data: Data, ends: Ends, *, basis: str = "dct", own: Sequence[Spec] = ()) -> Drawing | None:
    """`forward-strips`: test images at eight times for the four kinds of GUD figure 4; None where there are no images.

    Args:
        data: the data set with its artifact.
        ends: of the linear schedules.
        basis: `dct` or `fourier`, of the frequency hierarchy.
        own: sequential processes of the study, shown in place of the defaults.
    """
    if data.dataset is None or len(data.shape) != 3 or data.shape[0] not in (1, 3):
        return None
    split = read_split(data.dataset, "test", max_samples=NUM_STRIP_IMAGES)
    x_0 = torch.from_numpy(np.ascontiguousarray(to_float(split.images, data.dataset.meta["quantisation"]))).double()
    noise = NoiseStream(0).normal(range(len(x_0)), 0, "forward", data.shape).double()
    times = [0.0, *((k + 1) / NUM_STRIP_TIMES for k in range(NUM_STRIP_TIMES))]
    candidates: list[tuple[str, Spec]] = [
        ("PCA, standard diffusion", ends.gud("pca", "standard", 1.0)),
        (
            f"{NAMES[basis]}, from low to high frequencies",
            ends.gud(basis, "data", FREQUENCY_A, ordering="frequency"),
        ),
        ("column by column", _own(own, "columns") or sequential("pixel", kind="columns", overlap_b=0.5)),
        ("Haar levels, columns inside", _own(own, "haar_columns") or _haar_columns(data)),
    ]
    strips: list[Strip] = []
    possible, skipped = _possible(data, candidates)
    for name, spec in possible:
        process = data.process(spec)
        states = [x_0, *(process.corrupt(x_0, torch.full((len(x_0),), t), noise) for t in times[1:])]
        levels = to_levels(torch.stack(states, dim=1), GREY_LEVELS).numpy()
        strips.append(Strip(f"{name} ({describe(spec)})", levels))
    if not strips:
        return None
    labels = [f"{t:.3g}" for t in times]
    caption = " ".join(["Test images from data (t = 0) to prior (t = 1), the same noise in all.", *_sentences(skipped)])
    png = strip_sheet(strips, labels, title=f"{data.name}: forward processes", caption=caption)
    arrays: dict[str, NDArray[Any]] = {
        "t": np.array(times),
        "images": np.stack([strip.images for strip in strips]),
        "kind": np.array([strip.title for strip in strips]),
        "skipped": np.array(skipped, dtype=np.str_),
    }
    return Drawing("forward-strips", png, arrays)


def describe(spec: Spec) -> str:
    """A process in words: `PCA, standard prior, a = 1`."""
    kind = {"columns": "columns", "haar_columns": "levels and columns"}.get(spec["schedule"]["kind"])
    words = [NAMES.get(spec["basis"], spec["basis"]), PRIORS[spec["prior"]], kind, settings(spec)]
    return ", ".join(word for word in words if word)


def settings(spec: Spec) -> str:
    """What a schedule sets, in words."""
    schedule: Mapping[str, Any] = spec["schedule"]
    if schedule["kind"] != "gud":
        shown = (("level offset", "level_offset"), ("b", "overlap_b"))
        return ", ".join(f"{name} = {schedule[key]:g}" for name, key in shown if key in schedule) or schedule["kind"]
    parts = [f"a = {schedule['softness_a']:g}"]
    if schedule.get("ordering", "variance") != "variance":
        parts.append(f"ordered by {schedule['ordering']}")
    if schedule.get("ordering_r", 0.0):
        parts.append(f"r = {schedule['ordering_r']:g}")
    if schedule.get("clip"):
        parts.append("clipped")
    return ", ".join(parts)


def stem(spec: Spec) -> str:
    """A process as a part of a file name: `pca-standard-a1`, `pixel-columns-b0.5`."""
    schedule: Mapping[str, Any] = spec["schedule"]
    if schedule["kind"] != "gud":
        keys = (("offset", "level_offset"), ("b", "overlap_b"))
        own = [f"{name}{schedule[key]:g}" for name, key in keys if key in schedule]
        return "-".join([spec["basis"], spec["prior"], schedule["kind"], *own])
    ordering = schedule.get("ordering", "variance")
    parts = [spec["basis"], spec["prior"], f"a{schedule['softness_a']:g}"]
    parts += [f"r{schedule['ordering_r']:g}"] if schedule.get("ordering_r", 0.0) else []
    parts += [ordering if isinstance(ordering, str) else "labels"] if ordering != "variance" else []
    return "-".join([*parts, "clipped"] if schedule.get("clip") else parts)


def _order(process: SpectralProcess) -> NDArray[np.int64]:
    """Components, those that are generated first in front: by scale, by column, by falling variance."""
    assert process.variances is not None
    keys: list[NDArray[Any]] = [-process.variances.numpy()]
    kind = process.spec.schedule.kind  # pyright: ignore[reportAttributeAccessIssue]
    if kind in ("columns", "haar_columns"):
        axis = getattr(process.spec.schedule, "axis", "column")
        keys += [np.asarray(getattr(process.basis, axis))]
    if kind == "haar_columns":
        keys += [np.asarray(process.basis.level)]
    return np.lexsort(tuple(keys))


def _names(process: SpectralProcess, chosen: NDArray[np.int64], rank: NDArray[np.int64]) -> list[str]:
    """Components by their place: column and scale where these decide, else the rank of the variance."""
    assert process.variances is not None
    kind = process.spec.schedule.kind  # pyright: ignore[reportAttributeAccessIssue]
    if kind not in ("columns", "haar_columns"):
        return [f"{rank[i]} of {process.dim}, variance {float(process.variances[i]):.2g}" for i in chosen]
    axis = str(getattr(process.spec.schedule, "axis", "column"))
    places = [f"{axis} {int(getattr(process.basis, axis)[i])}" for i in chosen]
    if kind == "columns" or process.basis.level is None:
        return places
    return [f"scale {int(process.basis.level[i])}, {place}" for i, place in zip(chosen, places, strict=True)]


def _levels(spec: Spec) -> list[tuple[str, str, float]]:
    schedule: Mapping[str, Any] = spec["schedule"]
    if schedule["kind"] != "gud":
        names = [key for key in ("gamma_min", "gamma_max") if key in schedule]
        return [(f"{name} = {schedule[name]:g}", "gamma", float(schedule[name])) for name in names]
    levels = [(f"{name} = {schedule[name]:g}", float(schedule[name])) for name in ("log_snr_data", "log_snr_prior")]
    found = [(name, "log_snr", value) for name, value in levels]
    if spec["prior"] == "data":  # gamma = -log SNR
        found += [(name, "gamma", -value) for name, value in levels]
    return found


def _about_levels(spec: Spec) -> str:
    if spec["schedule"]["kind"] != "gud":
        return "Components in the order of generation. Dashed: the levels between which every component moves."
    return "Components by rank of variance. Dashed: the smallest log SNR at t = 0, the largest at t = 1 of any of them."


def _haar_columns(data: Data) -> Spec:
    """Half an offset between scales and overlap_b = 0.3, less where the data have fewer scales."""
    sides = [(side & -side).bit_length() - 1 for side in data.shape[1:] or data.shape]
    scales = min(sides)
    return sequential("haar", kind="haar_columns", level_offset=min(0.5, scales / (scales + 1)), overlap_b=0.3)


def _own(specs: Sequence[Spec], kind: str) -> Spec | None:
    return next((spec for spec in specs if spec["schedule"]["kind"] == kind), None)


def _exists(data: Data, spec: Spec) -> str | None:
    """Why a process cannot be built for the data, in one sentence; None where it can."""
    try:
        process = data.process(spec)
    except ConfigError as error:
        return str(error)
    if spec["basis"] == "haar" and process.basis.level is not None and float(process.basis.level.max()) == 0:
        return "a side that is odd has no scales"
    return None


def _sentences(skipped: Sequence[str]) -> list[str]:
    return [f"Left out: {reason}." for reason in skipped]
