"""Nets that are not ours: a module by import path, or a TorchScript file; both read float RGB images in [-1, 1]."""

import importlib
import io
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.config import ConfigError, DataError
from pipeline.evaluate.nets.loaded import LoadedNet
from pipeline.evaluate.nets.weights import state_sha256, verified_bytes

PREPROCESSING = "rgb8"
"""Images pass through 8-bit levels as for any other net; resizing is the module's own affair."""


def imported_net(name: str, module: str, *, sha256: str | None, device: torch.device) -> LoadedNet:
    """The module that `package.module:function` returns.

    Raises:
        ConfigError: the import path leads nowhere, or to something that gives no module.
        DataError: its weights have another digest.
    """
    place, _, attribute = module.partition(":")
    try:
        function: Any = getattr(importlib.import_module(place), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"net {name}: {module} cannot be imported ({error}); check it and PYTHONPATH") from None
    network: Any = function() if callable(function) else function
    if not isinstance(network, nn.Module):
        raise ConfigError(f"net {name}: {module} gives a {type(network).__name__}; it must return an nn.Module")
    found = state_sha256(network.state_dict())
    if sha256 is not None and found != sha256:
        raise DataError(
            f"net {name}: sha256 of the state of {module} is {found}, expected {sha256}; "
            "load the weights that were meant, or leave sha256 out and choose another name"
        )
    return _loaded(name, network, sha256=found, device=device)


def scripted_net(name: str, path: str, *, sha256: str, device: torch.device) -> LoadedNet:
    """The TorchScript module in a file.

    Raises:
        DataError: missing, another digest, or no TorchScript.
    """
    content = verified_bytes(path, sha256)
    try:
        network: Any = torch.jit.load(io.BytesIO(content), map_location=device)
    except RuntimeError:
        raise DataError(f"net {name}: {path} is not a TorchScript file; save the net with torch.jit.save") from None
    return _loaded(name, network, sha256=sha256, device=device)


def _loaded(name: str, network: nn.Module, *, sha256: str, device: torch.device) -> LoadedNet:
    network = network.to(device).eval()
    classify: Callable[[Tensor], Tensor] | None = getattr(network, "logits", None)
    return LoadedNet(
        name=name,
        sha256=sha256,
        preprocessing=PREPROCESSING,
        extract=lambda levels: network(_grey_values(levels)),
        classify=classify if callable(classify) else None,
        device=device,
    )


def _grey_values(levels: Tensor) -> Tensor:
    """2 k / 255 - 1, float32: -1 is black and 1 white, as nets that read image files are trained."""
    return levels.float() * (2.0 / 255.0) - 1.0
