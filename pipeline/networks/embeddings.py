"""Noise-level and class inputs of a network as vectors."""

import math

import torch
from torch import Tensor, nn

GAMMA_LIMIT = 32.0
"""|gamma| beyond which levels are no longer told apart; sigmoid(-32) = 1e-14."""

_WAVELENGTHS = (4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
"""In units of gamma; the longest is monotone over the whole clamped range."""


class NoiseFeatures(nn.Module):
    """Fourier features of the mean of gamma over `num_bands` bands of neighbouring components.

    Bands are runs of (nearly) equal length in the components' order. A scalar gamma is the same in every band. Each
    feature has mean square 1 over gamma.
    """

    def __init__(self, dim: int, num_bands: int) -> None:
        super().__init__()
        self.num_bands = min(num_bands, dim)
        band = torch.arange(dim) * self.num_bands // dim
        averages = torch.zeros(dim, self.num_bands)
        averages[torch.arange(dim), band] = 1.0
        self.averages: Tensor
        self.frequencies: Tensor
        self.register_buffer("averages", averages / averages.sum(0), persistent=False)
        self.register_buffer("frequencies", 2 * math.pi / torch.tensor(_WAVELENGTHS), persistent=False)

    @property
    def num_features(self) -> int:
        """Length of the feature vector."""
        return 2 * self.num_bands * len(_WAVELENGTHS)

    def forward(self, gamma: Tensor) -> Tensor:
        """gamma `(batch, 1)` or `(batch, dim)`, -inf allowed -> `(batch, num_features)` float32."""
        gamma = gamma.float().clamp(-GAMMA_LIMIT, GAMMA_LIMIT)
        with torch.autocast(gamma.device.type, enabled=False):
            bands = gamma.expand(-1, self.num_bands) if gamma.shape[1] == 1 else gamma @ self.averages
        phases = (bands.unsqueeze(2) * self.frequencies).flatten(1)
        return math.sqrt(2.0) * torch.cat([phases.cos(), phases.sin()], dim=1)


def class_rows(label: Tensor | None, num_classes: int, batch: int, device: torch.device) -> Tensor:
    """Rows of a class table whose last row, `num_classes`, stands for "no class": `(batch,)` int64."""
    if label is None:
        return torch.full((batch,), num_classes, dtype=torch.int64, device=device)
    label = label.to(device=device, dtype=torch.int64)
    return torch.where(label < 0, num_classes, label)


class NoiseEmbedding(nn.Module):
    """Noise features, two linear layers, plus a class vector: `(batch, width)` after the last SiLU."""

    def __init__(self, dim: int, width: int, *, num_bands: int, num_classes: int | None) -> None:
        super().__init__()
        self.features = NoiseFeatures(dim, num_bands)
        self.layers = nn.Sequential(nn.Linear(self.features.num_features, width), nn.SiLU(), nn.Linear(width, width))
        self.classes = None if num_classes is None else nn.Embedding(num_classes + 1, width)

    def forward(self, gamma: Tensor, label: Tensor | None) -> Tensor:
        embedding = self.layers(self.features(gamma))
        if self.classes is not None:
            rows = class_rows(label, self.classes.num_embeddings - 1, len(gamma), gamma.device)
            embedding = embedding + self.classes(rows)
        return nn.functional.silu(embedding)
