"""A reverse kernel and the grid of times that it walks (`SamplerSpec`), as grid files write it."""

import math
from typing import TYPE_CHECKING, Any, Literal

from pydantic import PositiveFloat, PositiveInt, model_validator

from pipeline.config import ConfigError, Spec, neutral, union
from pipeline.diffusion.kernels import KERNELS, WALKS_LEVELS
from pipeline.diffusion.processes import Process, SpectralProcess
from pipeline.diffusion.sampling import time_grid
from pipeline.diffusion.windows import largest_step

if TYPE_CHECKING:
    KernelUnion = Any
else:
    KernelUnion = union(KERNELS)

_OF_THE_WALK = ("steps", "log_snr_step", "spacing", "final", "latents")


class SamplerSpec(Spec):
    """A reverse kernel and the grid of times that it walks; written flat: `{kind: ddim, eta: 0, steps: 50}`.

    Attributes:
        steps: of the time grid; null takes every level of a process that has levels.
        log_snr_step: instead of steps: as many as keep the change of every component's log SNR per step below this.
        final: `denoise` ends with one more evaluation; kernels that walk levels end in their state.
        latents: of a variational system: one code per `image`, reused at every step, or a fresh one per `step`.
    """

    kernel: KernelUnion
    steps: PositiveInt | None = None
    log_snr_step: PositiveFloat | None = neutral(None)
    spacing: Literal["uniform", "quadratic"] = "uniform"
    final: Literal["state", "denoise"] = "denoise"
    latents: Literal["image", "step"] = neutral("image")

    @model_validator(mode="before")
    @classmethod
    def _gather_kernel(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        if "kernel" not in data:
            own = {name: data[name] for name in _OF_THE_WALK if name in data}
            data = {**own, "kernel": {name: value for name, value in data.items() if name not in own}}
        kernel = data["kernel"]
        kind = kernel.get("kind") if isinstance(kernel, dict) else getattr(kernel, "kind", None)
        if "final" not in data and kind in WALKS_LEVELS:
            return {**data, "final": "state"}
        return data

    @model_validator(mode="after")
    def _steps_are_given_once(self) -> "SamplerSpec":
        if self.steps is not None and self.log_snr_step is not None:
            raise ValueError("give steps or log_snr_step, not both")
        return self

    @model_validator(mode="after")
    def _levels_end_in_their_state(self) -> "SamplerSpec":
        if self.kernel.kind in WALKS_LEVELS and (self.final, self.spacing) != ("state", "uniform"):
            raise ValueError(f"{self.kernel.kind} walks levels: it takes final: state and spacing: uniform")
        return self

    def over(self, num_levels: int | None) -> "SamplerSpec":
        """The sampler with its steps filled in for a process of `num_levels` levels (None: at all times).

        Raises:
            ConfigError: steps are missing, or do not fall on levels.
        """
        kind = self.kernel.kind
        if self.log_snr_step is not None and num_levels is None:
            return self  # the process has to be built first
        if self.log_snr_step is not None:
            raise ConfigError(f"sampler {kind}: log_snr_step needs a process at all times; this one has levels")
        if self.steps is None and num_levels is None:
            raise ConfigError(f"sampler {kind}: steps: give a number; this process has no levels of its own")
        steps = self.steps or num_levels
        assert steps is not None
        if kind in WALKS_LEVELS and num_levels is not None and num_levels % steps:
            raise ConfigError(
                f"sampler {kind}: {steps} steps do not fall on the {num_levels} levels; use a divisor of {num_levels}"
            )
        return self.model_copy(update={"steps": steps})

    def on(self, process: Process) -> "SamplerSpec":
        """The sampler with its steps filled in for a process that is built.

        Raises:
            ConfigError: steps are missing or do not fall on levels, or the process's log SNR has no finite range.
        """
        if self.log_snr_step is None or not isinstance(process, SpectralProcess):
            return self.over(process.num_levels)
        steps = 1
        while (rise := largest_step(process, time_grid(steps, self.spacing))) > self.log_snr_step * (1 + 1e-9):
            if not math.isfinite(rise):
                raise ConfigError(
                    "sampler: log_snr_step needs a schedule whose log SNR is finite at t = 0 and 1; use steps"
                )
            steps = max(steps + 1, math.ceil(steps * rise / self.log_snr_step - 1e-9))
        return self.model_copy(update={"steps": steps, "log_snr_step": None})
