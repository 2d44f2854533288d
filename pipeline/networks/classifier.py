"""Small classifier whose penultimate activations serve as the feature space of a data set."""

from typing import Literal

from pydantic import PositiveInt
from torch import Tensor, nn

from pipeline.config import ConfigError
from pipeline.diffusion.predictor import Condition
from pipeline.networks.base import NetworkSpec
from pipeline.networks.embeddings import Reading

_FINAL_SIZE = 4


class ClassifierSpec(NetworkSpec):
    """Convolutional for images, fully connected for points."""

    kind: Literal["classifier"] = "classifier"
    width: PositiveInt = 32
    features: PositiveInt = 64

    def module(self, shape: tuple[int, ...], reading: Reading) -> "Classifier":
        num_classes = reading.num_classes
        if reading.num_times or reading.latent_dim is not None:
            raise ConfigError("network: a classifier reads neither times nor latent codes; use unet or mlp")
        if num_classes is None or num_classes < 2:
            raise ConfigError("network: a classifier needs a data set with at least two classes")
        if len(shape) not in (1, 3):
            raise ConfigError(f"network: a classifier needs images (C, H, W) or points (D,), found shape {shape}")
        return Classifier(shape, num_classes, width=self.width, num_features=self.features)


def _convolutions(shape: tuple[int, ...], width: int) -> tuple[nn.Sequential, int]:
    """Convolutions, halving until the smaller side is at most 7, then means on a 4 x 4 map; and the output's length."""
    channels, size = shape[0], min(shape[1:])
    layers: list[nn.Module] = []
    stage_width = width
    while True:
        layers += [nn.Conv2d(channels, stage_width, 3, padding=1), nn.ReLU()]
        layers += [nn.Conv2d(stage_width, stage_width, 3, padding=1), nn.ReLU()]
        channels = stage_width
        if size < 2 * _FINAL_SIZE:
            break
        layers.append(nn.MaxPool2d(2))
        size //= 2
        stage_width = 2 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(_FINAL_SIZE), nn.Flatten()), channels * _FINAL_SIZE**2


class Classifier(nn.Module):
    """Class logits from data in [-1, 1]; no layer couples the examples of a batch."""

    def __init__(self, shape: tuple[int, ...], num_classes: int, *, width: int, num_features: int) -> None:
        super().__init__()
        if len(shape) == 3:
            self.body, size = _convolutions(shape, width)
        else:
            size = 2 * width
            self.body = nn.Sequential(nn.Linear(shape[0], size), nn.ReLU(), nn.Linear(size, size), nn.ReLU())
        self.penultimate = nn.Linear(size, num_features)
        self.logits = nn.Linear(num_features, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Penultimate activations after the ReLU: `(batch, num_features)`, not negative."""
        return nn.functional.relu(self.penultimate(self.body(x)))

    def forward(
        self, x: Tensor, t: Tensor | None = None, gamma: Tensor | None = None, cond: Condition | None = None
    ) -> Tensor:
        """x `(batch, *shape)` -> logits `(batch, num_classes)`; the other arguments are not read."""
        return self.logits(self.features(x))
