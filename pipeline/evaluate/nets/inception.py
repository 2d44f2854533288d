"""The Inception network of 2015-12-05 (Szegedy et al. 2015) as FID uses it, with the module names of its public port.

It departs from the usual Inception v3 in three places: average pools leave the padding out of the mean, the last block
pools by maximum, and there are 1008 classes. Taps are global means of the maps after the two stem pools (64, 192), the
last 17 x 17 block (768) and the last block of all (2048), then class logits without and with the bias.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.evaluate.nets.blocks import BasicConv, block_8, block_17, block_35, halving_to_8, halving_to_17

Tap = Literal["64", "192", "768", "2048", "logits_unbiased", "logits"]
TAPS: tuple[Tap, ...] = ("64", "192", "768", "2048", "logits_unbiased", "logits")
INPUT_SIZE = 299
NUM_FEATURES = 2048
NUM_CLASSES = 1008


class Inception(nn.Module):
    """Images `(n, 3, 299, 299)`, about [-1, 1], to the taps; its state has the 566 names of the public weights file."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = BasicConv(3, 32, (3, 3), stride=2)
        self.Conv2d_2a_3x3 = BasicConv(32, 32, (3, 3))
        self.Conv2d_2b_3x3 = BasicConv(32, 64, (3, 3), padding=(1, 1))
        self.Conv2d_3b_1x1 = BasicConv(64, 80, (1, 1))
        self.Conv2d_4a_3x3 = BasicConv(80, 192, (3, 3))
        self.Mixed_5b = block_35(192, pool_width=32)
        self.Mixed_5c = block_35(256, pool_width=64)
        self.Mixed_5d = block_35(288, pool_width=64)
        self.Mixed_6a = halving_to_17(288)
        self.Mixed_6b = block_17(768, width=128)
        self.Mixed_6c = block_17(768, width=160)
        self.Mixed_6d = block_17(768, width=160)
        self.Mixed_6e = block_17(768, width=192)
        self.Mixed_7a = halving_to_8(768)
        self.Mixed_7b = block_8(1280, pool="average")
        self.Mixed_7c = block_8(2048, pool="maximum")
        self.fc = nn.Linear(NUM_FEATURES, NUM_CLASSES)

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> "Inception":
        """The network with these weights, in evaluation mode, without gradients.

        Raises:
            RuntimeError: a name or a shape is not the network's.
        """
        with torch.device("meta"):  # no time and memory for weights that are replaced at once
            network = cls()
        network.load_state_dict(dict(state), assign=True)
        return network.eval().requires_grad_(False)

    def folded(self) -> "Inception":
        """A copy with normalisation folded into the convolutions and weights laid out channels last.

        Features differ from the original's by rounding: about 1e-5 where they reach 20.
        """
        network = copy.deepcopy(self)
        for module in list(network.modules()):
            if isinstance(module, BasicConv):
                module.fold()
        return network

    def in_bfloat16(self) -> "Inception":
        """A copy whose convolutions compute in bfloat16: twice as fast, features off by about 4e-3 of their size."""
        network = copy.deepcopy(self)
        for module in list(network.modules()):
            if isinstance(module, BasicConv):
                module.to(torch.bfloat16)
        return network

    def forward(self, x: Tensor, taps: Sequence[Tap] = ("2048",)) -> dict[Tap, Tensor]:
        """Float32 `(n, width)` for each tap asked for; nothing is computed beyond the last one."""
        found: dict[Tap, Tensor] = {}
        x = x.to(self.Conv2d_1a_3x3.conv.weight.dtype, memory_format=torch.channels_last)
        for tap, stage in self._stages():
            x = stage(x)
            if tap in taps:
                found[tap] = x.mean(dim=(2, 3), dtype=torch.float32)
            if set(taps) <= found.keys():
                return {name: found[name] for name in taps}
        features = x.mean(dim=(2, 3), dtype=torch.float32)
        found["logits_unbiased"] = self.logits(features)
        found["logits"] = found["logits_unbiased"] + self.fc.bias
        return {name: found[name] for name in taps}

    def features(self, x: Tensor) -> Tensor:
        """The tap of FID, float32 `(n, 2048)`, not negative."""
        return self(x)["2048"]

    def logits(self, features: Tensor) -> Tensor:
        """Class logits `(n, 1008)` of features `(n, 2048)` without the bias, as the Inception score takes them."""
        return functional.linear(features, self.fc.weight)

    def _stages(self) -> Sequence[tuple[Tap, nn.Module]]:
        halve = nn.MaxPool2d(3, stride=2)
        return (
            ("64", nn.Sequential(self.Conv2d_1a_3x3, self.Conv2d_2a_3x3, self.Conv2d_2b_3x3, halve)),
            ("192", nn.Sequential(self.Conv2d_3b_1x1, self.Conv2d_4a_3x3, halve)),
            ("768", nn.Sequential(*(self.get_submodule(f"Mixed_{name}") for name in _UNTIL_768))),
            ("2048", nn.Sequential(self.Mixed_7a, self.Mixed_7b, self.Mixed_7c)),
        )


_UNTIL_768 = ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e")
