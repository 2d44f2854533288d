"""Mean and variance of a sampler's output per component, against those of the data."""

from typing import Literal

from pydantic import NonNegativeInt, PositiveInt

from pipeline.baselines.samplers import SamplerSpec
from pipeline.baselines.system import SystemSpec
from pipeline.config import Spec

STAGE = "moments"
STAGE_VERSION = 1

Method = Literal["response", "images"]


class MomentsSpec(Spec):
    """Which sampler of which system, and whether its law is worked out exactly or measured on images."""

    system: SystemSpec | Literal["gaussian", "test_split", "mean_image"]
    sampler: SamplerSpec | None = None
    method: Method
    num_images: PositiveInt
    seed: NonNegativeInt = 0


def moments_method(system: SystemSpec | str, sampler: SamplerSpec | None) -> Method:
    """`response` where the exact predictor meets a kernel that draws nothing, else `images`."""
    if isinstance(system, str) or sampler is None or system.network.is_trained:
        return "images"
    return "images" if sampler.kernel.build().draws else "response"
