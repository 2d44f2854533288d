"""Images continued to the right, column by column: the columns that are there are given, the others generated.

Column-ordered processes finish the left columns first, so a given left part is only a path that starts late.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pipeline.config import ConfigError, Spec
from pipeline.diffusion.kernels.base import Denoiser, Kernel
from pipeline.diffusion.predictions import Prediction
from pipeline.diffusion.predictor import Condition
from pipeline.diffusion.processes import Process, SpectralProcess, diagonal, is_still
from pipeline.diffusion.processes.spectral import SpectralSpec
from pipeline.diffusion.sampling import NoiseSource, sample
from pipeline.diffusion.schedules.columns import ColumnsSpec
from pipeline.diffusion.schedules.gud import GudSpec

Images = Float[Tensor, "batch channels height width"]
Conditions = Condition | Callable[[int], Condition | None] | None


def is_column_ordered(process: Spec | None) -> bool:
    """Whether a process (its specification) generates the columns of images from left to right.

    True in the pixel basis under schedule `columns` along columns, and under schedule `gud` with ordering `column`.
    """
    if not isinstance(process, SpectralSpec) or process.basis != "pixel":
        return False
    schedule = process.schedule
    if isinstance(schedule, ColumnsSpec):
        return schedule.axis == "column"
    return isinstance(schedule, GudSpec) and schedule.ordering == "column" and schedule.softness_a > 0


def extend(
    process: Process,
    kernel: Kernel,
    predictor: Denoiser,
    x_known: Images,
    num_known: int,
    times: Float[Tensor, " grid"],
    *,
    noise: NoiseSource,
    cond: Conditions = None,
    final: Literal["state", "denoise"] = "state",
    x_T: Images | None = None,
) -> Images:
    """Draws the columns num_known, ..., W - 1 of images whose first columns are given.

    The given columns follow their own forward path alpha x_0 + sigma eps, with one eps per image, and are put into the
    state wherever the predictor is asked. Steps in which no new column moves are passed over without an evaluation, so
    an extension costs what the late part of a path costs.

    Where columns take turns (`columns` with overlap_b = (n-1)/n; `gud` with clip and softness_a >= log_snr_data -
    log_snr_prior) the given columns are finished before a new one moves: an exact predictor then draws from the data's
    law of the new columns given x_0 + (sigma/alpha) eps at the smallest noise level, up to the steps of the kernel.
    With overlap the result is approximate: a given column that is still noisy is drawn without regard to the new ones
    (the replacement method, whose bias Ho et al. 2022, Video Diffusion Models, section 3.1, describe). On Gaussian
    images of 4 columns, 2 of them given, with correlation 0.8 between neighbours, what the mean of the new columns
    takes from the given ones is wrong by 2 % of its size at b = 0.5, 23 % at b = 0.3 and 72 % at b = 0 under heun; by
    0.1 %, 10 % and 61 % under ancestral sampling (tests/unit/test_extension.py).

    Args:
        process: column-ordered, see `is_column_ordered`.
        kernel: reverse kernel.
        predictor: of whole images, as for `sample`.
        x_known: images in data space `(batch, C, H, W)`; what stands in columns from `num_known` on is not read.
        num_known: columns that are given, 0 ... W.
        times: as for `sample`; the grid of a whole path.
        noise: unit normal noise in data space, asked for the kernel's draws and, at step 0, for "known" (eps of the
            given columns) and "x_T" (the start of the new ones).
        cond: as for `sample`; steps count from the start of the whole path.
        final: as for `sample`.
        x_T: start of the new columns, in data space; by default prior noise, as for any sample.

    Returns:
        Images like x_known: the given columns bit for bit, the others generated.

    Raises:
        ConfigError: the process does not go column by column.
        ValueError: shapes do not fit, or `num_known` is no number of columns.
    """
    process, is_given = _given(process, x_known, num_known)
    if num_known == x_known.shape[-1]:
        return x_known.clone()
    shape = tuple(x_known.shape)
    shaped = is_given.reshape(1, *process.shape).to(x_known.device)
    x_0 = torch.where(shaped, x_known, 0.0)
    eps = noise(0, "known", shape).to(x_0)
    if x_T is None:
        start = process.basis.to_components(noise(0, "x_T", shape).to(x_0))
        x_T = process.to_data(process.scale.to(start) * start)
    found = sample(
        process,
        _Late(kernel, is_given),
        _Held(predictor, process, is_given.to(x_known.device), x_0, eps),
        x_T,
        times,
        noise,
        cond,
        final=final,
    )
    assert isinstance(found, Tensor)
    return torch.where(shaped, x_known, found)


def roll(
    process: Process,
    kernel: Kernel,
    predictor: Denoiser,
    x_first: Images,
    num_new_columns: int,
    shift: int,
    times: Float[Tensor, " grid"],
    *,
    noise: NoiseSource,
    cond: Conditions = None,
    final: Literal["state", "denoise"] = "state",
) -> Float[Tensor, "batch channels height wide"]:
    """A panorama: drops the `shift` leftmost columns of the window, moves it right and extends, again and again.

    A new column knows the W - shift columns before it at most. The predictor sees windows, so it paints what it would
    paint into an image of its own size: only data that look alike everywhere become a seamless panorama.

    Args:
        process, kernel, predictor, times, noise, cond, final: as for `extend`. Window i asks `noise` for the steps
            i * len(times), ..., (i + 1) * len(times) - 1; `cond` counts the steps of each window from 0.
        x_first: finished images `(batch, C, H, W)`, the first window.
        num_new_columns: columns to add. A longer panorama begins with the shorter ones.
        shift: columns that a window adds, 1 ... W - 1.

    Returns:
        `(batch, C, H, W + num_new_columns)`, x_first at the left.

    Raises:
        ConfigError: the process does not go column by column.
        ValueError: shapes do not fit, or `shift` is no number of columns.
    """
    width = x_first.shape[-1]
    if not 1 <= shift < width:
        raise ValueError(f"shift must be 1 ... {width - 1}, less than the {width} columns of a window; found {shift}")
    if num_new_columns < 0:
        raise ValueError(f"num_new_columns must not be negative, found {num_new_columns}")
    _given(process, x_first, width)
    strip = x_first
    for window in range(-(-num_new_columns // shift)):
        first = window * len(times)

        def later(step: int, name: str, shape: tuple[int, ...], first: int = first) -> Tensor:
            return noise(first + step, name, shape)

        kept = torch.nn.functional.pad(strip[..., shift - width :], (0, shift))
        found = extend(process, kernel, predictor, kept, width - shift, times, noise=later, cond=cond, final=final)
        strip = torch.cat([strip, found[..., width - shift :]], dim=-1)
    return strip[..., : width + num_new_columns]


def num_moving_steps(process: Process, times: Float[Tensor, " grid"], num_known: int) -> int:
    """Steps of an extension that are not passed over: `kernel.nfe` of them are the evaluations of `extend`.

    `final: denoise` adds one. With schedule parameters by row a step counts where a new column moves in any row.
    """
    process = diagonal(process)
    is_given = _is_given(process, num_known)
    return sum(_moves(process, times[i], times[i + 1], is_given) for i in range(len(times) - 1))


@dataclass(frozen=True, eq=False)
class _Held:
    """A predictor that sees the given columns on their forward path, whatever the state says."""

    predictor: Denoiser
    process: SpectralProcess
    is_given: Bool[Tensor, " dim"]
    x_0: Images
    eps: Images

    def __call__(self, u_t: Tensor, t: Tensor, cond: Condition | None = None) -> Prediction:
        at_t = self.process.marginal(t)
        c_0, eps = self.process.to_components(self.x_0), self.process.basis.to_components(self.eps)
        forward = at_t.alpha.to(c_0) * c_0 + at_t.sigma.to(c_0) * eps
        held = torch.where(self.is_given, forward.to(u_t.dtype), u_t[:, 0])
        return self.predictor(held[:, None], t, cond)


@dataclass(frozen=True, eq=False)
class _Late(Kernel):
    """A kernel that leaves the state alone where no new column moves."""

    kernel: Kernel
    is_given: Bool[Tensor, " dim"]

    @property
    def draws(self) -> Mapping[str, str]:
        return self.kernel.draws

    def nfe(self, num_steps: int) -> int:
        return self.kernel.nfe(num_steps)

    def init(self, process: Process, u_T: Float[Tensor, "batch J dim"], times: Float[Tensor, " grid"]) -> Any:
        return self.kernel.init(process, u_T, times)

    def step(
        self,
        u_t: Float[Tensor, "batch J dim"],
        t: Tensor,
        s: Tensor,
        predictor: Denoiser,
        cond: Condition | None,
        noise: Mapping[str, Float[Tensor, "batch J dim"]],
        carry: Any,
        process: Process,
    ) -> tuple[Float[Tensor, "batch J dim"], Any]:
        if not _moves(diagonal(process), t, s, self.is_given):
            return u_t, carry
        return self.kernel.step(u_t, t, s, predictor, cond, noise, carry, process)


def _moves(process: SpectralProcess, t: Tensor, s: Tensor, is_given: Tensor) -> bool:
    """Whether a component that is not given moves between two times."""
    still = is_still(process.marginal(s), process.marginal(t))
    return not bool((still | is_given).all())


def _is_given(process: SpectralProcess, num_known: int) -> Bool[Tensor, " dim"]:
    column = process.basis.column
    assert column is not None
    return column < num_known


def _given(process: Process, x: Tensor, num_known: int) -> tuple[SpectralProcess, Bool[Tensor, " dim"]]:
    """The process and which components are given, if it can extend `x`."""
    if not is_column_ordered(process.spec):
        raise ConfigError(
            "images are continued by columns in the pixel basis only: use schedule columns (axis column), "
            "or schedule gud with ordering column"
        )
    if x.ndim != 4 or tuple(x.shape[1:]) != tuple(process.shape):
        raise ValueError(f"images have shape {tuple(x.shape)}, expected (batch, {', '.join(map(str, process.shape))})")
    if not 0 <= num_known <= x.shape[-1]:
        raise ValueError(f"num_known must be 0 ... {x.shape[-1]}, the columns of an image; found {num_known}")
    return diagonal(process), _is_given(diagonal(process), num_known)
