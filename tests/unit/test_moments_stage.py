"""Moments of a sampler's output: exact where nothing is drawn, merged over blocks of images elsewhere."""

from typing import Any

import numpy as np
import pytest

from pipeline.baselines.samplers import SamplerSpec
from pipeline.config import DataError, parse
from pipeline.evaluate import moments
from pipeline.evaluate.moments import MomentsSpec, RunningMoments, moments_method
from pipeline.sample import stage as sample_stage
from pipeline.sample.blocks import sample_blocks
from pipeline.shards import read_split, to_float
from pipeline.store import Artifact, Store, open_store
from tests import stage_cases
from tests.stage_cases import LEVELS, made

FLOOR = (2 / LEVELS) ** 2 / 12


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return open_store(str(tmp_path_factory.mktemp("store")))


def data(store: Store) -> dict[str, Artifact]:
    return {"dataset": stage_cases.dataset(store), "statistics": stage_cases.statistics(store)}


def oracle(**changes: Any) -> Any:
    return stage_cases.system(network={"kind": "oracle"}, **changes)


def sampler(kind: str, steps: int = 8, **more: Any) -> SamplerSpec:
    return parse(SamplerSpec, {"kind": kind, "steps": steps, **more})


def blocks(store: Store, system: Any, by: SamplerSpec | None, *, num_images: int, size: int) -> dict[str, Artifact]:
    wanted = sample_blocks(system, by, num_images=num_images, block_size=size, batch_shape=50)
    return {f"images.{k:06d}": made(store, sample_stage, block, data(store)) for k, block in enumerate(wanted)}


def found(
    store: Store, system: Any, by: SamplerSpec | None, inputs: dict[str, Artifact], **changes: Any
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Meta and arrays of the stage."""
    fields = {"method": moments_method(system, by), "num_images": 200} | changes
    artifact = made(store, moments, MomentsSpec(system=system, sampler=by, **fields), data(store) | inputs)
    if artifact.meta["absent"]:
        return dict(artifact.meta), {}
    with np.load(artifact.path("moments.npz"), allow_pickle=False) as arrays:
        return dict(artifact.meta), dict(arrays)


def test_merged_moments_keep_their_digits_beside_a_large_mean() -> None:
    rows = np.random.default_rng(0).normal(size=(500, 3)) * [1.0, 1e-3, 5.0] + [1e6, 1e3, -2.0]
    parts = [RunningMoments.of(part) for part in np.split(rows, [7, 8, 300])]
    merged = parts[0].merged(parts[1]).merged(parts[2]).merged(parts[3])
    assert merged.count == 500
    np.testing.assert_allclose(merged.mean, rows.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(merged.variance, rows.var(axis=0, ddof=1), rtol=1e-9)


def test_only_an_exact_predictor_without_draws_is_worked_out() -> None:
    assert [moments_method(oracle(), sampler(kind)) for kind in ("euler", "heun", "ddim")] == ["response"] * 3
    assert moments_method(oracle(), sampler("ancestral")) == "images"
    assert moments_method(oracle(), sampler("ddim", eta=0.5)) == "images"
    assert moments_method(stage_cases.system(), sampler("ddim")) == "images"
    assert moments_method("gaussian", None) == "images"


@pytest.mark.parametrize("kind", ["euler", "heun", "ddim"])
def test_the_response_is_the_law_of_the_images(store: Store, kind: str) -> None:
    system, by = oracle(), sampler(kind, final="state")
    meta, exact = found(store, system, by, {})
    assert (meta["method"], meta["num_images"], exact["count"]) == ("response", 0, 0)
    drawn = blocks(store, system, by, num_images=4000, size=1000)
    meta, measured = found(store, system, by, drawn, method="images")
    assert meta["num_images"] == measured["count"] == 4000
    np.testing.assert_allclose(measured["mean"], exact["mean"], atol=5 * exact["variance"].max() ** 0.5 / 4000**0.5)
    ratio = (measured["variance"] - FLOOR) / (exact["variance"] + FLOOR)  # stored levels: rounding adds the floor
    np.testing.assert_allclose(ratio, 1.0, atol=5 * (2 / 4000) ** 0.5)


def test_a_last_denoising_is_part_of_the_response(store: Store) -> None:
    state, denoised = (found(store, oracle(), sampler("euler", 4, final=end), {}) for end in ("state", "denoise"))
    assert (state[0]["nfe"], denoised[0]["nfe"]) == (4, 5)
    assert (denoised[1]["variance"] < state[1]["variance"]).all()


def test_more_steps_bring_the_output_to_the_data(store: Store) -> None:
    distances = [found(store, oracle(), sampler("heun", steps, final="state"), {})[0]["w2"] for steps in (4, 16, 64)]
    assert distances[0] > 4 * distances[1] > 16 * distances[2] > 0


def test_a_response_off_the_grey_centre_has_the_mean_of_the_data(store: Store) -> None:
    process = {
        "kind": "spectral",
        "basis": "pca",
        "centre": "grey",
        "prior": "data",
        "schedule": {"kind": "log_linear", "gamma_min": -12.0, "gamma_max": 12.0},
    }
    _, arrays = found(store, oracle(process=process), sampler("heun", 200, final="state"), {})
    assert np.abs(arrays["target_mean"]).max() > 0.1
    np.testing.assert_allclose(arrays["mean"], arrays["target_mean"], atol=2e-3)
    np.testing.assert_allclose(arrays["variance"], arrays["target_variance"], rtol=2e-3)


def test_the_distance_is_that_of_the_arrays(store: Store) -> None:
    meta, arrays = found(store, oracle(), sampler("ddim"), {})
    spread = np.sqrt(arrays["variance"]) - np.sqrt(arrays["target_variance"])
    expected = np.square(spread).sum() + np.square(arrays["mean"] - arrays["target_mean"]).sum()
    assert meta["w2"] == pytest.approx(expected, rel=1e-12)


def test_blocks_give_the_moments_of_all_images_in_the_components_of_the_process(store: Store) -> None:
    system, by = oracle(), sampler("ancestral")
    drawn = blocks(store, system, by, num_images=130, size=50)
    meta, arrays = found(store, system, by, dict(reversed(drawn.items())))
    levels = np.concatenate([read_split(artifact, "images").images for artifact in drawn.values()])
    x = to_float(levels, LEVELS).astype(np.float64).reshape(130, -1)
    fitted = stage_cases.train_statistics()
    assert fitted.components is not None
    c = (x - fitted.mean.numpy()) @ fitted.components.numpy().T
    assert (meta["num_images"], meta["nfe"]) == (130, 9)
    np.testing.assert_allclose(arrays["mean"], c.mean(axis=0), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(arrays["variance"], c.var(axis=0, ddof=1) + FLOOR, rtol=1e-10)


def test_the_gaussian_control_is_near_the_data(store: Store) -> None:
    near, _ = found(store, "gaussian", None, blocks(store, "gaussian", None, num_images=4000, size=2000))
    far, _ = found(store, "mean_image", None, blocks(store, "mean_image", None, num_images=100, size=100))
    assert (near["num_images"], near["nfe"]) == (4000, 0)
    assert near["w2"] < 0.02 * far["w2"]


def test_a_missing_block_is_named(store: Store) -> None:
    drawn = blocks(store, "gaussian", None, num_images=300, size=100)
    del drawn["images.000001"]
    with pytest.raises(DataError, match="images 100 to 199 are missing or doubled"):
        found(store, "gaussian", None, drawn)


def test_one_image_has_no_variance_and_says_so(store: Store) -> None:
    meta, _ = found(store, "gaussian", None, blocks(store, "gaussian", None, num_images=1, size=50))
    assert meta["absent"] == "a variance needs at least two images"
    assert meta["w2"] is None


def test_an_equal_step_of_log_snr_is_counted_in_steps(store: Store) -> None:
    by = parse(SamplerSpec, {"kind": "euler", "log_snr_step": 4.0, "final": "state"})
    assert found(store, oracle(), by, {})[0]["nfe"] == 4  # log SNR falls by 16
