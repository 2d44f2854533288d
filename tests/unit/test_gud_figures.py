"""Figures of a GUD study: the schedules through the real process, pictures with their arrays, a tiny grid drawn."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.config import Document
from pipeline.grid import make_plan
from pipeline.grid.figures import write_figures
from pipeline.grid.spec import grid_from
from pipeline.grid.study_drawings import metric_drawings
from pipeline.grid.study_points import StudyPoint
from pipeline.grid.study_schedules import (
    Data,
    Ends,
    paper_cases,
    schedule_drawing,
    sequential,
    sheet_drawing,
    stem,
    strip_drawing,
)
from pipeline.grid.tasks import execute
from pipeline.report.gud_drawing import Drawing
from pipeline.shards import to_float, to_levels
from pipeline.store import Store, open_store
from tests import stage_cases
from tests.grids import TINY, merged
from tests.gud_points import both, point, result

ENDS = Ends(log_snr_data=6.0, log_snr_prior=-5.0)


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Data:
    store = open_store(str(tmp_path_factory.mktemp("squares") / "store"))
    dataset, statistics = stage_cases.dataset(store), stage_cases.statistics(store)
    return Data("squares", statistics, stage_cases.SHAPE, dataset)


def picture(png: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(png))
    image.load()
    return image


@pytest.fixture(scope="module")
def cases(squares: Data) -> dict[str, Drawing]:
    """The paper's four cases by letter."""
    return {name[5]: schedule_drawing(squares, spec, case=name) for name, spec in paper_cases("pca", ENDS)}


def test_the_four_cases_are_those_of_the_paper(cases: dict[str, Drawing]) -> None:
    assert [drawing.stem for drawing in cases.values()] == [
        "schedules-pca-standard-a1",
        "schedules-pca-standard-a0",
        "schedules-pca-data-a1",
        "schedules-pca-data-a0",
    ]


def test_eight_components_are_spread_over_the_order_of_variance(cases: dict[str, Drawing]) -> None:
    arrays = cases["a"].arrays
    assert len(arrays["component"]) == 8
    assert arrays["rank"][0] == 1
    assert arrays["rank"][-1] == 16
    assert (np.diff(arrays["variance"]) < 0).all()


def test_standard_diffusion_moves_all_components_by_one_gamma(cases: dict[str, Drawing]) -> None:
    gamma = cases["a"].arrays["gamma"]
    assert np.abs(gamma - gamma[:, :1]).max() < 1e-12


@pytest.mark.parametrize("letter", ["b", "d"])
def test_without_hierarchy_all_components_have_one_log_snr_between_the_ends(
    cases: dict[str, Drawing], letter: str
) -> None:
    log_snr = cases[letter].arrays["log_snr"]
    expected = np.linspace(6.0, -5.0, len(log_snr))
    assert np.abs(log_snr - expected[:, None]).max() < 1e-12


def test_both_priors_have_the_same_log_snr_and_whitening_turns_it_into_gamma(cases: dict[str, Drawing]) -> None:
    raw, white = cases["a"].arrays, cases["c"].arrays
    assert np.abs(raw["log_snr"] - white["log_snr"]).max() < 1e-12
    assert np.abs(white["gamma"] + white["log_snr"]).max() < 1e-12


@pytest.mark.parametrize("letter", ["a", "b", "c", "d"])
def test_the_dashed_levels_are_reached_by_a_component_and_by_none_crossed_at_the_ends(
    cases: dict[str, Drawing], letter: str
) -> None:
    arrays = cases[letter].arrays
    assert arrays["log_snr"][0].min() == pytest.approx(6.0)
    assert arrays["log_snr"][-1].max() == pytest.approx(-5.0)
    assert {"log_snr_data = 6", "log_snr_prior = -5"} == set(arrays["level_name"].tolist())


def test_sigma_and_gamma_are_those_of_one_process(squares: Data) -> None:
    arrays = schedule_drawing(squares, ENDS.gud("pca", "data", 0.7)).arrays
    assert np.square(arrays["sigma"]) == pytest.approx(1 / (1 + np.exp(-arrays["gamma"])), abs=1e-12)


def test_a_sequential_schedule_shows_its_columns_in_the_order_of_generation(squares: Data) -> None:
    spec = sequential("pixel", kind="columns", overlap_b=0.5, gamma_min=-9.0, gamma_max=4.0)
    drawing = schedule_drawing(squares, spec)
    assert drawing.stem == "schedules-pixel-standard-columns-b0.5"
    gamma = drawing.arrays["gamma"]
    assert (np.diff(gamma, axis=1) >= 0).all()
    assert (gamma[0] == -9.0).all()
    assert gamma[-1] == pytest.approx(4.0)
    assert drawing.arrays["level"].tolist() == [-9.0, 4.0]


def test_the_sheet_has_five_schedules_and_the_autoregressive_one_moves_one_component_at_a_time(squares: Data) -> None:
    arrays = sheet_drawing(squares, ENDS).arrays
    assert [title.split(":")[0] for title in arrays["title"]] == [
        "standard",
        "softer",
        "harder",
        "columns",
        "Haar levels x columns",
    ]
    hardest = arrays["log_snr_2"]
    assert hardest.shape == (16, len(arrays["t"]))
    is_moving = (hardest > -5.0 + 1e-9) & (hardest < 6.0 - 1e-9)
    assert is_moving.sum(axis=0).max() == 1
    assert arrays["skipped"].size == 0


def test_kinds_that_the_shape_cannot_have_are_left_out_with_their_reason(squares: Data, tmp_path: Path) -> None:
    arrays = {f"variances_{name}": np.arange(5.0, 0.0, -1.0) for name in ("pixel", "dct", "haar", "fourier")}

    class Odd:
        def path(self, name: str) -> Path:
            np.savez(tmp_path / name, mean=np.zeros(5), **arrays)
            return tmp_path / name

    artifact: Any = Odd()
    drawing = sheet_drawing(Data("points", artifact, (5,)), ENDS)
    assert len(drawing.arrays["title"]) == 4
    assert drawing.arrays["skipped"].tolist() == ["Haar levels x columns: a side that is odd has no scales"]
    assert strip_drawing(Data("points", artifact, (5,)), ENDS) is None


def test_strips_begin_with_the_test_images_and_share_their_noise(squares: Data) -> None:
    drawing = strip_drawing(squares, ENDS)
    assert drawing is not None
    images, times = drawing.arrays["images"], drawing.arrays["t"]
    assert images.shape == (4, 2, 9, *stage_cases.SHAPE)
    assert times.tolist() == [0.0, *(k / 8 for k in range(1, 9))]
    levels, _ = stage_cases.images(90, seed=1)
    expected = to_levels(to_float(levels[:2], stage_cases.LEVELS).astype(np.float64), 256)
    assert (images[:, :, 0] == expected).all()
    columns, haar = images[2].astype(int), images[3].astype(int)
    assert np.abs(columns[:, 1] - columns[:, 0])[..., 0].max() <= 1  # the first column is noised last
    assert np.abs(columns[:, 1:] - columns[:, :1])[..., 3].max() > 30
    assert np.abs(columns[:, -1] - haar[:, -1]).max() <= 1  # almost pure noise, the same in both


def test_a_drawing_is_a_picture_with_exactly_its_arrays_beside_it(cases: dict[str, Drawing], tmp_path: Path) -> None:
    drawing = cases["b"]
    paths = list(drawing.write(tmp_path))
    assert [path.name for path in paths] == ["schedules-pca-standard-a0.png", "schedules-pca-standard-a0.npz"]
    assert picture(paths[0].read_bytes()).size[0] > 1000
    with np.load(paths[1], allow_pickle=False) as stored:
        assert set(stored.files) == set(drawing.arrays)
        assert all((stored[name] == array).all() for name, array in drawing.arrays.items())


def study() -> list[StudyPoint]:
    softness, ordering = (0.4, 0.7, 1.0, 1.3), (0.0, 0.5, 1.0)
    points = [
        point(a, r, prior=prior, seed=seed, result=both(2 + (a - 1) ** 2 + r + 0.01 * seed, 5 + a + r))
        for prior in ("standard", "data")
        for seed in (0, 1)
        for a in softness
        for r in ordering
    ]
    for a in (0.4, 1.0):
        row = result({"elbo_bpd": 2.0, "elbo_se": 0.1}, elbo=(1.9, 2.1, 2.0))
        points += [point(a, 0.0, seed=2, result=row), point(a, 0.0, seed=2, training="per_cell", result=row)]
    return points


@pytest.fixture(scope="module")
def drawn() -> dict[str, Drawing]:
    """The figures of `study` by name."""
    return {drawing.stem: drawing for drawing in metric_drawings(study(), "digits")}


def test_figures_appear_for_the_metrics_that_exist_and_their_bytes_depend_on_content_alone(
    drawn: dict[str, Drawing],
) -> None:
    assert list(drawn) == ["softness-elbo", "softness-fd", "map-elbo", "map-fd", "amortisation-gap"]
    for again in metric_drawings(study(), "digits"):
        assert drawn[again.stem].png == again.png
        assert picture(again.png).size[0] > 500


def test_the_arrays_of_a_curve_figure_are_its_points(drawn: dict[str, Drawing]) -> None:
    arrays = drawn["softness-fd"].arrays
    own = arrays["curve"] == arrays["label"].tolist().index("PCA, data prior, amortised")
    assert arrays["softness_a"][own].tolist() == [0.4, 0.7, 1.0, 1.3]
    assert arrays["value"][own] == pytest.approx([5.4, 5.7, 6.0, 6.3])
    assert arrays["num_seeds"][own].tolist() == [2] * 4
    assert arrays["is_standard"].sum() == 1


def test_the_arrays_of_a_map_figure_hold_places_box_and_lowest_point(drawn: dict[str, Drawing]) -> None:
    arrays = drawn["map-elbo"].arrays
    assert arrays["label"].tolist() == ["PCA, standard prior, amortised", "PCA, data prior, amortised"]
    assert arrays["map_1_value"].shape == arrays["map_1_state"].shape == (3, 4)
    assert arrays["best_1"] == pytest.approx([1.0, 0.0, 2.005])
    assert arrays["box_1"] == pytest.approx([0.55, 1.45, -0.25, 1.25])


def test_the_gap_figure_comes_with_a_table(drawn: dict[str, Drawing], tmp_path: Path) -> None:
    drawing = drawn["amortisation-gap"]
    names = [path.name for path in drawing.write(tmp_path)]
    assert names == ["amortisation-gap.png", "amortisation-gap.npz", "amortisation-gap.md"]
    nats, bits = drawing.arrays["difference_nats_per_dim"], drawing.arrays["difference_bits_per_dim"]
    assert nats == pytest.approx(bits * np.log(2))
    assert len(bits) == (tmp_path / names[2]).read_text().count("\n| bound")


def test_names_of_files_tell_schedules_apart() -> None:
    specs = [
        ENDS.gud("dct", "data", 1.0, ordering_r=0.5),
        ENDS.gud("dct", "data", 14.0, ordering="rank", clip=True),
        ENDS.gud("dct", "data", 1.0, ordering=(1.0, 2.0)),
        sequential("haar", kind="haar_columns", level_offset=0.5, overlap_b=0.3),
    ]
    assert [stem(spec) for spec in specs] == [
        "dct-data-a1-r0.5",
        "dct-data-a14-rank-clipped",
        "dct-data-a1-labels",
        "haar-standard-haar_columns-offset0.5-b0.3",
    ]


GRID: dict[str, Any] = {
    "experiment": {"train": {"steps": 3, "batch": 8}, "network": {"width": 8, "num_noise_bands": 4}},
    "grid": [
        {"baseline": "gud", "softness_a": [0.5, 1.0], "ordering_r": [0, 1], "amortise": {"ordering_r": [0, 1]}},
        {"baseline": "gud", "softness_a": 1.0},
        {"baseline": "gud", "basis": "pixel", "schedule": {"kind": "columns", "overlap_b": 0.3}},
    ],
    "evaluate": {"metrics": ["elbo"], "nll_images": 8, "nll_block_images": 8, "batch_images": 8, "block_images": 8},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    plan = make_plan(grid_from(Document(merged(TINY, GRID), source="grid.yaml")))
    store: Store = open_store(str(tmp_path_factory.mktemp("gud") / "store"))
    out = tmp_path_factory.mktemp("figures")
    assert list(write_figures(plan, store, out)) == []
    for task in plan.tasks.values():
        execute(task, store)
    written = list(write_figures(plan, store, out))
    assert len(written) == len(set(written))
    return out / "study"


@pytest.mark.slow
def test_a_finished_grid_draws_its_study(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    pictures = {name.removesuffix(".png") for name in names if name.endswith(".png")}
    assert pictures == {
        "schedules-pca-standard-a1",
        "schedules-pca-standard-a0",
        "schedules-pca-data-a1",
        "schedules-pca-data-a0",
        "schedules-pca-standard-a0.5",
        "schedules-pca-standard-a1-r1",
        "schedules-pixel-standard-columns-b0.3",
        "schedule-sheet",
        "forward-strips",
        "softness-elbo",
        "map-elbo",
        "amortisation-gap",
    }
    assert {f"{name}.npz" for name in pictures} <= names
    assert "amortisation-gap.md" in names


@pytest.mark.slow
def test_the_study_of_a_grid_shows_what_its_rows_say(folder: Path) -> None:
    with np.load(folder / "map-elbo.npz") as stored, np.load(folder / "softness-elbo.npz") as curves:
        assert stored["map_0_softness_a"].tolist() == [0.5, 1.0]
        assert stored["map_0_ordering_r"].tolist() == [0.0, 1.0]
        amortised = curves["curve"] == 0
        assert curves["value"][amortised] == pytest.approx(stored["map_0_value"][0])
        assert curves["is_standard"].sum() == 2
    with np.load(folder / "amortisation-gap.npz") as gap:
        assert gap["budget"].tolist() == ["equal compute per network"] * 2
        assert gap["num_images"].tolist() == [8, 8]
