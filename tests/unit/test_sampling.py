"""The reverse path: time grids, arguments, noise, conditions, final step."""

import pytest
import torch

from pipeline.diffusion import build_kernel, sample
from pipeline.diffusion.predictor import Condition
from pipeline.diffusion.sampling import time_grid
from tests.diffusion_cases import DIM, IMAGE_SHAPE, gaussian_oracle, image_process, keyed_noise, mixture_oracle, normal

DDIM = {"kind": "ddim"}


@pytest.mark.parametrize("spacing", ["uniform", "quadratic"])
@pytest.mark.parametrize("t_min", [0.0, 1e-3])
def test_time_grid_falls_from_one_to_its_end(spacing, t_min):
    times = time_grid(9, spacing, t_min)
    assert times.dtype == torch.float64
    assert times.shape == (10,)
    assert float(times[0]) == 1.0
    assert float(times[-1]) == t_min
    assert bool((times[1:] < times[:-1]).all())


def test_quadratic_grid_is_dense_near_the_data():
    gaps = time_grid(10, "quadratic").diff().abs()
    assert bool((gaps[1:] < gaps[:-1]).all())


@pytest.mark.parametrize("arguments", [(0,), (5, "cubic"), (5, "uniform", 1.0)])
def test_impossible_grids_are_refused(arguments):
    with pytest.raises(ValueError):
        time_grid(*arguments)


def test_drawing_kernel_without_noise_is_refused():
    process = image_process("vp")
    with pytest.raises(ValueError, match="noise"):
        sample(
            process,
            build_kernel({"kind": "ancestral"}),
            gaussian_oracle(process),
            normal(1, 2, *IMAGE_SHAPE),
            time_grid(3),
        )


@pytest.mark.parametrize("times", [[0.0, 1.0], [1.0], [1.0, 0.5, 0.5]])
def test_times_that_do_not_fall_are_refused(times):
    process = image_process("vp")
    with pytest.raises(ValueError, match="fall"):
        sample(process, build_kernel(DDIM), gaussian_oracle(process), normal(1, 2, *IMAGE_SHAPE), torch.tensor(times))


def test_start_of_another_shape_is_refused():
    process = image_process("vp")
    with pytest.raises(ValueError, match="x_T"):
        sample(process, build_kernel(DDIM), gaussian_oracle(process), normal(1, 2, DIM), time_grid(3))


def test_noise_is_asked_for_in_data_space_and_enters_in_components():
    process = image_process("gud", basis="dct")
    kernel, oracle, x_T = build_kernel({"kind": "ancestral"}), gaussian_oracle(process), normal(1, 2, *IMAGE_SHAPE)
    asked = []

    def recorded(step, name, shape):
        asked.append((step, name, shape))
        return keyed_noise(step, name, shape)

    times = time_grid(2)
    x = sample(process, kernel, oracle, x_T, times, recorded)
    assert asked == [(0, "eps", (2, *IMAGE_SHAPE)), (1, "eps", (2, *IMAGE_SHAPE))]
    u = process.to_components(x_T)[:, None]
    for step in range(2):
        noise = {"eps": process.basis.to_components(keyed_noise(step, "eps", x_T.shape))[:, None]}
        u, _ = kernel.step(u, times[step], times[step + 1], oracle, None, noise, times[-1], process)
    assert torch.equal(x, process.to_data(u[:, 0]))


def test_denoise_returns_the_data_predicted_at_the_end():
    process = image_process("log_linear")
    oracle, x_T, times = mixture_oracle(process), normal(1, 2, *IMAGE_SHAPE), time_grid(6, t_min=0.1)
    x, path = sample(process, build_kernel(DDIM), oracle, x_T, times, final="denoise", return_path=True)
    torch.testing.assert_close(x, process.to_data(oracle(path[-1][:, None], times[-1]).x_0))


def test_path_holds_all_states_in_components():
    process = image_process("log_linear")
    x_T = normal(1, 2, *IMAGE_SHAPE)
    x, path = sample(process, build_kernel(DDIM), gaussian_oracle(process), x_T, time_grid(6), return_path=True)
    assert path.shape == (7, 2, DIM)
    assert torch.equal(path[0], process.to_components(x_T))
    assert torch.equal(process.to_data(path[-1]), x)


def test_condition_may_be_a_function_of_the_step():
    process = image_process("log_linear")
    oracle, seen = gaussian_oracle(process), []

    def predictor(u_t, t, cond=None):
        seen.append(int(cond.label[0]))
        return oracle(u_t, t)

    sample(
        process,
        build_kernel(DDIM),
        predictor,
        normal(1, 1, *IMAGE_SHAPE),
        time_grid(3),
        cond=lambda step: Condition(label=torch.tensor([step])),
        final="denoise",
    )
    assert seen == [0, 1, 2, 3]


def test_no_gradients_are_recorded():
    process = image_process("log_linear")
    x_T = normal(1, 2, *IMAGE_SHAPE).requires_grad_()
    assert not sample(process, build_kernel(DDIM), gaussian_oracle(process), x_T, time_grid(2)).requires_grad
