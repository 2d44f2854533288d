"""What the U-Net asks of a family of blocks, and the resampling and attention that the families share."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor, nn

from pipeline.networks.embeddings import Reading

Resampling = Literal["none", "down", "up"]

_HEAD_CHANNELS = 64


@dataclass(frozen=True, kw_only=True)
class BlockPlan:
    """One residual block of the U-Net.

    Attributes:
        in_channels: channels of the input, the skip connection included.
        out_channels: channels of the output.
        resampling: halves (rounding up) or raises the resolution inside the block.
        is_decoder: on the way up.
        num_heads: attention heads after the convolutions; 0 means no attention.
        dropout: probability.
    """

    in_channels: int
    out_channels: int
    resampling: Resampling
    is_decoder: bool
    num_heads: int
    dropout: float


def descent(
    widths: Sequence[int],
    height: int,
    *,
    num_blocks: int,
    attention_resolutions: Sequence[int],
    dropout: float,
) -> list[BlockPlan]:
    """The blocks on the way down: `num_blocks` per resolution, and one that halves between resolutions.

    Args:
        widths: channels per resolution; the first is also that of the input layer.
        height: of the images; halved and rounded up from one resolution to the next.
        num_blocks: per resolution.
        attention_resolutions: heights at which blocks attend, with one head per 64 channels.
        dropout: probability.
    """
    plans: list[BlockPlan] = []
    in_channels = widths[0]
    for level, width in enumerate(widths):
        num_heads = attention_heads(width) if ceil(height / 2**level) in attention_resolutions else 0
        for number in range(-1 if level else 0, num_blocks):
            plans.append(
                BlockPlan(
                    in_channels=in_channels,
                    out_channels=width,
                    resampling="down" if number < 0 else "none",
                    is_decoder=False,
                    num_heads=0 if number < 0 else num_heads,
                    dropout=dropout,
                )
            )
            in_channels = width
    return plans


def attention_heads(channels: int) -> int:
    """One head per 64 channels, one at least."""
    return max(1, channels // _HEAD_CHANNELS)


@runtime_checkable
class BlockFamily(Protocol):
    """The layers of one kind of U-Net."""

    def embedding(self, dim: int, width: int, *, num_bands: int, reading: Reading) -> nn.Module:
        """Module (gamma, t, cond | None) -> `(batch, width)`; with `num_bands` = 0 gamma is not read."""
        ...

    def modulation(self, width: int, num_outputs: int) -> nn.Module:
        """The one linear layer from the embedding to the modulations of all blocks."""
        ...

    def modulation_size(self, plan: BlockPlan) -> int:
        """Length of the modulation of one block."""
        ...

    def input(self, channels: int, out_channels: int) -> nn.Module:
        """Data to features."""
        ...

    def block(self, plan: BlockPlan) -> nn.Module:
        """Module (x, modulation, size | None) -> features; `size` is the resolution to raise to."""
        ...

    def concatenation(self, x: Tensor, skip: Tensor) -> Tensor:
        """Features joined with those of the way down."""
        ...

    def output(self, channels: int, out_channels: int) -> nn.Module:
        """Features to data; zero before training."""
        ...


def halved(x: Tensor) -> Tensor:
    """Means over 2 x 2 pixels; an odd last row or column is averaged over what there is."""
    return nn.functional.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)


def raised(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Nearest neighbour upsampling to `size`."""
    return nn.functional.interpolate(x, size=size, mode="nearest")


def heads(x: Tensor, num_heads: int) -> Tensor:
    """`(batch, 3 * channels, H, W)` -> `(3, batch, num_heads, H * W, channels / num_heads)`."""
    return x.flatten(2).unflatten(1, (3, num_heads, -1)).permute(1, 0, 2, 4, 3)


def attended(query: Tensor, key: Tensor, value: Tensor, size: tuple[int, int]) -> Tensor:
    """Softmax attention over positions, back to `(batch, channels, H, W)`."""
    out = nn.functional.scaled_dot_product_attention(query, key, value)
    return out.transpose(2, 3).flatten(1, 2).unflatten(2, size)
