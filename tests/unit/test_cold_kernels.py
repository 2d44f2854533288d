"""Kernels of degradations: identities with perfect and constant models for every degradation, noise, strides."""

import pytest
import torch

from pipeline.config import ConfigError
from pipeline.diffusion import build_kernel, build_process, sample
from pipeline.diffusion.kernels.cold import Cold
from pipeline.diffusion.predictions import Prediction
from pipeline.diffusion.processes.degradations import DEGRADATIONS
from pipeline.diffusion.sampling import time_grid
from tests.diffusion_cases import keyed_noise, normal

SHAPE = (3, 16, 16)
NUM_LEVELS = 6
ALG_1, ALG_2 = {"kind": "cold", "rho": 0.0}, {"kind": "cold", "rho": 1.0}
LEVELLED = [name for name, degradation in DEGRADATIONS.items() if not degradation.is_gaussian]
OPERATORS = ["pixelate_nearest", "black_pixelate_nearest", "kernel_blur_reflect"]
DIAGONAL = [name for name in LEVELLED if name not in OPERATORS]


def degraded_process(name, *, noise=0.0, num_levels=NUM_LEVELS):
    tree = DEGRADATIONS[name].process({"num_levels": num_levels, "noise": noise})
    return build_process(tree, SHAPE)


def images(batch=2):
    return normal(1, batch, *SHAPE).clamp(-1, 1)


def start_of(process, x_0):
    return process.to_data(process.degrade(process.to_components(x_0), 1.0))


def perfect(process, x_0):
    """A predictor that knows x_0 and answers in x_0."""
    c_0 = process.to_components(x_0)
    return lambda u_t, t, cond: Prediction("x0", c_0, u_t[:, 0], None)


def perfect_previous(process, x_0):
    """A predictor that knows x_0 and answers with the level that it is asked for."""
    c_0 = process.to_components(x_0)
    return lambda u_t, t, cond: Prediction("x_prev", process.degrade(c_0, cond.time_to), u_t[:, 0], None)


def path_of(process, spec, predictor, x_T, times, noise=None):
    return sample(process, build_kernel(spec), predictor, x_T, times, noise, return_path=True)[1]


def levels_of(process, x_0, times):
    return torch.stack([process.degrade(process.to_components(x_0), t) for t in times])


@pytest.mark.parametrize("num_steps", [NUM_LEVELS, 3])
@pytest.mark.parametrize("spec", [ALG_1, ALG_2, {"kind": "cold", "rho": 0.4}], ids=["alg1", "alg2", "between"])
@pytest.mark.parametrize("name", LEVELLED)
def test_a_perfect_model_walks_the_degradation_back_exactly(name, spec, num_steps):
    process, x_0, times = degraded_process(name), images(), time_grid(num_steps)
    path = path_of(process, spec, perfect(process, x_0), start_of(process, x_0), times)
    torch.testing.assert_close(path, levels_of(process, x_0, times), rtol=0, atol=1e-12)
    torch.testing.assert_close(process.to_data(path[-1]), x_0, rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_steps", [NUM_LEVELS, 2])
@pytest.mark.parametrize("name", LEVELLED)
def test_perfect_predictions_of_the_previous_level_return_every_level(name, num_steps):
    process, x_0, times = degraded_process(name), images(), time_grid(num_steps)
    path = path_of(process, {"kind": "previous"}, perfect_previous(process, x_0), start_of(process, x_0), times)
    torch.testing.assert_close(path, levels_of(process, x_0, times), rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_steps", [NUM_LEVELS, 3])
@pytest.mark.parametrize("name", LEVELLED)
def test_algorithm_2_with_a_constant_prediction_telescopes(name, num_steps):
    """x_s = x_T - D(z, 1) + D(z, s): what the prediction z says about levels in between cancels."""
    process, times, z, x_T = degraded_process(name), time_grid(num_steps), 0.3 * images(), normal(5, 2, *SHAPE)
    path = path_of(process, ALG_2, perfect(process, z), x_T, times)
    levels = levels_of(process, z, times)
    torch.testing.assert_close(path, process.to_components(x_T) - levels[0] + levels, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", LEVELLED)
def test_algorithm_1_with_a_constant_prediction_forgets_the_start(name):
    process, times, z = degraded_process(name), time_grid(NUM_LEVELS), 0.3 * images()
    paths = [path_of(process, ALG_1, perfect(process, z), normal(seed, 2, *SHAPE), times) for seed in (5, 6)]
    assert torch.equal(paths[0][1:], paths[1][1:])
    torch.testing.assert_close(paths[0][1:], levels_of(process, z, times[1:]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", LEVELLED)
def test_a_constant_prediction_of_the_previous_level_is_the_whole_path(name):
    process, x_T, constant = degraded_process(name), normal(5, 2, *SHAPE), normal(6, 2, 768)
    path = path_of(
        process,
        {"kind": "previous"},
        lambda u_t, t, cond: Prediction("x_prev", constant, u_t[:, 0], None),
        x_T,
        time_grid(NUM_LEVELS),
    )
    assert torch.equal(path[1:], constant.expand_as(path[1:]))


@pytest.mark.parametrize("stride", [2, 3, 10])
@pytest.mark.parametrize("name", DIAGONAL)
def test_predictions_further_back_are_degraded_again_exactly(name, stride):
    """D_{a->s} D_a = D_s, also where nothing of a component is left at a."""
    process, x_0, times = degraded_process(name), images(), time_grid(NUM_LEVELS)
    spec = {"kind": "previous", "stride": stride}
    path = path_of(process, spec, perfect_previous(process, x_0), start_of(process, x_0), times)
    torch.testing.assert_close(path, levels_of(process, x_0, times), rtol=0, atol=1e-11)


def test_strides_pass_over_masks_that_leave_nothing():
    process, x_0, times = degraded_process("pixelate", num_levels=4), images(), time_grid(4)
    assert set(process.marginal(times).alpha.unique().tolist()) == {0.0, 1.0}
    spec = {"kind": "previous", "stride": 2}
    path = path_of(process, spec, perfect_previous(process, x_0), start_of(process, x_0), times)
    torch.testing.assert_close(path, levels_of(process, x_0, times), rtol=0, atol=1e-12)


def test_a_stride_asks_for_the_level_as_many_levels_below_the_state():
    process, x_0, asked = degraded_process("black_blur"), images(), []
    exact = perfect_previous(process, x_0)

    def recorded(u_t, t, cond):
        asked.append([round(float(t) * NUM_LEVELS), *(cond.time_to * NUM_LEVELS).round().int().tolist()])
        return exact(u_t, t, cond)

    path_of(process, {"kind": "previous", "stride": 3}, recorded, start_of(process, x_0), time_grid(NUM_LEVELS))
    assert asked == [[6, 3, 3], [5, 2, 2], [4, 1, 1], [3, 0, 0], [2, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize("name", OPERATORS)
def test_strides_over_operators_are_refused(name):
    process, x_0 = degraded_process(name), images()
    with pytest.raises(ConfigError, match="diagonal"):
        path_of(process, {"kind": "previous", "stride": 2}, perfect_previous(process, x_0), x_0, time_grid(2))


@pytest.mark.parametrize("spec", [ALG_2, {"kind": "previous"}], ids=["cold", "previous"])
def test_times_between_levels_are_refused(spec):
    process, x_0 = degraded_process("blur"), images()
    with pytest.raises(ConfigError, match="divides 6"):
        path_of(process, spec, perfect(process, x_0), x_0, time_grid(4))


@pytest.mark.parametrize(
    ("spec", "size"), [({"kind": "cold", "tau": 0.2}, 0.2), ({"kind": "previous", "delta": 0.2}, 0.2)]
)
def test_fresh_noise_comes_after_every_step_but_the_last(spec, size):
    process, x_0, times = degraded_process("blur"), images(), time_grid(3)
    predictor = perfect(process, x_0) if spec["kind"] == "cold" else perfect_previous(process, x_0)
    if spec["kind"] == "cold":
        spec = spec | {"rho": 0.0}
    path = path_of(process, spec, predictor, start_of(process, x_0), times, keyed_noise)
    expected = levels_of(process, x_0, times)
    drawn = [size * process.basis.to_components(keyed_noise(step, "eps", (2, *SHAPE))) for step in (0, 1)]
    torch.testing.assert_close(path[1:3], expected[1:3] + torch.stack(drawn), rtol=0, atol=1e-12)
    torch.testing.assert_close(path[3], expected[3], rtol=0, atol=1e-12)


def test_constant_noise_is_carried_between_levels_and_removed_by_the_last_step():
    process, x_0, times = degraded_process("black_blur", noise=0.1), images(), time_grid(NUM_LEVELS)
    noise = 0.1 * normal(7, 2, *SHAPE)
    path = path_of(process, ALG_2, perfect(process, x_0), start_of(process, x_0) + noise, times)
    deviation = path - levels_of(process, x_0, times)
    kept = process.basis.to_components(noise).expand(NUM_LEVELS, -1, -1)
    torch.testing.assert_close(deviation[:-1], kept, rtol=0, atol=1e-12)
    torch.testing.assert_close(path[-1], process.to_components(x_0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["black_blur", "black"])
def test_frozen_start_noise_is_removed_where_the_end_is_the_centre(name):
    process, x_0, times = degraded_process(name, noise=0.1), images(), time_grid(NUM_LEVELS)
    x_T = start_of(process, x_0) + 0.1 * normal(7, 2, *SHAPE)
    path = path_of(process, {"kind": "cold", "noise": "start"}, perfect(process, x_0), x_T, times)
    torch.testing.assert_close(process.to_data(path[-1]), x_0, rtol=0, atol=1e-12)


def noise_process():
    return build_process({"kind": "spectral", "schedule": {"kind": "cosine", "num_levels": NUM_LEVELS}}, SHAPE)


def smooth(process):
    return lambda u_t, t, cond: Prediction("x0", torch.tanh(u_t[:, 0]), u_t[:, 0], process.marginal(t))


def test_on_a_noise_process_the_residual_step_is_ddim():
    process, x_T, times = noise_process(), normal(5, 2, *SHAPE), time_grid(NUM_LEVELS)
    paths = [path_of(process, spec, smooth(process), x_T, times) for spec in (ALG_2, {"kind": "ddim"})]
    torch.testing.assert_close(*paths, rtol=0, atol=1e-12)


def test_on_a_noise_process_the_frozen_step_takes_away_the_noise_of_the_start():
    process, z, times, x_0 = noise_process(), normal(5, 2, *SHAPE), time_grid(NUM_LEVELS), images()
    x_T = process.corrupt(x_0, 1.0, z)
    path = path_of(process, {"kind": "cold", "noise": "start"}, perfect(process, x_0), x_T, times)
    sigma = process.sigma(times)[:, None]
    kept = sigma[0] * process.to_components(z) - (sigma[0] - sigma) * process.to_components(x_T)
    torch.testing.assert_close(path, levels_of(process, x_0, times) + kept, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["blur", "kernel_blur_reflect"])
@pytest.mark.parametrize("spec", [ALG_2, {"kind": "previous", "delta": 0.1}], ids=["cold", "previous"])
def test_splitting_a_batch_changes_no_image(name, spec):
    process, x_0, times = degraded_process(name), images(4), time_grid(3)
    x_T = start_of(process, x_0)

    def predictor(u_t, t, cond):
        c = torch.sin(3 * u_t[:, 0])
        return Prediction("x0" if spec is ALG_2 else "x_prev", c, u_t[:, 0], None)

    def noise(rows):
        return lambda step, name, shape: keyed_noise(step, name, (4, *SHAPE))[rows]

    whole = path_of(process, spec, predictor, x_T, times, noise(slice(None)))
    parts = [path_of(process, spec, predictor, x_T[rows], times, noise(rows)) for rows in (slice(0, 1), slice(1, 4))]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=0, atol=1e-12)


def test_both_walk_levels_and_end_in_the_state():
    assert all(build_kernel({"kind": kind}).levels_only for kind in ("cold", "previous"))
    assert not build_kernel({"kind": "ddim"}).levels_only
    assert Cold().nfe(7) == 7
