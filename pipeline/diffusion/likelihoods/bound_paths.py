"""The way from data to prior along which a bound is drawn: continuous time, or the steps of a chain t = k/T."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pipeline.config import ConfigError
from pipeline.diffusion.kernels.base import on_levels
from pipeline.diffusion.likelihoods.gaussian_terms import gaussian_diffusion
from pipeline.diffusion.likelihoods.paths import times_of_gamma
from pipeline.diffusion.processes import AnyMarginal, SpectralProcess
from pipeline.diffusion.randomness import NoiseStream

_GOLDEN = 0.6180339887498949  # (sqrt 5 - 1)/2: its multiples modulo 1 are spread evenly, however many are taken

_BISECTIONS = 60

_ROWS = 64  # steps of a chain summed at a time


@dataclass(frozen=True)
class BoundPath:
    """Where a bound is drawn: with e = |eps - eps_hat|^2 and G that of the Gaussian of the data,

        diffusion = known(white) + mean over draws k of weight(k, marginal) (e - G).

    Attributes:
        start: t_0, where the path begins and the datum is decoded. second: end of a chain's first step, else t_0.
        times: of the draws, `(batch, draws)` float64.
        weight: of draw k, given the marginal at its times; `(batch | 1, 1 | dim)`.
        known: the Gaussian's part for white = (c_0 - mean)/sqrt(Sigma), `(batch, dim)`.
    """

    start: float
    second: float
    times: Float[Tensor, "batch draws"]
    weight: Callable[[int, AnyMarginal], Tensor]
    known: Callable[[Tensor], Tensor]


def path_offsets(seed: int, rows: Sequence[int]) -> Float[Tensor, " batch"]:
    """Numbers in [0, 1) that are spread evenly over consecutive examples, each a function of (seed, index) alone.

    The batch's low-discrepancy times of Kingma 2021 (appendix I) depend on what shares a batch; multiples of the golden
    ratio from one uniform start do not, and cover any run of examples as well.
    """
    start = NoiseStream(seed).scalar_uniform(0, "vlb_times")
    return (start + torch.tensor([float(row) for row in rows], dtype=torch.float64) * _GOLDEN) % 1.0


def time_of_noise(process: SpectralProcess, deviation: float) -> float:
    """First time with this noise of the estimate c_t/alpha, root mean square over entries; 0 if it starts above.

    Raises:
        ConfigError: the process never has as much.
    """

    def noise(t: float) -> float:
        m = process.marginal(t)
        return float((m.scale * torch.exp(m.gamma / 2)).square().mean().sqrt())

    if noise(0.0) >= deviation:
        return 0.0
    low, high = 0.0, 1.0
    if noise(high) < deviation:
        raise ConfigError(f"start_noise: the process ends with less noise, {noise(high):.3g} in data units")
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if noise(middle) >= deviation else (middle, high)
    return high


def continuous_path(
    process: SpectralProcess, start: float, offsets: Float[Tensor, " batch"], num_draws: int
) -> BoundPath:
    """Evenly in gamma under a scalar schedule, in t under a component-wise one.

    Args:
        process: preserves variance. start: t_0. offsets: of the examples' first draws. num_draws: per example.
    """
    u = _even(offsets, num_draws)
    first, last = process.marginal(start), process.marginal(1.0)

    def known(white: Tensor) -> Tensor:
        return gaussian_diffusion(first.to(white.device), last.to(white.device), white)

    if process.schedule.is_scalar:
        span = last.gamma - first.gamma
        times = times_of_gamma(process, first.gamma + span * u)
        return BoundPath(start, start, times, lambda _, m: 0.5 * span.to(m.gamma.device), known)
    times = start + (1.0 - start) * u
    return BoundPath(start, start, times, lambda _, m: 0.5 * (1.0 - start) * m.d_gamma, known)


def chain_path(
    process: SpectralProcess,
    num_levels: int,
    *,
    first: int,
    variance: str,
    offsets: Float[Tensor, " batch"],
    num_draws: int | None,
) -> BoundPath:
    """Steps k/T -> (k-1)/T; under a scalar schedule a step is drawn by its share of gamma, else all alike.

    Args:
        process: preserves variance.
        num_levels: T.
        first: level that the datum is decoded from.
        variance: "small": that of the posterior, which leaves the difference of means. "large": beta = Q of
            c_s -> c_t, which adds a known term (Ho 2020, section 3.2).
        offsets: of the examples' first draws.
        num_draws: per example; None: each step once.

    Raises:
        ConfigError: the process has levels that k/T does not meet, or no step is left.
    """
    grid = torch.arange(num_levels + 1, dtype=torch.float64) / num_levels
    nodes = on_levels(process, grid)[first:]
    steps = len(nodes) - 1
    if steps < 1:
        raise ConfigError(f"a chain of {num_levels} that is decoded from level {first} has no step left")
    weights, surplus = _step_weights(process, nodes, variance)
    a, b = _gaussian_sums(process, nodes, weights)

    def known(white: Tensor) -> Tensor:
        return (a + surplus).to(white.device) + b.to(white.device) * white.square()

    if num_draws is None:
        times = nodes[1:].expand(len(offsets), steps)
        return BoundPath(
            float(nodes[0]), float(nodes[1]), times, lambda k, m: steps * weights[k : k + 1].to(m.gamma.device), known
        )
    step, share = _drawn_steps(process, nodes, _even(offsets, num_draws))

    def weight(k: int, m: AnyMarginal) -> Tensor:
        return (weights[step[:, k]] / share[step[:, k], None]).to(m.gamma.device)

    return BoundPath(float(nodes[0]), float(nodes[1]), nodes[1:][step], weight, known)


def _even(offsets: Float[Tensor, " batch"], num_draws: int) -> Float[Tensor, "batch draws"]:
    """One number in each of `num_draws` equal parts of [0, 1)."""
    return (offsets[:, None] + torch.arange(num_draws, dtype=torch.float64)) / num_draws


def _step_weights(
    process: SpectralProcess, nodes: Float[Tensor, " nodes"], variance: str
) -> tuple[Float[Tensor, "steps levels"], Float[Tensor, " levels"]]:
    """What multiplies |eps - eps_hat|^2 in each step's KL, and the sum of what does not depend on the prediction."""
    m = process.marginal(nodes)
    weights = 0.5 * torch.expm1(m.gamma.diff(dim=0))
    if variance == "small":
        return weights, torch.zeros(weights.shape[1], dtype=torch.float64)
    log_ratio = -m.log_sigma2.diff(dim=0)  # of the posterior's variance to beta: sigma_s^2 / sigma_t^2
    return weights * log_ratio.exp(), 0.5 * (torch.expm1(log_ratio) - log_ratio).sum(0)


def _gaussian_sums(
    process: SpectralProcess, nodes: Float[Tensor, " nodes"], weights: Float[Tensor, "steps levels"]
) -> tuple[Float[Tensor, " dim"], Float[Tensor, " dim"]]:
    """a and b of: sum over steps of weight E|eps - eps_G|^2 = a + b white^2, from S^2 + S (1 - S) white^2."""
    a, b = (torch.zeros(process.dim, dtype=torch.float64) for _ in range(2))
    for rows, times in zip(weights.split(_ROWS), nodes[1:].split(_ROWS), strict=True):
        log_snr = process.marginal(times).log_snr
        signal, noise = torch.sigmoid(log_snr), torch.sigmoid(-log_snr)
        a = a + (rows * signal.square()).sum(0)
        b = b + (rows * signal * noise).sum(0)
    return a, b


def _drawn_steps(
    process: SpectralProcess, nodes: Float[Tensor, " nodes"], u: Float[Tensor, "batch draws"]
) -> tuple[Int64[Tensor, "batch draws"], Float[Tensor, " steps"]]:
    """Steps at the places `u` of the path, and the probability of each step."""
    steps = len(nodes) - 1
    if not process.schedule.is_scalar:
        share = torch.full((steps,), 1.0 / steps, dtype=torch.float64)
    else:
        gamma = process.marginal(nodes).gamma[:, 0]
        share = gamma.diff() / (gamma[-1] - gamma[0])
    step = torch.searchsorted(share.cumsum(0), u.contiguous(), right=True)
    return step.clamp(max=steps - 1), share
