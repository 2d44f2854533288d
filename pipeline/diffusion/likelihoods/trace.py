"""Divergence of a vector field: exact, or estimated with Rademacher probes in components."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.diffusion.bases import Basis
from pipeline.diffusion.randomness import NoiseStream

Field = Callable[[Tensor], Tensor]
"""`(batch, dim) -> (batch, dim)`, row by row."""


def rademacher_probes(
    indices: Sequence[int], dim: int, *, num_probes: int, seed: int
) -> Float[Tensor, "probes batch dim"]:
    """Signs +-1 for the examples `indices`; each a function of (seed, example index, probe) only. float64."""
    stream = NoiseStream(seed)
    uniform = [stream.uniform(indices, probe, "trace_probe", (dim,)) for probe in range(num_probes)]
    return torch.where(torch.stack(uniform) < 0.5, -1.0, 1.0).to(torch.float64)


def turned_probes(
    signs: Float[Tensor, "probes batch dim"], drawn_in: Basis, wanted_in: Basis
) -> Float[Tensor, "probes batch dim"]:
    """Probes that are signs in one basis, as components of another; still E[r r^T] = 1, so still unbiased.

    The variance of a probe is twice the sum of the squared off-diagonal entries of the symmetric part of the Jacobian
    in the basis of the signs: near zero where the covariance of the data is diagonal.
    """
    turned = [wanted_in.to_components(drawn_in.to_data(signs[:, i])) for i in range(signs.shape[1])]
    return torch.stack(turned, dim=1)


def value_and_divergence(
    field: Field, w: Float[Tensor, "batch dim"], probes: Float[Tensor, "probes batch dim"] | None
) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "estimates batch"]]:
    """The field at `w` and its divergence per example: in row 0, and in the rows behind it what each probe says alone.

    Args:
        field: differentiable; examples must not influence each other.
        w: where.
        probes: one vector-Jacobian product per probe (unbiased; exact if the Jacobian is diagonal), or None for the
            exact trace with one product per dimension, and no rows behind it.
    """
    with torch.enable_grad():
        point = w.detach().requires_grad_()
        value = field(point)
        cotangents = probes if probes is not None else _unit_vectors(value)
        divergence = torch.zeros(len(w), dtype=w.dtype, device=w.device)
        each: list[Tensor] = []
        last = len(cotangents) - 1
        for position, cotangent in enumerate(cotangents):
            (product,) = torch.autograd.grad(value, point, cotangent, retain_graph=position < last)
            each.append((product * cotangent).sum(1))
            divergence = divergence + each[-1]
    if probes is None:
        return value.detach(), divergence[None]
    return value.detach(), torch.stack([divergence / len(cotangents), *each])


def _unit_vectors(value: Float[Tensor, "batch dim"]) -> Float[Tensor, "dim batch dim"]:
    unit = torch.eye(value.shape[1], dtype=value.dtype, device=value.device)
    return unit[:, None].expand(-1, len(value), -1)
