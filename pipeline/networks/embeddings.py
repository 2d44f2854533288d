"""Noise level, times, class and latent code of a network call as vectors."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.diffusion.predictor import Condition

GAMMA_LIMIT = 32.0
"""|gamma| beyond which levels are no longer told apart; sigmoid(-32) = 1e-14."""

_MAP_SCALE = 10.0

_WAVELENGTHS = (4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
"""In units of gamma; the longest is monotone over the whole clamped range."""

_OCTAVES = range(-2, 8)
"""Periods 4, 2, 1, ... 1/128 of time: the longest tells 0 from 1, the shortest neighbours among 400 levels."""


@dataclass(frozen=True, eq=False)
class Reading:
    """What a network reads besides its input and the noise level.

    Attributes:
        num_classes: classes to condition on; None: unconditional.
        num_times: 0: t is not read; 1: it is; 2: so is `cond.time_to`.
        latent_dim: length of `cond.latent`; None: there is no code.
        has_map: whether gamma is also read as an image in the layout of the data (components that are pixels).
        band_order: `(dim,)` components in the order in which neighbours share a band; None: as they come.
    """

    num_classes: int | None = None
    num_times: int = 0
    latent_dim: int | None = None
    has_map: bool = False
    band_order: Tensor | None = None


class NoiseFeatures(nn.Module):
    """Fourier features of the mean of gamma over `num_bands` bands of neighbouring components.

    Bands are runs of (nearly) equal length in the components' order, or in `order` `(dim,)`. A scalar gamma is the same
    in every band. Each feature has mean square 1 over gamma.
    """

    def __init__(self, dim: int, num_bands: int, order: Tensor | None = None) -> None:
        super().__init__()
        self.num_bands = min(num_bands, dim)
        place = torch.arange(dim) if order is None else torch.argsort(order)
        band = place * self.num_bands // dim
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


class TimeFeatures(nn.Module):
    """Fourier features cos, sin(2 pi 2^k t) of times in [0, 1], k = -2 ... 7; mean square 1."""

    num_features = 2 * len(_OCTAVES)
    """Length of the feature vector of one time."""

    def __init__(self) -> None:
        super().__init__()
        self.frequencies: Tensor
        frequencies = 2 * math.pi * torch.tensor([2.0**octave for octave in _OCTAVES])
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        """t `(batch,)` -> `(batch, num_features)` float32."""
        return math.sqrt(2.0) * sinusoids(t, self.frequencies)


def sinusoids(t: Tensor, frequencies: Tensor) -> Tensor:
    """cos and then sin of t times each frequency: t `(batch,)`, frequencies `(n,)` -> `(batch, 2 n)` float32.

    The time embedding of DDPM's networks has frequencies 10000^(-j/n) and whole numbers t (Vaswani 2017, section 3.5).
    """
    phases = t.float()[:, None] * frequencies
    return torch.cat([phases.cos(), phases.sin()], dim=1)


class LevelFeatures(nn.Module):
    """What tells a network how far its input is degraded: noise features, and those of up to two times.

    With `num_bands` = 0 gamma is not read, with `reading.num_times` = 0 neither is t.
    """

    def __init__(self, dim: int, num_bands: int, reading: Reading) -> None:
        super().__init__()
        self.noise = NoiseFeatures(dim, num_bands, reading.band_order) if num_bands else None
        self.times = TimeFeatures() if reading.num_times else None
        self.num_times = reading.num_times
        num_noise = 0 if self.noise is None else self.noise.num_features
        self.num_features = num_noise + self.num_times * TimeFeatures.num_features

    def forward(self, gamma: Tensor, t: Tensor, time_to: Tensor | None) -> Tensor:
        """gamma `(batch, 1 | dim)`, t and time_to `(batch,)` -> `(batch, num_features)`; time_to None means t."""
        parts = [] if self.noise is None else [self.noise(gamma)]
        if self.times is not None:
            times = (t, t if time_to is None else time_to.to(t.device))
            parts += [self.times(time) for time in times[: self.num_times]]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def noise_map(gamma: Tensor, like: Tensor) -> Tensor:
    """gamma `(batch, 1 | dim)` at the places of `like` `(batch, dim)`, divided down to about unit size."""
    return (gamma.clamp(-GAMMA_LIMIT, GAMMA_LIMIT) / _MAP_SCALE).expand_as(like).to(like.dtype)


def class_rows(label: Tensor | None, num_classes: int, batch: int, device: torch.device) -> Tensor:
    """Rows of a class table whose last row, `num_classes`, stands for "no class": `(batch,)` int64."""
    if label is None:
        return torch.full((batch,), num_classes, dtype=torch.int64, device=device)
    label = label.to(device=device, dtype=torch.int64)
    return torch.where(label < 0, num_classes, label)


def latent_code(cond: Condition | None, like: Tensor, latent_dim: int) -> Tensor:
    """The condition's latent `(batch, latent_dim)` with dtype and device of `like` `(batch, ...)`; zeros if None."""
    if cond is None or cond.latent is None:
        return like.new_zeros(len(like), latent_dim)
    return cond.latent.to(like)


class NoiseEmbedding(nn.Module):
    """Level features, two linear layers, plus a class vector and a linear map of the latent code.

    Called as (gamma, t, cond) -> `(batch, width)` after the last SiLU. The code's map has no layers of its own: VCD's
    six linear ones without a non-linearity between them are one.
    """

    def __init__(self, dim: int, width: int, *, num_bands: int, reading: Reading) -> None:
        super().__init__()
        num_classes, latent_dim = reading.num_classes, reading.latent_dim
        self.features = LevelFeatures(dim, num_bands, reading)
        self.layers = nn.Sequential(nn.Linear(self.features.num_features, width), nn.SiLU(), nn.Linear(width, width))
        self.classes = None if num_classes is None else nn.Embedding(num_classes + 1, width)
        self.latent_dim = latent_dim
        self.latent = None if latent_dim is None else nn.Linear(latent_dim, width, bias=False)

    def forward(self, gamma: Tensor, t: Tensor, cond: Condition | None) -> Tensor:
        embedding = self.layers(self.features(gamma, t, None if cond is None else cond.time_to))
        if self.classes is not None:
            label = None if cond is None else cond.label
            rows = class_rows(label, self.classes.num_embeddings - 1, len(gamma), gamma.device)
            embedding = embedding + self.classes(rows)
        if self.latent is not None:
            assert self.latent_dim is not None
            embedding = embedding + self.latent(latent_code(cond, embedding, self.latent_dim))
        return nn.functional.silu(embedding)
