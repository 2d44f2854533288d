"""Points drawn from a mixture of diagonal Gaussians; the specification is the data."""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, PositiveFloat, model_validator

from pipeline.ingest.sources.base import SPLITS, ArraySource, DeclaredMixture, Samples, Source, SourceSpec, Split


class GaussianMixtureSpec(SourceSpec):
    """Float32 points `(n, D)` without quantisation; the label is the component."""

    kind: Literal["gaussian_mixture"] = "gaussian_mixture"
    weights: Annotated[tuple[PositiveFloat, ...], Field(min_length=1, max_length=1024)]  # need not sum to 1
    means: tuple[tuple[float, ...], ...]  # (K, D)
    variances: tuple[tuple[PositiveFloat, ...], ...]  # (K, D)
    num_train: int = Field(8192, ge=1, le=10_000_000)
    num_test: int = Field(2048, ge=0, le=10_000_000)
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _sizes_agree(self) -> "GaussianMixtureSpec":
        num_components, dims = len(self.weights), {len(row) for row in (*self.means, *self.variances)}
        if len(self.means) != num_components or len(self.variances) != num_components or len(dims) != 1 or 0 in dims:
            raise ValueError(
                f"{num_components} weights need {num_components} rows of means and of variances, all of one length; "
                f"found {len(self.means)} and {len(self.variances)} rows of lengths {sorted(dims)}"
            )
        return self

    def located(self, root: Path | str) -> "GaussianMixtureSpec":
        return self

    def content_digest(self, root: Path | str) -> None:
        return None

    def opened(self) -> Source:
        sizes: dict[Split, int] = {"train": self.num_train, "test": self.num_test}
        splits: dict[Split, Samples] = {split: self._draw(number, sizes[split]) for number, split in enumerate(SPLITS)}
        names = tuple(str(component) for component in range(len(self.weights)))
        mixture = DeclaredMixture(self.weights, self.means, self.variances)
        return ArraySource((len(self.means[0]),), None, names, splits, declared_mixture=mixture)

    def _draw(self, stream: int, count: int) -> Samples:
        generator = np.random.Generator(np.random.Philox(key=self.seed, counter=[0, 0, 0, stream]))
        edges = np.cumsum(self.weights) / sum(self.weights)
        labels = np.searchsorted(edges[:-1], generator.random(count), side="right").astype(np.int64)
        noise = generator.standard_normal((count, len(self.means[0])))
        points = np.array(self.means)[labels] + np.sqrt(np.array(self.variances))[labels] * noise
        return Samples(points.astype(np.float32), labels)
