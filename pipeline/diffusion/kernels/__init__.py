"""Reverse kernels and their table."""

from collections.abc import Mapping
from typing import Any

from pipeline.config import Spec, parse, union
from pipeline.diffusion.kernels.base import Denoiser, Kernel
from pipeline.diffusion.kernels.cold import ColdSpec
from pipeline.diffusion.kernels.euler_maruyama import EulerMaruyamaSpec
from pipeline.diffusion.kernels.gaussian import AncestralSpec, DdimSpec
from pipeline.diffusion.kernels.ode import EulerSpec, HeunSpec
from pipeline.diffusion.kernels.previous import PreviousSpec

KERNELS: dict[str, type[Spec]] = {
    "ancestral": AncestralSpec,
    "ddim": DdimSpec,
    "euler": EulerSpec,
    "heun": HeunSpec,
    "euler_maruyama": EulerMaruyamaSpec,
    "cold": ColdSpec,
    "previous": PreviousSpec,
}

WALKS_LEVELS = frozenset({"cold", "previous"})
"""Kernels that go from level to level of a process and end in its state."""

KernelSpec = union(KERNELS)


def build_kernel(spec: Mapping[str, Any] | Spec) -> Kernel:
    """The reverse kernel that `spec` (a specification or its plain form, `{kind: ddim, eta: 0}`) describes."""
    return parse(KernelSpec, spec, "sampler").build()


__all__ = ["KERNELS", "WALKS_LEVELS", "Denoiser", "Kernel", "KernelSpec", "build_kernel"]
