"""Layers that keep the expected magnitude of activations at one. Karras 2024 (EDM2), appendix B."""

import math

import torch
from torch import Tensor, nn

_EPS = 1e-4
_SILU_GAIN = 1 / 0.596
"""1 / root mean square of silu(x), x standard normal. EDM2 eq. 81."""


def unit_magnitude(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """`x` divided by its root mean square over `dims`. EDM2 eq. 66 (weights) and section 2.3 (pixel norm)."""
    norm = torch.linalg.vector_norm(x, dim=dims, keepdim=True, dtype=torch.float32)
    norm = _EPS + norm * math.sqrt(norm.numel() / x.numel())
    return x / norm.to(x.dtype)


def mp_silu(x: Tensor) -> Tensor:
    """silu(x) / 0.596."""
    return nn.functional.silu(x) * _SILU_GAIN


def mp_sum(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """(1 - w) a + w b, rescaled so that two independent unit-magnitude terms give unit magnitude. EDM2 eq. 88."""
    return torch.lerp(a, b, weight) / math.sqrt((1 - weight) ** 2 + weight**2)


def mp_concatenation(a: Tensor, b: Tensor) -> Tensor:
    """Channel concatenation in which both parts contribute equally whatever their widths. EDM2 eq. 103, t = 0.5."""
    scale = math.sqrt((a.shape[1] + b.shape[1]) / 2)
    return torch.cat([a * (scale / math.sqrt(a.shape[1])), b * (scale / math.sqrt(b.shape[1]))], dim=1)


class UnitWeight(nn.Module):
    """Base of the layers below: rows of unit magnitude, kept there by force. EDM2 eq. 66, section 2.3.

    In training mode the stored weight is projected back before use, so that the effective learning rate does not fall
    as weights grow; weight decay has no meaning here.
    """

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(*shape))
        self._dims = tuple(range(1, len(shape)))
        self._scale = 1 / math.sqrt(math.prod(shape[1:]))

    def scaled_weight(self, gain: Tensor | float) -> Tensor:
        """gain * weight / sqrt(fan in), each row of the weight at unit magnitude."""
        if self.training:
            with torch.no_grad():
                self.weight.copy_(unit_magnitude(self.weight, self._dims))
        return unit_magnitude(self.weight, self._dims) * (gain * self._scale)


class UnitConv(UnitWeight):
    """Convolution without bias, `same` padding; `stride` 2 gives the size rounded up."""

    def __init__(self, in_channels: int, out_channels: int, size: int, *, stride: int = 1) -> None:
        super().__init__(out_channels, in_channels, size, size)
        self.stride = stride

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        weight = self.scaled_weight(gain).to(x.dtype)
        return nn.functional.conv2d(x, weight, stride=self.stride, padding=weight.shape[-1] // 2)


class UnitLinear(UnitWeight):
    """Linear layer without bias."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(out_features, in_features)

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        return nn.functional.linear(x, self.scaled_weight(gain).to(x.dtype))
