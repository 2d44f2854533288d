"""What decides a block of images (`SampleBlock`), and how a set of images is cut into blocks."""

import math
from typing import TYPE_CHECKING, Any, Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from pipeline.baselines.devices import DEVICE_PATTERN
from pipeline.baselines.system import SystemSpec
from pipeline.config import ConfigError, Spec, neutral, runtime, union
from pipeline.diffusion.kernels import KERNELS, WALKS_LEVELS
from pipeline.diffusion.processes import Process, SpectralProcess

if TYPE_CHECKING:
    KernelUnion = Any
else:
    KernelUnion = union(KERNELS)

_OF_THE_WALK = ("steps", "log_snr_step", "spacing", "final", "latents")

Control = Literal["gaussian", "test_split", "mean_image"]
Labels = Literal["none", "balanced"]


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
        change = float((process.marginal(1.0).gamma - process.marginal(0.0).gamma).max())
        if not math.isfinite(change):
            raise ConfigError(
                "sampler: log_snr_step needs a schedule whose log SNR is finite at t = 0 and 1; use steps"
            )
        steps = max(1, math.ceil(change / self.log_snr_step - 1e-9))
        return self.model_copy(update={"steps": steps, "log_snr_step": None})


class SampleBlock(Spec):
    """Images [block * block_size, block * block_size + count) of one set; image i is a function of (seed, i) alone.

    How many images the whole set has is not part of it, so a larger set later contains the blocks of a smaller one.
    """

    system: SystemSpec | Control
    sampler: SamplerSpec | None = None  # None for the control rows
    seed: NonNegativeInt = 0
    block: NonNegativeInt
    block_size: PositiveInt
    count: PositiveInt
    labels: Labels = "none"  # balanced: image i is of class i mod num_classes
    batch_shape: PositiveInt = 250  # images per network call; the last call is padded to it
    device: str = runtime("auto", pattern=DEVICE_PATTERN)

    @model_validator(mode="after")
    def _fits_together(self) -> "SampleBlock":
        is_control = isinstance(self.system, str)
        if is_control != (self.sampler is None):
            raise ValueError("a control row takes no sampler" if is_control else "a trained system needs a sampler")
        if self.count > self.block_size:
            raise ValueError(f"count = {self.count} is more than block_size = {self.block_size}")
        if isinstance(self.system, SystemSpec) and self.system.class_conditional != (self.labels == "balanced"):
            raise ValueError("labels: a class-conditional system needs balanced, any other none")
        if self.sampler is not None and self.sampler.steps is None and self.sampler.log_snr_step is None:
            raise ValueError("sampler: steps: give a number")
        if is_control and self.labels != "none":
            raise ValueError("labels: a control row takes none")
        return self

    @property
    def first(self) -> int:
        """Index of the block's first image in the set."""
        return self.block * self.block_size


def sample_blocks(
    system: SystemSpec | Control,
    sampler: SamplerSpec | None,
    *,
    num_images: int,
    block_size: int,
    seed: int = 0,
    batch_shape: int = 250,
    device: str = "auto",
) -> list[SampleBlock]:
    """The blocks of a set of `num_images` images, in order; only the last one may hold fewer than `block_size`."""
    is_conditional = isinstance(system, SystemSpec) and system.class_conditional
    return [
        SampleBlock(
            system=system,
            sampler=sampler,
            seed=seed,
            block=block,
            block_size=block_size,
            count=min(block_size, num_images - block * block_size),
            labels="balanced" if is_conditional else "none",
            batch_shape=batch_shape,
            device=device,
        )
        for block in range(-(-num_images // block_size))
    ]
