"""Exact log density of the Gaussian fitted to the data: the control row's likelihood."""

import math

from jaxtyping import Float
from torch import Tensor

from pipeline.diffusion.statistics import Statistics


def gaussian_log_density(statistics: Statistics, x: Float[Tensor, "batch dim"]) -> Float[Tensor, " batch"]:
    """log N(x; mean, C^T diag(variances) C) in nats, float64, of flattened data x; needs PCA statistics."""
    if statistics.components is None:
        raise ValueError("the full Gaussian needs PCA statistics, with their components")
    components = (x.double() - statistics.mean) @ statistics.components.T
    quadratic = (components**2 / statistics.variances).sum(dim=1)
    log_determinant = statistics.variances.log().sum()
    return -0.5 * (quadratic + log_determinant + x.shape[1] * math.log(2.0 * math.pi))
