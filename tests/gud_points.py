"""Rows of an imagined GUD study: settings as a plan has them, results as the result stage writes them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.evaluate.comparison import Result
from pipeline.grid.study_points import StudyPoint

SETTINGS = {
    "dataset": "digits",
    "basis": "pca",
    "prior": "standard",
    "ordering": "variance",
    "log_snr_data": "7",
    "log_snr_prior": "-7",
    "clip": "False",
    "centre": "mean",
    "prediction": "eps",
    "loss": "mse",
    "weighting": "uniform",
    "training": "amortised",
    "amortise": "softness_a:0.4..1.6",
}


def result(metrics: Mapping[str, float], **per_image: Any) -> Result:
    """A finished row; `elbo=` or `nll=` are bits/dim of images 0, 1, ..."""
    arrays: dict[str, Any] = {}
    for name, values in per_image.items():
        arrays |= {f"{name}_index": np.arange(len(values)), f"{name}_bits_per_dim": np.array(values, np.float64)}
    protocol = {name: {"split": "test", "seed": 0} for name in ("nll", "elbo")}
    return Result({"metrics": dict(metrics), "reasons": {}, "protocol": protocol}, **arrays)


def point(
    a: float,
    r: float = 0.0,
    *,
    seed: int = 0,
    sampler: str = "ddim 10",
    images: int | None = 6000,
    result: Result | None = None,
    **settings: str,
) -> StudyPoint:
    """A row at (a, r); `training="per_cell"` has no box."""
    changed = {**SETTINGS, **settings}
    if changed["training"] != "amortised":
        changed["amortise"] = ""
    return StudyPoint(changed, sampler, (a, r), seed, images, result)


def elbo(value: float, se: float = 0.01) -> Result:
    """A row that has a bound only."""
    return result({"elbo_bpd": value, "elbo_se": se})


def both(value: float, fd: float) -> Result:
    """A row with a bound and a distance."""
    return result({"elbo_bpd": value, "elbo_se": 0.01, "fd_clf_digits": fd, "fd_clf_digits_se": 0.1})
