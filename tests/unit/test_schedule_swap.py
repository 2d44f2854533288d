"""The schedule swap: one network that knows the noise state, walked along paths that it was not built for."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.config import ConfigError
from pipeline.diffusion import Statistics, build_kernel, build_process, oracles, sample
from pipeline.diffusion.predictor import Predictor
from pipeline.diffusion.randomness import NoiseStream
from pipeline.diffusion.sampling import time_grid
from pipeline.diffusion.windows import window_grid
from tests.diffusion_cases import normal, slow

DIM = 3
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
MEANS = torch.tensor([[1.2, -0.3, 0.2], [-1.0, 0.4, 0.1], [0.0, 0.1, -0.5]], dtype=torch.float64)
SPREADS = torch.tensor([[0.05, 0.1, 0.02], [0.1, 0.03, 0.04], [0.04, 0.05, 0.01]], dtype=torch.float64)
MEAN = WEIGHTS @ MEANS
VARIANCES = WEIGHTS @ (SPREADS + MEANS.square()) - MEAN.square()

BUILT_FOR = {"kind": "gud", "softness_a": 1.0, "log_snr_data": 8.0, "log_snr_prior": -12.0}
SWAPS: dict[str, dict[str, Any]] = {
    "softer": BUILT_FOR | {"softness_a": 0.4},
    "harder": BUILT_FOR | {"softness_a": 1.6},
    "by_frequency": BUILT_FOR | {"ordering_r": 1.0},
    "in_turn": BUILT_FOR | {"softness_a": 20.0, "ordering": "rank", "clip": True},
    "log_linear": {"kind": "log_linear", "gamma_min": -10.0, "gamma_max": 11.0},
    "cosine": {"kind": "cosine"},
}


def process_of(schedule: dict[str, Any], prior: str = "standard", **more: Any) -> Any:
    spec = {"kind": "spectral", "basis": "pixel", "centre": "mean", "prior": prior, "schedule": schedule} | more
    return build_process(spec, (DIM,), Statistics(mean=MEAN, variances=VARIANCES))


def oracle_of(process: Any) -> Any:
    return oracles.mixture(process, WEIGHTS, MEANS - MEAN, SPREADS)


class Exact:
    """A network that is the posterior mean of the mixture, from its own input and the noise state, and no schedule."""

    def __init__(self, process: Any) -> None:
        self.scale = process.scale

    def __call__(self, x: Tensor, t: Tensor, gamma: Tensor, cond: Any = None) -> Tensor:
        noise_state = gamma.double().expand(len(x), DIM)
        alpha, sigma = torch.sigmoid(-noise_state).sqrt(), self.scale * torch.sigmoid(noise_state).sqrt()
        total = alpha.square() * VARIANCES + sigma.square()
        centred = x.double() * total.mean(dim=1, keepdim=True).sqrt()
        residual = centred[:, None] - alpha[:, None] * (MEANS - MEAN)
        spread = alpha.square()[:, None] * SPREADS + sigma.square()[:, None]
        log_joint = WEIGHTS.log() - 0.5 * (residual.square() / spread + spread.log()).sum(dim=2)
        share = torch.softmax(log_joint, dim=1)[:, :, None]
        eps = sigma * (share * residual / spread).sum(dim=1)
        return (eps - sigma / total * centred) / (alpha * torch.sqrt(VARIANCES / total))


def predictor_of(prior: str = "standard") -> Predictor:
    process = process_of(BUILT_FOR, prior)
    return Predictor(Exact(process), process, "eps")


def keyed(seed: int, batch: int) -> Any:
    stream = NoiseStream(seed)
    return lambda step, name, shape: stream.normal(range(batch), step, name, shape[1:], torch.float64)


@pytest.mark.parametrize("prior", ["standard", "data"])
@pytest.mark.parametrize("name", SWAPS)
def test_one_network_is_the_exact_predictor_of_every_schedule(name, prior):
    process, u_t = process_of(SWAPS[name], prior), normal(1, 7, 1, DIM)
    swapped = predictor_of(prior).under(process)
    for t in (0.15, 0.5, 0.9):
        expected = oracle_of(process)(u_t, t).eps
        torch.testing.assert_close(swapped(u_t, t).eps, expected, rtol=1e-4, atol=1e-4)


def test_a_predictor_of_another_path_is_wrong_on_this_one():
    built, process, u_t = predictor_of(), process_of(SWAPS["harder"]), normal(1, 7, 1, DIM)
    expected = oracle_of(process)(u_t, 0.5).eps
    assert float((built(u_t, 0.5).eps - expected).abs().max()) > 0.1
    assert float((built.under(process)(u_t, 0.5).eps - expected).abs().max()) < 1e-3


def test_a_swap_back_is_the_predictor_it_was():
    built, u_t = predictor_of(), normal(1, 7, 1, DIM)
    back = built.under(process_of(SWAPS["harder"])).under(built.process)
    assert torch.equal(back(u_t, 0.4).value, built(u_t, 0.4).value)


@pytest.mark.parametrize("prior", ["standard", slow("data")])
@pytest.mark.parametrize("name", SWAPS)
def test_samples_of_every_swapped_schedule_have_the_law_of_the_data(name, prior):
    num_images = 2000
    process = process_of(SWAPS[name], prior)
    times = window_grid(process, 24)
    times[-1] = 1e-4 if name == "cosine" else times[-1]
    x_T = process.to_data(keyed(0, num_images)(0, "x_T", (num_images, DIM)) * process.scale)
    swapped = predictor_of(prior).under(process)
    x = sample(process, build_kernel({"kind": "heun"}), swapped, x_T, times, final="denoise")
    assert isinstance(x, Tensor)
    mean_error = (x.mean(dim=0) - MEAN) / torch.sqrt(VARIANCES / num_images)
    assert float(mean_error.abs().max()) < 4
    assert law_error(x) < 4


def law_error(x: Tensor) -> float:
    """Largest deviation, in standard errors, of the shares of the mixture's parts and of the coupling of components."""
    residual = x[:, None] - MEANS
    share = torch.softmax(WEIGHTS.log() - 0.5 * (residual.square() / SPREADS + SPREADS.log()).sum(dim=2), dim=1)
    part = torch.stack([MEANS[k] + SPREADS[k].sqrt() * normal(20 + k, 60_000, DIM) for k in range(3)])
    exact = torch.cat([part[k, : int(60_000 * WEIGHTS[k])] for k in range(3)])

    def features(points: Tensor, shares: Tensor) -> Tensor:
        centred = points - MEAN
        products = centred[:, :, None] * centred[:, None, :]
        return torch.cat([shares, products.flatten(1), centred**3], dim=1)

    of_exact = exact[:, None] - MEANS
    exact_share = torch.softmax(WEIGHTS.log() - 0.5 * (of_exact.square() / SPREADS + SPREADS.log()).sum(dim=2), dim=1)
    found, expected = features(x, share), features(exact, exact_share)
    error = (found.mean(dim=0) - expected.mean(dim=0)) / (expected.std(dim=0) / math.sqrt(len(x)))
    return float(error.abs().max())


def test_the_measure_of_law_notices_a_wrong_one():
    gaussian = MEAN + VARIANCES.sqrt() * normal(9, 3000, DIM)
    assert law_error(gaussian) > 20


# --- parameters row by row

ROWS = {
    "softness_a": torch.tensor([[0.4], [1.0], [1.6], [0.7]], dtype=torch.float64),
    "ordering_r": torch.tensor([[0.0], [1.0], [0.5], [0.25]], dtype=torch.float64),
}


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("prior", ["standard", "data"])
@pytest.mark.parametrize(
    "kernel",
    [
        {"kind": "ddim"},
        {"kind": "ddim", "eta": 0.5},
        {"kind": "ancestral"},
        {"kind": "heun"},
        {"kind": "euler_maruyama"},
    ],
    ids=str,
)
def test_rows_walk_their_own_paths_as_they_would_alone(kernel, prior, clip):
    base = process_of(BUILT_FOR | {"clip": clip}, prior)
    built, times = predictor_of(prior), time_grid(6)
    x_T, noise = base.to_data(normal(3, 4, DIM) * base.scale), keyed(1, 4)
    together = base.with_parameters(**ROWS)
    found = sample(together, build_kernel(kernel), built.under(together), x_T, times, noise)
    for row in range(4):
        alone = base.with_parameters(**{name: float(values[row]) for name, values in ROWS.items()})
        one = sample(
            alone,
            build_kernel(kernel),
            built.under(alone),
            x_T[row : row + 1],
            times,
            lambda step, name, shape, row=row: noise(step, name, (4, *shape[1:]))[row : row + 1],
        )
        torch.testing.assert_close(found[row : row + 1], one, rtol=1e-10, atol=1e-10)


def test_rows_of_parameters_answer_times_of_their_own():
    base = process_of(BUILT_FOR)
    together, built, u_t = base.with_parameters(**ROWS), predictor_of(), normal(2, 4, 1, DIM)
    times = torch.tensor([0.1, 0.4, 0.6, 0.9], dtype=torch.float64)
    found = built.under(together)(u_t, times).eps
    for row in range(4):
        alone = base.with_parameters(**{name: float(values[row]) for name, values in ROWS.items()})
        one = built.under(alone)(u_t[row : row + 1], times[row]).eps
        torch.testing.assert_close(found[row : row + 1], one, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"prior": "data"}, "on one prior"), ({"centre": "grey"}, "on one centre"), ({"basis": "dct"}, "on one basis")],
    ids=str,
)
def test_a_swap_of_more_than_the_schedule_is_refused(changes, message):
    spec = {"kind": "spectral", "basis": "pixel", "centre": "mean", "prior": "standard", "schedule": {"kind": "vp"}}
    statistics = Statistics(mean=torch.zeros(16), variances=torch.ones(16))
    built, other = (build_process(tree, (1, 4, 4), statistics) for tree in (spec, spec | changes))
    with pytest.raises(ConfigError, match=message):
        Predictor(lambda x, t, gamma, cond: x, built, "eps").under(other)


def test_a_swap_to_data_of_another_shape_is_refused():
    spec = {"kind": "spectral", "schedule": {"kind": "vp"}}
    built, other = (build_process(spec, shape) for shape in ((4,), (1, 4, 4)))
    with pytest.raises(ConfigError, match="for data of shape"):
        Predictor(lambda x, t, gamma, cond: x, built, "eps").under(other)
