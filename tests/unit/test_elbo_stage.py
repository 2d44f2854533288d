"""The ELBO through the likelihood and result stages: blocks, rows, reasons, paired differences; moments in a row."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.baselines.system import SystemSpec
from pipeline.config import DataError, parse
from pipeline.diffusion.likelihoods import VlbSpec
from pipeline.evaluate import likelihood, result
from pipeline.evaluate.comparison import Result, paired_difference, with_comparison
from pipeline.store import Artifact, Store, open_store
from tests import stage_cases
from tests.stage_cases import LEVELS, made

DIM = 16
ELBO = {"kind": "elbo", "num_times": 4}
SPAN = {"kind": "log_linear", "gamma_min": -8.0, "gamma_max": 8.0}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return open_store(str(tmp_path_factory.mktemp("store")))


def given(store: Store) -> dict[str, Artifact]:
    return {"dataset": stage_cases.dataset(store), "statistics": stage_cases.statistics(store)}


def process(schedule: dict[str, Any] = SPAN, **changes: Any) -> dict[str, Any]:
    tree = {"kind": "spectral", "basis": "pca", "centre": "mean", "prior": "standard", "schedule": schedule}
    return tree | changes


def exact(schedule: dict[str, Any] = SPAN, **changes: Any) -> SystemSpec:
    """The exact predictor of Gaussian data in place of a network."""
    return stage_cases.system(process=process(schedule, **changes), network={"kind": "oracle"})


def block_of(store: Store, system: SystemSpec | str, likelihood_spec: Any = ELBO, **changes: Any) -> Artifact:
    inputs = given(store)
    if isinstance(system, SystemSpec) and system.network.is_trained:
        inputs["model"] = stage_cases.training(store, system)
    tree = system if isinstance(system, str) else system.model_dump(mode="json")
    spec = parse(likelihood.LikelihoodBlock, {"system": tree, "likelihood": likelihood_spec, **changes})
    return made(store, likelihood, spec, inputs)


def stored(artifact: Artifact) -> dict[str, np.ndarray]:
    with np.load(artifact.path("likelihood.npz"), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def row_of(store: Store, *blocks: Artifact, **changes: Any) -> Artifact:
    inputs = {f"elbo.{k:06d}": block for k, block in enumerate(blocks)}
    spec = result.ResultSpec(**({"num_images": 90, "metrics": ("elbo",)} | changes))
    return made(store, result, spec, inputs)


def moments(store: Store, **meta: Any) -> Artifact:
    def write(attempt: Any) -> dict[str, Any]:
        attempt.path("moments.txt").write_text("")
        return meta

    return stage_cases.committed(store, "moments", write, identity=meta)


def test_an_oracle_needs_no_model_and_has_the_density_of_the_gaussian(store: Store) -> None:
    found, gaussian = stored(block_of(store, exact())), stored(block_of(store, "gaussian", None))
    np.testing.assert_array_equal(found["index"], gaussian["index"])
    np.testing.assert_allclose(found["bits_per_dim"], gaussian["bits_per_dim"], atol=1e-3)


def test_a_block_holds_the_terms_of_the_bound_and_what_its_process_spans(store: Store) -> None:
    artifact = block_of(store, stage_cases.system())
    values, meta = stored(artifact), artifact.meta
    assert set(values) == {"index", "nats", "bits_per_dim", "diffusion", "prior_kl", "reconstruction"}
    total = values["diffusion"] + values["prior_kl"] + values["reconstruction"]
    np.testing.assert_allclose(values["nats"], -total, rtol=1e-12)
    np.testing.assert_allclose(values["bits_per_dim"], total / (DIM * math.log(2)) + math.log2(LEVELS / 2), rtol=1e-12)
    assert (meta["kind"], meta["nfe"], meta["num_times"], meta["noise_seed"], meta["dim"]) == ("elbo", 4, 4, 0, DIM)
    log_variances = stage_cases.train_statistics().variances.log()
    assert meta["delta_gamma"] == 16.0
    assert meta["log_snr_data"] == pytest.approx(float(log_variances.min()) + 8.0)
    assert meta["log_snr_prior"] == pytest.approx(float(log_variances.max()) - 8.0)


def test_a_gud_block_says_the_ends_that_were_asked_for(store: Store) -> None:
    meta = block_of(store, exact({"kind": "gud", "softness_a": 0.5, "log_snr_data": 6.0, "log_snr_prior": -5.0})).meta
    assert meta["log_snr_data"] == pytest.approx(6.0)
    assert meta["log_snr_prior"] == pytest.approx(-5.0)
    log_variances = stage_cases.train_statistics().variances.log()
    assert meta["delta_gamma"] == pytest.approx(11.0 + 0.5 * float(log_variances.max() - log_variances.min()))


def test_blocks_join_to_the_whole_split(store: Store) -> None:
    system = stage_cases.system()
    whole = stored(block_of(store, system))
    parts = [block_of(store, system, block=k, block_size=60) for k in range(3)]
    assert [part.meta["count"] for part in parts] == [60, 30, 0]
    for name, values in whole.items():
        np.testing.assert_allclose(np.concatenate([stored(part)[name] for part in parts]), values, rtol=1e-5)
    one, several = (row_of(store, *blocks).meta["metrics"] for blocks in ([block_of(store, system)], parts[::-1]))
    assert one == pytest.approx(several)


def test_labels_reach_a_conditional_network(store: Store) -> None:
    values = stored(block_of(store, stage_cases.system(class_conditional=True)))
    assert np.isfinite(values["nats"]).all()
    assert len(values["nats"]) == 90


def test_a_row_has_the_bound_with_its_error_and_terms_that_add_up(store: Store) -> None:
    block = block_of(store, stage_cases.system())
    artifact = row_of(store, block)
    row, values = json.loads(artifact.path("result.json").read_text()), stored(block)
    metrics, bits = row["metrics"], values["bits_per_dim"]
    assert metrics["elbo_bpd"] == pytest.approx(bits.mean())
    assert metrics["elbo_se"] == pytest.approx(bits.std(ddof=1) / math.sqrt(90))
    assert metrics["prior_kl_bpd"] == pytest.approx(values["prior_kl"].mean() / (DIM * math.log(2)))
    terms = metrics["prior_kl_bpd"] + metrics["diffusion_bpd"] + metrics["reconstruction_bpd"]
    assert terms == pytest.approx(metrics["elbo_bpd"])
    density = values["reconstruction"].mean() / (DIM * math.log(2)) + math.log2(LEVELS / 2)
    assert metrics["reconstruction_bpd"] == pytest.approx(density)
    assert metrics["delta_gamma"] == 16.0
    assert not row["reasons"]
    expected = {"split": "test", "num_images": 90, "num_times": 4, "seed": 0, "noise_seed": 0}
    expected |= {name: block.meta[name] for name in ("log_snr_data", "log_snr_prior")}
    assert row["protocol"]["elbo"] == expected
    with np.load(artifact.path("result.npz"), allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["elbo_index"], values["index"])
        np.testing.assert_array_equal(arrays["elbo_bits_per_dim"], bits)


def test_bound_and_likelihood_are_two_columns_of_a_row(store: Store) -> None:
    system = exact()
    flow = block_of(store, system, {"kind": "ode", "steps": 24, "trace": "exact"})
    spec = result.ResultSpec(num_images=90, metrics=("nll", "elbo"))
    row = made(store, result, spec, {"likelihood.0": flow, "elbo.0": block_of(store, system)}).meta
    assert row["metrics"]["nll_bpd"] == pytest.approx(row["metrics"]["elbo_bpd"], abs=0.02)
    assert row["protocol"]["nll"]["kind"] == "ode"
    assert "nfe" not in row["metrics"]


def test_an_infinite_end_is_left_out_with_its_reason(store: Store) -> None:
    row = row_of(store, block_of(store, exact({"kind": "vp"}))).meta
    assert "delta_gamma" not in row["metrics"]
    assert "infinite" in row["reasons"]["delta_gamma"]
    assert row["protocol"]["elbo"]["log_snr_data"] is None
    assert math.isfinite(row["protocol"]["elbo"]["log_snr_prior"])


def test_rows_without_a_bound_say_why(store: Store) -> None:
    assert "not asked" in row_of(store, absent={"elbo": "it was not asked for"}).meta["reasons"]["elbo_bpd"]
    assert row_of(store).meta["reasons"]["elbo_bpd"] == "no likelihood was asked for"
    heat = {"kind": "heat", "num_levels": 4, "noise": 0.01}
    levels = stage_cases.system(
        process=process(heat, basis="dct", centre="grey"), prediction="x0", objective={"kind": "cold"}
    )
    for system in (levels, "gaussian", "test_split", "mean_image"):
        assert likelihood.elbo_absent_reason(system) is not None
    assert likelihood.elbo_absent_reason(stage_cases.system()) is None
    operator = {"kind": "operator", "degradation": {"kind": "pixelate_nearest"}, "num_levels": 2, "noise": 0.1}
    whole = stage_cases.system(process=operator, prediction="x_prev", objective={"kind": "sequential"})
    assert "no integral over time" in str(likelihood.elbo_absent_reason(whole))


def test_a_degradation_leaves_a_block_without_numbers_and_with_a_reason(store: Store) -> None:
    heat = {"kind": "heat", "num_levels": 4, "noise": 0.01}
    tree = process(heat, basis="dct", centre="grey")
    system = stage_cases.system(process=tree, prediction="x_prev", objective={"kind": "sequential"})
    block = block_of(store, system)
    assert not block.files
    assert row_of(store, block).meta["reasons"]["elbo_bpd"] == block.meta["absent"]


def test_another_likelihood_is_no_bound(store: Store) -> None:
    with pytest.raises(DataError, match="hold a likelihood of kind ode, expected elbo"):
        row_of(store, block_of(store, exact(), {"kind": "ode", "steps": 4}))


def test_the_same_draws_tell_two_priors_apart_better_than_their_errors(store: Store) -> None:
    gud = {"kind": "gud", "softness_a": 1.0, "log_snr_prior": -3.0}
    rows = [row_of(store, block_of(store, exact(gud, prior=prior, centre="grey"))) for prior in ("standard", "data")]
    raw, white = (Result.read(row) for row in rows)
    assert raw.elbo_bits_per_dim is not None
    for metric in ("elbo", "elbo_bpd"):
        difference = paired_difference(raw, white, metric)
        assert difference is not None
        assert difference.is_paired
        assert difference.se < 0.5 * raw.row["metrics"]["elbo_se"]
    shifted = Result(raw.row, elbo_index=raw.elbo_index, elbo_bits_per_dim=raw.elbo_bits_per_dim + 0.01)
    against = paired_difference(shifted, raw, "elbo")
    assert against is not None
    assert against.is_significant
    assert against.difference == pytest.approx(0.01)
    assert paired_difference(raw, white, "nll") is None
    compared = with_comparison([raw, white], "elbo_bpd")
    assert [row["comparison"]["elbo_bpd"]["best"] for row in compared].count(True) == 1


def test_moments_become_the_metric_w2(store: Store) -> None:
    spec = result.ResultSpec(num_images=90, metrics=("moments",))
    artifact = moments(store, w2=0.25, method="response", num_images=0, nfe=9, absent=None)
    row = made(store, result, spec, {"moments": artifact}).meta
    assert row["metrics"] == {"w2": 0.25, "nfe": 9.0}
    assert row["protocol"]["moments"] == {"method": "response", "num_images": 0}
    nothing = moments(store, w2=None, method="images", num_images=0, nfe=0, absent="there are no images")
    assert made(store, result, spec, {"moments": nothing}).meta["reasons"] == {"w2": "there are no images"}
    assert made(store, result, spec, {}).meta["reasons"] == {"w2": "no moments were asked for"}
    without = result.ResultSpec(num_images=90, metrics=("moments",), absent={"moments": "it draws nothing"})
    assert made(store, result, without, {}).meta["reasons"] == {"w2": "it draws nothing"}


def test_rows_and_blocks_keep_their_identities() -> None:
    assert result.ResultSpec(num_images=5).identity() == {
        "metrics": ["fd", "kid", "precision_recall", "diversity", "nll"],
        "nets": [],
        "num_images": 5,
        "num_rows": 10_000,
        "absent": {},
    }
    block = likelihood.LikelihoodBlock(system="gaussian").identity()
    assert set(block) == {"system", "likelihood", "split", "block", "block_size", "seed", "batch_shape"}
    assert likelihood.STAGE_VERSION == 1
    assert result.STAGE_VERSION == 3


def test_weights_decide_the_bound(store: Store) -> None:
    """Zero weights are the Gaussian optimum; the first, random ones are worse on data that are nearly Gaussian."""
    system = stage_cases.system()
    zeros = stage_cases.training(store, system, change=torch.zeros_like, name="zeros")
    loud = stage_cases.training(store, system, change=lambda w: w + 0.2, name="loud")
    spec = parse(likelihood.LikelihoodBlock, {"system": system.model_dump(mode="json"), "likelihood": ELBO})
    good, bad = (stored(made(store, likelihood, spec, given(store) | {"model": model})) for model in (zeros, loud))
    np.testing.assert_allclose(good["nats"], stored(block_of(store, exact()))["nats"], atol=1e-3)
    assert bad["nats"].mean() < good["nats"].mean() - 1.0


def vlb_block(store: Store, system: Any = None, **changes: Any) -> Artifact:
    spec = {"kind": "vlb", "num_times": 4} | changes
    return block_of(store, stage_cases.system() if system is None else system, spec)


def test_a_bound_of_levels_counts_their_nats_and_dequantises_nothing(store: Store) -> None:
    artifact = vlb_block(store)
    values = stored(artifact)
    total = values["diffusion"] + values["prior_kl"] + values["reconstruction"]
    np.testing.assert_allclose(values["bits_per_dim"], total / (DIM * math.log(2)), rtol=1e-12)
    assert (values["reconstruction"] > 0.0).all()
    assert (artifact.meta["kind"], artifact.meta["decoder"], artifact.meta["num_levels"]) == ("vlb", "softmax", None)


def test_a_row_has_the_bound_of_levels_beside_that_of_the_density(store: Store) -> None:
    inputs = {"vlb.0": vlb_block(store), "elbo.0": block_of(store, stage_cases.system())}
    row = made(store, result, result.ResultSpec(num_images=5, metrics=("elbo", "vlb")), inputs).meta
    metrics = row["metrics"]
    terms = (metrics[f"vlb_{name}_bpd"] for name in ("prior_kl", "diffusion", "reconstruction"))
    assert sum(terms) == pytest.approx(metrics["vlb_bpd"])
    assert metrics["vlb_se"] > 0.0
    assert row["protocol"]["vlb"]["decoder"] == "softmax"
    assert {"elbo_bpd", "diffusion_bpd"} <= set(metrics)


def test_control_rows_say_why_levels_have_no_bound() -> None:
    for system in ("gaussian", "test_split", "mean_image"):
        assert likelihood.vlb_absent_reason(system, VlbSpec()) is not None
    assert likelihood.vlb_absent_reason(stage_cases.system(), VlbSpec()) is None
    chain = VlbSpec(decoder="discretised_gaussian")
    assert "needs a chain" in str(likelihood.vlb_absent_reason(stage_cases.system(), chain))
