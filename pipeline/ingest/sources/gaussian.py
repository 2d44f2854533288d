"""Points drawn from one diagonal Gaussian, whose mean and variances are told to whoever needs them exactly."""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, PositiveFloat, model_validator

from pipeline.ingest.sources.base import SPLITS, ArraySource, DeclaredMoments, Samples, Source, SourceSpec, Split


class GaussianSpec(SourceSpec):
    """Float32 points `(n, D)` without quantisation and labels; statistics are those declared, not of the points."""

    kind: Literal["gaussian"] = "gaussian"
    variances: Annotated[tuple[PositiveFloat, ...], Field(min_length=1, max_length=4096)]  # (D,)
    mean: float | tuple[float, ...] = 0.0  # (D,), or one number for all
    num_train: int = Field(8192, ge=2, le=10_000_000)
    num_test: int = Field(2048, ge=0, le=10_000_000)
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _sizes_agree(self) -> "GaussianSpec":
        if isinstance(self.mean, tuple) and len(self.mean) != len(self.variances):
            raise ValueError(f"mean has {len(self.mean)} numbers, variances has {len(self.variances)}; give as many")
        return self

    def located(self, root: Path | str) -> "GaussianSpec":
        return self

    def content_digest(self, root: Path | str) -> None:
        return None

    def opened(self) -> Source:
        mean = self.mean if isinstance(self.mean, tuple) else (self.mean,) * len(self.variances)
        sizes: dict[Split, int] = {"train": self.num_train, "test": self.num_test}
        splits: dict[Split, Samples] = {
            split: self._draw(number, sizes[split], np.array(mean)) for number, split in enumerate(SPLITS)
        }
        return ArraySource((len(mean),), None, None, splits, DeclaredMoments(mean, self.variances))

    def _draw(self, stream: int, count: int, mean: np.ndarray) -> Samples:
        generator = np.random.Generator(np.random.Philox(key=self.seed, counter=[0, 0, 0, stream]))
        noise = generator.standard_normal((count, len(mean)))
        return Samples((mean + np.sqrt(np.array(self.variances)) * noise).astype(np.float32), None)
