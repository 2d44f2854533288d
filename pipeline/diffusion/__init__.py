"""The mathematics of generalized diffusion: processes, predictions, reverse kernels, likelihoods."""

from pipeline.diffusion import oracles
from pipeline.diffusion.kernels import build_kernel
from pipeline.diffusion.likelihoods import log_likelihood
from pipeline.diffusion.processes import build_process
from pipeline.diffusion.sampling import sample
from pipeline.diffusion.statistics import Statistics

__all__ = ["Statistics", "build_kernel", "build_process", "log_likelihood", "oracles", "sample"]
