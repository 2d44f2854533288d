"""Parts of a variational bound that are known: those of the Gaussian of the data, and what is left at t = 1."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from pipeline.config import ConfigError
from pipeline.diffusion.kernels.base import Denoiser
from pipeline.diffusion.predictor import Condition
from pipeline.diffusion.processes import AnyMarginal, GaussianTerminal, SpectralProcess


def data_variances(process: SpectralProcess) -> Float[Tensor, " dim"]:
    """Sigma, those of the data or 1."""
    return torch.ones_like(process.mean_components) if process.variances is None else process.variances


def error_beyond_gaussian(
    predictor: Denoiser,
    m: AnyMarginal,
    t: Float[Tensor, " batch"],
    *,
    c_0: Float[Tensor, "batch dim"],
    noise: Float[Tensor, "batch dim"],
    white: Float[Tensor, "batch dim"],
    cond: Condition | None,
) -> Float[Tensor, "batch dim"]:
    """|eps - eps_hat|^2 - |eps - eps_G|^2 per component at c_t = alpha c_0 + sigma eps; one evaluation.

    Args:
        predictor: of any target that says the noise. m: marginal at the times `t`, on the device of c_0.
        c_0: clean components. noise: eps. white: (c_0 - mean) / sqrt(Sigma). cond: condition of the evaluation.
    """
    predicted = predictor((m.alpha * c_0 + m.sigma * noise)[:, None], t, cond).eps.to(torch.float64)
    return (noise - predicted).square() - gaussian_error(m, noise, white).square()


def gaussian_error(
    m: AnyMarginal, noise: Float[Tensor, "batch dim"], white: Float[Tensor, "batch dim"]
) -> Float[Tensor, "batch dim"]:
    """eps - eps_G."""
    signal = torch.sigmoid(m.log_snr)
    return signal * noise - torch.sqrt(signal * torch.sigmoid(-m.log_snr)) * white


def gaussian_diffusion(
    first: AnyMarginal, last: AnyMarginal, white: Float[Tensor, "batch dim"]
) -> Float[Tensor, "batch dim"]:
    """Integral of 1/2 gamma' E|eps - eps_G|^2 from the first to the last time, by its antiderivative in log SNR."""
    start, end = first.log_snr, last.log_snr
    lost = torch.sigmoid(start) - torch.sigmoid(end)
    return 0.5 * (softplus(start) - softplus(end) + (white.square() - 1) * lost)


def prior_kl(process: SpectralProcess, last: AnyMarginal, c_0: Float[Tensor, "batch dim"]) -> Float[Tensor, " batch"]:
    """KL(N(alpha c_0, sigma^2) || N(mean, variances)), the latter the terminal distribution.

    Raises:
        ConfigError: it is not Gaussian.
    """
    terminal = process.terminal or GaussianTerminal(torch.zeros_like(process.scale), process.scale.square())
    if not isinstance(terminal, GaussianTerminal):
        raise ConfigError(f"a bound needs a Gaussian prior; {type(terminal).__name__} has no closed form")
    mean, variances = terminal.mean.to(c_0.device), terminal.variances.to(c_0.device)
    log_ratio = last.log_sigma2 + 2 * last.scale.log() - variances.log()
    distance = (last.alpha * c_0 - mean).square() / variances
    return 0.5 * (torch.expm1(log_ratio) - log_ratio + distance).sum(1)
