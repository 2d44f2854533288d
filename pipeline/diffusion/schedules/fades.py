"""Fades to the centre: factors b_0 = 1, b_1 ... b_T = 0 that multiply every component (black = centre black)."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.config import ConfigError

Fade = Literal["none", "cosine", "linear", "exponential", "vcd_cosine", "vcd_exponential"]

_RATE = 5.0
"""Of the exponential fade: the factor falls e^-5-fold, up to the shift that ends it at 0."""


def _cosine(t: Tensor) -> Tensor:
    return torch.sin(math.pi / 2 * (1 - t)).square()


def _exponential(t: Tensor) -> Tensor:
    return torch.expm1(_RATE * (1 - t)) / math.expm1(_RATE)


def _vcd_cosine(t: Tensor) -> Tensor:
    """cos^2 of (j/(T-1) + .008)/1.008 pi/2, the last one 0; b_1 = 0.99984 is almost no degradation."""
    share = torch.arange(len(t), dtype=torch.float64) / (len(t) - 1)
    return _with_zero_end(torch.cos((share + 0.008) / 1.008 * math.pi / 2).square())


def _vcd_exponential(t: Tensor) -> Tensor:
    """0.95^j, the last one 0; b_1 = 1 is no degradation at all."""
    return _with_zero_end(0.95 ** torch.arange(len(t), dtype=torch.float64))


def _with_zero_end(b: Tensor) -> Tensor:
    return torch.cat([b[:-1], torch.zeros_like(b[-1:])])


FADES: dict[str, Callable[[Tensor], Tensor]] = {
    "none": torch.ones_like,
    "cosine": _cosine,
    "linear": lambda t: 1 - t,  # also the linear black schedule of Variational Cold Diffusion
    "exponential": _exponential,
    "vcd_cosine": _vcd_cosine,
    "vcd_exponential": _vcd_exponential,
}
"""Name -> factors at the times k/T, k = 1 ... T. Every level of the first four differs from its neighbours; `vcd_*` are
the published ones (MaxFeucht/VariationalColdDiffusion f3bfb2b, scheduler.py)."""


def fade_levels(name: Fade, num_levels: int) -> Float[Tensor, " levels"]:
    """b_0 = 1, b_1 ... b_T, `(num_levels + 1,)` float64; b_T = 0 for every fade but `none`.

    Raises:
        ConfigError: a published fade with one level, for which its formula divides by zero.
    """
    if name.startswith("vcd_") and num_levels < 2:
        raise ConfigError(f"fade {name} needs num_levels of at least 2, found {num_levels}; use cosine")
    t = torch.arange(1, num_levels + 1, dtype=torch.float64) / num_levels
    return torch.cat([torch.ones(1, dtype=torch.float64), FADES[name](t)])
