"""What the name of a metric says: the error that belongs to it, and whether small values are good."""

from collections.abc import Collection

ERROR_PARTS = ("_se", "_jk", "_low", "_high", "_sd")
"""Endings of what belongs to another metric: standard error, value without most of its bias, interval, scatter."""

BITS = "_bpd"
"""Ending of what is counted in bits per dimension; the error of `nll_bpd` is `nll_se`."""


def error_name(metric: str) -> str:
    """The name of a metric's standard error."""
    return f"{metric.removesuffix(BITS).removesuffix('_jk')}_se"


def is_part(name: str, names: Collection[str]) -> bool:
    """Whether a name is the error, the interval or the corrected value of another one of `names`."""
    for part in ERROR_PARTS:
        base = name.removesuffix(part)
        if base != name and (base in names or f"{base}{BITS}" in names):
            return True
    return False


def is_distance(metric: str) -> bool:
    """Whether a metric is a Frechet distance of features: `fid`, `fid_<...>`, `clean_fid<...>` or `fd_<net>`."""
    return metric == "fid" or metric.startswith(("fid_", "fd_", "clean_fid"))


def is_divergence(metric: str) -> bool:
    """Whether a metric compares two sets of features and is small where they agree: distances, KID and CMMD."""
    return is_distance(metric) or metric.startswith(("kid", "cmmd"))


FULL_COUNT = 50_000
"""Images behind a distance that is called by the bare name of its net."""
COUNTED = ("fid", "clean_fid", "fid_pytorch", "fid_fast")
"""Distances that are compared with published ones, whose bias depends on the number of images: the name says it."""


def feature_metric(family: str, net: str, *, num_images: int) -> str:
    """The name of a metric of features: it carries the net, and that of a FID the count if it is not 50 000.

    Plain `kid`, `precision` and so on belong to the public Inception net behind the resize of TensorFlow 1 alone.
    """
    if family == "fd":
        return f"{net}{_count(num_images)}" if net in COUNTED else net
    return family if net == "fid" else f"{family}_{net.removeprefix('fd_')}"


def _count(num_images: int) -> str:
    if num_images == FULL_COUNT:
        return ""
    return f"_{num_images // 1000}k" if num_images % 1000 == 0 else f"_{num_images}"
