"""What decides a training (`TrainSpec`) and one training of the grid (`TrainTask`)."""

import math
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from pipeline.baselines.system import SystemSpec
from pipeline.config import Spec, neutral, runtime

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


class AverageSpec(Spec):
    """Moving average of the weights: a decay per step, or a half life in images that no batch size changes."""

    decay: Fraction | None = None
    half_life_images: PositiveFloat | None = None
    with_warmup: bool = True  # short memory at the start, so that the first weights are forgotten

    @model_validator(mode="after")
    def _one_memory(self) -> "AverageSpec":
        if (self.decay is None) == (self.half_life_images is None):
            raise ValueError("give one of decay and half_life_images")
        return self


class TrainSpec(Spec):
    """Everything about the optimisation; the fields marked runtime never change the weights beyond rounding."""

    steps: PositiveInt = 1000
    batch: PositiveInt = 64  # global: the sum over the workers
    chunks: PositiveInt = 2  # parts of a batch that pass the network one by one; up to so many workers: equal bits
    optimiser: Literal["adam", "adamw"] = "adamw"
    lr: PositiveFloat = 2e-4
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    weight_decay: NonNegativeFloat = 0.0
    warmup_steps: NonNegativeInt = 0
    lr_decay: Literal["none", "cosine", "step"] = "none"
    lr_step_every: PositiveInt | None = neutral(None)  # steps between two drops of lr_decay: step
    lr_step_factor: float = neutral(0.75, gt=0.0, le=1.0)  # of the learning rate at each drop
    clip_norm: PositiveFloat | None = 1.0
    ema: AverageSpec = AverageSpec(decay=0.999)
    flips: bool = False
    dequantise: bool = True  # uniform noise inside the level's bin, so that the data have a density
    precision: Literal["float32", "bf16"] = "float32"
    max_skips: NonNegativeInt = 10  # non-finite steps in a row before the cell is given up
    workers: PositiveInt = runtime(1)
    device: str = runtime("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    num_threads: PositiveInt = runtime(1)
    log_every_s: PositiveFloat = runtime(1.0)
    checkpoint_interval_s: PositiveFloat = runtime(30.0)  # longer where saving would take over 2 % of the time
    checkpoint_steps: PositiveInt | None = runtime(None)
    stuck_after_s: PositiveFloat = runtime(120.0)  # longer steps, if 10 x the median too, restart the workers
    data_memory_bytes: PositiveInt = runtime(8 * 2**30)

    @model_validator(mode="after")
    def _chunks_fit(self) -> "TrainSpec":
        if self.chunks > self.batch and "chunks" in self.model_fields_set:
            raise ValueError(f"chunks = {self.chunks} is more than batch = {self.batch}; lower chunks")
        return self

    @model_validator(mode="after")
    def _steps_have_a_length(self) -> "TrainSpec":
        if (self.lr_decay == "step") != (self.lr_step_every is not None):
            raise ValueError("lr_decay: step and lr_step_every go together; give both or none")
        return self

    def lr_at(self, step: int) -> float:
        """Learning rate of zero-based `step`: linear warm-up times the decay."""
        factor = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if self.lr_decay == "cosine":
            factor *= 0.5 * (1.0 + math.cos(math.pi * step / self.steps))
        if self.lr_step_every is not None:
            factor *= self.lr_step_factor ** (step // self.lr_step_every)
        return self.lr * factor


class TrainTask(Spec):
    """One training: which system, how it is optimised, and the seed of all its randomness."""

    system: SystemSpec
    train: TrainSpec = TrainSpec()
    seed: NonNegativeInt = 0

    @model_validator(mode="after")
    def _has_weights(self) -> "TrainTask":
        if not self.system.network.is_trained:
            raise ValueError(f"network: {self.system.network.kind} is not trained; use mlp or unet to train one")
        return self
