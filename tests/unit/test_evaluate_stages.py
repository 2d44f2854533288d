"""Features, likelihood and result stages on a small data set: what they measure, refuse and leave out."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from pipeline.baselines.samplers import SamplerSpec
from pipeline.baselines.system import load_classifier
from pipeline.config import ConfigError, DataError, parse
from pipeline.evaluate import FeatureStatistics, features, frechet_distance, ladder, likelihood, nearest, result
from pipeline.evaluate.comparison import Result, paired_difference, with_comparison
from pipeline.evaluate.feature_sets import joined
from pipeline.evaluate.ladder import held_out_accuracy
from pipeline.evaluate.statistics import merged
from pipeline.sample import stage as sample_stage
from pipeline.sample.blocks import sample_blocks
from pipeline.shards import dequantise, read_split, to_float
from pipeline.store import Artifact, Attempt, Store, open_store
from tests import stage_cases
from tests.stage_cases import LEVELS, made

NET = "fd_clf_squares"
SEEDED = {"kind": "inception", "seeded": True}
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
    fields = {"net": NET, "classifier": stage_cases.classifier(), "batch_shape": 32}
    return features.FeatureSpec(**(fields | changes))


def reference(store: Store, **changes: Any) -> Artifact:
    return made(store, features, feature_spec(**{"split": "train", **changes}), given(store))


def known_answers_of(store: Store, **changes: Any) -> dict[str, Any]:
    fields = {"net": NET, "classifier": stage_cases.classifier(), "batch_shape": 32} | changes
    return made(
        store, ladder, ladder.LadderSpec(**fields), given(store) | {"reference.0": reference(store, **changes)}
    ).meta


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
    inputs = {f"reference.{NET}.0": reference(store)}
    inputs |= {f"features.{NET}.{k}": block for k, block in enumerate(blocks)}
    inputs |= {f"likelihood.{k}": block for k, block in enumerate(more)}
    spec = result.ResultSpec(**({"num_images": 200, "nets": (NET,)} | changes))
    return made(store, result, spec, inputs)


def test_rows_of_a_split_in_parts_are_those_of_its_images(store: Store) -> None:
    images = read_split(given(store)["dataset"], "train").images
    parts = [reference(store, net="fd_data", classifier=None, part=k, num_parts=3) for k in (2, 0, 1)]
    found = joined(parts)
    rows = to_float(images, LEVELS).reshape(len(images), -1)
    np.testing.assert_array_equal(found.rows, rows[found.index])
    assert sorted(found.index.tolist()) == list(range(400))
    ranges = found.ranges(20)
    assert {part.n for part in ranges} == {20}
    assert frechet_distance(merged(ranges), FeatureStatistics.of(rows)) == pytest.approx(0.0, abs=1e-9)


def test_features_of_an_image_do_not_depend_on_what_else_is_in_the_set(store: Store) -> None:
    few, many = (control_features(store, num_images=n)[0] for n in (90, 100))
    with np.load(few.path("features.npz")) as a, np.load(many.path("features.npz")) as b:
        np.testing.assert_array_equal(a["features"], b["features"][:90])


def test_a_source_that_ends_leaves_blocks_empty(store: Store) -> None:
    blocks = control_features(store, "test_split", num_images=200)
    assert [block.meta["count"] for block in blocks] == [90, 0]
    assert joined(blocks).n == 90


@pytest.mark.parametrize(
    "changes",
    [
        {"net": "fid"},
        {"classifier": None},
        {"net": "fd_data"},
        {"net": "fid", "classifier": None, "extractor": SEEDED},
        {"extractor": SEEDED},
        {"split": "train", "part": 3, "num_parts": 3},
    ],
    ids=str,
)
def test_dishonest_feature_nets_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"fid|classifier|parts"):
        feature_spec(**changes)


def test_known_answers_grow_with_the_disturbance(store: Store) -> None:
    answers = known_answers_of(store, net="fd_data", classifier=None)
    steps = answers["ladder"]
    assert answers["is_increasing"]
    assert steps["train"] == pytest.approx(0.0, abs=1e-9)
    assert 0.0 < steps["test"] < steps["noise_0.3"]
    assert steps["noise_0.1"] < steps["noise_0.3"]
    assert steps["blur_0.5"] < steps["blur_1.0"]
    assert steps["one_class_missing"] < steps["two_classes_missing"]


def test_held_out_accuracy_of_the_classifier_is_logged_with_its_known_answers(store: Store) -> None:
    assert 0.0 <= known_answers_of(store)["held_out_accuracy"] <= 1.0
    assert "held_out_accuracy" not in known_answers_of(store, net="fd_data", classifier=None)
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
    spec = result.ResultSpec(num_images=200, nets=(NET,))
    inputs = {f"reference.{NET}.0": foreign, f"features.{NET}.0": control_features(store)[0]}
    with pytest.raises(DataError, match=r"net_sha256 is .* compute both with the same net"):
        made(store, result, spec, inputs)


def test_features_of_different_nets_or_data_sets_do_not_join(store: Store) -> None:
    block = control_features(store)[0]
    raw = reference(store, net="fd_data", classifier=None)
    with pytest.raises(DataError, match="2 different nets or data sets"):
        joined([block, raw])


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
    inputs = given(store)
    spec = stage_cases.classifier()
    net = load_classifier(spec, model=inputs["classifier"], dataset=inputs["dataset"])
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
    spec = result.ResultSpec(num_images=90, metrics=("diversity",), nets=("fd_data",))
    inputs = {"reference.fd_data.0": reference(store, **raw), "features.fd_data.0": fake}
    row = made(store, result, spec, inputs).meta
    assert row["metrics"]["pairwise_ratio"] == pytest.approx(1.0, abs=0.1)
    assert "predicts no classes" in row["reasons"]["class_share_min_data"]


def test_too_few_images_leave_out_the_error_with_a_reason(store: Store) -> None:
    row = row_of(store, control_features(store, num_images=19), num_images=19).meta
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


def nearest_of(store: Store, queries: Artifact) -> Artifact:
    return made(store, nearest, nearest.NearestSpec(), {"queries": queries, "reference.0": reference(store)})


def test_a_planted_copy_of_a_training_image_is_found_among_generated_ones(store: Store) -> None:
    inputs = given(store)
    drawn = control_features(store)
    training = read_split(inputs["dataset"], "train")
    with np.load(drawn[0].path("features.npz")) as stored:
        arrays = dict(stored)
    copied = joined([reference(store)])
    arrays["features"][7] = copied.rows[123]

    def write(attempt: Attempt) -> dict[str, Any]:
        np.savez(attempt.path("features.npz"), allow_pickle=False, **arrays)
        return dict(drawn[0].meta)

    planted = stage_cases.committed(store, "features", write, identity="planted")
    held_out = made(store, features, feature_spec(split="test"), inputs)
    spec = result.ResultSpec(num_images=200, nets=(NET,), metrics=("memorisation",))
    blocks = [planted, drawn[1]]
    row = made(
        store,
        result,
        spec,
        {f"reference.{NET}.0": reference(store)}
        | {f"features.{NET}.{k}": block for k, block in enumerate(blocks)}
        | {f"nearest.{k}": nearest_of(store, block) for k, block in enumerate(blocks)}
        | {"nearest_held_out.0": nearest_of(store, held_out)},
    ).meta
    assert row["metrics"]["num_copies"] == 1.0
    assert 0.5 < row["metrics"]["memorisation_ratio"] < 2.0
    first = row["protocol"]["memorisation"]["pairs"][0]
    assert (first["image"], first["distance"]) == (7, 0.0)
    assert first["training"] == copied.index[123] < len(training)


def test_every_metric_of_features_is_there_or_says_why_not(store: Store) -> None:
    metrics = ("fd", "kid", "precision_recall", "density_coverage", "inception_score", "cmmd", "test_distance")
    metrics += ("class_distance", "class_accuracy", "memorisation", "diversity")
    row = row_of(store, control_features(store), metrics=metrics).meta
    found = set(row["metrics"]) | set(row["reasons"])
    names = ("kid", "precision", "recall", "density", "coverage", "inception_score", "cmmd", "class_accuracy")
    assert {NET, f"{NET}_test", f"{NET}_class_mean", "memorisation_ratio", "num_copies"} <= found
    assert {f"{name}_clf_squares" for name in names} <= found
    assert "no class" in row["reasons"][f"{NET}_class_mean"]


@pytest.mark.slow
def test_features_of_the_seeded_inception_net_make_a_distance_of_their_own_name(store: Store) -> None:
    spec = features.FeatureSpec(net="fd_rand_inception", extractor=SEEDED, batch_shape=10)
    inputs = given(store)
    (block,) = sample_blocks("test_split", None, num_images=20, block_size=20)
    images = made(store, sample_stage, block, inputs)
    fake = made(store, features, spec, inputs | {"images": images})
    part = spec.model_copy(update={"split": "train", "num_parts": 20})
    both = {"features.fd_rand_inception.0": fake, "reference.fd_rand_inception.0": made(store, features, part, inputs)}
    row = made(store, result, result.ResultSpec(num_images=20, nets=(spec.net,), metrics=("fd", "kid")), both).meta
    assert row["metrics"]["fd_rand_inception"] > 0.0
    assert row["protocol"]["preprocessing"] == "tf1-299"
    assert row["protocol"]["reference"]["num_images"] == 20


def test_images_made_for_classes_have_a_distance_per_class_and_an_accuracy(store: Store) -> None:
    system = stage_cases.system(class_conditional=True)
    sampler = parse(SamplerSpec, {"kind": "ddim", "steps": 4})
    inputs = given(store) | {"model": stage_cases.training(store, system)}
    (block,) = sample_blocks(system, sampler, num_images=80, block_size=80)
    assert block.labels == "balanced"
    images = made(store, sample_stage, block, inputs)
    fake = made(store, features, feature_spec(), given(store) | {"images": images})
    metrics = ("fd", "class_distance", "class_accuracy")
    row = row_of(store, [fake], num_images=80, metrics=metrics).meta
    assert set(row["protocol"]["class_distances"]) == {"0", "1", "2", "3"}
    found = list(row["protocol"]["class_distances"].values())
    assert row["metrics"][f"{NET}_class_mean"] == pytest.approx(np.mean(found))
    predicted = joined([fake])
    assert predicted.labels is not None
    assert predicted.logits is not None
    expected = (predicted.logits.argmax(axis=1) == predicted.labels).mean()
    assert row["metrics"]["class_accuracy_clf_squares"] == pytest.approx(expected)
