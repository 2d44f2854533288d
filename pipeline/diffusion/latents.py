"""Latent codes of variational models along a path: exchanged at chosen steps, and interpolated."""

from collections.abc import Callable, Collection, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.diffusion.predictor import Condition

_SMALLEST_SINE = 1e-6  # below it two codes are taken as parallel, and the arc as a line


def exchange(z_source: Tensor, z_target: Tensor, steps: Collection[int]) -> Callable[[int], Condition]:
    """The target's codes at all steps but `steps`, where the source's are put in.

    Args:
        z_source: codes of the images that are mixed in, `(batch, d)`.
        z_target: codes of the images that are changed, `(batch, d)`.
        steps: step numbers; step 0 starts at x_T.

    Returns:
        `step -> Condition` for `sample`.

    Raises:
        ValueError: the codes have different shapes.
    """
    if z_source.shape != z_target.shape:
        raise ValueError(f"codes of one shape expected, found {tuple(z_source.shape)} and {tuple(z_target.shape)}")
    chosen = frozenset(steps)

    def cond(step: int) -> Condition:
        return Condition(latent=z_source if step in chosen else z_target)

    return cond


def window(first: int, stop: int) -> range:
    """Steps first, ..., stop - 1: half-open, so that adjacent windows share no step and leave none out.

    Raises:
        ValueError: `first` is negative or behind `stop`.
    """
    if not 0 <= first <= stop:
        raise ValueError(f"a window needs 0 <= first <= stop, found {first} and {stop}")
    return range(first, stop)


def interpolate(z_a: Tensor, z_b: Tensor, weights: Sequence[float] | Tensor) -> Float[Tensor, "weights batch d"]:
    """Codes on the arc from z_a (weight 0) to z_b (weight 1), which keep the length of Gaussian codes.

    Shoemake 1985: sin((1 - w) theta)/sin(theta) z_a + sin(w theta)/sin(theta) z_b, with theta the angle between the
    two; parallel codes are joined by a line. Computed in float64, returned in the dtype of z_a.

    Args:
        z_a: `(batch, d)`.
        z_b: `(batch, d)`.
        weights: shares of z_b, each gives one set of codes.

    Raises:
        ValueError: the shapes differ, or two codes are opposite, which no arc is between.
    """
    if z_a.shape != z_b.shape:
        raise ValueError(f"codes of one shape expected, found {tuple(z_a.shape)} and {tuple(z_b.shape)}")
    a, b = z_a.to(torch.float64), z_b.to(torch.float64)
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=1).clamp(-1.0, 1.0)
    theta = torch.arccos(cosine)[None, :, None]
    is_line = torch.sin(theta) < _SMALLEST_SINE
    if bool((is_line & (theta > 1.0)).any()):
        raise ValueError("two codes are opposite: there is no arc between them")
    w = torch.as_tensor(weights, dtype=torch.float64, device=a.device)[:, None, None]
    sine = torch.where(is_line, 1.0, torch.sin(theta))
    of_a = torch.where(is_line, 1.0 - w, torch.sin((1.0 - w) * theta) / sine)
    of_b = torch.where(is_line, w, torch.sin(w * theta) / sine)
    return (of_a * a + of_b * b).to(z_a.dtype)
