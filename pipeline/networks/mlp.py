"""Residual multilayer perceptron for points and small images."""

from math import prod
from typing import Any, Literal

from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from pipeline.config import runtime
from pipeline.diffusion.predictor import Condition
from pipeline.networks.base import NetworkSpec, with_preset
from pipeline.networks.blocks_mlp import MlpBlock
from pipeline.networks.embeddings import NoiseEmbedding, Reading, noise_map
from pipeline.networks.encoder import MlpEncoder

PRESETS: dict[str, dict[str, object]] = {
    "tiny": {"width": 64, "depth": 2},
    "small": {"width": 256, "depth": 3},
    "anchor": {"width": 512, "depth": 4},
}


class MlpSpec(NetworkSpec):
    """Width and number of residual blocks; `preset` fills in what is not given."""

    kind: Literal["mlp"] = "mlp"
    preset: Literal["tiny", "small", "anchor"] | None = runtime(None)
    width: PositiveInt = 256
    depth: PositiveInt = 3
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    num_noise_bands: PositiveInt = 16

    @model_validator(mode="before")
    @classmethod
    def _fill_preset(cls, data: Any) -> Any:
        return with_preset(data, PRESETS)

    def module(self, shape: tuple[int, ...], reading: Reading) -> "Mlp":
        return Mlp(prod(shape), self, reading)

    def encoder_module(self, shape: tuple[int, ...], latent_dim: int) -> MlpEncoder:
        """As many blocks of half the width."""
        return MlpEncoder(prod(shape), latent_dim, width=max(1, self.width // 2), depth=self.depth)


class Mlp(nn.Module):
    """Flattens the data; every block is scaled and shifted by the noise embedding (FiLM). Output zero at the start."""

    def __init__(self, dim: int, spec: MlpSpec, reading: Reading) -> None:
        super().__init__()
        width, depth = spec.width, spec.depth
        self.embedding = NoiseEmbedding(dim, width, num_bands=spec.num_noise_bands, reading=reading)
        self.modulation = nn.Linear(width, depth * 2 * width)
        self.input = nn.Linear(dim, width)
        self.blocks = nn.ModuleList(MlpBlock(width, spec.dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, dim)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        self.map = nn.Linear(dim, width, bias=False) if reading.has_map else None

    def forward(self, x: Tensor, t: Tensor, gamma: Tensor, cond: Condition | None = None) -> Tensor:
        """x `(batch, *shape)`, gamma `(batch, 1 | dim)` -> `(batch, *shape)`; see `NetworkSpec`."""
        embedding = self.embedding(gamma, t, cond)
        films = self.modulation(embedding).chunk(len(self.blocks), dim=1)
        hidden = self.input(x.flatten(1))
        if self.map is not None:
            hidden = hidden + self.map(noise_map(gamma, x.flatten(1)))
        for block, film in zip(self.blocks, films, strict=True):
            hidden = block(hidden, film)
        return self.output(nn.functional.silu(self.norm(hidden))).unflatten(1, x.shape[1:])
