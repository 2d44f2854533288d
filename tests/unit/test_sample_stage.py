"""Sample blocks: image i is a function of (seed, i), whoever makes it and with whom."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

from pipeline.baselines.samplers import SamplerSpec
from pipeline.config import ConfigError, parse
from pipeline.sample import stage
from pipeline.sample.blocks import SampleBlock, sample_blocks
from pipeline.shards import read_split, to_float
from pipeline.store import Artifact, Store, open_store
from tests import stage_cases

ANCESTRAL = parse(SamplerSpec, {"kind": "ancestral", "steps": 4})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def inputs(store: Store, **changes: object) -> dict[str, Artifact]:
    return {
        "dataset": stage_cases.dataset(store),
        "statistics": stage_cases.statistics(store),
        "model": stage_cases.training(store, stage_cases.system(**changes)),
    }


def block(count: int = 20, *, number: int = 0, size: int = 20, sampler: SamplerSpec = ANCESTRAL) -> SampleBlock:
    return SampleBlock(
        system=stage_cases.system(), sampler=sampler, seed=3, block=number, block_size=size, count=count, batch_shape=8
    )


def levels(artifact: Artifact) -> np.ndarray:
    return read_split(artifact, "images").images


def test_a_flat_sampler_is_read_as_kernel_and_grid() -> None:
    sampler = parse(SamplerSpec, {"kind": "ddim", "eta": 0.5, "steps": 50, "final": "state"})
    assert sampler.kernel.identity() == {"kind": "ddim", "eta": 0.5}
    assert (sampler.steps, sampler.final) == (50, "state")
    assert parse(SamplerSpec, sampler.model_dump(mode="json")) == sampler


def test_a_misspelt_sampler_key_is_named() -> None:
    with pytest.raises(ConfigError, match="etta"):
        parse(SamplerSpec, {"kind": "ddim", "etta": 0.5, "steps": 50})


def test_blocks_cover_every_image_once_and_only_the_last_is_short() -> None:
    blocks = sample_blocks("gaussian", None, num_images=250, block_size=100)
    assert [(b.first, b.count) for b in blocks] == [(0, 100), (100, 100), (200, 50)]


def test_a_larger_set_contains_the_blocks_of_a_smaller_one() -> None:
    small = sample_blocks("gaussian", None, num_images=200, block_size=100)
    large = sample_blocks("gaussian", None, num_images=500, block_size=100)
    assert [b.identity() for b in large[:2]] == [b.identity() for b in small]


def test_the_device_is_no_part_of_the_identity() -> None:
    (a,), (b,) = (sample_blocks("gaussian", None, num_images=9, block_size=9, device=d) for d in ("cpu", "cuda"))
    assert a.identity() == b.identity()


@pytest.mark.parametrize(
    "changes",
    [{"sampler": ANCESTRAL}, {"count": 21}, {"labels": "balanced"}, {"system": stage_cases.system(), "sampler": None}],
)
def test_contradictory_blocks_are_refused(changes: dict[str, object]) -> None:
    fields = {"system": "gaussian", "sampler": None, "block": 0, "block_size": 20, "count": 20}
    with pytest.raises(ValueError, match=r"sampler|count|labels"):
        SampleBlock(**(fields | changes))  # pyright: ignore[reportArgumentType]


def test_a_padded_block_holds_the_same_bits_as_the_beginning_of_a_full_one(store: Store) -> None:
    given = inputs(store)
    short, full = (levels(stage_cases.made(store, stage, block(count), given)) for count in (13, 20))
    np.testing.assert_array_equal(short, full[:13])
    assert len(np.unique(full.reshape(20, -1), axis=0)) == 20


def test_images_do_not_depend_on_how_the_set_is_cut_into_blocks(store: Store) -> None:
    given = inputs(store)
    whole = levels(stage_cases.made(store, stage, block(16, size=16), given))
    parts = [levels(stage_cases.made(store, stage, block(8, number=k, size=8), given)) for k in (1, 0)]
    np.testing.assert_array_equal(whole, np.concatenate(parts[::-1]))


def test_the_number_of_threads_of_the_worker_changes_no_bit_and_is_given_back(store: Store, tmp_path: Path) -> None:
    given = inputs(store)
    one = stage_cases.made(store, stage, block(), given)
    torch.set_num_threads(2)
    try:
        other = open_store(str(tmp_path / "other"))
        two = stage_cases.made(other, stage, block(), inputs(other))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert {n: e.sha256 for n, e in one.files.items()} == {n: e.sha256 for n, e in two.files.items()}


def test_evaluations_per_image_are_counted_with_the_last_denoising(store: Store) -> None:
    method = stage_cases.made(store, stage, block(), inputs(store)).meta["method"]
    assert method["nfe"] == ANCESTRAL.kernel.build().nfe(4) + 1


def test_a_network_of_zeros_flows_to_the_images_of_the_gaussian_control(store: Store) -> None:
    spec = stage_cases.system()
    given = inputs(store) | {"model": stage_cases.training(store, spec, change=torch.zeros_like, name="zeros")}
    sampler = parse(SamplerSpec, {"kind": "heun", "steps": 60})
    flow, control = (
        levels(stage_cases.made(store, stage, sample_blocks(kind, by, num_images=100, block_size=100)[0], given))
        for kind, by in ((spec, sampler), ("gaussian", None))
    )
    assert (flow == control).mean() > 0.9
    assert np.abs(flow.astype(int) - control.astype(int)).max() <= 1


def test_the_gaussian_control_has_the_moments_of_the_data(store: Store) -> None:
    (wanted,) = sample_blocks("gaussian", None, num_images=3000, block_size=3000)
    x = to_float(levels(stage_cases.made(store, stage, wanted, inputs(store))), stage_cases.LEVELS).reshape(3000, -1)
    fitted = stage_cases.train_statistics()
    assert fitted.components is not None
    root = fitted.components.T * fitted.variances.sqrt()
    np.testing.assert_allclose(x.mean(0), fitted.mean.numpy(), atol=0.03)
    np.testing.assert_allclose(np.cov(x.T), (root @ root.T).numpy(), atol=0.03)


def test_the_test_split_is_shown_once_in_seeded_order_and_then_ends(store: Store) -> None:
    given = inputs(store)
    blocks = sample_blocks("test_split", None, num_images=150, block_size=50, seed=5)
    artifacts = [stage_cases.made(store, stage, wanted, given) for wanted in blocks]
    assert [a.meta["count"] for a in artifacts] == [50, 40, 0]
    assert artifacts[0].meta["num_available"] == 90
    shown = np.concatenate([levels(a) for a in artifacts]).reshape(90, -1)
    data = read_split(given["dataset"], "test").images.reshape(90, -1)
    assert not np.array_equal(shown, data)
    np.testing.assert_array_equal(np.sort(shown.view("S16"), axis=0), np.sort(data.view("S16"), axis=0))


def test_classes_are_balanced_for_a_conditional_system(store: Store) -> None:
    spec = stage_cases.system(class_conditional=True)
    (wanted,) = sample_blocks(spec, ANCESTRAL, num_images=10, block_size=10, batch_shape=8)
    artifact = stage_cases.made(store, stage, wanted, inputs(store, class_conditional=True))
    labels = read_split(artifact, "images").labels
    assert labels is not None
    assert labels.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]


def test_only_the_first_block_has_a_preview_and_it_is_a_picture(store: Store) -> None:
    given = inputs(store)
    first, second = (stage_cases.made(store, stage, block(20, number=k), given) for k in (0, 1))
    assert "preview.png" not in second.files
    picture = Image.open(io.BytesIO(first.path("preview.png").read_bytes()))
    assert picture.size == (10 * 50 + 2, 2 * 50 + 2)


def test_stock_webdataset_reads_a_block(store: Store) -> None:
    artifact = stage_cases.made(store, stage, block(), inputs(store))
    url = str(artifact.path("images-000000.tar"))
    (sample,) = list(webdataset.WebDataset(url, shardshuffle=False, empty_check=False).decode())
    np.testing.assert_array_equal(sample["x.npy"], levels(artifact))


def test_images_that_are_not_finite_are_an_error(store: Store) -> None:
    given = inputs(store)
    broken = stage_cases.training(
        store, stage_cases.system(), change=lambda w: w * float("nan") if w.is_floating_point() else w, name="nan"
    )
    with pytest.raises(RuntimeError, match="not finite"):
        stage_cases.made(store, stage, block(), given | {"model": broken})
