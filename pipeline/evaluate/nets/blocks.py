"""Blocks of the Inception network: convolutions with normalisation, and branches over one map joined by channels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

EPSILON = 1e-3
"""Of batch normalisation; 1e-5, the default elsewhere, makes another network."""


class DirectConv(nn.Conv2d):
    """A convolution that oneDNN computes on a processor.

    Left to itself PyTorch sends 1 x 1 kernels to a product of matrices when it has one thread, slower by a fifth.
    """

    def forward(self, input: Tensor) -> Tensor:
        if input.device.type != "cpu" or not torch.backends.mkldnn.is_available():
            return super().forward(input)
        return torch.ops.aten.mkldnn_convolution(
            input, self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups
        )


class BasicConv(nn.Module):
    """Convolution without bias, batch normalisation with stored statistics, ReLU."""

    def __init__(
        self,
        num_inputs: int,
        width: int,
        kernel: tuple[int, int],
        *,
        stride: int = 1,
        padding: tuple[int, int] = (0, 0),
    ) -> None:
        super().__init__()
        self.conv = DirectConv(num_inputs, width, kernel, stride=stride, padding=padding, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(width, eps=EPSILON)

    def affine(self, x: Tensor) -> Tensor:
        """The value before the ReLU."""
        return self.bn(self.conv(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.affine(x).relu_()

    def fold(self) -> None:
        """Move the normalisation into weight and bias, in float64, and lay the weight out channels last."""
        norm = self.bn
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        bias = norm.bias.double() - norm.running_mean.double() * scale
        weight = self.conv.weight.double() * scale[:, None, None, None]
        self.conv.weight = _constant(weight.contiguous(memory_format=torch.channels_last))
        self.conv.bias = _constant(bias)
        self.bn = nn.Identity()


@dataclass(frozen=True)
class Layer:
    """One convolution of a block; stride 1 keeps the size of the map, stride 2 has no padding."""

    name: str
    width: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1


Branch = tuple[tuple[Layer, ...], ...]
"""Levels one after another; the layers of a level read the same map and their outputs are joined."""


class Mixed(nn.Module):
    """Branches over the same map, joined on the channel axis in the order given, the pooling branch last.

    Args:
        num_inputs: channels of the map.
        branches: those without pooling.
        pool: `average` over the pixels that exist or `maximum`, 3 x 3 at stride 1, both before a 1 x 1 convolution;
            `halve` is a maximum at stride 2 alone.
        pool_width: channels of that convolution.
    """

    def __init__(
        self,
        num_inputs: int,
        branches: Sequence[Branch],
        *,
        pool: Literal["average", "maximum", "halve"],
        pool_width: int = 0,
    ) -> None:
        super().__init__()
        self.branches, self.pool = tuple(branches), pool
        for branch in self.branches:
            width = num_inputs
            for level in branch:
                for layer in level:
                    padding = (layer.kernel[0] // 2, layer.kernel[1] // 2) if layer.stride == 1 else (0, 0)
                    convolution = BasicConv(width, layer.width, layer.kernel, stride=layer.stride, padding=padding)
                    self.add_module(layer.name, convolution)
                width = sum(layer.width for layer in level)
        self.branch_pool = None if pool == "halve" else BasicConv(num_inputs, pool_width, (1, 1))

    def forward(self, x: Tensor) -> Tensor:
        outputs = [self._run(branch, x) for branch in self.branches]
        return torch.cat([*outputs, self._pooled(x)], dim=1)

    def _run(self, branch: Branch, x: Tensor) -> Tensor:
        for level in branch:
            outputs = [self.get_submodule(layer.name)(x) for layer in level]
            x = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
        return x

    def _pooled(self, x: Tensor) -> Tensor:
        if self.branch_pool is None:
            return functional.max_pool2d(x, 3, stride=2)
        if self.pool == "maximum":
            return self.branch_pool(functional.max_pool2d(x, 3, stride=1, padding=1))
        # A mean over pixels commutes with an affine map of channels; the map first leaves fewer channels to average.
        mapped = self.branch_pool.affine(x)
        return functional.avg_pool2d(mapped, 3, stride=1, padding=1, count_include_pad=False).relu_()


def _constant(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values.float(), requires_grad=False)


def _chain(*layers: Layer) -> Branch:
    return tuple((layer,) for layer in layers)


def block_35(num_inputs: int, *, pool_width: int) -> Mixed:
    """Maps of 35 x 35: 64 + 64 + 96 + pool_width channels."""
    return Mixed(
        num_inputs,
        (
            _chain(Layer("branch1x1", 64)),
            _chain(Layer("branch5x5_1", 48), Layer("branch5x5_2", 64, (5, 5))),
            _chain(
                Layer("branch3x3dbl_1", 64), Layer("branch3x3dbl_2", 96, (3, 3)), Layer("branch3x3dbl_3", 96, (3, 3))
            ),
        ),
        pool="average",
        pool_width=pool_width,
    )


def halving_to_17(num_inputs: int) -> Mixed:
    """35 x 35 to 17 x 17: 384 + 96 + num_inputs channels."""
    return Mixed(
        num_inputs,
        (
            _chain(Layer("branch3x3", 384, (3, 3), stride=2)),
            _chain(
                Layer("branch3x3dbl_1", 64),
                Layer("branch3x3dbl_2", 96, (3, 3)),
                Layer("branch3x3dbl_3", 96, (3, 3), stride=2),
            ),
        ),
        pool="halve",
    )


def block_17(num_inputs: int, *, width: int) -> Mixed:
    """Maps of 17 x 17: 4 x 192 channels; 7 x 7 kernels as rows and columns with `width` channels between them."""
    row, column = (1, 7), (7, 1)
    return Mixed(
        num_inputs,
        (
            _chain(Layer("branch1x1", 192)),
            _chain(Layer("branch7x7_1", width), Layer("branch7x7_2", width, row), Layer("branch7x7_3", 192, column)),
            _chain(
                Layer("branch7x7dbl_1", width),
                Layer("branch7x7dbl_2", width, column),
                Layer("branch7x7dbl_3", width, row),
                Layer("branch7x7dbl_4", width, column),
                Layer("branch7x7dbl_5", 192, row),
            ),
        ),
        pool="average",
        pool_width=192,
    )


def halving_to_8(num_inputs: int) -> Mixed:
    """17 x 17 to 8 x 8: 320 + 192 + num_inputs channels."""
    return Mixed(
        num_inputs,
        (
            _chain(Layer("branch3x3_1", 192), Layer("branch3x3_2", 320, (3, 3), stride=2)),
            _chain(
                Layer("branch7x7x3_1", 192),
                Layer("branch7x7x3_2", 192, (1, 7)),
                Layer("branch7x7x3_3", 192, (7, 1)),
                Layer("branch7x7x3_4", 192, (3, 3), stride=2),
            ),
        ),
        pool="halve",
    )


def block_8(num_inputs: int, *, pool: Literal["average", "maximum"]) -> Mixed:
    """Maps of 8 x 8: 320 + 768 + 768 + 192 channels; the last level of a branch reads rows and columns side by side."""

    def fork(name: str) -> tuple[Layer, ...]:
        return Layer(f"{name}a", 384, (1, 3)), Layer(f"{name}b", 384, (3, 1))

    return Mixed(
        num_inputs,
        (
            _chain(Layer("branch1x1", 320)),
            ((Layer("branch3x3_1", 384),), fork("branch3x3_2")),
            ((Layer("branch3x3dbl_1", 448),), (Layer("branch3x3dbl_2", 384, (3, 3)),), fork("branch3x3dbl_3")),
        ),
        pool=pool,
        pool_width=192,
    )
