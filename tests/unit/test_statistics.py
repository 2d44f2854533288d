"""Fitted statistics and their change of basis."""

import pytest
import torch

from pipeline.config import ConfigError
from pipeline.diffusion import Statistics
from pipeline.diffusion.bases import build_basis

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(50, 1, 4, 4, generator=GENERATOR, dtype=torch.float64).cumsum(-1) / 4 + 0.2
FLAT = X.reshape(50, -1)
COVARIANCE = torch.cov(FLAT.T, correction=0)


@pytest.mark.parametrize("basis", ["pixel", "dct", "fourier", "haar"])
def test_variances_are_those_of_the_components(basis: str) -> None:
    c = build_basis(basis, (1, 4, 4)).to_components(X)
    found = Statistics.of(X, basis, quantisation=None)
    torch.testing.assert_close(found.variances, c.var(dim=0, correction=0), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.mean, FLAT.mean(dim=0), rtol=0, atol=1e-14)


def test_pca_diagonalises_the_covariance_by_falling_variance() -> None:
    statistics = Statistics.of(X, "pca", quantisation=None)
    B = statistics.components
    assert B is not None
    torch.testing.assert_close(B @ COVARIANCE @ B.T, torch.diag(statistics.variances), rtol=0, atol=1e-13)
    assert (statistics.variances.diff() <= 0).all()


@pytest.mark.parametrize("basis", ["pixel", "dct", "haar", "pca"])
def test_moments_give_the_same_as_data(basis: str) -> None:
    one = Statistics.of(X, basis)
    other = Statistics.from_moments(FLAT.mean(dim=0), COVARIANCE, basis, (1, 4, 4))
    torch.testing.assert_close(one.variances, other.variances, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("basis", ["pixel", "dct", "fourier", "haar"])
def test_principal_variances_rotate_into_every_basis(basis: str) -> None:
    rotated = Statistics.of(X, "pca").variances_in(build_basis(basis, (1, 4, 4)))
    torch.testing.assert_close(rotated, Statistics.of(X, basis).variances, rtol=1e-10, atol=1e-14)


def test_floor_is_the_quantisation_noise() -> None:
    with_floor, without = (Statistics.of(X, "dct", quantisation=levels) for levels in (17, None))
    torch.testing.assert_close(
        with_floor.variances - without.variances, torch.full((16,), (2 / 17) ** 2 / 12).double(), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("quantisation", [256, None])
def test_rank_deficient_data_have_finite_log_variances(quantisation: int | None) -> None:
    statistics = Statistics.of(X[:5], "pca", quantisation=quantisation)
    assert statistics.variances.log().isfinite().all()


def test_signs_of_principal_components_are_fixed() -> None:
    components = Statistics.of(X, "pca").components
    assert components is not None
    largest = components.gather(1, components.abs().argmax(dim=1, keepdim=True))
    assert (largest > 0).all()


def test_variances_and_components_are_kept_as_given() -> None:
    variances, components = torch.tensor([0.1, 3.0, 1.0]), torch.eye(3)[[2, 0, 1]]
    statistics = Statistics(torch.zeros(3), variances, components)
    basis = build_basis("pca", (3,), statistics)
    assert torch.equal(statistics.variances_in(basis), variances.double())
    assert torch.equal(basis.matrix(), components.double())


def test_arrays_round_trip() -> None:
    for statistics in (Statistics.of(X, "pca"), Statistics.of(X, "dct")):
        again = Statistics.from_arrays(statistics.to_arrays())
        for name in ("mean", "variances", "components"):
            one, other = getattr(statistics, name), getattr(again, name)
            assert (one is None and other is None) or torch.equal(one, other)


@pytest.mark.parametrize(
    ("mean", "variances", "components"),
    [
        (torch.zeros(3), torch.ones(4), None),
        (torch.zeros(3), torch.ones(3), torch.eye(4)),
        (torch.zeros(3), torch.tensor([1.0, 0.0, 1.0]), None),
    ],
)
def test_inconsistent_statistics_are_refused(
    mean: torch.Tensor, variances: torch.Tensor, components: torch.Tensor | None
) -> None:
    with pytest.raises(ConfigError, match="statistics"):
        Statistics(mean, variances, components)
