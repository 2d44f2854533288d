"""A few numbers of a step on their way from the device to the host, without making the device wait."""

import torch
from torch import Tensor


class Readback:
    """Starts to copy `row` at once; `values` waits for it, which costs nothing one step later."""

    def __init__(self, row: Tensor) -> None:
        """`row`: `(n,)` float32; on a GPU it is copied to pinned memory behind the work already queued."""
        self._event: torch.cuda.Event | None = None
        if row.is_cuda:
            self._host = torch.empty(row.shape, dtype=row.dtype, pin_memory=True)
            self._host.copy_(row, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._host = row

    def values(self) -> list[float]:
        """The numbers, once they have arrived."""
        if self._event is not None:
            self._event.synchronize()
        return self._host.tolist()
