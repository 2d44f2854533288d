"""Reverse paths of the cold family against the published code: see the pages beside the arrays in golden/cold."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.diffusion import build_kernel, build_process, log_likelihood, sample
from pipeline.diffusion.kernels.gaussian import posterior_weights
from pipeline.diffusion.predictions import Prediction
from pipeline.diffusion.predictor import Condition
from pipeline.diffusion.processes import TrainingImages, build_terminal
from pipeline.diffusion.processes.operators.pixelate_nearest import PixelateNearest, vcd_sizes
from pipeline.diffusion.sampling import time_grid

FOLDER = Path(__file__).parent / "cold"
VCD, IHDM, COLD = (
    np.load(FOLDER / f"{name}.npz") for name in ("vcd_samplers_and_losses", "ihdm", "cold_forward_and_samplers")
)
VCD_CASES = ["m28", "c12"]
NOISE_SCALE = 0.01
ALG_1, ALG_2 = {"kind": "cold", "rho": 0.0}, {"kind": "cold", "rho": 1.0}
PREVIOUS = {"kind": "previous"}
STEPS = {"default": ALG_1, "x0_step_down": ALG_2}


def tensor(arrays, name):
    return torch.from_numpy(arrays[name]).double()


def spectral(shape, basis, schedule):
    """A process on the published raw numbers: no centre is taken off them."""
    return build_process({"kind": "spectral", "basis": basis, "centre": "grey", "schedule": schedule}, shape=shape)


def as_data(process, path):
    """A path in data space, `(steps + 1, batch, *shape)`."""
    return torch.stack([process.to_data(c) for c in path])


def x0_model(process, model):
    """A denoiser from a function of data space."""

    def predict(u_t, t, cond):
        value = process.to_components(model(process.to_data(u_t[:, 0]), t))
        return Prediction("x0", value, u_t[:, 0], None)

    return predict


def residual_model(process, change):
    """A denoiser whose previous level is x + change(x, t, cond)."""

    def predict(u_t, t, cond):
        assert cond is not None
        assert bool((cond.time_to < t).all())
        x = process.to_data(u_t[:, 0])
        return Prediction("x_prev", process.to_components(x + change(x, t, cond)), u_t[:, 0], None)

    return predict


def replayed(draws):
    """Recorded noise in the order of the steps."""
    return lambda step, name, shape: draws[step] if step < len(draws) else torch.zeros(shape)


def vcd_process(case, degradation):
    x_0, num_levels = tensor(VCD, f"{case}_x0"), int(VCD[f"{case}_T"])
    shape = tuple(x_0.shape[1:])
    fade = "vcd_cosine" if degradation.startswith("black") else "none"
    if degradation.endswith("blur"):
        schedule = {"kind": "heat", "levels": "vcd", "num_levels": num_levels, "fade": fade}
        return spectral(shape, "dct", schedule), x_0
    tree = {
        "kind": "operator",
        "degradation": {"kind": "pixelate_nearest"},
        "num_levels": num_levels,
        "fade": fade,
    }
    process = build_process(tree | {"num_levels": 3}, shape=shape)
    # The published list repeats a size on 12 pixels, which no grid may ask for.
    sizes = PixelateNearest(vcd_sizes(shape[-1], num_levels), shape)
    return replace(
        process,
        spec=process.spec.model_copy(update={"num_levels": num_levels}),
        operator=sizes,
        fade=vcd_process(case, "black_blur")[0].schedule._fade.value[:, 0],
    ), x_0


def vcd_model(x, t, cond, num_levels):
    """The published test's f(x, t, z, cond) at zero-based level t T - 1."""
    change = 0.1 * x + 0.01 * float(t) * num_levels
    if cond.latent is not None:
        change = change + 0.02 * cond.latent.mean(dim=1)[:, None, None, None]
    return change if cond.image is None else change + 0.05 * cond.image


@pytest.mark.parametrize("degradation", ["blur", "black_blur", "black_pixelation"])
@pytest.mark.parametrize("case", VCD_CASES)
@pytest.mark.parametrize(("name", "kernel"), [("alg1", ALG_1), ("alg2", ALG_2)])
def test_algorithms_1_and_2_walk_the_published_path(case, degradation, name, kernel):
    process, x_0 = vcd_process(case, degradation)
    x_T = process.to_data(process.degrade(process.to_components(x_0), 1.0))
    denoiser = x0_model(process, lambda x, t: 0.9 * x + 0.05)
    _, path = sample(process, build_kernel(kernel), denoiser, x_T, time_grid(process.num_levels), return_path=True)
    expected = tensor(VCD, f"{case}_{name}_{degradation}")
    torch.testing.assert_close(as_data(process, path), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", VCD_CASES)
def test_one_latent_code_for_all_steps_gives_the_published_generation(case):
    process, x_0 = vcd_process(case, "black_blur")
    denoiser = residual_model(process, lambda x, t, cond: vcd_model(x, t, cond, process.num_levels))
    cond = Condition(latent=tensor(VCD, f"{case}_prior"))
    _, path = sample(
        process,
        build_kernel(PREVIOUS),
        denoiser,
        torch.zeros_like(x_0),
        time_grid(process.num_levels),
        cond=cond,
        return_path=True,
    )
    torch.testing.assert_close(as_data(process, path), tensor(VCD, f"{case}_vcd_gen"), rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", VCD_CASES)
def test_conditions_of_the_true_levels_give_the_published_reconstruction(case):
    process, x_0 = vcd_process(case, "black_blur")
    denoiser = residual_model(process, lambda x, t, cond: vcd_model(x, t, cond, process.num_levels))
    times = time_grid(process.num_levels)
    c_0 = process.to_components(x_0)

    def cond(step):
        return Condition(image=process.to_data(process.degrade(c_0, times[step + 1])))

    x_T = process.to_data(process.degrade(c_0, 1.0))
    _, path = sample(process, build_kernel(PREVIOUS), denoiser, x_T, times, cond=cond, return_path=True)
    torch.testing.assert_close(as_data(process, path), tensor(VCD, f"{case}_vcd_cond"), rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", VCD_CASES)
def test_noise_after_every_step_but_the_last_gives_the_published_ris_path(case):
    process, x_0 = vcd_process(case, "blur")
    denoiser = residual_model(process, lambda x, t, cond: vcd_model(x, t, cond, process.num_levels))
    x_T = process.to_data(process.degrade(process.to_components(x_0), 1.0))
    kernel = build_kernel({"kind": "previous", "delta": 1.25 * NOISE_SCALE})
    noise = replayed(tensor(VCD, f"{case}_ris_noise"))
    _, path = sample(process, kernel, denoiser, x_T, time_grid(process.num_levels), noise, return_path=True)
    torch.testing.assert_close(as_data(process, path), tensor(VCD, f"{case}_ris"), rtol=0, atol=1e-5)


def vcd_noise_process(case):
    """The published cosine schedule: betas clipped at 0.999."""
    num_levels, shape = int(VCD[f"{case}_T"]), VCD[f"{case}_x0"].shape[1:]
    k = torch.arange(num_levels + 1, dtype=torch.float64) / num_levels
    bar = torch.cos((k + 0.008) / 1.008 * math.pi / 2).square()
    betas = (1 - bar[1:] / bar[:-1]).clamp(max=0.999)
    return spectral(tuple(shape), "pixel", {"kind": "betas", "values": betas.tolist()}), num_levels


@pytest.mark.parametrize("case", VCD_CASES)
@pytest.mark.parametrize("prediction", ["eps", "x0"])
def test_ancestral_steps_with_a_clamped_prediction_are_the_published_ddpm(case, prediction):
    process, num_levels = vcd_noise_process(case)

    def model(x, t):
        at = process.marginal(t)
        x_0 = 0.9 * x if prediction == "x0" else (x - at.sigma * 0.1 * x) / at.alpha
        return x_0.clamp(-1, 1)

    x_T = tensor(VCD, f"{case}_ddpm_xT")
    noise = replayed(tensor(VCD, f"{case}_ddpm_noise"))
    kernel = build_kernel({"kind": "ancestral"})
    _, path = sample(process, kernel, x0_model(process, model), x_T, time_grid(num_levels), noise, return_path=True)
    expected = tensor(VCD, f"{case}_ddpm_{prediction}")
    torch.testing.assert_close(as_data(process, path)[1:], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", VCD_CASES)
def test_posterior_weights_are_the_published_coefficients(case):
    process, num_levels = vcd_noise_process(case)
    rows = []
    for level in range(1, num_levels + 1):
        t, s = (torch.tensor(k / num_levels, dtype=torch.float64) for k in (level, level - 1))
        of_state, of_data, variance = posterior_weights(process, s, t)
        rows.append(torch.cat([of_data[0], of_state[0], variance[0]]))
    torch.testing.assert_close(torch.stack(rows), tensor(VCD, f"{case}_posterior_coefs"), rtol=0, atol=1e-5)


def ihdm_process(case, *, terminal=None):
    """Heat dissipation on [0, 1] with training noise 0.01, ending in the case's training images."""
    x_0 = tensor(IHDM, f"{case}_x0")
    num_levels = len(IHDM[f"{case}_sigma_B"]) - 1
    schedule = {
        "kind": "heat",
        "num_levels": num_levels,
        "blur_min": 0.5,
        "blur_max": float(IHDM[f"{case}_sigma_B"][-1]),
        "noise": 0.01,
    }
    process = spectral(tuple(x_0.shape[1:]), "dct", schedule)
    training = TrainingImages(len(x_0), lambda positions: x_0[list(positions)])
    return replace(process, terminal=build_terminal({"kind": "training_images"}, process, training)), x_0


def ihdm_change(num_levels):
    """f(u, k) = -0.05 u + 0.01 k/K."""
    return lambda x, t, cond: -0.05 * x + 0.01 * float(t)


@pytest.mark.parametrize("case", ["i12", "i28"])
def test_inverse_heat_dissipation_walks_the_published_path_and_returns_its_mean(case):
    process, x_0 = ihdm_process(case)
    denoiser = residual_model(process, ihdm_change(process.num_levels))
    u_K = process.to_data(process.degrade(process.to_components(x_0), 1.0))
    kernel = build_kernel({"kind": "previous", "delta": float(IHDM[f"{case}_delta"])})
    noise = replayed(tensor(IHDM, f"{case}_sample_noise"))
    mean, path = sample(process, kernel, denoiser, u_K, time_grid(process.num_levels), noise, return_path=True)
    expected = tensor(IHDM, f"{case}_sample_traj")
    torch.testing.assert_close(as_data(process, path)[:-1], expected[:-1], rtol=0, atol=2e-6)
    torch.testing.assert_close(mean, tensor(IHDM, f"{case}_sample_final_mean"), rtol=0, atol=2e-6)


@pytest.mark.parametrize("case", ["i12", "i28"])
def test_prior_term_of_the_bound_is_the_published_one(case):
    process, _ = ihdm_process(case)
    denoiser = residual_model(process, ihdm_change(process.num_levels))
    terms = log_likelihood(process, denoiser, tensor(IHDM, f"{case}_test"), {"kind": "ihdm_bound"})
    torch.testing.assert_close(-terms.prior, tensor(IHDM, f"{case}_LK_bound"), rtol=1e-4, atol=0)


@pytest.mark.parametrize("case", ["i12", "i28"])
def test_terms_of_the_bound_are_the_reference_s(case):
    process, x_0 = ihdm_process(case)
    denoiser = residual_model(process, ihdm_change(process.num_levels))
    eps = process.basis.to_components(tensor(IHDM, f"{case}_elbo_eps"))
    terms = log_likelihood(process, denoiser, x_0, {"kind": "ihdm_bound"}, probe=eps)
    found = torch.cat([-terms.reconstruction[None], terms.steps])
    torch.testing.assert_close(found, tensor(IHDM, f"{case}_elbo_terms_k"), rtol=1e-4, atol=0)
    assert terms.nfe == process.num_levels
    sigma, delta = float(process.sigma(1.0)), 1.25 * float(process.sigma(1.0))
    constant = process.dim * (sigma**2 / delta**2 - 1 + 2 * np.log(delta / sigma))
    squares = (2 * terms.steps - constant) * delta**2
    torch.testing.assert_close(squares, tensor(IHDM, f"{case}_elbo_mse_k")[1:], rtol=1e-3, atol=1e-6)


COLD_BLURS = {
    "const": ("fourier", {"kernel_size": 5, "kernel_std": 2.0}),
    "exp": ("fourier", {"kernel_size": 9, "kernel_std": 1.0, "growth": 0.01, "growth_law": "exponential"}),
    "expdisc": ("fourier", {"kernel_size": 9, "kernel_std": 1.0, "growth": 0.01, "growth_law": "exponential"}),
    "special6": ("pixel", {"kernel_size": 11, "kernel_std": 0.35, "growth": 0.01}),
}


def cold_process(case):
    x_0, num_levels = tensor(COLD, f"{case}_x0"), len(COLD[f"{case}_q"])
    shape = tuple(x_0.shape[1:])
    if case == "res_area":
        return spectral(shape, "haar_dct", {"kind": "block_mean", "num_levels": num_levels}), x_0
    basis, kernels = COLD_BLURS[case]
    kernels = kernels | {"with_flat_end": case == "expdisc"}
    if basis == "fourier":
        return spectral(shape, basis, {"kind": "kernel_blur", "num_levels": num_levels} | kernels), x_0
    degradation = {"kind": "reflect_blur"} | kernels
    return build_process({"kind": "operator", "degradation": degradation, "num_levels": num_levels}, shape=shape), x_0


def cold_path(process, x_T, routine):
    x, path = sample(
        process,
        build_kernel(STEPS[routine]),
        x0_model(process, lambda x, t: 0.9 * x),
        x_T,
        time_grid(process.num_levels),
        return_path=True,
    )
    return x, as_data(process, path)


@pytest.mark.parametrize("routine", STEPS)
@pytest.mark.parametrize("case", [*COLD_BLURS, "res_area"])
def test_cold_diffusion_ends_where_the_published_code_does(case, routine):
    process, x_0 = cold_process(case)
    x_T = process.to_data(process.degrade(process.to_components(x_0), 1.0))
    x, _ = cold_path(process, x_T, routine)
    torch.testing.assert_close(x, tensor(COLD, f"{case}_{routine}_final"), rtol=0, atol=1e-5)


@pytest.mark.parametrize("routine", STEPS)
@pytest.mark.parametrize("case", ["const", "exp", "special6"])
def test_every_state_and_prediction_is_the_published_one(case, routine):
    process, x_0 = cold_process(case)
    x_T = process.to_data(process.degrade(process.to_components(x_0), 1.0))
    _, path = cold_path(process, x_T, routine)
    torch.testing.assert_close(path[:-1], tensor(COLD, f"{case}_{routine}_xt"), rtol=0, atol=1e-5)
    torch.testing.assert_close(0.9 * path[:-1], tensor(COLD, f"{case}_{routine}_x0hat"), rtol=0, atol=1e-5)


@pytest.mark.parametrize("routine", STEPS)
@pytest.mark.parametrize("case", COLD_BLURS)
def test_generation_from_a_flat_colour_with_noise_is_the_published_one(case, routine):
    process, x_0 = cold_process(case)
    colours = x_0.mean(dim=(2, 3), keepdim=True).expand_as(x_0)
    x, _ = cold_path(process, colours + 0.002 * tensor(COLD, f"{case}_gen_noise"), routine)
    torch.testing.assert_close(x, tensor(COLD, f"{case}_{routine}_gen"), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("routine", "kernel"),
    [("ddim", {"kind": "cold"}), ("ddim", {"kind": "ddim"}), ("x0_step_down", {"kind": "cold", "noise": "start"})],
)
def test_hot_diffusion_ends_where_the_published_code_does(routine, kernel):
    x_T, num_levels = tensor(COLD, "hot_z"), len(COLD["hot_q"])
    # The published cosine lays its points one too many: linspace(0, T + 1, T + 1) / (T + 1).
    u = torch.linspace(0, num_levels + 1, num_levels + 1, dtype=torch.float64) / (num_levels + 1)
    bar = torch.cos((u + 0.008) / 1.008 * math.pi / 2).square()
    betas = (1 - bar[1:] / bar[:-1]).clamp(0, 0.999)
    process = spectral(tuple(x_T.shape[1:]), "pixel", {"kind": "betas", "values": betas.tolist()})

    def predict(u_t, t, cond):
        return Prediction("x0", 0.9 * u_t[:, 0], u_t[:, 0], process.marginal(t))

    x = sample(process, build_kernel(kernel), predict, x_T, time_grid(num_levels))
    torch.testing.assert_close(x, tensor(COLD, f"hot_{routine}_final"), rtol=0, atol=1e-5)
