"""Variational encoders: the code z of two states of one image, q(z | x_t, x_s). VCD, section 3."""

from collections.abc import Sequence
from math import ceil, prod

import torch
from torch import Tensor, nn

from pipeline.diffusion.predictor import Condition
from pipeline.networks.blocks import BlockFamily, descent
from pipeline.networks.blocks_mlp import MlpBlock
from pipeline.networks.embeddings import NoiseEmbedding, Reading

_LOG_VARIANCE_SCALE = 0.01
"""Of the initial weights, so that codes start with about unit variance whatever the features are."""

_EMBEDDING_MULTIPLIER = 4


class LatentHeads(nn.Module):
    """Two linear maps of features `(batch, num_features)` to mean and log variance `(batch, latent_dim)`, float32."""

    def __init__(self, num_features: int, latent_dim: int) -> None:
        super().__init__()
        self.mean = nn.Linear(num_features, latent_dim)
        self.log_variance = nn.Linear(num_features, latent_dim)
        with torch.no_grad():
            for parameter in self.log_variance.parameters():
                parameter.mul_(_LOG_VARIANCE_SCALE)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.mean(features).float(), self.log_variance(features).float()


class UnetEncoder(nn.Module):
    """The way down of a U-Net over both states, told their times; all features of the last resolution enter the heads.

    See `NetworkSpec.encoder` for the call.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        latent_dim: int,
        *,
        family: BlockFamily,
        widths: Sequence[int],
        num_blocks: int,
        attention_resolutions: Sequence[int],
    ) -> None:
        super().__init__()
        channels, height, width = shape
        plans = descent(widths, height, num_blocks=num_blocks, attention_resolutions=attention_resolutions, dropout=0.0)
        self._modulation_sizes = [family.modulation_size(plan) for plan in plans]
        embedding_width = _EMBEDDING_MULTIPLIER * widths[0]
        self.embedding = family.embedding(prod(shape), embedding_width, num_bands=0, reading=Reading(num_times=2))
        self.modulation = family.modulation(embedding_width, sum(self._modulation_sizes))
        self.input = family.input(2 * channels, widths[0])
        self.encoder = nn.ModuleList(family.block(plan) for plan in plans)
        scale = 2 ** (len(widths) - 1)
        size = widths[-1] * ceil(height / scale) * ceil(width / scale)
        self.norm = nn.LayerNorm(size)
        self.heads = LatentHeads(size, latent_dim)

    def forward(self, x_pair: Tensor, t: Tensor, time_to: Tensor) -> tuple[Tensor, Tensor]:
        """x_pair `(batch, 2 C, H, W)`, t and time_to `(batch,)`."""
        embedding = self.embedding(t[:, None], t, Condition(time_to=time_to))
        hidden = self.input(x_pair)
        for block, modulation in zip(
            self.encoder, self.modulation(embedding).split(self._modulation_sizes, dim=1), strict=True
        ):
            hidden = block(hidden, modulation)
        return self.heads(nn.functional.silu(self.norm(hidden.flatten(1))))


class MlpEncoder(nn.Module):
    """Residual blocks over both states, flattened, scaled and shifted by the embedding of their times.

    See `NetworkSpec.encoder` for the call.
    """

    def __init__(self, dim: int, latent_dim: int, *, width: int, depth: int) -> None:
        super().__init__()
        self.embedding = NoiseEmbedding(dim, width, num_bands=0, reading=Reading(num_times=2))
        self.modulation = nn.Linear(width, depth * 2 * width)
        self.input = nn.Linear(2 * dim, width)
        self.blocks = nn.ModuleList(MlpBlock(width, 0.0) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.heads = LatentHeads(width, latent_dim)

    def forward(self, x_pair: Tensor, t: Tensor, time_to: Tensor) -> tuple[Tensor, Tensor]:
        """x_pair `(batch, 2 C, H, W)` or `(batch, 2 D)`, t and time_to `(batch,)`."""
        films = self.modulation(self.embedding(t[:, None], t, Condition(time_to=time_to))).chunk(len(self.blocks), 1)
        hidden = self.input(x_pair.flatten(1))
        for block, film in zip(self.blocks, films, strict=True):
            hidden = block(hidden, film)
        return self.heads(nn.functional.silu(self.norm(hidden)))
