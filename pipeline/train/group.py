"""The workers that train one cell together; one process alone is a group of size 1."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


class GroupBroken(RuntimeError):
    """A collective failed: another worker is gone, so this group cannot go on and must be started anew."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Rank and collectives; every rank calls each of them in the same order."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sum_(self, tensor: Tensor) -> Tensor:
        """Sum over the ranks, in place; the same bits on every rank."""
        if self.size > 1:
            try:
                dist.all_reduce(tensor)
            except RuntimeError as error:
                raise GroupBroken(str(error)) from error
        return tensor

    def any(self, flag: bool) -> bool:
        """True on every rank if it is true on one of them."""
        if self.size == 1:
            return flag
        return self.sum_(torch.tensor(float(flag))).item() > 0

    def texts(self, text: str) -> list[str]:
        """What every rank passed, by rank."""
        if self.size == 1:
            return [text]
        gathered: list[str] = [""] * self.size
        try:
            dist.all_gather_object(gathered, text)
        except RuntimeError as error:
            raise GroupBroken(str(error)) from error
        return gathered

    def from_first(self, data: bytes | None) -> bytes | None:
        """The bytes that rank 0 holds; what the others pass is ignored."""
        if self.size == 1:
            return data
        try:
            length = torch.tensor(-1 if data is None else len(data))
            dist.broadcast(length, src=0)
            if length.item() < 0:
                return None
            if self.is_first and data is not None:
                buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0)
            else:
                buffer = torch.empty(int(length.item()), dtype=torch.uint8)
            if buffer.numel():
                dist.broadcast(buffer, src=0)
        except RuntimeError as error:
            raise GroupBroken(str(error)) from error
        return bytes(buffer.numpy()) if buffer.numel() else b""


def solo() -> Group:
    """This process alone."""
    return Group()


def current_group() -> Group:
    """The initialised default process group, or this process alone."""
    if dist.is_available() and dist.is_initialized():
        return Group(rank=dist.get_rank(), size=dist.get_world_size())
    return solo()
