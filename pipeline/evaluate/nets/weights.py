"""Weights of the Inception network: the public file, checked by its sha256, or seeded ones that need no file."""

import hashlib
import io
import math
import pickle
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from pipeline.config import DataError
from pipeline.evaluate.nets.inception import Inception
from pipeline.shards.remote import fetch

INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""Of `pt_inception-2015-12-05-6726825d.pth`, the port that published FIDs in PyTorch are made with."""

SEEDED_SHA256 = "04812be362295b3f13356f337b08b55db544267d8472d8c6a8f8ed5be2dd119a"
"""`state_sha256` of `seeded_weights`, the same on every machine."""

_COUNTER = "num_batches_tracked"


def inception_weights(location: str | Path, sha256: str = INCEPTION_SHA256) -> dict[str, Tensor]:
    """State of the network from a file whose bytes have this digest; pickles are read without running their code.

    Args:
        location: path, `s3://` or `https://` URI.
        sha256: 64 hex digits.

    Returns:
        The 566 entries, float32 but for the counters of batches, which a file may leave out.

    Raises:
        DataError: missing or unreachable file, another digest, or something else than this network's weights.
        ConfigError: a location that is not opened.
    """
    content = verified_bytes(location, sha256)
    try:
        state: Any = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, TypeError, ValueError) as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise DataError(f"{location}: not a file of PyTorch weights ({reason}); save the state dict alone") from None
    return _checked(state, str(location))


def seeded_weights() -> dict[str, Tensor]:
    """Weights drawn per entry from PCG64 seeded with the crc32 of its name, in He's scale, so that signals stay near 1.

    They make features that are blind to what images show, yet defined to the bit without any file.
    """
    return {name: _drawn(name, tuple(shape)) for name, shape in _shapes().items()}


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """Digest of names, types, shapes and values, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def verified_bytes(location: str | Path, sha256: str) -> bytes:
    """Content of a file of weights that has this digest.

    Raises:
        DataError: missing, unreachable, or another digest; both are named.
    """
    path = fetch(str(location), digest=sha256)
    if not path.is_file():
        raise DataError(f"{path}: a folder, where one file of weights is expected")
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise DataError(
            f"{path}: sha256 of these weights is {found}, expected {sha256}; fetch the expected file, or give this "
            "digest as sha256 together with a name of its own, since the distances are not comparable"
        )
    return content


def _shapes() -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in Inception().state_dict().items()}


def _checked(state: Any, where: str) -> dict[str, Tensor]:
    if not isinstance(state, Mapping):
        raise DataError(f"{where}: holds a {type(state).__name__}, not a state dict; save the state dict alone")
    given = cast(Mapping[str, Any], state)
    shapes = _shapes()
    unknown = sorted(str(name) for name in given if name not in shapes)
    missing = [name for name in shapes if name not in given and not name.endswith(_COUNTER)]
    if unknown or missing:
        problem = f"lacks {missing[0]}" if missing else f"has an entry {unknown[0]}"
        raise DataError(f"{where}: not the weights of this Inception network: it {problem}")
    checked: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        if name.endswith(_COUNTER):
            checked[name] = torch.tensor(0)
            continue
        value = given[name]
        if not isinstance(value, Tensor) or value.shape != shape:
            found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise DataError(f"{where}: {name} is {found}, this Inception network has {tuple(shape)}")
        if not bool(value.isfinite().all()):
            raise DataError(f"{where}: {name} has values that are not finite; fetch the file again")
        checked[name] = value.float()
    return checked


def _drawn(name: str, shape: tuple[int, ...]) -> Tensor:
    if name.endswith(_COUNTER):
        return torch.tensor(0)
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode("ascii"))))
    if name.endswith("running_var"):
        values = 0.5 + rng.random(shape)
    else:
        values = rng.standard_normal(shape)
        if name.endswith("conv.weight"):
            values *= math.sqrt(2 / math.prod(shape[1:]))
        elif name == "fc.weight":
            values /= math.sqrt(shape[1])
        elif name.endswith("bn.weight"):
            values = 1 + 0.1 * values
        else:
            values *= 0.1
    return torch.from_numpy(values.astype(np.float32))
