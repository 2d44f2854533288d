"""Where networks run."""

from typing import TypeVar

import torch

from pipeline.config import Spec

S = TypeVar("S", bound=Spec)

DEVICE_PATTERN = r"^(auto|cpu|cuda(:\d+)?)$"


def device_for(name: str) -> torch.device:
    """The device called `name`; `auto` is the GPU if there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def placed(spec: S) -> S:
    """The specification with its runtime field `device` decided on this machine."""
    return spec.model_copy(update={"device": str(device_for(getattr(spec, "device")))})  # noqa: B009 - any Spec with one
