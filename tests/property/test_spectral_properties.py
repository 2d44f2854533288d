"""Properties over shapes, dtypes and settings."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.diffusion import Statistics, build_process
from pipeline.diffusion.bases import build_basis
from pipeline.diffusion.predictions import NOISE_TARGETS, Prediction
from pipeline.diffusion.randomness import NoiseStream

side = st.integers(1, 9)
shapes = st.one_of(st.tuples(st.integers(1, 12)), st.tuples(st.integers(1, 3), side, side))
fixed_bases = st.sampled_from(["pixel", "dct", "fourier", "haar"])
seeds = st.integers(0, 2**63)
EXAMPLES = settings(max_examples=40, deadline=None)


def data(shape: tuple[int, ...], seed: int, rows: int = 3) -> torch.Tensor:
    return NoiseStream(seed).normal(range(rows), 0, "x", shape, torch.float64)


@EXAMPLES
@given(shape=shapes, name=fixed_bases, seed=seeds, is_single=st.booleans())
def test_transforms_keep_lengths_and_invert(shape: tuple[int, ...], name: str, seed: int, is_single: bool) -> None:
    x = data(shape, seed).to(torch.float32 if is_single else torch.float64)
    tolerance = 1e-5 if is_single else 1e-13
    basis = build_basis(name, shape)
    c = basis.to_components(x)
    assert c.dtype == x.dtype
    torch.testing.assert_close(basis.to_data(c), x, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(c.square().sum(1), x.reshape(3, -1).square().sum(1), rtol=10 * tolerance, atol=0)


@EXAMPLES
@given(
    a=st.floats(0, 25),
    r=st.floats(0, 1),
    clip=st.booleans(),
    prior=st.sampled_from(["standard", "data"]),
    times=st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)).map(sorted),
    seed=seeds,
)
def test_gud_processes_compose_for_all_settings(
    a: float, r: float, clip: bool, prior: str, times: list[float], seed: int
) -> None:
    variances = data((7,), seed, rows=1)[0].mul(2).exp()
    schedule = {"kind": "gud", "softness_a": a, "ordering_r": r, "clip": clip}
    process = build_process(
        {"kind": "spectral", "prior": prior, "schedule": schedule}, (7,), Statistics(torch.zeros(7), variances)
    )
    s, u, t = times
    (F1, Q1), (F2, Q2), (F, Q) = process.transition(s, u), process.transition(u, t), process.transition(s, t)
    torch.testing.assert_close(F2 * F1, F, rtol=1e-11, atol=0)
    torch.testing.assert_close(F2 * Q1 * F2 + Q2, Q, rtol=1e-9, atol=1e-14)
    mean, covariance = process.posterior(data((1, 7), seed), data((7,), seed + 1), s, t)
    assert mean.isfinite().all()
    assert (covariance >= 0).all()


@EXAMPLES
@given(
    native=st.sampled_from(NOISE_TARGETS),
    t=st.floats(0.02, 0.98),
    seed=seeds,
    prior=st.sampled_from(["standard", "data"]),
)
def test_predictions_agree_on_the_corrupted_point(native: str, t: float, seed: int, prior: str) -> None:
    variances = data((5,), seed, rows=1)[0].exp()
    process = build_process(
        {"kind": "spectral", "prior": prior, "schedule": {"kind": "vp"}}, (5,), Statistics(torch.zeros(5), variances)
    )
    m, c_t, value = process.marginal(t), data((5,), seed), data((5,), seed + 1)
    prediction = Prediction(native, value, c_t, m)
    size = 1 + prediction.x_0.abs().max() + prediction.eps.abs().max()
    residual = m.alpha * prediction.x_0 + m.sigma * prediction.eps - c_t
    assert float(residual.abs().max()) < 1e-12 * float(size)


@EXAMPLES
@given(seed=seeds, rows=st.lists(st.integers(0, 2**40), max_size=6), step=st.integers(0, 2**40), cut=st.integers(0, 6))
def test_noise_of_a_split_batch_is_the_split_noise(seed: int, rows: list[int], step: int, cut: int) -> None:
    stream = NoiseStream(seed)
    parts = [stream.normal(part, step, "eps", (3,)) for part in (rows[:cut], rows[cut:])]
    assert torch.equal(torch.cat(parts), stream.normal(rows, step, "eps", (3,)))
