"""Feature nets by specification: the Inception network, a module by import path, a TorchScript file.

A metric carries the name of its net: `fid` stands for the public Inception weights behind the resize of TensorFlow 1
and for nothing else; `clean_fid` and `fid_pytorch` differ in the resize, `fid_fast` in precision, and every other net
is called `fd_<name>`.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from pipeline.config import DataError, Spec, runtime, union
from pipeline.evaluate.nets.inception import INPUT_SIZE, Inception
from pipeline.evaluate.nets.loaded import LoadedNet
from pipeline.evaluate.nets.plugin import imported_net, scripted_net
from pipeline.evaluate.nets.resize import clean_resize, tf1_resize, torch_resize
from pipeline.evaluate.nets.weights import (
    INCEPTION_SHA256,
    SEEDED_SHA256,
    inception_weights,
    seeded_weights,
    state_sha256,
)
from pipeline.shards.remote import absolute_uri

SHA256_PATTERN = r"^[0-9a-f]{64}$"
OWN_NAME_PATTERN = r"^fd_[a-z0-9_]{1,60}$"
RESERVED = ("fd_data", "fd_clf_*", "fd_rand_inception*")  # names of other nets

Resize = Literal["tf1", "clean", "torch"]
_NAMES: dict[str, str] = {"tf1": "fid", "clean": "clean_fid", "torch": "fid_pytorch"}
_SEEDED_NAMES = {"tf1": "fd_rand_inception", "clean": "fd_rand_inception_clean", "torch": "fd_rand_inception_pytorch"}


class NetSpec(Spec, ABC):
    """A net and the name of the distance between its features."""

    name: str

    @abstractmethod
    def load(self, device: str | torch.device = "cpu") -> LoadedNet:
        """The net on a device.

        Raises:
            DataError: missing or wrong weights.
            ConfigError: a location or an import that cannot be resolved.
        """

    def located(self, root: Path | str) -> "NetSpec":
        """This specification with absolute locations; relative ones lie below `root`."""
        return self


class InceptionNetSpec(NetSpec):
    """The Inception network that FID is defined with, or the same network with other weights.

    Attributes:
        weights: path, `s3://` or `https://` URI of the public file; needed unless `seeded`.
        sha256: digest that the file must have; another one than the public file's needs a `name` of its own.
        resize: `tf1` as published FIDs in the line of DDPM and EDM, `clean` as clean-fid, `torch` as pytorch-fid.
        fast: compute in bfloat16, for monitoring; features differ by about 0.4 %, which is why the name does.
        seeded: weights drawn from a fixed seed; needs no file and compares pixels, not what images show.
        name: follows from the other fields; given only with weights that are not the public ones.
    """

    kind: Literal["inception"] = "inception"
    weights: str | None = runtime(None)
    sha256: str = Field(INCEPTION_SHA256, pattern=SHA256_PATTERN)
    resize: Resize = "tf1"
    fast: bool = False
    seeded: bool = False
    name: str = "fid"

    @model_validator(mode="before")
    @classmethod
    def _completed(cls, data: Any) -> Any:
        """Digest and name as they follow from the rest, where they are not given."""
        if not isinstance(data, Mapping):
            return data
        fields: dict[str, Any] = dict(data)
        fields.setdefault("sha256", SEEDED_SHA256 if fields.get("seeded") is True else INCEPTION_SHA256)
        fields.setdefault("name", _name_of(fields))
        return fields

    @model_validator(mode="after")
    def _is_named_honestly(self) -> "InceptionNetSpec":
        if self.seeded and self.weights is not None:
            raise ValueError("weights: seeded weights come from no file; leave out weights or seeded")
        if self.seeded and self.sha256 != SEEDED_SHA256:
            raise ValueError("sha256: seeded weights have a digest of their own; leave sha256 out")
        if not self.seeded and self.weights is None:
            raise ValueError("weights: give the path or URI of the Inception weights, or seeded: true")
        if self.seeded or self.sha256 == INCEPTION_SHA256:
            expected = _name_of(self.model_dump())
            if self.name != expected:
                raise ValueError(f"name {self.name}: with these weights and this resize the metric is {expected}")
        else:
            _check_own_name(self.name, "weights that are not the public ones")
        return self

    def located(self, root: Path | str) -> "InceptionNetSpec":
        if self.weights is None:
            return self
        return self.model_copy(update={"weights": absolute_uri(self.weights, root)})

    @property
    def preprocessing(self) -> str:
        """Resize rule, size and, in bfloat16, precision."""
        return f"{self.resize}-{INPUT_SIZE}{'-bf16' if self.fast else ''}"

    def load(self, device: str | torch.device = "cpu") -> LoadedNet:
        target = torch.device(device)
        network = Inception.of(self._state()).folded().to(target)
        if self.fast:
            network = network.in_bfloat16()
        prepare = INPUTS[self.resize]
        return LoadedNet(
            name=self.name,
            sha256=self.sha256,
            preprocessing=self.preprocessing,
            extract=lambda levels: network.features(prepare(levels)),
            classify=network.logits,
            device=target,
        )

    def _state(self) -> dict[str, Tensor]:
        if not self.seeded:
            assert self.weights is not None
            return inception_weights(self.weights, self.sha256)
        state = seeded_weights()
        found = state_sha256(state)
        if found != self.sha256:
            raise DataError(
                f"net {self.name}: this machine draws seeded weights with sha256 {found} instead of {self.sha256}; "
                "its features are not comparable with those of others, use the numpy version of constraints.txt"
            )
        return state


class PluginNetSpec(NetSpec):
    """A module of the user's own: DINOv2, CLIP or any other net that is importable here.

    Attributes:
        name: `fd_<name>`, of the metric.
        module: `package.module:function`; the function takes no argument and returns an `nn.Module` that maps float
            images `(n, 3, H, W)` in [-1, 1] to features `(n, dim)`, and may have a method `logits(features)`.
        sha256: `state_sha256` that its weights must have; None takes what comes, and statistics made with other
            weights still refuse to meet.
    """

    kind: Literal["plugin"] = "plugin"
    name: str
    module: str = Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$")
    sha256: str | None = Field(None, pattern=SHA256_PATTERN)

    @model_validator(mode="after")
    def _is_named_honestly(self) -> "PluginNetSpec":
        _check_own_name(self.name, "a net of your own")
        return self

    def load(self, device: str | torch.device = "cpu") -> LoadedNet:
        return imported_net(self.name, self.module, sha256=self.sha256, device=torch.device(device))


class TorchscriptNetSpec(NetSpec):
    """A TorchScript file that maps float images `(n, 3, H, W)` in [-1, 1] to features `(n, dim)`.

    Attributes:
        name: `fd_<name>`, of the metric.
        path: path, `s3://` or `https://` URI.
        sha256: of the file.
    """

    kind: Literal["torchscript"] = "torchscript"
    name: str
    path: str = runtime(min_length=1)
    sha256: str = Field(pattern=SHA256_PATTERN)

    @model_validator(mode="after")
    def _is_named_honestly(self) -> "TorchscriptNetSpec":
        _check_own_name(self.name, "a net of your own")
        return self

    def located(self, root: Path | str) -> "TorchscriptNetSpec":
        return self.model_copy(update={"path": absolute_uri(self.path, root)})

    def load(self, device: str | torch.device = "cpu") -> LoadedNet:
        return scripted_net(self.name, self.path, sha256=self.sha256, device=torch.device(device))


FEATURE_NETS: dict[str, type[NetSpec]] = {
    "inception": InceptionNetSpec,
    "plugin": PluginNetSpec,
    "torchscript": TorchscriptNetSpec,
}
AnyNetSpec: Any = union(FEATURE_NETS)


def _tf1_input(levels: Tensor) -> Tensor:
    return tf1_resize(levels).sub_(128).div_(128)


def _clean_input(levels: Tensor) -> Tensor:
    return clean_resize(levels).sub_(128).div_(128)


def _torch_input(levels: Tensor) -> Tensor:
    return torch_resize(levels).div_(255).mul_(2).sub_(1)


INPUTS: dict[str, Callable[[Tensor], Tensor]] = {"tf1": _tf1_input, "clean": _clean_input, "torch": _torch_input}
"""Levels uint8 `(n, 3, H, W)` to the network's input: resize and the scale that belongs to it."""


def _name_of(fields: Mapping[str, Any]) -> str:
    names = _SEEDED_NAMES if fields.get("seeded") is True else _NAMES
    name = names.get(str(fields.get("resize", "tf1")), "fid")
    return f"{name}_fast" if fields.get("fast") is True else name


def _check_own_name(name: str, what: str) -> None:
    if not re.match(OWN_NAME_PATTERN, name):
        raise ValueError(f"name {name}: {what} need a name fd_<name> in small letters, digits and _")
    for taken in RESERVED:
        if fnmatchcase(name, taken):
            raise ValueError(f"name {name}: {taken} names another net; choose one that says what this is")
