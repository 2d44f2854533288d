"""Constant tensors that follow the data: one cached copy per device and dtype."""

import torch
from torch import Tensor


class Constant:
    """A tensor that never changes, copied to each device and dtype the first time it is asked for there.

    Copies are ordinary tensors also when that first time is under `torch.inference_mode`: sampling must not leave
    tensors behind that a later training step cannot differentiate through.
    """

    def __init__(self, value: Tensor) -> None:
        with torch.inference_mode(False):
            self.value = value.clone() if value.is_inference() else value.detach()
        self._copies: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def on(self, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
        """The copy on `device`, in `dtype` (its own when None)."""
        key = (device, dtype or self.value.dtype)
        if key not in self._copies:
            with torch.inference_mode(False):
                self._copies[key] = self.value.to(device=device, dtype=key[1])
        return self._copies[key]

    def __getstate__(self) -> dict[str, Tensor]:
        return {"value": self.value}

    def __setstate__(self, state: dict[str, Tensor]) -> None:
        self.value = state["value"]
        self._copies = {}
