"""Magnitude-preserving blocks: no norm layers, unit-magnitude weights. Karras 2024 (EDM2), configuration G."""

import math

import torch
from torch import Tensor, nn

from pipeline.diffusion.predictor import Condition
from pipeline.networks.blocks import BlockPlan, attended, halved, heads, raised
from pipeline.networks.dropout import KeyedDropout
from pipeline.networks.embeddings import LevelFeatures, Reading, class_rows, latent_code
from pipeline.networks.magnitude import UnitConv, UnitLinear, mp_concatenation, mp_silu, mp_sum, unit_magnitude

_RESIDUAL_WEIGHT = 0.3
_CLASS_WEIGHT = 0.5
_LATENT_WEIGHT = 0.5
_LIMIT = 256.0
"""Activations are clipped here, so that half precision does not overflow."""


class MpEmbedding(nn.Module):
    """Level features, class vector and latent code: (gamma, t, cond) -> `(batch, width)` of unit magnitude."""

    def __init__(self, dim: int, width: int, *, num_bands: int, reading: Reading) -> None:
        super().__init__()
        num_classes, latent_dim = reading.num_classes, reading.latent_dim
        self.features = LevelFeatures(dim, num_bands, reading)
        self.noise = UnitLinear(self.features.num_features, width)
        self.num_classes = num_classes
        self.classes = None if num_classes is None else UnitLinear(num_classes + 1, width)
        self.latent_dim = latent_dim
        self.latent = None if latent_dim is None else UnitLinear(latent_dim, width)

    def forward(self, gamma: Tensor, t: Tensor, cond: Condition | None) -> Tensor:
        embedding = self.noise(self.features(gamma, t, None if cond is None else cond.time_to))
        if self.classes is not None:
            assert self.num_classes is not None
            rows = class_rows(None if cond is None else cond.label, self.num_classes, len(gamma), gamma.device)
            one_hot = nn.functional.one_hot(rows, self.num_classes + 1).to(embedding.dtype)
            embedding = mp_sum(embedding, self.classes(one_hot * math.sqrt(self.num_classes + 1)), _CLASS_WEIGHT)
        if self.latent is not None:
            assert self.latent_dim is not None
            embedding = mp_sum(embedding, self.latent(latent_code(cond, embedding, self.latent_dim)), _LATENT_WEIGHT)
        return mp_silu(embedding)


class MpAttention(nn.Module):
    """Cosine attention: queries, keys and values of unit magnitude. EDM2 section 2.3."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query_key_value = UnitConv(channels, 3 * channels, 1)
        self.projection = UnitConv(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = unit_magnitude(heads(self.query_key_value(x), self.num_heads), (4,))
        out = self.projection(attended(query, key, value, (x.shape[2], x.shape[3])))
        return mp_sum(x, out, _RESIDUAL_WEIGHT)


class MpBlock(nn.Module):
    """Pixel norm on the way down; the noise level scales channels by 1 + gain * modulation, gain zero at the start."""

    def __init__(self, plan: BlockPlan) -> None:
        super().__init__()
        self.plan = plan
        width = plan.in_channels if plan.is_decoder else plan.out_channels
        is_same = plan.in_channels == plan.out_channels
        self.skip = None if is_same else UnitConv(plan.in_channels, plan.out_channels, 1)
        self.first = UnitConv(width, plan.out_channels, 3)
        self.gain = nn.Parameter(torch.zeros([]))
        self.dropout = KeyedDropout(plan.dropout)
        self.second = UnitConv(plan.out_channels, plan.out_channels, 3)
        self.attention = MpAttention(plan.out_channels, plan.num_heads) if plan.num_heads else None

    def forward(self, x: Tensor, modulation: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """modulation `(batch, out_channels)` of unit magnitude; `size` is needed where the block raises."""
        if self.plan.resampling == "down":
            x = halved(x)
        elif self.plan.resampling == "up":
            assert size is not None
            x = raised(x, size)
        if not self.plan.is_decoder:
            x = x if self.skip is None else self.skip(x)
            x = unit_magnitude(x, (1,))
        hidden = self.first(mp_silu(x))
        scale = (modulation * self.gain + 1)[:, :, None, None].to(hidden.dtype)
        hidden = self.second(self.dropout(mp_silu(hidden * scale)))
        if self.plan.is_decoder and self.skip is not None:
            x = self.skip(x)
        out = mp_sum(x, hidden, _RESIDUAL_WEIGHT)
        out = out if self.attention is None else self.attention(out)
        return out.clamp(-_LIMIT, _LIMIT)


class MpInput(nn.Module):
    """Data and a channel of ones, which stands in for the biases that the layers do not have."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = UnitConv(channels + 1, out_channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(torch.cat([x, torch.ones_like(x[:, :1])], dim=1))


class MpOutput(nn.Module):
    """Convolution whose weight starts at zero and is free.

    A departure from EDM2, whose unit-magnitude convolution times a gain of zero is a saddle: a small network under
    noisy gradients did not leave it within 500 steps, at any learning rate tried.
    """

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(out_channels, channels, 3, 3))
        self._scale = 1 / math.sqrt(9 * channels)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, (self.weight * self._scale).to(x.dtype), padding=1)


class MpFamily:
    """See `BlockFamily`."""

    def embedding(self, dim: int, width: int, *, num_bands: int, reading: Reading) -> nn.Module:
        return MpEmbedding(dim, width, num_bands=num_bands, reading=reading)

    def modulation(self, width: int, num_outputs: int) -> nn.Module:
        return UnitLinear(width, num_outputs)

    def modulation_size(self, plan: BlockPlan) -> int:
        return plan.out_channels

    def input(self, channels: int, out_channels: int) -> nn.Module:
        return MpInput(channels, out_channels)

    def block(self, plan: BlockPlan) -> nn.Module:
        return MpBlock(plan)

    def concatenation(self, x: Tensor, skip: Tensor) -> Tensor:
        return mp_concatenation(x, skip)

    def output(self, channels: int, out_channels: int) -> nn.Module:
        return MpOutput(channels, out_channels)
