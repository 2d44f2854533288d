"""The noise stream is a pure function of seed, row, step and name."""

import pickle
import time

import pytest
import torch

from pipeline.diffusion import randomness
from pipeline.diffusion.randomness import NoiseStream, writes_in_place

FIRST_DRAWS = [[0.2673778851163485, 0.08177305166840321], [0.3903178160471188, 0.6634012409244051]]


def correlation(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one.reshape(-1), other.reshape(-1)]))[0, 1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_any_split_of_rows_gives_the_same_bits(kind: str, dtype: torch.dtype) -> None:
    together = getattr(NoiseStream(5), kind)(range(10), 3, "eps", (2, 3), dtype)
    for rows in ([7], [9, 0, 4], [3, 3], torch.tensor([2, 8])):
        part = getattr(NoiseStream(5), kind)(rows, 3, "eps", (2, 3), dtype)
        assert torch.equal(part, together[torch.as_tensor(rows)])
        assert part.dtype == dtype


def test_order_of_calls_does_not_matter() -> None:
    stream = NoiseStream(1)
    first = stream.normal([4], 0, "a", (5,))
    stream.uniform([1], 2, "b", (3,))
    stream.permutation(7, 0, "c")
    assert torch.equal(stream.normal([4], 0, "a", (5,)), first)


def test_seed_row_step_and_name_all_matter() -> None:
    draws = [
        NoiseStream(0).normal([0], 0, "a", (4000,)),
        NoiseStream(1).normal([0], 0, "a", (4000,)),
        NoiseStream(0).normal([1], 0, "a", (4000,)),
        NoiseStream(0).normal([0], 1, "a", (4000,)),
        NoiseStream(0).normal([0], 0, "b", (4000,)),
    ]
    for i, one in enumerate(draws):
        for other in draws[:i]:
            assert abs(correlation(one, other)) < 0.08  # five standard errors


def test_uniform_and_normal_of_one_name_are_independent() -> None:
    stream = NoiseStream(0)
    one, other = (draw(range(4000), 0, "a", (1,)) for draw in (stream.normal, stream.uniform))
    assert abs(correlation(one, other)) < 0.08


def test_normal_moments() -> None:
    z = NoiseStream(2).normal(range(4000), 0, "eps", (25,), torch.float64)
    assert abs(float(z.mean())) < 5 / 10**2.5
    assert abs(float(z.var()) - 1) < 5 * 2**0.5 / 10**2.5
    assert abs(float(z.pow(4).mean()) - 3) < 5 * 96**0.5 / 10**2.5


def test_uniform_moments_and_range() -> None:
    u = NoiseStream(2).uniform(range(4000), 0, "u", (25,))
    assert float(u.min()) >= 0
    assert float(u.max()) < 1
    assert abs(float(u.double().mean()) - 0.5) < 5 * 12**-0.5 / 10**2.5
    assert abs(float(u.double().var()) - 1 / 12) < 5 * 180**-0.5 / 10**2.5


def test_neighbouring_rows_and_steps_are_uncorrelated() -> None:
    stream = NoiseStream(3)
    rows = stream.normal(range(2001), 0, "eps", (8,))
    assert abs(correlation(rows[1:], rows[:-1])) < 5 / 16000**0.5
    steps = torch.cat([stream.normal([0], step, "eps", (8,)) for step in range(2001)])
    assert abs(correlation(steps[1:], steps[:-1])) < 5 / 16000**0.5


def test_permutation_is_a_seeded_order() -> None:
    order = NoiseStream(0).permutation(100, 3, "shuffle")
    assert order.dtype == torch.int64
    assert sorted(order.tolist()) == list(range(100))
    assert torch.equal(order, NoiseStream(0).permutation(100, 3, "shuffle"))
    assert not torch.equal(order, NoiseStream(0).permutation(100, 4, "shuffle"))


def test_scalar_uniform_depends_on_step_only() -> None:
    values = [NoiseStream(9).scalar_uniform(step, "t") for step in range(3)]
    assert len(set(values)) == 3
    assert all(0 <= value < 1 for value in values)
    assert NoiseStream(9).scalar_uniform(1, "t") == values[1]


def test_half_precision_normals_are_rounded_float32() -> None:
    full, half = (NoiseStream(0).normal([1, 2], 0, "a", (4,), dtype) for dtype in (torch.float32, torch.bfloat16))
    assert torch.equal(half, full.to(torch.bfloat16))


def test_half_precision_uniforms_are_refused() -> None:
    with pytest.raises(ValueError, match="rounds up to 1"):
        NoiseStream(0).uniform([0], 0, "a", (1,), torch.bfloat16)


def test_large_steps_and_negative_steps_are_different_streams() -> None:
    stream = NoiseStream(0)
    draws = [stream.normal([0], step, "a", (2,)) for step in (-1, 0, 2**40)]
    assert len({tuple(draw.reshape(-1).tolist()) for draw in draws}) == 3


def test_pickled_stream_draws_the_same() -> None:
    stream = NoiseStream(4)
    again = pickle.loads(pickle.dumps(stream))
    assert torch.equal(again.normal([3], 1, "a", (2,)), stream.normal([3], 1, "a", (2,)))


def test_first_draws_of_a_published_seed_stay_the_same() -> None:
    found = NoiseStream(0).uniform([0, 1], 0, "eps", (2,), torch.float64)
    expected = torch.tensor(FIRST_DRAWS, dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_rows_are_started_in_place_with_this_numpy() -> None:
    assert writes_in_place()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_through_the_setter_of_numpy_the_bits_are_the_same(
    kind: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [3, 0, 2**63 + 1, 7, -1]
    in_place = getattr(NoiseStream(5), kind)(rows, 4, "eps", (3,), dtype)
    monkeypatch.setattr(randomness, "writes_in_place", lambda: False)
    assert torch.equal(getattr(NoiseStream(5), kind)(rows, 4, "eps", (3,), dtype), in_place)


def test_a_row_costs_microseconds() -> None:
    stream = NoiseStream(0)
    seconds = []
    for _ in range(3):
        begin = time.process_time()
        stream.normal(range(2000), 0, "a", (1,))
        seconds.append((time.process_time() - begin) / 2000)
    assert min(seconds) < 8e-6
