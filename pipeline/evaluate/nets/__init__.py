"""Feature nets: what an image is turned into before distances are taken."""

from pipeline.evaluate.nets.loaded import LoadedNet
from pipeline.evaluate.nets.spec import (
    FEATURE_NETS,
    AnyNetSpec,
    InceptionNetSpec,
    NetSpec,
    PluginNetSpec,
    TorchscriptNetSpec,
)
from pipeline.evaluate.nets.weights import INCEPTION_SHA256, inception_weights, seeded_weights, state_sha256

__all__ = [
    "FEATURE_NETS",
    "INCEPTION_SHA256",
    "AnyNetSpec",
    "InceptionNetSpec",
    "LoadedNet",
    "NetSpec",
    "PluginNetSpec",
    "TorchscriptNetSpec",
    "inception_weights",
    "seeded_weights",
    "state_sha256",
]
