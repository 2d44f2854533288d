"""Rows of a GUD study as curves and maps: which point stands where, and with which error."""

import numpy as np
import pytest

from pipeline.config import Document
from pipeline.grid import make_plan
from pipeline.grid.spec import grid_from
from pipeline.grid.study_drawings import bars
from pipeline.grid.study_points import coarse_and_fine, mean_over_seeds, softness_curves, softness_panels, study_points
from pipeline.report.gud_maps import State
from tests.grids import TINY, merged
from tests.gud_points import both, elbo, point


def test_each_prior_and_training_has_its_own_curve_of_its_own_points() -> None:
    points = [
        point(1.0, result=elbo(2.0)),
        point(0.4, result=elbo(2.1)),
        point(0.4, prior="data", result=elbo(2.4)),
        point(0.4, training="per_cell", result=elbo(2.05)),
        point(0.4, training="per_cell", images=2000, result=elbo(2.3), **{"train.steps": "20"}),
    ]
    _, curves = softness_curves(points, "elbo")
    drawn = {curve.label: (curve.softness_a.tolist(), curve.values.tolist()) for curve in curves}
    assert drawn == {
        "PCA, standard prior, amortised": ([0.4, 1.0], [2.1, 2.0]),
        "PCA, data prior, amortised": ([0.4], [2.4]),
        "PCA, standard prior, own network": ([0.4], [2.05]),
        "PCA, standard prior, own network, train.steps 20": ([0.4], [2.3]),
    }
    colours = [curve.colour for curve in curves]
    assert colours[0] == colours[2] == colours[3] != colours[1]
    assert len({curve.dashes for curve in curves if curve.colour == colours[0]}) == 3


def test_curves_take_the_smallest_ordering_r_that_any_point_has() -> None:
    points = [point(a, r, result=elbo(a + r)) for a in (0.4, 1.0) for r in (0.25, 0.5)]
    ordering_r, (curve,) = softness_curves(points, "elbo")
    assert ordering_r == 0.25
    assert curve.values.tolist() == [0.65, 1.25]
    assert not curve.standard.any()


def test_the_error_over_trainings_is_the_standard_deviation_of_their_mean() -> None:
    values = (2.0, 2.3, 2.2)
    points = [point(1.0, seed=seed, result=elbo(value, se=9.0)) for seed, value in enumerate(values)]
    _, (curve,) = softness_curves(points, "elbo")
    assert curve.values == pytest.approx([np.mean(values)])
    assert curve.errors == pytest.approx([np.std(values, ddof=1) / np.sqrt(3)])
    assert curve.num_seeds.tolist() == [3]


def test_the_error_of_a_single_training_is_its_row_s_own() -> None:
    assert mean_over_seeds([(2.0, 0.07)]) == (2.0, 0.07, 1)


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ([1, 1, 0], "Error bars: sampling error of a point's one row."),
        ([3, 3], "Error bars: standard deviation of the mean over trainings (3 per point)."),
        ([3, 2, 0], "Error bars: standard deviation of the mean over trainings (2 to 3 per point)."),
        ([3, 1], "Error bars: standard deviation of the mean over trainings (3 per point); "),
    ],
)
def test_the_caption_says_which_error_it_is(counts: list[int], said: str) -> None:
    text = bars(np.array(counts))
    assert text.startswith(said)
    assert ("open marks" in text) == (1 in counts and max(counts) > 1)


def test_a_point_without_a_value_interrupts_its_curve() -> None:
    points = [point(0.4, result=elbo(2.1)), point(0.7), point(1.0, result=elbo(2.0))]
    _, (curve,) = softness_curves(points, "elbo")
    assert curve.softness_a.tolist() == [0.4, 0.7, 1.0]
    assert np.isnan(curve.values).tolist() == [False, True, False]


def test_a_metric_that_nobody_has_makes_no_curve_and_no_map() -> None:
    points = [point(a, r, result=elbo(2.0)) for a in (0.4, 1.0) for r in (0.0, 1.0)]
    assert softness_curves(points, "nll")[1] == []
    assert softness_panels(points, "nll") == []


def test_samplers_make_curves_of_their_own_for_distances_alone() -> None:
    points = [point(1.0, sampler=name, result=both(2.0, fd)) for name, fd in (("ddim 10", 8.0), ("ddim 50", 5.0))]
    assert [curve.values.tolist() for curve in softness_curves(points, "elbo")[1]] == [[2.0]]
    drawn = {curve.label: curve.values.tolist() for curve in softness_curves(points, "fd")[1]}
    assert drawn == {
        "PCA, standard prior, amortised, ddim 10": [8.0],
        "PCA, standard prior, amortised, ddim 50": [5.0],
    }


@pytest.mark.parametrize(
    ("settings", "is_standard"),
    [({}, True), ({"prior": "data"}, False), ({"ordering": "rank"}, False), ({"clip": "True"}, False)],
)
def test_only_the_standard_prior_ordered_by_variance_is_standard_diffusion_at_one(
    settings: dict[str, str], is_standard: bool
) -> None:
    points = [point(a, result=elbo(2.0), **settings) for a in (0.9, 1.0)]
    _, (curve,) = softness_curves(points, "elbo")
    assert curve.standard.tolist() == [False, is_standard]


def test_every_value_of_a_map_stands_at_its_own_point() -> None:
    softness, ordering = (0.4, 1.0, 1.6), (0.0, 0.5)
    points = [
        point(a, r, seed=seed, result=elbo(a + 10 * r + seed)) for a in softness for r in ordering for seed in (0, 1)
    ]
    (panel,) = softness_panels(points[::-1], "elbo")
    assert panel.coarse.values == pytest.approx(np.array([[a + 10 * r + 0.5 for a in softness] for r in ordering]))
    assert (panel.coarse.states == State.MEASURED).all()
    assert panel.best() == pytest.approx((0.4, 0.0, 0.9))
    assert panel.fine is None
    assert panel.has_standard


def test_points_that_were_not_promoted_and_points_without_any_result_are_told_apart() -> None:
    points = [
        point(0.4, 0.0, result=both(2.0, 7.0)),
        point(1.0, 0.0, sampler="", result=elbo(2.5)),
        point(0.4, 1.0, result=both(2.1, 6.0)),
        point(1.0, 1.0),
    ]
    (panel,) = softness_panels(points, "fd")
    assert panel.coarse.states.tolist() == [
        [State.MEASURED, State.NOT_PROMOTED],
        [State.MEASURED, State.UNFINISHED],
    ]
    assert np.isnan(panel.coarse.values[:, 1]).all()
    assert panel.coarse.values[:, 0].tolist() == [7.0, 6.0]
    assert panel.best() == (0.4, 1.0, 6.0)


def test_a_place_that_the_study_does_not_have_is_outside() -> None:
    points = [point(a, r, result=elbo(2.0)) for a in (0.4, 1.0, 1.6) for r in (0.0, 0.5, 1.0) if (a, r) != (1.6, 1.0)]
    (panel,) = softness_panels(points, "elbo")
    assert panel.coarse.states[2, 2] == State.OUTSIDE
    assert (panel.coarse.states == State.OUTSIDE).sum() == 1


def test_a_denser_set_of_points_in_a_box_is_the_zoom() -> None:
    coarse = [(a, r) for a in (0.4, 0.8, 1.2, 1.6) for r in (0.0, 0.5, 1.0)]
    fine = [(a, r) for a in (0.8, 0.9, 1.0) for r in (0.0, 0.1, 0.2)]
    points = [point(a, r, result=elbo(3 - a * 0.1 + r)) for a, r in dict.fromkeys(coarse + fine)]
    (panel,) = softness_panels(points, "elbo")
    assert panel.coarse.softness_a.tolist() == [0.4, 0.8, 1.2, 1.6]
    assert panel.coarse.ordering_r.tolist() == [0.0, 0.5, 1.0]
    assert panel.fine is not None
    assert panel.zoom() is panel.fine
    assert panel.fine.softness_a.tolist() == [0.8, 0.9, 1.0]
    assert panel.fine.ordering_r.tolist() == [0.0, 0.1, 0.2]
    assert panel.fine.values == pytest.approx(
        np.array([[3 - a * 0.1 + r for a in (0.8, 0.9, 1.0)] for r in (0, 0.1, 0.2)])
    )


def test_without_denser_points_the_zoom_is_the_neighbourhood_of_the_lowest_point() -> None:
    softness = [round(0.4 + 0.15 * i, 2) for i in range(9)]
    ordering = [i / 8 for i in range(9)]
    points = [point(a, r, result=elbo((a - 1.15) ** 2 + (r - 0.125) ** 2)) for a in softness for r in ordering]
    (panel,) = softness_panels(points, "elbo")
    zoom = panel.zoom()
    assert zoom is not None
    assert zoom.softness_a.tolist() == [0.85, 1.0, 1.15, 1.3, 1.45]
    assert zoom.ordering_r.tolist() == [0.0, 0.125, 0.25, 0.375, 0.5]
    assert zoom.values[1, 2] == panel.coarse.values[1, 5] == pytest.approx(0.0)
    assert zoom.box == pytest.approx((0.775, 1.525, -0.0625, 0.5625))


def test_a_handful_of_networks_of_their_own_is_no_map() -> None:
    points = [point(a, r, result=elbo(a + r)) for a in (0.4, 1.0, 1.6) for r in (0.0, 0.5, 1.0)]
    points += [point(a, r, training="per_cell", result=elbo(1.0)) for a, r in ((0.4, 0.0), (1.0, 0.5), (1.6, 1.0))]
    assert [panel.label for panel in softness_panels(points, "elbo")] == ["PCA, standard prior, amortised"]


def test_a_missing_corner_does_not_turn_its_row_into_a_finer_set() -> None:
    places = [(a, r) for a in (0.4, 0.8, 1.2, 1.6) for r in (0.0, 0.25, 0.5, 0.75, 1.0) if (a, r) != (0.4, 1.0)]
    assert coarse_and_fine(places) == (([0.4, 0.8, 1.2, 1.6], [0.0, 0.25, 0.5, 0.75, 1.0]), None)


def test_standard_diffusion_under_its_other_name_is_the_point_at_one_and_controls_are_none() -> None:
    twin = {"kind": "log_linear", "log_snr_data": 7, "log_snr_prior": -7}
    blocks = [
        {"baseline": "ddpm", "basis": "pca", "centre": "mean", "schedule": twin},
        {"baseline": "gud", "softness_a": [0.4, 1.0]},
        {"baseline": "gud", "softness_a": 1.0, "amortise": {"softness_a": [0.4, 1.6]}},
        {"baseline": ["gaussian", "test_split"]},
        {"baseline": "ddpm", "schedule": "cosine"},
    ]
    plan = make_plan(grid_from(Document(merged(TINY, {"grid": blocks}), source="grid.yaml")))
    found = study_points((cell, None) for cell in plan.cells)
    assert [(p.settings["training"], p.place) for p in found] == [
        ("per_cell", (1.0, 0.0)),
        ("per_cell", (0.4, 0.0)),
        ("amortised", (1.0, 0.0)),
    ]
    assert len({p.task for p in found}) == 1
    assert {p.images for p in found} == {20 * 32}
    assert {p.sampler for p in found} == {"ddim 3"}
