"""Schedules as pictures: curves of single components (GUD figure 2) and sheets of all components (GUD figure 1)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import TwoSlopeNorm
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pipeline.report.gud_style import (
    INK,
    MARGIN,
    MUTED,
    REFERENCE,
    Array,
    Canvas,
    font_of,
    legend,
    quiet_ticks,
    styled,
    text_width,
)

_WIDTH, _HEIGHT, _LEFT, _GAP, _BOTTOM = 270, 250, 62, 66, 48
_SHEET_WIDTH, _SHEET_HEIGHT, _SHEET_GAP = 190, 230, 30
_QUIET = (0, (4, 3))


@dataclass(frozen=True, eq=False)
class ComponentCurves:
    """Noise levels of a few components.

    Attributes:
        t: `(n,)` times, 0 = data, 1 = prior.
        names: of the components, by falling variance (or in the order of generation).
        gamma: log(sigma^2 / alpha^2), `(n, components)`.
        sigma: noise standard deviation over the prior's, `(n, components)` in [0, 1].
        log_snr: log(data variance alpha^2 / sigma^2), `(n, components)`.
        levels: drawn dashed: (what it is called, the panel `gamma`, `sigma` or `log_snr`, its value there).
    """

    t: Array
    names: Sequence[str]
    gamma: Array
    sigma: Array
    log_snr: Array
    levels: Sequence[tuple[str, str, float]]


@dataclass(frozen=True, eq=False)
class SheetPanel:
    """One schedule of the sheet.

    Attributes:
        title: above it; `note` in a second line.
        log_snr: `(components, times)`, the component that is noised last (generated first) in the first row.
        ylabel: what orders the components.
    """

    title: str
    note: str
    log_snr: Array
    ylabel: str


_QUANTITIES = (
    ("gamma", "gamma = log(sigma² / alpha²)"),
    ("sigma", "sigma / prior's standard deviation"),
    ("log_snr", "log SNR"),
)


def component_chart(curves: ComponentCurves, *, title: str, caption: str = "") -> bytes:
    """PNG with three panels over t: gamma, sigma and log SNR of the components, minimal levels dashed."""
    dashed = dict.fromkeys(name for name, _, _ in curves.levels)
    beside = 60 + max(text_width(name, 8.5) for name in (*curves.names, *dashed))
    width = MARGIN + 3 * (_LEFT + _WIDTH) + 2 * (_GAP - _LEFT) + beside
    canvas = Canvas(width, _HEIGHT + _BOTTOM, title=title, caption=caption)
    colours = matplotlib.colormaps["viridis"]
    shades = [colours(0.92 * i / max(len(curves.names) - 1, 1)) for i in range(len(curves.names))]
    for position, (name, label) in enumerate(_QUANTITIES):
        axes = canvas.axes(MARGIN + _LEFT + position * (_WIDTH + _GAP), 0, _WIDTH, _HEIGHT)
        values: NDArray[Any] = getattr(curves, name)
        for component, shade in enumerate(shades):
            axes.plot(curves.t, values[:, component], color=shade, linewidth=1.7)
        for level in (value for _, quantity, value in curves.levels if quantity == name):
            axes.axhline(level, color=REFERENCE, linewidth=1.3, linestyle=_QUIET, zorder=1)
        if len(shades) > 1 and float(np.ptp(values, axis=1).max()) < 1e-9:
            note: dict[str, Any] = {"ha": "left", "va": "bottom", "color": MUTED, "fontproperties": font_of(8)}
            axes.annotate("all components coincide", (0.04, 0.08), xycoords="axes fraction", **note)
        axes.set_xlim(0, 1)
        axes.yaxis.set_major_locator(MaxNLocator(6))
        styled(axes, xlabel="t  (0: data, 1: prior)", ylabel=label)
    handles = [
        Line2D([], [], color=shade, linewidth=1.7, label=name) for shade, name in zip(shades, curves.names, strict=True)
    ]
    handles += [Line2D([], [], color=REFERENCE, linewidth=1.3, linestyle=_QUIET, label=name) for name in dashed]
    side = canvas.axes(width - beside + 10, 0, beside - 10, _HEIGHT)
    side.set_axis_off()
    legend(side, handles, loc="upper left", bbox_to_anchor=(0.0, 1.0), handlelength=2.4)
    return canvas.png()


def schedule_sheet(panels: Sequence[SheetPanel], *, title: str, caption: str = "") -> bytes:
    """PNG: log SNR of all components over time, one picture per schedule and one colour scale.

    The line is log SNR = 0, where a component turns from signal into noise.
    """
    pitch = _SHEET_WIDTH + _SHEET_GAP
    width = MARGIN + 24 + len(panels) * pitch + 84
    canvas = Canvas(width, 42 + _SHEET_HEIGHT + _BOTTOM, title=title, caption=caption)
    highest = max(float(abs(panel.log_snr).max()) for panel in panels)
    norm = TwoSlopeNorm(0.0, -highest, highest)
    for position, panel in enumerate(panels):
        x = MARGIN + 24 + position * pitch
        canvas.write(x + _SHEET_WIDTH / 2, 8, panel.title, size=9, align="center", bold=True)
        canvas.write(x + _SHEET_WIDTH / 2, 26, panel.note, size=8, align="center", color=MUTED)
        axes = canvas.axes(x, 42, _SHEET_WIDTH, _SHEET_HEIGHT)
        _image(axes, panel, norm)
    bar = canvas.axes(MARGIN + 24 + len(panels) * pitch - 10, 42, 14, _SHEET_HEIGHT)
    scale = canvas.figure.colorbar(ScalarMappable(norm, "RdBu"), cax=bar)
    scale.set_label("log SNR", color=INK, fontproperties=font_of(9))
    scale.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    quiet_ticks(bar)
    return canvas.png()


def _image(axes: Axes, panel: SheetPanel, norm: TwoSlopeNorm) -> None:
    count, times = panel.log_snr.shape
    box = (0.0, 1.0, float(count), 0.0)
    axes.imshow(panel.log_snr, cmap="RdBu", norm=norm, aspect="auto", extent=box, interpolation="nearest")
    if panel.log_snr.min() < 0 < panel.log_snr.max() and min(count, times) > 1:
        axes.contour(
            panel.log_snr, levels=[0.0], extent=box, origin="upper", colors=[INK], linewidths=1.0, linestyles="solid"
        )
    styled(axes, xlabel="t  (0: data, 1: prior)", ylabel=panel.ylabel, grid=False)
    axes.set_yticks([])
    axes.set_xticks([0.0, 0.5, 1.0], ["0", "0.5", "1"])
    for spine in axes.spines.values():
        spine.set_visible(True)
