"""Decoders of levels: masses that sum to one, tails, spreads of entries, and data that are no bin centres."""

import math

import pytest
import torch

from pipeline.diffusion.likelihoods.decoders import (
    discretised_gaussian_log_prob,
    levels_of,
    pixel_deviation,
    softmax_log_prob,
)
from tests.diffusion_cases import BASES, DIM, image_process, normal

DECODERS = [softmax_log_prob, discretised_gaussian_log_prob]


def table(decoder, positions, spread, quantisation):
    """Log-probabilities of all levels, `(quantisation, positions)`."""
    levels = torch.arange(quantisation, dtype=torch.float64)[:, None].expand(-1, len(positions))
    return decoder(
        positions.expand(quantisation, -1), levels, torch.tensor([[spread]], dtype=torch.float64), quantisation
    )


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("quantisation", [2, 17, 256])
@pytest.mark.parametrize("spread", [1e-3, 0.17, 1.3, 40.0])
def test_masses_of_all_levels_sum_to_one_wherever_the_estimate_lies(spread, quantisation, decoder):
    positions = torch.linspace(-3.0, quantisation + 2.0, 41, dtype=torch.float64)
    log_prob = table(decoder, positions, spread, quantisation)
    torch.testing.assert_close(torch.logsumexp(log_prob, 0).exp(), torch.ones(41).double(), rtol=0, atol=1e-12)
    assert bool((log_prob <= 0).all())


@pytest.mark.parametrize("spread", [0.17, 1.3, 40.0])
def test_softmax_equals_that_over_all_bins(spread):
    positions = 128 + 60 * normal(1, 33)
    bins = torch.arange(256, dtype=torch.float64)[:, None]
    expected = torch.log_softmax(-0.5 * ((positions - bins) / spread).square(), 0)
    torch.testing.assert_close(table(softmax_log_prob, positions, spread, 256), expected, rtol=1e-12, atol=1e-12)


def test_a_certain_decoder_keeps_the_digits_of_its_small_losses():
    position, level = torch.tensor([[10.1]], dtype=torch.float64), torch.tensor([[10.0]], dtype=torch.float64)
    spread = torch.tensor([[0.1]], dtype=torch.float64)
    lost = -softmax_log_prob(position, level, spread, 256)
    expected = math.exp(-0.5 * (0.9**2 - 0.1**2) / 0.1**2)  # the next bin alone: 4e-18, which 1 - p rounds away
    assert float(lost) == pytest.approx(expected, rel=1e-6)


def test_discretised_gaussian_is_the_mass_of_each_bin_and_reaches_to_infinity():
    normal_law = torch.distributions.Normal(
        torch.tensor(3.3, dtype=torch.float64), torch.tensor(1.7, dtype=torch.float64)
    )
    edges = torch.cat((torch.tensor([-torch.inf]), torch.arange(16) + 0.5, torch.tensor([torch.inf]))).double()
    expected = normal_law.cdf(edges).diff().log()
    found = table(discretised_gaussian_log_prob, torch.tensor([3.3], dtype=torch.float64), 1.7, 17)[:, 0]
    torch.testing.assert_close(found[:12], expected[:12], rtol=1e-9, atol=0)


def test_tails_of_the_discretised_gaussian_are_mirrored_and_finite():
    far = torch.tensor([-400.0, 655.0], dtype=torch.float64)
    log_prob = table(discretised_gaussian_log_prob, far, 2.0, 256)
    assert bool(torch.isfinite(log_prob).all())
    torch.testing.assert_close(log_prob[:, 0], log_prob[:, 1].flip(0), rtol=1e-12, atol=0)
    assert float(log_prob[200, 0]) == pytest.approx(-0.5 * (599.5 / 2) ** 2, rel=1e-3)


@pytest.mark.parametrize("basis", BASES)
def test_spread_of_entries_is_the_diagonal_of_the_covariance_carried_back(basis):
    process = image_process("gud", basis=basis)
    variances = (0.1 + torch.arange(DIM, dtype=torch.float64))[None]
    matrix = process.basis.matrix()
    expected = torch.einsum("ij,i,ij->j", matrix, variances[0], matrix).sqrt()
    torch.testing.assert_close(pixel_deviation(process, variances).expand(1, DIM)[0], expected)


@pytest.mark.parametrize("basis", BASES)
def test_equal_components_have_one_spread_in_every_basis(basis):
    process = image_process("vp", basis=basis)
    found = pixel_deviation(process, torch.full((1, DIM), 4.0, dtype=torch.float64))
    assert torch.equal(found, torch.tensor([[2.0]], dtype=torch.float64))


@pytest.mark.parametrize("quantisation", [2, 17, 256])
def test_levels_are_read_from_centres_in_float32(quantisation):
    level = torch.arange(quantisation, dtype=torch.float32)
    x = 2 * (level + 0.5) / quantisation - 1
    assert torch.equal(levels_of(x[None], quantisation), level.double()[None])


def test_data_off_their_centres_are_refused():
    centres = torch.tensor([[-0.5, 0.5]])
    assert torch.equal(levels_of(centres, 2), torch.tensor([[0.0, 1.0]], dtype=torch.float64))
    with pytest.raises(ValueError, match=r"not dequantised; found one 0\.2 bins off"):
        levels_of(centres + 0.2, 2)
    with pytest.raises(ValueError, match="centres of 2 bins"):
        levels_of(torch.tensor([[1.5]]), 2)
    with pytest.raises(ValueError, match="inf bins off"):
        levels_of(torch.tensor([[torch.nan]]), 2)
