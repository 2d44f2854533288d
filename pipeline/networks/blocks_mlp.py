"""The residual block of the multilayer perceptron."""

import torch
from torch import Tensor, nn

from pipeline.networks.dropout import KeyedDropout


class MlpBlock(nn.Module):
    """x + W2 silu(W1 film(layer_norm(x))); zero at the start, so that the block begins as the identity."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.first = nn.Linear(width, width)
        self.dropout = KeyedDropout(dropout)
        self.second = nn.Linear(width, width)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Tensor, film: Tensor) -> Tensor:
        scale, shift = film.chunk(2, dim=1)
        hidden = torch.addcmul(shift, self.norm(x), scale + 1)
        hidden = nn.functional.silu(self.first(hidden))
        return x + self.second(self.dropout(hidden))
