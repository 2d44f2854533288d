"""What decides a block of images (`SampleBlock`), and how a set of images is cut into blocks."""

from typing import Literal

from pydantic import NonNegativeInt, PositiveInt, model_validator

from pipeline.baselines.devices import DEVICE_PATTERN
from pipeline.baselines.samplers import SamplerSpec
from pipeline.baselines.system import SystemSpec
from pipeline.config import Spec, runtime

Control = Literal["gaussian", "test_split", "mean_image"]
Labels = Literal["none", "balanced"]


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
