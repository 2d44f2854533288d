"""What every source of samples has in common: a specification, and an opened source that reads any range."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from pipeline.config import DataError, Spec, neutral, runtime
from pipeline.shards.remote import absolute_uri, fetch, path_sha256

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class Samples:
    """Part of a split: images uint8 `(n, C, H, W)` or points float32 `(n, D)`; labels int64 `(n,)` or None."""

    images: np.ndarray
    labels: np.ndarray | None


@dataclass(frozen=True)
class DeclaredMoments:
    """Mean and variances of points whose law is known: independent coordinates, each `(D,)`."""

    mean: tuple[float, ...]
    variances: tuple[float, ...]

    def to_json(self) -> dict[str, list[float]]:
        return {"mean": list(self.mean), "variances": list(self.variances)}


@dataclass(frozen=True)
class DeclaredMixture:
    """Weights (K,), means (K, D) and variances (K, D) of the diagonal Gaussians that points are drawn from."""

    weights: tuple[float, ...]
    means: tuple[tuple[float, ...], ...]
    variances: tuple[tuple[float, ...], ...]

    def to_json(self) -> dict[str, Any]:
        rows = {name: [list(row) for row in getattr(self, name)] for name in ("means", "variances")}
        return {"weights": list(self.weights), **rows}


class Source(ABC):
    """Opened data: sizes are known, samples are decoded on demand, equal calls give equal samples."""

    shape: tuple[int, ...]
    quantisation: int | None
    class_names: tuple[str, ...] | None
    declared_moments: DeclaredMoments | None = None
    """Of the law that the samples are drawn from; None: statistics are those of the training samples."""
    declared_mixture: DeclaredMixture | None = None
    """That law, where it is a mixture; what is drawn by a model is held against it."""

    @abstractmethod
    def count(self, split: Split) -> int:
        """Number of samples, 0 for an absent split."""

    @abstractmethod
    def read(self, split: Split, start: int, stop: int) -> Samples:
        """Samples [start, stop) of a split in the source's own order."""


class SourceSpec(Spec):
    """Fields of every source; where the data lie does not identify them, their digest does."""

    name: Name
    uri: str = runtime("")  # path below the data folder, absolute path, s3:// or https://
    digest: Digest | None = None  # sha256 of the file, or of the sorted (path, sha256) of a folder; filled in by `pin`
    max_train: int | None = neutral(None, ge=1)  # the first samples of the source's order
    max_test: int | None = neutral(None, ge=0)
    samples_per_block: int = neutral(512, ge=1, le=65536)
    samples_per_shard: int = neutral(8192, ge=1, le=2**24)

    @model_validator(mode="after")
    def _shards_hold_whole_blocks(self) -> "SourceSpec":
        if self.samples_per_shard % self.samples_per_block:
            raise ValueError(
                f"samples_per_shard ({self.samples_per_shard}) must be a multiple of samples_per_block "
                f"({self.samples_per_block})"
            )
        return self

    def located(self, root: Path | str) -> "SourceSpec":
        """This specification with an absolute uri."""
        return self.model_copy(update={"uri": absolute_uri(self.uri, root)})

    def content_digest(self, root: Path | str) -> str | None:
        """sha256 of the content, or None where the specification itself is the content."""
        return path_sha256(self.fetched(root))

    def fetched(self, root: Path | str) -> Path:
        """Local file or folder of the data."""
        return fetch(self.uri, digest=self.digest, root=root)

    def opened(self) -> Source:
        """The source at this specification's (absolute) uri."""
        raise DataError(f"data set {self.name}: sources of kind {type(self).__name__} cannot be opened")


@dataclass(frozen=True)
class ArraySource(Source):
    """A source that is held in memory."""

    shape: tuple[int, ...]
    quantisation: int | None
    class_names: tuple[str, ...] | None
    splits: dict[Split, Samples]
    declared_moments: DeclaredMoments | None = None
    declared_mixture: DeclaredMixture | None = None

    def count(self, split: Split) -> int:
        return len(self.splits[split].images) if split in self.splits else 0

    def read(self, split: Split, start: int, stop: int) -> Samples:
        samples = self.splits[split]
        labels = None if samples.labels is None else samples.labels[start:stop]
        return Samples(samples.images[start:stop], labels)
