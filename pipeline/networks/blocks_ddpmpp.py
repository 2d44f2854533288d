"""DDPM++ blocks: group norm, SiLU, scale and shift by the noise level. Song 2021, as in Karras 2022 (EDM)."""

import math

import torch
from torch import Tensor, nn

from pipeline.networks.blocks import BlockPlan, attended, halved, heads, raised
from pipeline.networks.dropout import KeyedDropout
from pipeline.networks.embeddings import NoiseEmbedding, Reading

_HALF = math.sqrt(0.5)


def _group_norm(channels: int) -> nn.GroupNorm:
    groups = max(count for count in range(1, 33) if channels % count == 0 and (channels // count >= 4 or count == 1))
    return nn.GroupNorm(groups, channels, eps=1e-6)


def _conv(in_channels: int, out_channels: int, size: int, *, stride: int = 1, is_zero: bool = False) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, out_channels, size, stride=stride, padding=size // 2)
    nn.init.zeros_(conv.weight) if is_zero else nn.init.xavier_uniform_(conv.weight)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv


class DdpmppAttention(nn.Module):
    """(x + proj(attention(norm(x)))) / sqrt 2; the projection is zero before training."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = _group_norm(channels)
        self.query_key_value = _conv(channels, 3 * channels, 1)
        self.projection = _conv(channels, channels, 1, is_zero=True)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = heads(self.query_key_value(self.norm(x)), self.num_heads)
        return (x + self.projection(attended(query, key, value, (x.shape[2], x.shape[3])))) * _HALF


class DdpmppBlock(nn.Module):
    """(skip(x) + conv(dropout(silu(film(norm(conv(silu(norm(x)))))))) / sqrt 2, resampled inside the first conv."""

    def __init__(self, plan: BlockPlan) -> None:
        super().__init__()
        self.resampling = plan.resampling
        stride = 2 if plan.resampling == "down" else 1
        self.first_norm = _group_norm(plan.in_channels)
        self.first = _conv(plan.in_channels, plan.out_channels, 3, stride=stride)
        self.second_norm = _group_norm(plan.out_channels)
        self.dropout = KeyedDropout(plan.dropout)
        self.second = _conv(plan.out_channels, plan.out_channels, 3, is_zero=True)
        is_same = plan.in_channels == plan.out_channels
        self.skip = None if is_same else _conv(plan.in_channels, plan.out_channels, 1)
        self.attention = DdpmppAttention(plan.out_channels, plan.num_heads) if plan.num_heads else None

    def forward(self, x: Tensor, modulation: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """modulation `(batch, 2 * out_channels)`: scale, shift; `size` is needed where the block raises."""
        hidden = nn.functional.silu(self.first_norm(x))
        if self.resampling == "up":
            assert size is not None
            hidden = raised(hidden, size)
        scale, shift = modulation[:, :, None, None].chunk(2, dim=1)
        hidden = torch.addcmul(shift, self.second_norm(self.first(hidden)), scale + 1)
        hidden = self.second(self.dropout(nn.functional.silu(hidden)))
        if self.resampling == "down":
            x = halved(x)
        x = x if self.skip is None else self.skip(x)
        if self.resampling == "up":
            assert size is not None
            x = raised(x, size)
        out = (x + hidden) * _HALF
        return out if self.attention is None else self.attention(out)


class DdpmppFamily:
    """See `BlockFamily`."""

    def embedding(self, dim: int, width: int, *, num_bands: int, reading: Reading) -> nn.Module:
        return NoiseEmbedding(dim, width, num_bands=num_bands, reading=reading)

    def modulation(self, width: int, num_outputs: int) -> nn.Module:
        return nn.Linear(width, num_outputs)

    def modulation_size(self, plan: BlockPlan) -> int:
        return 2 * plan.out_channels

    def input(self, channels: int, out_channels: int) -> nn.Module:
        return _conv(channels, out_channels, 3)

    def block(self, plan: BlockPlan) -> nn.Module:
        return DdpmppBlock(plan)

    def concatenation(self, x: Tensor, skip: Tensor) -> Tensor:
        return torch.cat([x, skip], dim=1)

    def output(self, channels: int, out_channels: int) -> nn.Module:
        return nn.Sequential(_group_norm(channels), nn.SiLU(), _conv(channels, out_channels, 3, is_zero=True))
