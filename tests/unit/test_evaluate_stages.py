"""Features, likelihood and result stages on a small data set: what they measure, refuse and leave out."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from pipeline.config import ConfigError, DataError, parse
from pipeline.evaluate import FeatureStatistics, features, frechet_distance, likelihood, result
from pipeline.evaluate.comparison import Result, paired_difference, with_comparison
from pipeline.evaluate.ladder import held_out_accuracy
from pipeline.sample import stage as sample_stage
from pipeline.sample.blocks import sample_blocks
from pipeline.shards import dequantise, read_split, to_float
from pipeline.store import Artifact, Store, open_store
from tests import stage_cases
from tests.stage_cases import LEVELS, made

NET = "fd_clf_squares"
FLOW = {"kind": "ode", "solver": "rk4", "steps": 24, "trace": "exact"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return open_store(str(tmp_path_factory.mktemp("store")))


def given(store: Store) -> dict[str, Artifact]:
    return {
        "dataset": stage_cases.dataset(store),
        "statistics": stage_cases.statistics(store),
        "classifier": stage_cases.training(store, stage_cases.classifier()),
    }


def feature_spec(**changes: Any) -> features.FeatureSpec:
    fields = {"net": NET, "classifier": stage_cases.classifier(), "group_size": 8, "num_rows": 60, "batch_shape": 32}
    return features.FeatureSpec(**(fields | changes))


def reference(store: Store, **changes: Any) -> Artifact:
    return made(store, features, feature_spec(split="train", num_rows=300, **changes), given(store))


def control_features(
    store: Store, control: Any = "gaussian", *, seed: int = 0, num_images: int = 200
) -> list[Artifact]:
    inputs = given(store)
    blocks = sample_blocks(control, None, num_images=num_images, block_size=100, seed=seed)
    drawn = [made(store, sample_stage, block, inputs) for block in blocks]
    return [made(store, features, feature_spec(), inputs | {"images": images}) for images in drawn]


def gaussian_likelihood(store: Store, **changes: Any) -> Artifact:
    return made(store, likelihood, likelihood.LikelihoodBlock(system="gaussian", **changes), given(store))


def row_of(store: Store, blocks: list[Artifact], *more: Artifact, **changes: Any) -> Artifact:
    inputs = {"reference": reference(store)}
    inputs |= {f"features.{k}": block for k, block in enumerate(blocks)}
    inputs |= {f"likelihood.{k}": block for k, block in enumerate(more)}
    spec = result.ResultSpec(**({"num_images": 200} | changes))
    return made(store, result, spec, inputs)


def test_group_statistics_and_rows_are_those_of_the_images(store: Store) -> None:
    images = read_split(given(store)["dataset"], "train").images
    found = result.joined([reference(store, net="fd_data", classifier=None)])
    whole = FeatureStatistics.of(to_float(images, LEVELS).reshape(len(images), -1))
    assert found.n == whole.n == 400
    assert frechet_distance(result.merged(found.groups), whole) == pytest.approx(0.0, abs=1e-9)
    assert found.rows.shape == (300, 16)


def test_features_of_an_image_do_not_depend_on_what_else_is_in_the_set(store: Store) -> None:
    few, many = (control_features(store, num_images=n)[0] for n in (90, 100))
    with np.load(few.path("features.npz")) as a, np.load(many.path("features.npz")) as b:
        np.testing.assert_array_equal(a["rows"], b["rows"])
        np.testing.assert_array_equal(a["mean"][:11], b["mean"][:11])


def test_a_small_source_gets_smaller_groups_so_that_the_jackknife_has_its_blocks(store: Store) -> None:
    blocks = control_features(store, "test_split", num_images=200)
    assert [block.meta["count"] for block in blocks] == [90, 0]
    found = result.joined(blocks)
    assert len(found.groups) >= 20
    assert found.n == 90


@pytest.mark.parametrize(("num_images", "size"), [(50_000, 50), (1000, 50), (360, 18), (40, 2), (5, 1)])
def test_groups_leave_every_jackknife_block_its_own(num_images: int, size: int) -> None:
    assert features.group_size(num_images) == size


@pytest.mark.parametrize(
    "changes", [{"net": "fid"}, {"classifier": None}, {"net": "fd_data"}, {"with_ladder": True}], ids=str
)
def test_dishonest_feature_nets_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"fid|classifier|ladder"):
        feature_spec(**changes)


def test_known_answers_grow_with_the_disturbance(store: Store) -> None:
    meta = reference(store, net="fd_data", classifier=None, with_ladder=True).meta
    ladder = meta["ladder"]
    assert meta["is_increasing"]
    assert ladder["train"] == pytest.approx(0.0, abs=1e-9)
    assert 0.0 < ladder["test"] < ladder["noise_0.3"]
    assert ladder["noise_0.1"] < ladder["noise_0.3"]
    assert ladder["blur_0.5"] < ladder["blur_1.0"]
    assert ladder["one_class_missing"] < ladder["two_classes_missing"]


def test_held_out_accuracy_of_the_net_is_logged_with_the_reference(store: Store) -> None:
    assert 0.0 <= reference(store, with_ladder=True).meta["held_out_accuracy"] <= 1.0
    assert held_out_accuracy(np.eye(4, dtype=np.float32), np.array([0, 1, 2, 0])) == 0.75


def test_the_gaussian_density_is_that_of_scipy_on_the_same_dequantised_images(store: Store) -> None:
    with np.load(gaussian_likelihood(store).path("likelihood.npz")) as found:
        index, nats, bits = found["index"], found["nats"], found["bits_per_dim"]
    images = read_split(given(store)["dataset"], "test").images
    u = likelihood.NoiseStream(0).uniform(index.tolist(), 0, "dequantise", stage_cases.SHAPE).numpy()
    fitted = stage_cases.train_statistics()
    assert fitted.components is not None
    covariance = (fitted.components.T * fitted.variances) @ fitted.components
    x = dequantise(images, LEVELS, u).astype(np.float64).reshape(len(images), -1)
    expected = multivariate_normal(fitted.mean.numpy(), covariance.numpy()).logpdf(x)
    np.testing.assert_allclose(nats, expected, rtol=1e-8)
    np.testing.assert_allclose(bits, -expected / (16 * math.log(2)) + math.log2(LEVELS / 2), rtol=1e-8)


def test_a_network_of_zeros_has_the_density_of_the_gaussian(store: Store) -> None:
    spec = stage_cases.system()
    model = stage_cases.training(store, spec, change=torch.zeros_like, name="zeros")
    flow = parse(likelihood.LikelihoodBlock, {"system": spec.model_dump(mode="json"), "likelihood": FLOW})
    found = made(store, likelihood, flow, given(store) | {"model": model})
    with np.load(found.path("likelihood.npz")) as a, np.load(gaussian_likelihood(store).path("likelihood.npz")) as b:
        np.testing.assert_array_equal(a["index"], b["index"])
        np.testing.assert_allclose(a["bits_per_dim"], b["bits_per_dim"], atol=0.02)
    assert found.meta["nfe"] == 96


def test_likelihood_blocks_join_to_the_whole_split_bit_for_bit(store: Store) -> None:
    whole = gaussian_likelihood(store)
    parts = [gaussian_likelihood(store, block=k, block_size=60) for k in range(3)]
    assert [part.meta["count"] for part in parts] == [60, 30, 0]
    values = []
    for part in parts:
        with np.load(part.path("likelihood.npz")) as stored:
            values.append(stored["nats"])
    with np.load(whole.path("likelihood.npz")) as stored:
        np.testing.assert_allclose(np.concatenate(values), stored["nats"], rtol=1e-13)


def test_levels_that_contradict_the_data_are_refused(store: Store) -> None:
    spec = stage_cases.system()
    block = parse(
        likelihood.LikelihoodBlock, {"system": spec.model_dump(mode="json"), "likelihood": FLOW | {"quantisation": 256}}
    )
    with pytest.raises(ConfigError, match="256 levels"):
        made(store, likelihood, block, given(store) | {"model": stage_cases.training(store, spec)})


def test_images_of_the_data_set_have_no_likelihood_and_say_why(store: Store) -> None:
    block = made(store, likelihood, likelihood.LikelihoodBlock(system="test_split"), given(store))
    assert not block.files
    row = row_of(store, control_features(store, "test_split"), block).meta
    assert "no density" in row["reasons"]["nll_bpd"]
    assert "nll_bpd" not in row["metrics"]
    assert row["reasons"]["num_images"] == "200 images were asked for, the source has 90"


def test_a_row_has_every_metric_with_its_error_and_what_makes_it_comparable(store: Store) -> None:
    artifact = row_of(store, control_features(store), gaussian_likelihood(store))
    row = json.loads(artifact.path("result.json").read_text())
    metrics, protocol = row["metrics"], row["protocol"]
    assert metrics[f"{NET}_low"] < metrics[f"{NET}_jk"] < metrics[f"{NET}_high"]
    assert metrics[f"{NET}_se"] > 0.0
    assert {"kid_clf_squares", "precision_clf_squares", "recall_clf_squares", "nll_bpd", "nll_se"} <= set(metrics)
    assert not row["reasons"]
    assert protocol["num_images"] == 200
    assert protocol["reference"]["split"] == "train"
    assert protocol["reference"]["num_images"] == 400
    assert len(protocol["net_sha256"]) == 64


def test_the_order_in_which_blocks_arrive_changes_no_byte(store: Store, tmp_path: Path) -> None:
    blocks = control_features(store)
    one = row_of(store, blocks)
    other = row_of(store, blocks[::-1])
    assert one.key != other.key
    assert {n: e.sha256 for n, e in one.files.items()} == {n: e.sha256 for n, e in other.files.items()}


def test_statistics_of_another_net_are_refused(store: Store) -> None:
    inputs = given(store)
    trained = stage_cases.training(store, stage_cases.classifier(), change=lambda w: w * 2, name="twice")
    foreign = made(store, features, feature_spec(split="train"), inputs | {"classifier": trained})
    spec = result.ResultSpec(num_images=200)
    with pytest.raises(DataError, match="different nets"):
        made(store, result, spec, {"reference": foreign, "features.0": control_features(store)[0]})


def test_a_missing_block_is_noticed(store: Store) -> None:
    blocks = control_features(store, num_images=300)
    with pytest.raises(DataError, match="images 100 to 199 are missing"):
        row_of(store, [blocks[0], blocks[2]], num_images=300)


def test_a_row_says_how_diverse_its_images_are(store: Store) -> None:
    row = row_of(store, control_features(store)).meta
    metrics = row["metrics"]
    assert metrics["pairwise_ratio"] == pytest.approx(1.0, abs=0.1)
    assert 0.0 < metrics["pairwise_ratio_se"] < 0.05
    shares = np.array(row["protocol"]["diversity"]["class_shares"])
    assert shares.sum() == pytest.approx(1.0)
    assert metrics["class_share_min_clf_squares"] == shares.min()
    assert metrics["num_classes_predicted_clf_squares"] == (shares >= 0.02).sum()


def test_predicted_classes_are_those_of_the_classifier(store: Store) -> None:
    block = control_features(store, num_images=100)[0]
    net = features.feature_net(feature_spec(device="cpu"), given(store))
    assert isinstance(net, torch.nn.Module)
    inputs = given(store)
    drawn = made(store, sample_stage, sample_blocks("gaussian", None, num_images=100, block_size=100)[0], inputs)
    with torch.no_grad():
        predicted = net(torch.from_numpy(to_float(read_split(drawn, "images").images, LEVELS))).argmax(dim=1)
    with np.load(block.path("features.npz")) as stored:
        np.testing.assert_array_equal(stored["class_count"], np.bincount(predicted.numpy(), minlength=4))


def test_data_as_their_own_features_have_distances_and_no_classes(store: Store) -> None:
    raw = {"net": "fd_data", "classifier": None}
    inputs = given(store)
    (block,) = sample_blocks("test_split", None, num_images=90, block_size=90)
    images = made(store, sample_stage, block, inputs)
    fake = made(store, features, feature_spec(**raw), inputs | {"images": images})
    spec = result.ResultSpec(num_images=90, metrics=("diversity",))
    row = made(store, result, spec, {"reference": reference(store, **raw), "features.0": fake}).meta
    assert row["metrics"]["pairwise_ratio"] == pytest.approx(1.0, abs=0.1)
    assert "predicts no classes" in row["reasons"]["class_share_min_data"]


def test_too_few_groups_leave_out_the_error_with_a_reason(store: Store) -> None:
    row = row_of(store, control_features(store, num_images=40), num_images=40).meta
    assert NET in row["metrics"]
    assert f"{NET}_se" not in row["metrics"]
    assert "jackknife" in row["reasons"][f"{NET}_se"]


def test_a_result_does_not_differ_from_itself_and_does_from_a_damaged_one(store: Store) -> None:
    same = Result.read(row_of(store, control_features(store), gaussian_likelihood(store)))
    difference = paired_difference(same, same)
    assert difference is not None
    assert (difference.difference, difference.is_significant, difference.is_paired) == (0.0, False, True)
    test = Result.read(row_of(store, control_features(store, "test_split")))
    against = paired_difference(test, same)
    assert against is not None
    assert not against.is_paired
    assert paired_difference(test, same, "nll") is None


def test_a_constant_shift_in_likelihood_is_seen_by_pairing_images(store: Store) -> None:
    a = Result.read(row_of(store, control_features(store), gaussian_likelihood(store)))
    assert a.nll_bits_per_dim is not None
    b = Result(a.row, a.fd_pseudo_values, a.nll_index, a.nll_bits_per_dim + 0.01)
    difference = paired_difference(b, a, "nll_bpd")
    assert difference is not None
    assert difference.is_significant
    assert difference.difference == pytest.approx(0.01)


def test_rows_know_how_they_compare_with_the_best_model_and_data_never_win(store: Store) -> None:
    gaussian = Result.read(row_of(store, control_features(store), gaussian_likelihood(store)))
    other = Result.read(row_of(store, control_features(store, seed=1)))
    data = Result.read(row_of(store, control_features(store, "test_split")))
    rows = with_comparison([data, gaussian, other], NET)
    assert not rows[0]["comparison"][NET]["best"]
    assert [row["comparison"][NET]["best"] for row in rows[1:]].count(True) == 1
    assert not any(row["comparison"][NET]["significant"] for row in rows[1:])
    assert set(rows[1]["comparison"]) == {NET, "nll_bpd"}
    assert json.dumps(rows, allow_nan=False)
