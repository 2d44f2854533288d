"""Every schedule reproduces the arrays of the public GUD library and of the formulas it lacks (gud/schedules.md)."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.diffusion import Statistics, build_process
from pipeline.diffusion.processes import Marginal, Process
from pipeline.diffusion.schedules.heat import laplacian

ARRAYS = np.load(Path(__file__).parent / "gud" / "schedules.npz")
SOFTNESS = ["0", "0.4", "0.7", "1", "1.3", "1.6", "20"]
BIG = 80.0


def process_of(schedule: dict, shape: tuple[int, ...] = (1,), prior: str = "standard", basis: str = "pixel") -> Process:
    statistics = Statistics(mean=torch.zeros(8), variances=torch.from_numpy(ARRAYS["Sigma"])) if shape == (8,) else None
    spec = {"kind": "spectral", "basis": basis, "prior": prior, "schedule": schedule}
    return build_process(spec, shape, statistics)


def marginal_at(process: Process, name: str) -> Marginal:
    return process.marginal(torch.from_numpy(ARRAYS[f"{name}.t"]))


def assert_close(found: torch.Tensor, name: str, mask: np.ndarray | bool = True) -> None:
    expected = ARRAYS[name]
    found_array = np.broadcast_to(found.numpy().reshape(found.shape[0], -1), expected.reshape(len(expected), -1).shape)
    found_array = found_array.reshape(expected.shape)
    mask = np.broadcast_to(mask, expected.shape)
    np.testing.assert_allclose(found_array[mask], expected[mask], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("name", "schedule"),
    [
        ("linear", {"kind": "log_linear", "gamma_min": -9.0, "gamma_max": 5.0}),
        ("vp", {"kind": "vp", "beta_min": 0.1, "beta_max": 20.0}),
        ("cosine_unnorm", {"kind": "cosine", "offset": 0.008, "normalised": False}),
    ],
)
def test_scalar_schedules_match(name: str, schedule: dict) -> None:
    m = marginal_at(process_of(schedule), name)
    for field in ("gamma", "alpha", "sigma", "beta"):
        assert_close(getattr(m, field), f"{name}.{field}")


def test_normalised_cosine_matches() -> None:
    m = marginal_at(process_of({"kind": "cosine", "offset": 0.008}), "cosine_iddpm")
    assert_close(m.gamma, "cosine_iddpm.gamma")
    assert_close(m.alpha.square(), "cosine_iddpm.alpha_sq")


def test_ddpm_levels_match() -> None:
    schedule = {"kind": "linear_beta", "beta_min": 1e-4, "beta_max": 0.02, "num_levels": 1000}
    m = process_of(schedule).marginal(torch.from_numpy((ARRAYS["ddpm.index"] + 1) / 1000))
    assert_close(m.gamma, "ddpm.gamma")
    assert_close(m.alpha.square(), "ddpm.alphabar")


def soft(a: str, scaling: str, *, clip: bool) -> Process:
    data, prior = ARRAYS["gamma_targets"]
    schedule = {"kind": "gud", "softness_a": float(a), "log_snr_data": -data, "log_snr_prior": -prior, "clip": clip}
    return process_of(schedule, (8,), {"raw": "standard", "white": "data"}[scaling])


@pytest.mark.parametrize("scaling", ["raw", "white"])
@pytest.mark.parametrize("a", SOFTNESS)
def test_soft_schedules_match(a: str, scaling: str) -> None:
    name = f"soft.a{a}.{scaling}"
    m = marginal_at(soft(a, scaling, clip=False), name)
    scale = 1.0 if scaling == "raw" else torch.from_numpy(np.sqrt(ARRAYS["Sigma"]))
    is_moderate = np.abs(ARRAYS[f"{name}.gamma"]) < BIG
    for field, found in {"gamma": m.gamma, "alpha": m.alpha, "sigma": m.sigma / scale, "beta": m.beta}.items():
        assert_close(found, f"{name}.{field}", is_moderate)
        assert found.isfinite().all()
    assert_close(m.log_snr, f"{name}.log_snr")
    np.testing.assert_allclose(m.gamma[0].numpy(), ARRAYS[f"{name}.gmin"], rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(m.gamma[-1].numpy(), ARRAYS[f"{name}.gmax"], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("scaling", ["raw", "white"])
@pytest.mark.parametrize("a", SOFTNESS)
def test_clipped_soft_schedules_match_away_from_kinks(a: str, scaling: str) -> None:
    name = f"soft.a{a}.{scaling}"
    process = soft(a, scaling, clip=True)
    m = marginal_at(process, name)
    assert_close(m.gamma, f"{name}.clip.gamma")
    unclipped, clipped = ARRAYS[f"{name}.gamma"], ARRAYS[f"{name}.clip.gamma"]
    low, high = clipped.min(axis=0), clipped.max(axis=0)
    is_off_kink = (np.abs(unclipped - low) > 1e-6) & (np.abs(unclipped - high) > 1e-6)
    assert_close(m.beta, f"{name}.clip.beta", is_off_kink)


def off_kink(offsets: np.ndarray, length: float, t: np.ndarray) -> np.ndarray:
    """True where a time is not at the beginning or end of a component's window."""
    begins = np.abs(t[:, None] - offsets) < 1e-9
    ends = np.abs(t[:, None] - offsets - length) < 1e-9
    return ~(begins | ends)


@pytest.mark.parametrize("axis", ["column", "row"])
@pytest.mark.parametrize("b", ["0", "0.3", "0.5", "0.75"])
def test_column_schedules_match(axis: str, b: str) -> None:
    name = f"{axis}.b{b}"
    low, high = ARRAYS["col_gamma"]
    rows, columns = (int(size) for size in ARRAYS["grid"])
    schedule = {"kind": "columns", "axis": axis, "overlap_b": float(b), "gamma_min": low, "gamma_max": high}
    m = marginal_at(process_of(schedule, (1, rows, columns)), name)
    assert_close(m.gamma, f"{name}.gamma")
    assert_close(m.alpha, f"{name}.alpha")
    assert_close(m.sigma, f"{name}.sigma")
    mask = off_kink(ARRAYS[f"{name}.offset"], 1 - float(b), ARRAYS[f"{name}.t"])
    assert_close(m.beta, f"{name}.beta", mask)


def test_exactly_sequential_schedule_matches() -> None:
    low, high = ARRAYS["col_gamma"]
    n = ARRAYS["sequential.gamma"].shape[1]
    schedule = {"kind": "columns", "overlap_b": (n - 1) / n, "gamma_min": low, "gamma_max": high}
    assert_close(marginal_at(process_of(schedule, (n,)), "sequential").gamma, "sequential.gamma")


@pytest.mark.parametrize(("a", "b"), [("0.5", "0.5"), ("0.5", "0"), ("0", "0.5"), ("0.25", "0.3")])
def test_haar_column_schedules_match(a: str, b: str) -> None:
    name = f"haarcol.a{a}.b{b}"
    low, high = ARRAYS["col_gamma"]
    schedule = {
        "kind": "haar_columns",
        "level_offset": float(a),
        "overlap_b": float(b),
        "gamma_min": low,
        "gamma_max": high,
    }
    process = process_of(schedule, (1, 8, 8), basis="haar")
    assert_close(process.marginal(torch.from_numpy(ARRAYS["linear.t"])).gamma, f"{name}.gamma")
    assert process.basis.level is not None
    np.testing.assert_array_equal(process.basis.level.numpy(), ARRAYS["haarcol.level"].ravel())
    np.testing.assert_array_equal(process.basis.column.numpy(), ARRAYS["haarcol.column"].ravel())


def test_blurring_diffusion_rows_match() -> None:
    side, blur_max, min_scale, low, high = (float(value) for value in ARRAYS["blur.params"])
    schedule = {"kind": "blurring", "blur_max": blur_max, "min_scale": min_scale}
    schedule |= {"log_snr_prior": low, "log_snr_data": high}
    process = process_of(schedule, (1, int(side), int(side)), basis="dct")
    m = process.marginal(torch.from_numpy(ARRAYS["blur.t"]))
    assert_close(m.gamma, "blur.gamma")
    assert_close(m.alpha / torch.from_numpy(ARRAYS["blur.alpha_t"])[:, None], "blur.freq_scale")
    assert_close(m.sigma, "blur.sigma_t")
    assert_close((m.alpha.square() + m.sigma.square()).sqrt(), "blur.rescale_m")
    assert_close(process.variance_preserving().marginal(torch.from_numpy(ARRAYS["blur.t"])).gamma, "blur.gamma")


def test_inverse_heat_dissipation_rows_match() -> None:
    shape, delta = (1, *ARRAYS["ihdm.gamma"].shape[1:]), float(ARRAYS["ihdm.delta"])
    for width, expected in zip(ARRAYS["ihdm.sigma_blur"], ARRAYS["ihdm.gamma"].reshape(11, -1), strict=True):
        schedule = {"kind": "heat", "num_levels": 1, "blur_min": 0.1, "blur_max": width, "noise": delta}
        m = process_of(schedule, shape, basis="dct").marginal(1.0)
        has_signal = m.alpha[0].numpy() > 1e-300
        np.testing.assert_allclose(m.gamma[0].numpy()[has_signal], expected[has_signal], rtol=1e-9, atol=1e-11)
        # Below float64's smallest number alpha is 0, and gamma infinite.
        np.testing.assert_allclose(2 * math.log(delta) + laplacian(shape) * width**2, expected, rtol=1e-9, atol=1e-11)
        assert m.gamma[0].numpy()[~has_signal].min(initial=1e3) >= 1e3
