"""All weights of one optimiser in one buffer: optimiser, average and clipping then take one call each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_ALIGNMENT = 16  # numbers; every tensor starts at 64 bytes, which vectorised and tensor-core kernels want


@dataclass(frozen=True)
class _Place:
    network: str
    name: str
    parameter: nn.Parameter
    group: int
    offset: int  # inside the group


class FlatWeights(nn.Module):
    """The parameters of the networks become views of this module's, one flat parameter per parameter group.

    Gaps between the views stay zero: they have no gradient.
    """

    def __init__(self, networks: Mapping[str, nn.Module], param_groups: Sequence[Mapping[str, Any]]) -> None:
        """`param_groups`: as torch's optimisers take them; each parameter belongs to one of `networks`."""
        super().__init__()
        names = {id(p): (network, name) for network, m in networks.items() for name, p in m.named_parameters()}
        self.options = [{key: value for key, value in group.items() if key != "params"} for group in param_groups]
        self._places: list[_Place] = []
        sizes: list[int] = []
        for number, group in enumerate(param_groups):
            size = 0
            for parameter in group["params"]:
                self._places.append(_Place(*names[id(parameter)], parameter, number, size))
                size += -(-parameter.numel() // _ALIGNMENT) * _ALIGNMENT
            sizes.append(size)
        self.flats = nn.ParameterList(
            [nn.Parameter(torch.zeros(size, device=self._places[0].parameter.device)) for size in sizes]
        )
        views = self.views(list(self.flats))
        for place in self._places:
            view = views[place.network, place.name].detach()
            view.copy_(place.parameter.detach())
            place.parameter.data = view

    @property
    def num_padded(self) -> int:
        """Numbers in all groups, gaps included."""
        return sum(flat.numel() for flat in self.flats)

    def param_groups(self) -> list[dict[str, Any]]:
        """What the optimiser takes: the flat parameters with the options of their groups."""
        return [{**options, "params": [flat]} for options, flat in zip(self.options, self.flats, strict=True)]

    def set_gradient_(self, buffer: Tensor) -> None:
        """Make every `parameter.grad` a view of `buffer` `(num_padded,)`."""
        parts = list(buffer.split([flat.numel() for flat in self.flats]))
        for flat, part in zip(self.flats, parts, strict=True):
            flat.grad = part
        views = self.views(parts)
        for place in self._places:
            place.parameter.grad = views[place.network, place.name]

    def views(self, flats: Sequence[Tensor]) -> dict[tuple[str, str], Tensor]:
        """(network, parameter name) -> its part of `flats`, tensors of the groups' sizes, in the parameter's shape."""
        return {
            (place.network, place.name): torch.as_strided(
                flats[place.group],
                place.parameter.shape,
                place.parameter.stride(),
                flats[place.group].storage_offset() + place.offset,
            )
            for place in self._places
        }
