"""The study stage on small artifacts: files, their agreement with sample blocks, determinism and refusals."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from pipeline.baselines.samplers import SamplerSpec
from pipeline.baselines.system import SystemSpec, build_system
from pipeline.config import ConfigError, parse
from pipeline.sample import stage as sample_stage
from pipeline.sample import study
from pipeline.sample.blocks import sample_blocks
from pipeline.sample.study_figures import Group, Panel, image_sheet, step_chart
from pipeline.sample.study_kinds import STUDIES
from pipeline.sample.study_scene import Scene
from pipeline.shards import ShardWriter, read_split, to_levels
from pipeline.store import Artifact, Attempt, Store, open_store
from tests import stage_cases
from tests.stage_cases import LEVELS, SHAPE, committed, made

NUM_LEVELS = 4
BY_COLUMN = {
    "kind": "spectral",
    "basis": "pixel",
    "centre": "mean",
    "schedule": {"kind": "columns", "overlap_b": 0.75, "gamma_min": -8.0, "gamma_max": 8.0},
}
DDIM = parse(SamplerSpec, {"kind": "ddim", "steps": 20})
PREVIOUS = parse(SamplerSpec, {"kind": "previous"})
EACH_STEP = parse(SamplerSpec, {"kind": "previous", "latents": "step"})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return open_store(str(tmp_path_factory.mktemp("store")))


def variational(**changes: Any) -> SystemSpec:
    heat = {"kind": "heat", "num_levels": NUM_LEVELS}
    tree: dict[str, Any] = {
        "process": {"kind": "spectral", "basis": "dct", "schedule": heat},
        "prediction": "x_prev",
        "objective": {"kind": "variational_cold", "latent_dim": 3},
        "start": {"source": "training_images", "noise": 0.01},
    }
    return stage_cases.system(**(tree | changes))


def training(store: Store, spec: SystemSpec) -> Artifact:
    """A training artifact with all networks of the system, their weights disturbed so that every input matters."""

    def write(attempt: Attempt) -> dict[str, Any]:
        statistics = stage_cases.train_statistics()
        built = build_system(spec, shape=SHAPE, num_classes=stage_cases.NUM_CLASSES, statistics=statistics)
        generator = torch.Generator().manual_seed(5)
        for name, network in built.networks.items():
            weights = {
                key: value + 0.3 * torch.randn(value.shape, generator=generator)
                for key, value in network.state_dict().items()
            }
            save_file(weights, attempt.path(f"{'' if name == 'network' else f'{name}.'}ema.safetensors"))
        return {"steps": 0}

    return committed(store, "train", write, identity={"study": spec.identity()})


def given(store: Store, spec: SystemSpec) -> dict[str, Artifact]:
    return {
        "dataset": stage_cases.dataset(store),
        "statistics": stage_cases.statistics(store),
        "model": training(store, spec),
    }


def studied(store: Store, kind: Any, **changes: Any) -> Artifact:
    fields: dict[str, Any] = {
        "kind": kind,
        "system": stage_cases.system(process=BY_COLUMN) if kind == "extension" else variational(),
        "sampler": {"forward": None, "extension": DDIM}.get(kind, PREVIOUS),
        "num_images": 6,
    }
    spec = study.StudySpec(**(fields | changes))
    return made(store, study, spec, given(store, spec.system))


def arrays(artifact: Artifact) -> dict[str, np.ndarray]:
    with np.load(artifact.path("study.npz"), allow_pickle=False) as stored:
        return dict(stored)


@pytest.mark.parametrize(
    ("kind", "figures"),
    [
        ("forward", ["sheet.png"]),
        ("sequence", ["sheet.png"]),
        ("exchange", ["sensitivity.png", "sheet.png", "windows.png"]),
        ("interpolation", ["sheet.png"]),
        ("reconstruction", ["sheet.png"]),
        ("extension", ["panorama.png", "sheet.png"]),
    ],
)
def test_every_study_writes_its_figures_and_numbers(store: Store, kind: str, figures: list[str]) -> None:
    artifact = studied(store, kind)
    assert artifact.meta["figures"] == figures
    for name in figures:
        picture = Image.open(io.BytesIO(artifact.path(name).read_bytes()))
        assert min(picture.size) > 100
        assert np.asarray(picture).std() > 1.0
    assert json.loads(artifact.path("study.json").read_text()) == artifact.meta
    assert all(np.isfinite(values).all() for values in arrays(artifact).values())


def test_all_kinds_are_studies() -> None:
    assert set(STUDIES) == set(study.StudySpec.model_fields["kind"].annotation.__args__)  # pyright: ignore


def test_a_study_made_again_has_the_same_bytes(store: Store, tmp_path: Path) -> None:
    for kind in ("exchange", "reconstruction", "extension"):
        one, two = studied(store, kind), studied(open_store(str(tmp_path / "other")), kind)
        assert {n: e.sha256 for n, e in one.files.items()} == {n: e.sha256 for n, e in two.files.items()}


@pytest.mark.parametrize("sampler", [PREVIOUS, EACH_STEP], ids=["image", "step"])
def test_a_sequence_ends_in_the_images_of_a_sample_block(store: Store, sampler: SamplerSpec) -> None:
    spec = variational()
    images = arrays(studied(store, "sequence", sampler=sampler, seed=2))["images"]
    (block,) = sample_blocks(spec, sampler.over(NUM_LEVELS), num_images=6, block_size=6, seed=2, batch_shape=6)
    levels = read_split(made(store, sample_stage, block, given(store, spec)), "images").images
    np.testing.assert_array_equal(to_levels(images, LEVELS), levels)


@pytest.mark.parametrize("sampler", [PREVIOUS, EACH_STEP], ids=["image", "step"])
def test_targets_of_an_exchange_are_the_images_of_a_sequence(store: Store, sampler: SamplerSpec) -> None:
    images = arrays(studied(store, "sequence", sampler=sampler))["images"]
    found = arrays(studied(store, "exchange", sampler=sampler))
    np.testing.assert_array_equal(found["target"], images)
    assert np.abs(found["source"] - found["target"]).max() > 1e-3


def test_exchanges_cover_every_step_and_thirds_of_them(store: Store) -> None:
    artifact = studied(store, "exchange")
    meta, found = artifact.meta, arrays(artifact)
    assert meta["times"] == [1.0, 0.75, 0.5, 0.25]
    assert found["distance"].shape == found["centroid"].shape == (NUM_LEVELS, 6)
    assert [(w["first"], w["stop"]) for w in meta["windows"]] == [(0, 1), (1, 3), (3, 4)]
    np.testing.assert_allclose(found["window_distance"][[0, 2]], found["distance"][[0, 3]])
    assert meta["sensitivity"][1]["mean"] == pytest.approx(found["distance"][1].mean())
    assert meta["centroid_trend"]["verdict"] in ("rises", "falls", "undecided")
    assert meta["num_pairs"] == 6


def test_more_pairs_begin_with_the_same_ones(store: Store) -> None:
    few, many = (arrays(studied(store, "exchange", num_images=n)) for n in (3, 6))
    np.testing.assert_allclose(many["distance"][:, :3], few["distance"], atol=1e-4)


def test_a_window_over_all_steps_is_the_whole_exchange(store: Store) -> None:
    meta = studied(store, "exchange", windows=((0, NUM_LEVELS),)).meta
    assert meta["windows"][0]["sensitivity"] == meta["whole_exchange"]


def test_batches_change_nothing_that_is_seen(store: Store) -> None:
    for kind in ("exchange", "reconstruction", "extension"):
        whole, parts = (arrays(studied(store, kind, batch_shape=size)) for size in (6, 4))
        for name, values in whole.items():
            np.testing.assert_allclose(values, parts[name], atol=1e-4)


def test_an_interpolation_joins_the_images_of_both_codes(store: Store) -> None:
    found, pair = arrays(studied(store, "interpolation")), arrays(studied(store, "exchange"))
    np.testing.assert_allclose(found["images"][:, 0], pair["target"], atol=1e-5)
    np.testing.assert_allclose(found["images"][:, -1], pair["source"], atol=1e-5)
    assert (found["neighbour_distance"].sum(axis=0) >= found["end_distance"] - 1e-9).all()


def test_reconstruction_errors_are_per_image_and_beside_those_of_the_prior(store: Store) -> None:
    artifact = studied(store, "reconstruction", num_images=200)
    assert artifact.meta["num_images"] == 90  # the test split ends there
    found = arrays(artifact)
    assert found["error"].shape == found["prior"].shape == (90,)
    assert artifact.meta["error"]["mean"] == pytest.approx(found["error"].mean())
    assert not np.allclose(found["error"], found["prior"])


def test_a_forward_study_needs_no_training_and_shows_the_noise_of_a_noise_process(store: Store) -> None:
    artifact = studied(store, "forward", system=stage_cases.system(), num_images=50)
    far = [entry["mean"] for entry in artifact.meta["distance_to_image"]]
    assert len(far) == 8
    assert far == sorted(far)
    assert artifact.meta["times"][-1] == 1.0
    still = studied(store, "forward").meta["distance_to_image"]
    assert [entry["mean"] > 0 for entry in still] == [True] * NUM_LEVELS


def test_a_system_without_codes_has_a_sequence_from_its_own_start(store: Store) -> None:
    sampler = parse(SamplerSpec, {"kind": "ddim", "steps": 20})
    artifact = studied(store, "sequence", system=stage_cases.system(), sampler=sampler)
    assert len(artifact.meta["step_distance"]) == 21  # the last one is that of the final denoising
    assert arrays(artifact)["images"].shape == (6, *SHAPE)


def test_an_extension_keeps_the_left_half_and_draws_several_right_halves(store: Store) -> None:
    artifact = studied(store, "extension", num_images=50)
    found, meta = arrays(artifact), artifact.meta
    assert meta["known_error"]["mean"] == 0.0
    assert meta["num_known_columns"] == 2
    x_0 = found["panorama"][..., :4]
    np.testing.assert_array_equal(found["continuations"][..., :2], np.broadcast_to(x_0, (4, *x_0.shape))[..., :2])
    assert found["error"].shape == (4, 50)
    assert meta["continuation_error"]["mean"] == pytest.approx(found["error"].mean())
    assert found["pair_distance"].shape == (6, 50)
    assert (found["pair_distance"] > 0).all()
    assert meta["distance_between_images"]["mean"] > 0
    assert found["panorama"].shape == (8, 1, 4, 12)
    assert (meta["evaluations"], meta["evaluations_of_a_sample"]) == (11, 21)


def test_extensions_apply_to_systems_that_go_column_by_column() -> None:
    rows = {**BY_COLUMN, "schedule": {**BY_COLUMN["schedule"], "axis": "row"}}
    labelled = {**BY_COLUMN, "schedule": {"kind": "gud", "ordering": "column", "clip": True}}
    systems = [stage_cases.system(process=process) for process in (BY_COLUMN, labelled, rows)]
    systems += [stage_cases.system(), variational()]
    assert [study.applies("extension", system) for system in systems] == [True, True, False, False, False]


@pytest.mark.parametrize("kind", STUDIES)
def test_a_study_applies_where_its_specification_accepts_the_system(kind: Any) -> None:
    for system in (stage_cases.system(), stage_cases.system(process=BY_COLUMN), variational()):
        fields = {"kind": kind, "system": system, "sampler": None if kind == "forward" else DDIM}
        if study.applies(kind, system):
            study.StudySpec(**fields)
        else:
            with pytest.raises(ValueError, match=f"kind {kind}"):
                study.StudySpec(**fields)


def test_class_conditional_systems_show_classes_in_turn(store: Store) -> None:
    system = variational(class_conditional=True)
    images = arrays(studied(store, "sequence", system=system))["images"]
    sampler = PREVIOUS.over(NUM_LEVELS)
    (block,) = sample_blocks(system, sampler, num_images=6, block_size=6, batch_shape=6)
    levels = read_split(made(store, sample_stage, block, given(store, system)), "images").images
    np.testing.assert_array_equal(to_levels(images, LEVELS), levels)


def test_a_reconstruction_is_told_the_class_of_its_image(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[torch.Tensor] = []
    original = Scene.conditions

    def conditions(self: Scene, rows: list[int], codes: Any, classes: Any = None) -> Any:
        found = original(self, rows, codes, classes)
        condition = found(0)
        assert condition is not None
        assert condition.label is not None
        told.append(condition.label)
        return found

    monkeypatch.setattr(Scene, "conditions", conditions)
    system = variational(class_conditional=True)
    studied(store, "reconstruction", system=system, num_images=90)
    split = read_split(stage_cases.dataset(store), "test")
    assert split.labels is not None
    for labels in told:
        assert not np.array_equal(labels.numpy(), np.arange(90) % stage_cases.NUM_CLASSES)
        np.testing.assert_array_equal(np.bincount(labels.numpy()), np.bincount(split.labels))
    assert len(told) == 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kind": "sequence", "sampler": None}, "needs one"),
        ({"kind": "forward"}, "takes none"),
        ({"kind": "exchange", "system": stage_cases.system()}, "has none"),
        ({"kind": "sequence", "windows": ((0, 1),)}, "only an exchange"),
        ({"kind": "exchange", "windows": ((2, 2),)}, r"\[2, 2\) holds no step"),
        ({"kind": "exchange", "windows": ((3, 5),), "sampler": PREVIOUS.over(4)}, "behind the sampler's 4 steps"),
        ({"kind": "sequence", "system": stage_cases.classifier()}, "needs a process"),
    ],
    ids=str,
)
def test_studies_that_mean_nothing_are_refused(changes: dict[str, Any], reason: str) -> None:
    fields: dict[str, Any] = {"system": variational(), "sampler": PREVIOUS}
    with pytest.raises(ValueError, match=reason):
        study.StudySpec(**(fields | changes))


def test_a_window_behind_the_last_step_is_refused(store: Store) -> None:
    with pytest.raises(ConfigError, match=r"\[3, 5\) ends behind the sampler's 4 steps"):
        studied(store, "exchange", windows=((3, 5),))


def test_points_cannot_be_shown(store: Store, tmp_path: Path) -> None:
    def write(attempt: Attempt) -> dict[str, Any]:
        with ShardWriter(attempt.path, "train") as writer:
            writer.write(np.zeros((4, 2), np.float32), None)
        return {"name": "points", "shape": [2], "quantisation": None, "num_classes": None}

    points = committed(open_store(str(tmp_path / "points")), "ingest", write, identity={"points": 4})
    spec = study.StudySpec(kind="forward", system=variational())
    with pytest.raises(ConfigError, match="shows images"):
        made(store, study, spec, {"dataset": points})


def test_the_device_is_no_part_of_the_identity() -> None:
    specs = [study.StudySpec(kind="forward", system=variational(), device=device) for device in ("cpu", "cuda")]
    assert specs[0].identity() == specs[1].identity()


def test_each_pixel_of_a_sheet_is_one_pixel_of_the_picture() -> None:
    tile = np.random.default_rng(0).integers(1, 255, (1, 1, 1, 48, 48)).astype(np.uint8)
    png = image_sheet([Group(tile, [""])], title="t")
    picture = np.asarray(Image.open(io.BytesIO(png)))[:, :, 0]
    windows = np.lib.stride_tricks.sliding_window_view(picture, (48, 48))
    corners = np.argwhere(windows[:, :, 0, 0] == tile[0, 0, 0, 0, 0])
    assert any((windows[y, x] == tile[0, 0, 0]).all() for y, x in corners)


def test_a_chart_of_nothing_is_still_a_chart() -> None:
    nothing = np.full(3, np.nan)
    png = step_chart([Panel("centroid", nothing, nothing)], ["3", "2", "1"], title="t")
    assert Image.open(io.BytesIO(png)).size[0] >= 640
