"""The U-Net: one skeleton, two families of blocks."""

from math import ceil, prod
from typing import Any, Literal

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from pipeline.config import ConfigError, runtime
from pipeline.diffusion.predictor import Condition
from pipeline.networks.base import NetworkSpec, with_preset
from pipeline.networks.blocks import BlockFamily, BlockPlan, Resampling, attention_heads, descent
from pipeline.networks.blocks_ddpmpp import DdpmppFamily
from pipeline.networks.blocks_mp import MpFamily
from pipeline.networks.embeddings import Reading, noise_map
from pipeline.networks.encoder import UnetEncoder

FAMILIES: dict[str, BlockFamily] = {"ddpmpp": DdpmppFamily(), "mp": MpFamily()}

PRESETS: dict[str, dict[str, object]] = {
    "tiny": {"base_channels": 16, "channel_multipliers": (1, 2), "num_blocks": 1, "attention_resolutions": ()},
    "small": {
        "base_channels": 64,
        "channel_multipliers": (1, 2, 2),
        "num_blocks": 2,
        "attention_resolutions": (16, 14),
    },
    "anchor": {"base_channels": 32, "channel_multipliers": (1, 2, 2), "num_blocks": 2, "attention_resolutions": (16,)},
}

_EMBEDDING_MULTIPLIER = 4


class UnetSpec(NetworkSpec):
    """Size of the U-Net; `preset` fills in what is not given.

    Attributes:
        channel_multipliers: one per resolution, from the data's own downwards; sizes are halved and rounded up, so any
            size of image is fine (28, 14, 7, 4).
        attention_resolutions: image heights at which every encoder block and the last decoder block attend.
    """

    kind: Literal["unet"] = "unet"
    preset: Literal["tiny", "small", "anchor"] | None = runtime(None)
    base_channels: PositiveInt = 32
    channel_multipliers: tuple[PositiveInt, ...] = Field((1, 2, 2), min_length=1)
    num_blocks: PositiveInt = 2
    attention_resolutions: tuple[PositiveInt, ...] = ()
    block: Literal["mp", "ddpmpp"] = "ddpmpp"
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    num_noise_bands: PositiveInt = 16

    @model_validator(mode="before")
    @classmethod
    def _fill_preset(cls, data: Any) -> Any:
        return with_preset(data, PRESETS)

    def module(self, shape: tuple[int, ...], reading: Reading) -> "Unet":
        _check_image(shape)
        return Unet(shape, self, reading)

    def encoder_module(self, shape: tuple[int, ...], latent_dim: int) -> UnetEncoder:
        """The way down of this U-Net with half the channels: base / 2 and multipliers floor((m + 1) / 2), as in VCD."""
        _check_image(shape)
        base = max(1, self.base_channels // 2)
        return UnetEncoder(
            shape,
            latent_dim,
            family=FAMILIES[self.block],
            widths=[base * ((multiplier + 1) // 2) for multiplier in self.channel_multipliers],
            num_blocks=self.num_blocks,
            attention_resolutions=self.attention_resolutions,
        )


def _check_image(shape: tuple[int, ...]) -> None:
    if len(shape) != 3:
        raise ConfigError(f"network: the unet needs images (C, H, W), found shape {shape}; use mlp for points")


class Unet(nn.Module):
    """Encoder, decoder with a skip connection from every encoder layer, output zero before training.

    The skeleton is that of Karras 2022 (SongUNet, DDPM++): `num_blocks` per resolution down, `num_blocks` + 1 up.
    """

    def __init__(self, shape: tuple[int, ...], spec: UnetSpec, reading: Reading) -> None:
        super().__init__()
        channels, height, _ = shape
        widths = [spec.base_channels * multiplier for multiplier in spec.channel_multipliers]
        heights = [ceil(height / 2**level) for level in range(len(widths))]
        self.family = FAMILIES[spec.block]

        def plan(in_channels: int, level: int, *, resampling: Resampling = "none", attends: bool) -> BlockPlan:
            return BlockPlan(
                in_channels=in_channels,
                out_channels=widths[level],
                resampling=resampling,
                is_decoder=True,
                num_heads=attention_heads(widths[level]) if attends else 0,
                dropout=spec.dropout,
            )

        encoder = descent(
            widths,
            height,
            num_blocks=spec.num_blocks,
            attention_resolutions=spec.attention_resolutions,
            dropout=spec.dropout,
        )
        skips = [widths[0], *(item.out_channels for item in encoder)]
        width = widths[-1]

        decoder: list[BlockPlan] = []
        self._takes_skip: list[bool] = []
        for level in reversed(range(len(widths))):
            attends = heights[level] in spec.attention_resolutions
            if level == len(widths) - 1:
                decoder.append(plan(width, level, attends=attends))
                self._takes_skip.append(False)
            else:
                decoder.append(plan(width, level, resampling="up", attends=False))
                self._takes_skip.append(False)
            width = widths[level]
            for index in range(spec.num_blocks + 1):
                is_last = index == spec.num_blocks
                decoder.append(plan(width + skips.pop(), level, attends=attends and is_last))
                self._takes_skip.append(True)
                width = widths[level]
        assert not skips

        self._encoder_plans, self._decoder_plans = encoder, decoder
        self._modulation_sizes = [self.family.modulation_size(item) for item in (*encoder, *decoder)]
        embedding_width = _EMBEDDING_MULTIPLIER * spec.base_channels
        self.embedding = self.family.embedding(
            prod(shape), embedding_width, num_bands=spec.num_noise_bands, reading=reading
        )
        self.modulation = self.family.modulation(embedding_width, sum(self._modulation_sizes))
        self.has_map = reading.has_map
        self.input = self.family.input(channels + reading.has_map, widths[0])
        self.encoder = nn.ModuleList(self.family.block(item) for item in encoder)
        self.decoder = nn.ModuleList(self.family.block(item) for item in decoder)
        self.output = self.family.output(width, channels)

    def forward(self, x: Tensor, t: Tensor, gamma: Tensor, cond: Condition | None = None) -> Tensor:
        """x `(batch, C, H, W)`, gamma `(batch, 1 | dim)` -> `(batch, C, H, W)`; see `NetworkSpec`."""
        embedding = self.embedding(gamma, t, cond)
        modulations = iter(self.modulation(embedding).split(self._modulation_sizes, dim=1))
        if self.has_map:
            levels = noise_map(gamma, x.flatten(1)).unflatten(1, x.shape[1:])
            x = torch.cat([x, levels.mean(1, keepdim=True)], dim=1)
        hidden = self.input(x)
        skips = [hidden]
        sizes: list[tuple[int, int]] = []
        for block, item in zip(self.encoder, self._encoder_plans, strict=True):
            if item.resampling == "down":
                sizes.append((hidden.shape[2], hidden.shape[3]))
            hidden = block(hidden, next(modulations))
            skips.append(hidden)
        for block, item, takes_skip in zip(self.decoder, self._decoder_plans, self._takes_skip, strict=True):
            if takes_skip:
                hidden = self.family.concatenation(hidden, skips.pop())
            hidden = block(hidden, next(modulations), sizes.pop() if item.resampling == "up" else None)
        return self.output(hidden).to(x.dtype)
