"""Times and noise of the continuous ELBO: shared by cells, spread over the path, in the right measure."""

import pytest
import torch

from tests.diffusion_cases import gaussian_oracle, image_process
from tests.unit.test_elbo import data, elbo


class Recorded:
    """A predictor that keeps the times and the noise, in data space, of the states that it was asked at."""

    def __init__(self, process, x):
        self.process, self.oracle, self.c_0 = process, gaussian_oracle(process), process.to_components(x)
        self.times, self.noise = [], []

    def __call__(self, u_t, t, cond=None):
        m = self.process.marginal(t)
        self.times.append(t)
        self.noise.append(self.process.basis.to_data((u_t[:, 0] - m.alpha * self.c_0) / m.sigma))
        return self.oracle(u_t, t)


def recorded(process, x, **spec):
    predictor = Recorded(process, x)
    elbo(process, predictor, x, **spec)
    return torch.stack(predictor.times, dim=1), torch.stack(predictor.noise)


@pytest.mark.parametrize("change", [{"basis": "pca"}, {"basis": "fourier"}, {"prior": "data"}, {"schedule": "clipped"}])
def test_cells_share_times_and_noise(change):
    schedule = "gud_clipped" if change.pop("schedule", None) else "gud"
    plain, other = image_process("gud"), image_process(schedule, **change)
    x = data(plain)
    times, noise = recorded(plain, x, num_times=4)
    their_times, their_noise = recorded(other, x, num_times=4)
    assert torch.equal(times, their_times)
    torch.testing.assert_close(noise, their_noise, rtol=0, atol=1e-6)
    assert float((noise.square().mean() - 1).abs()) < 0.3


def test_every_image_has_one_time_in_each_share_of_the_path():
    process = image_process("gud")
    x = data(process, batch=5)
    times, noise = recorded(process, x, num_times=8)
    shares = (times * 8 - torch.arange(8)).sub(times[:, :1] * 8).abs()
    assert float(shares.max()) < 1e-12
    assert bool(((times[:, 0] >= 0) & (times[:, 0] < 1 / 8)).all())
    assert len(times[:, 0].unique()) == 5
    assert len(noise.flatten().unique()) == noise.numel()
    other, fresh = recorded(process, x, num_times=8, seed=1)
    assert not torch.equal(times, other)
    assert float((noise - fresh).abs().min(dim=0).values.max()) > 0.1


def test_scalar_schedules_are_walked_uniformly_in_gamma_from_t_min():
    process = image_process("vp")
    times, _ = recorded(process, data(process), num_times=8, t_min=1e-3)
    gamma = process.marginal(times.flatten()).gamma.reshape(times.shape)
    start, end = (float(process.marginal(t).gamma) for t in (1e-3, 1.0))
    step = (end - start) / 8
    torch.testing.assert_close(gamma.diff(dim=1), torch.full((3, 7), step, dtype=torch.float64), rtol=0, atol=1e-6)
    assert start <= float(gamma.min()) < start + step
    assert float(times.min()) >= 1e-3


def test_where_gamma_is_linear_scalar_and_component_wise_schedules_share_their_times():
    gud, linear = image_process("gud"), image_process("log_linear")
    x = data(gud)
    torch.testing.assert_close(
        recorded(gud, x, num_times=4)[0], recorded(linear, x, num_times=4)[0], rtol=0, atol=1e-14
    )
