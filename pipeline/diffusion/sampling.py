"""The reverse path: a kernel walked over a time grid."""

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.config import ConfigError
from pipeline.diffusion.kernels.base import Denoiser, Kernel
from pipeline.diffusion.predictor import Condition
from pipeline.diffusion.processes import Process

NoiseSource = Callable[[int, str, tuple[int, ...]], Tensor]
"""`(step, name, shape) -> tensor`: unit normal noise in data space, the same for the same arguments."""


def time_grid(num_steps: int, spacing: str = "uniform", t_min: float = 0.0) -> Float[Tensor, " grid"]:
    """Falling times from 1 to `t_min`, `(num_steps + 1,)`, float64.

    Args:
        num_steps: at least 1.
        spacing: "uniform" in t, or "quadratic" (dense near `t_min`, as in DDIM's quad rule but with exact ends).
        t_min: last time, in [0, 1).
    """
    if num_steps < 1 or not 0.0 <= t_min < 1.0:
        raise ConfigError(f"a time grid needs num_steps >= 1 and 0 <= t_min < 1, found {num_steps} and {t_min}")
    rising = torch.linspace(0.0, 1.0, num_steps + 1, dtype=torch.float64)
    if spacing == "quadratic":
        rising = rising**2
    elif spacing != "uniform":
        raise ConfigError(f"unknown spacing {spacing!r}; possible: uniform, quadratic")
    return (t_min + (1.0 - t_min) * rising).flip(0)


@torch.no_grad()
def sample(
    process: Process,
    kernel: Kernel,
    predictor: Denoiser,
    x_T: Tensor,
    times: Float[Tensor, " grid"],
    noise: NoiseSource | None = None,
    cond: Condition | Callable[[int], Condition | None] | None = None,
    final: Literal["state", "denoise"] = "state",
    return_path: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Walks `kernel` from x_T at times[0] down to times[-1].

    Args:
        process: forward process with J = 1.
        kernel: reverse kernel.
        predictor: `(u_t, t, cond) -> Prediction`.
        x_T: start in data space `(batch, *shape)`; its dtype and device are kept along the path.
        times: strictly falling times in [0, 1], `(steps + 1,)`.
        noise: source of the kernel's draws, unit normal in data space; required if the kernel draws.
        cond: condition of all steps, or a function of the step.
        final: "state" returns the state at times[-1]; "denoise" the x_0 predicted there (one more evaluation).
        return_path: also return the path.

    Returns:
        x in data space, or `(x, path)` with the path in components, `(steps + 1, batch, dim)`.

    Raises:
        ValueError: times do not fall, x_T has another shape than the process, or noise is missing.
    """
    grid = torch.as_tensor(times, dtype=torch.float64, device="cpu")
    if grid.ndim != 1 or len(grid) < 2 or not bool((grid[1:] < grid[:-1]).all()):
        raise ValueError("times must fall strictly and have at least two entries")
    if tuple(x_T.shape[1:]) != tuple(process.shape):
        raise ValueError(f"x_T has shape {tuple(x_T.shape)}, expected (batch, {', '.join(map(str, process.shape))})")
    if kernel.draws and noise is None:
        raise ValueError(f"{type(kernel).__name__} draws {', '.join(kernel.draws)}: pass `noise`")
    if final not in ("state", "denoise"):
        raise ValueError(f"final is {final!r}, expected 'state' or 'denoise'")

    def cond_at(step: int) -> Condition | None:
        return cond(step) if callable(cond) else cond

    u = process.to_components(x_T)[:, None]
    carry = kernel.init(process, u, grid)
    path = [u[:, 0]]
    for step, (t, s) in enumerate(pairwise(grid)):
        draws: dict[str, Tensor] = {}
        for name in kernel.draws:
            assert noise is not None
            drawn = noise(step, name, tuple(x_T.shape)).to(device=x_T.device, dtype=x_T.dtype)
            draws[name] = process.basis.to_components(drawn)[:, None]
        u, carry = kernel.step(u, t, s, predictor, cond_at(step), draws, carry, process)
        if return_path:
            path.append(u[:, 0])
    if final == "denoise":
        x = process.to_data(predictor(u, grid[-1], cond_at(len(grid) - 1)).x_0)
    else:
        x = process.to_data(u[:, 0])
    return (x, torch.stack(path)) if return_path else x
