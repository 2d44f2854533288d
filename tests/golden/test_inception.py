"""The Inception network and its resizes against public code; arrays and tolerances: evaluation/inception_random.md."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.evaluate.nets import InceptionNetSpec, seeded_weights
from pipeline.evaluate.nets.inception import TAPS, Inception, Tap
from pipeline.evaluate.nets.resize import tf1_resize
from pipeline.evaluate.nets.spec import INPUTS
from pipeline.evaluate.nets.weights import SEEDED_SHA256, state_sha256
from pipeline.shards import to_float

FOLDER = Path(__file__).parent / "evaluation"
IMAGES = ("a", "b", "c", "d")
NOISE_ALWAYS = ("b", *(pytest.param(image, marks=pytest.mark.slow) for image in ("a", "c", "d")))
TOLERANCE = 5e-5


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(FOLDER / "inception_random.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return seeded_weights()


@pytest.fixture(scope="module")
def plain(weights: dict[str, Tensor]) -> Inception:
    return Inception.of(weights)


@pytest.fixture(scope="module")
def folded(plain: Inception) -> Inception:
    return plain.folded()


def levels(golden: dict[str, np.ndarray], image: str) -> Tensor:
    return torch.from_numpy(golden[f"{image}__img"])[None]


def assert_taps_are_golden(network: Inception, golden: dict[str, np.ndarray], image: str) -> None:
    found: dict[Tap, Tensor] = network(INPUTS["tf1"](levels(golden, image)), TAPS)
    for tap in ("64", "192", "768", "2048", "logits_unbiased"):  # in the order of the network: the first to fail tells
        np.testing.assert_allclose(found[tap][0], golden[f"{image}__f{tap}"], rtol=0, atol=TOLERANCE, err_msg=tap)
    torch.testing.assert_close(found["logits"], found["logits_unbiased"] + network.fc.bias)


def test_names_and_shapes_are_those_of_the_public_file() -> None:
    with torch.device("meta"):
        found = {name: list(tensor.shape) for name, tensor in Inception().state_dict().items()}
    assert found == json.loads((FOLDER / "inception_state_shapes.json").read_text())


def test_seeded_weights_are_the_documented_draws(weights: dict[str, Tensor]) -> None:
    sums = {
        "Conv2d_1a_3x3.conv.weight": -4.236812432616716,
        "Mixed_7c.branch_pool.bn.running_var": 195.24949461221695,
        "fc.weight": -16.42950662763213,
    }
    for name, value in sums.items():
        assert float(weights[name].double().sum()) == pytest.approx(value, rel=1e-12)
    assert state_sha256(weights) == SEEDED_SHA256


@pytest.mark.parametrize("image", IMAGES)
def test_the_tensorflow_resize_equals_the_peers(golden: dict[str, np.ndarray], image: str) -> None:
    resized = tf1_resize(levels(golden, image))
    index = torch.from_numpy(golden["resized_idx"])
    sample = resized[0][:, index][:, :, index]
    np.testing.assert_allclose(sample, golden[f"{image}__resized_sample"], rtol=0, atol=1e-4)
    assert float(resized.double().sum()) == pytest.approx(float(golden[f"{image}__resized_sum"]), rel=1e-7)


@torch.no_grad()
@pytest.mark.parametrize("image", NOISE_ALWAYS)
def test_every_stage_equals_torch_fidelity(plain: Inception, golden: dict[str, np.ndarray], image: str) -> None:
    assert_taps_are_golden(plain, golden, image)


@torch.no_grad()
@pytest.mark.parametrize("image", IMAGES)
def test_every_stage_of_the_folded_network_equals_torch_fidelity(
    folded: Inception, golden: dict[str, np.ndarray], image: str
) -> None:
    assert_taps_are_golden(folded, golden, image)


@torch.no_grad()
@pytest.mark.parametrize("image", NOISE_ALWAYS)
@pytest.mark.parametrize(("resize", "peer", "atol"), [("torch", "pytorchfid", TOLERANCE), ("clean", "clean", 1e-3)])
def test_features_after_the_other_resizes_equal_the_peers(
    folded: Inception, golden: dict[str, np.ndarray], *, image: str, resize: str, peer: str, atol: float
) -> None:
    features = folded.features(INPUTS[resize](levels(golden, image)))
    np.testing.assert_allclose(features[0], golden[f"{image}__{peer}2048"], rtol=0, atol=atol)


def test_the_loaded_net_gives_the_peers_features_of_bin_centres(golden: dict[str, np.ndarray]) -> None:
    net = InceptionNetSpec(seeded=True).load("cpu")
    x = torch.stack([to_float(levels(golden, image)[0], 256) for image in ("a", "b")])
    features = net.features(x)
    np.testing.assert_allclose(features, [golden["a__f2048"], golden["b__f2048"]], rtol=0, atol=TOLERANCE)
    expected = [golden["a__flogits_unbiased"], golden["b__flogits_unbiased"]]
    np.testing.assert_allclose(net.logits(features), expected, rtol=0, atol=TOLERANCE)
