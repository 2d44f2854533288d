"""Networks: what a cell trains. Each is called as `network(x, t, gamma, cond)`."""

from pipeline.networks.base import NetworkSpec
from pipeline.networks.classifier import Classifier, ClassifierSpec
from pipeline.networks.dropout import KeyedDropout, MaskSource, dropout_masks
from pipeline.networks.ema import ExponentialMovingAverage
from pipeline.networks.encoder import MlpEncoder, UnetEncoder
from pipeline.networks.mlp import Mlp, MlpSpec
from pipeline.networks.oracle import OraclePredictor, OracleSpec
from pipeline.networks.unet import Unet, UnetSpec

NETWORKS: dict[str, type[NetworkSpec]] = {
    "unet": UnetSpec,
    "mlp": MlpSpec,
    "classifier": ClassifierSpec,
    "oracle": OracleSpec,
}

__all__ = [
    "NETWORKS",
    "Classifier",
    "ClassifierSpec",
    "ExponentialMovingAverage",
    "KeyedDropout",
    "MaskSource",
    "Mlp",
    "MlpEncoder",
    "MlpSpec",
    "NetworkSpec",
    "OraclePredictor",
    "OracleSpec",
    "Unet",
    "UnetEncoder",
    "UnetSpec",
    "dropout_masks",
]
