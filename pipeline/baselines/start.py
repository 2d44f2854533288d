"""Where the images of a block start: x_T of given image indices."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pipeline.baselines.system import StartSpec
from pipeline.config import ConfigError, Spec
from pipeline.diffusion.processes import (
    Process,
    SpectralProcess,
    Terminal,
    TrainingImages,
    build_terminal,
    diagonal,
    fitted_terminal,
)
from pipeline.diffusion.processes.terminal.base import start_noise
from pipeline.shards import read_split, to_float
from pipeline.store import Artifact


def terminal_of(process: Process, start: StartSpec | None, inputs: Mapping[str, Artifact]) -> Terminal:
    """The distribution of x_T; `draw(image indices, seed)` gives data space, float32.

    Args:
        process: the forward process.
        start: what it ends in; None is its Gaussian prior.
        inputs: `terminal` for a fitted distribution, `dataset` for training images.
    """
    images: TrainingImages | None = None
    terminal: Mapping[str, Any] | Spec | None = None
    if start is not None and start.source == "fitted":
        terminal = fitted_terminal(inputs["terminal"].meta, start.noise)
    if start is not None and (start.source == "training_images" or getattr(terminal, "kind", "") == "training_images"):
        images = training_images(inputs["dataset"])
        terminal = {"kind": "training_images", "noise": start.noise}
    if terminal is None:
        if not isinstance(process, SpectralProcess):
            raise ConfigError(
                "a degradation that is not diagonal has no Gaussian prior; say in start where x_T is from"
            )
        return GaussianPrior(process)
    return build_terminal(terminal, process, images)


def training_images(dataset: Artifact) -> TrainingImages:
    """The training split as a terminal distribution reads it; levels become the centres of their bins."""
    split = read_split(dataset, "train")
    quantisation: int | None = dataset.meta["quantisation"]

    def read(positions: Sequence[int]) -> Tensor:
        return torch.from_numpy(to_float(split.images[list(positions)], quantisation))

    return TrainingImages(len(split.images), read)


class GaussianPrior:
    """N(0, s^2) in the components of a process that ends in noise."""

    def __init__(self, process: SpectralProcess) -> None:
        self.process = process

    def draw(self, image_indices: Sequence[int], seed: int) -> Tensor:
        """x_T `(batch, *shape)`; the noise is drawn in data space."""
        process = diagonal(self.process)
        eps = process.basis.to_components(start_noise(image_indices, seed, process.shape))
        return process.to_data(process.scale.to(eps) * eps)
