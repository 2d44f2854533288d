"""What every basis of the table promises."""

import pytest
import torch

from pipeline.diffusion import Statistics
from pipeline.diffusion.bases import BASES, Basis, build_basis

SHAPES = [(5,), (8,), (1, 4, 6), (3, 8, 8), (2, 5, 7)]


def basis_of(name: str, shape: tuple[int, ...]) -> Basis:
    x = torch.randn(20, *shape, generator=torch.Generator().manual_seed(0))
    return build_basis(name, shape, Statistics.of(x, "pca") if name == "pca" else None)


@pytest.fixture(params=[(name, shape) for name in BASES for shape in SHAPES], ids=str)
def basis(request: pytest.FixtureRequest) -> Basis:
    return basis_of(*request.param)


def data(basis: Basis, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(3, *basis.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def test_gram_matrix_is_the_identity(basis: Basis) -> None:
    B = basis.matrix()
    torch.testing.assert_close(B @ B.T, torch.eye(basis.dim, dtype=torch.float64), rtol=0, atol=1e-12)


def test_transform_is_the_matrix(basis: Basis) -> None:
    x = data(basis)
    torch.testing.assert_close(basis.to_components(x), x.reshape(3, -1) @ basis.matrix().T, rtol=0, atol=1e-12)


def test_inverse_is_the_transposed_matrix(basis: Basis) -> None:
    c = data(basis).reshape(3, -1)
    torch.testing.assert_close(basis.to_data(c).reshape(3, -1), c @ basis.matrix(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtype_is_kept(basis: Basis, dtype: torch.dtype) -> None:
    x = data(basis, dtype)
    c = basis.to_components(x)
    assert c.dtype == dtype
    assert basis.to_data(c).dtype == dtype


def test_argument_is_left_unchanged(basis: Basis) -> None:
    x = data(basis)
    before = x.clone()
    c = basis.to_components(x)
    c_before = c.clone()
    basis.to_data(c)
    assert torch.equal(x, before)
    assert torch.equal(c, c_before)


def test_labels_are_float64_per_component(basis: Basis) -> None:
    for label in (basis.frequency, basis.level, basis.column, basis.row):
        if label is not None:
            assert label.shape == (basis.dim,)
            assert label.dtype == torch.float64
            assert bool((label >= 0).all())


def test_a_row_does_not_depend_on_its_batch(basis: Basis) -> None:
    x = data(basis)
    torch.testing.assert_close(basis.to_components(x)[1:2], basis.to_components(x[1:2]), rtol=0, atol=1e-13)


def test_gradients_pass_through(basis: Basis) -> None:
    x = data(basis).requires_grad_()
    (gradient,) = torch.autograd.grad(basis.to_components(x).square().sum() / 2, x)
    torch.testing.assert_close(gradient, x.detach(), rtol=0, atol=1e-12)


def test_data_of_another_shape_are_refused(basis: Basis) -> None:
    with pytest.raises(ValueError, match="expected"):
        basis.to_components(torch.zeros(2, *basis.shape[:-1], basis.shape[-1] + 1))
