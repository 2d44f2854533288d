"""Figures of a report: the Pareto front, distance against likelihood, rows at equal cost."""

import csv
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.report.distance_nll import distance_nll_figure
from pipeline.report.figure import Figure, by_dataset, distance_metric, error_of, series_words
from pipeline.report.marks import shortened
from pipeline.report.pareto import pareto_figure, undominated
from pipeline.report.slices import slices, slices_figure
from tests.report_cases import FD, row

MODELS = [row("a", 9.0, nfe=5.0), row("b", 4.0, nfe=10.0), row("c", 5.0, nfe=20.0), row("d", 3.0, nfe=40.0)]
CONTROLS = [row("test_split", 0.5, nfe=0.0, is_control=True), row("gaussian", 30.0, nfe=0.0, is_control=True)]


def records(figure: Figure) -> list[dict[str, str]]:
    assert figure.csv is not None
    return list(csv.DictReader(io.StringIO(figure.csv)))


def opened(figure: Figure) -> Image.Image:
    assert figure.png is not None
    picture = Image.open(io.BytesIO(figure.png))
    picture.load()
    return picture


def test_a_row_is_on_the_front_unless_another_beats_it() -> None:
    assert undominated([(5, 9), (10, 4), (20, 5), (40, 3)]) == [True, True, False, True]


def test_equal_points_stand_on_the_front_together_and_ties_in_one_coordinate_do_not() -> None:
    assert undominated([(5, 9), (5, 9), (5, 10), (6, 9)]) == [True, True, False, False]


def test_every_point_off_the_front_is_beaten_by_a_point_on_it() -> None:
    rng = np.random.default_rng(0)
    points = [(float(x), float(y)) for x, y in rng.integers(0, 12, (60, 2))]
    on_front = undominated(points)
    front = [point for point, chosen in zip(points, on_front, strict=True) if chosen]
    for point, chosen in zip(points, on_front, strict=True):
        beaten = [other for other in front if other[0] <= point[0] and other[1] <= point[1] and other != point]
        assert bool(beaten) != chosen


def test_controls_cost_nothing_and_are_never_on_the_front() -> None:
    figure = pareto_figure([*MODELS, *CONTROLS], "pareto", FD)
    chosen = {record["row"]: record["undominated"] for record in records(figure)}
    expected = {"a": "yes", "b": "yes", "c": "no", "d": "yes", "test_split": "control", "gaussian": "control"}
    assert chosen == expected
    assert [line[0] for line in figure.highlights[1:]] == ["a", "b", "d"]
    assert opened(figure).width > 600


def test_fid_is_drawn_where_it_is_measured_and_the_primary_metric_elsewhere() -> None:
    assert distance_metric(MODELS, FD) == FD
    assert distance_metric([row("a", 1.0, fid=2.0, fid_se=0.1)], FD) == "fid"
    assert distance_metric([row("a", 1.0, nll_bpd=2.0)], "nll_bpd") == FD
    assert distance_metric([row("a", w2=1.0)], "w2") == "w2"
    assert distance_metric([row("a", 1.0, clean_fid_5k=1.0, fid_5k=2.0, fid_5k_se=0.1)], "nll_bpd") == "fid_5k"
    assert distance_metric([row("a", kid_clf_x=1.0, kid_clf_x_se=0.1)], "nll_bpd") == "kid_clf_x"
    assert distance_metric([row("a", nll_bpd=2.0), row("gaussian", 1.0, is_control=True)], "nll_bpd") is None


@pytest.mark.parametrize("draw", [pareto_figure, distance_nll_figure])
def test_a_missing_metric_leaves_the_figure_out_with_a_sentence(draw: Any) -> None:
    figure = draw([row("a", nll_bpd=2.0)], "stem", "nll_bpd")
    assert figure.png is None
    assert "distance" in figure.left_out


def test_rows_without_a_likelihood_leave_the_second_figure_out() -> None:
    figure = distance_nll_figure(MODELS, "distance_nll", FD)
    assert (figure.png, figure.left_out) == (None, "no model of this grid has a likelihood or a bound")


def test_the_bound_stands_in_for_a_likelihood_that_is_not_measured() -> None:
    rows = [row("a", 1.0, elbo_bpd=2.0, elbo_se=0.1), row("b", 2.0)]
    figure = distance_nll_figure(rows, "distance_nll", FD)
    (record,) = records(figure)
    assert (record["elbo_bpd"], record["elbo_se"]) == ("2.0", "0.1")
    assert "Models without both: 1." in figure.caption


def test_bars_are_the_scatter_over_seeds_where_there_is_one() -> None:
    assert error_of(row("a", 1.0, se=0.1, sd=0.7), FD) == 0.7
    assert error_of(row("a", 1.0, se=0.1), FD) == 0.1
    assert error_of(row("a", 1.0), "nfe") == 0.0


def test_values_keep_all_their_digits_and_both_errors_in_csv() -> None:
    (record,) = records(pareto_figure([row("a", 1.23456789, se=0.01, sd=0.2)], "pareto", FD))
    assert [record[name] for name in (FD, f"{FD}_se", f"{FD}_sd", "seeds")] == ["1.23456789", "0.01", "0.2", "3"]


@pytest.mark.parametrize("count", [1, 9, 40])
def test_any_number_of_models_can_be_drawn(count: int) -> None:
    rows = [row(f"m{i}", 1.0 + i, nfe=10.0 * (1 + i % 3), axes={"sampler": f"s{i % 3}"}) for i in range(count)]
    rows = [{**entry, "axes": {**entry["axes"], "baseline": f"m{i % 7}", "lr": i}} for i, entry in enumerate(rows)]
    assert opened(pareto_figure(rows, "pareto", FD)).height > 400


@pytest.mark.parametrize("values", [(2.0, 2.0), (0.0, 3.0), (-0.5, 4.0), (0.001, 1000.0)])
def test_any_range_of_values_can_be_drawn(values: tuple[float, float]) -> None:
    rows = [row("a", values[0], nfe=5.0, se=5.0), row("b", values[1], nfe=500.0)]
    assert opened(pareto_figure(rows, "pareto", FD)).width > 0


def test_the_same_rows_give_the_same_bytes() -> None:
    assert pareto_figure(MODELS, "pareto", FD) == pareto_figure(MODELS, "pareto", FD)


def test_a_model_is_named_by_the_axes_in_which_its_baseline_differs() -> None:
    settings = [("cosine", 5), ("cosine", 10), ("linear", 5)]
    axes = [{"baseline": "ddpm", "schedule": s, "prediction": "v", "sampler": "ddim", "steps": n} for s, n in settings]
    rows = [{**row("x", 1.0), "axes": entry} for entry in axes]
    rows.append({**row("gud", 1.0), "axes": {"baseline": "gud", "schedule": "gud", "softness_a": 0.5}})
    assert series_words(rows) == ["ddpm cosine", "ddpm cosine", "ddpm linear", "gud"]


def test_data_sets_have_figures_of_their_own() -> None:
    rows = [row(name, 1.0, axes={"dataset": data}) for name, data in (("a", "digits"), ("b", "mnist"), ("c", "digits"))]
    figures = by_dataset(rows, "pareto", lambda some, stem: pareto_figure(some, stem, FD))
    assert [figure.stem for figure in figures] == ["pareto-digits", "pareto-mnist"]
    assert [record["row"] for record in records(figures[0])] == ["a", "c"]
    assert [figure.stem for figure in by_dataset(MODELS, "pareto", lambda _, stem: Figure(stem, ""))] == ["pareto"]


def compared(name: str, fd: float, *, best: bool = False, significant: bool = False, nfe: float = 10.0) -> Any:
    entry = {"best": best, "significant": significant, "difference": 0.1, "se": 0.2, "p": 0.3, "p_holm": 0.6}
    return row(name, fd, nfe=nfe, comparison=entry)


def test_slices_hold_the_models_of_equal_cost_best_first() -> None:
    rows = [row("a", 3.0), row("b", 2.0), row("c", 9.0, nfe=20.0), row("d", nfe=20.0), *CONTROLS]
    found = [(entry.nfe, [own["name"] for own in entry.rows]) for entry in slices(rows, FD)]
    assert found == [(10.0, ["b", "a"]), (20.0, ["c"])]


def test_the_best_of_every_slice_is_listed_with_those_that_are_not_told_from_it() -> None:
    rows = [compared("a", 2.0, best=True), compared("b", 2.1), compared("c", 9.0, significant=True)]
    figure = slices_figure(slices([*rows, compared("d", 1.0, best=True, nfe=40.0)], FD), "slices", FD)
    assert figure.highlights[1] == ("10", "a", "2.00 ± 0.10", "3", "1")
    assert figure.highlights[2][:2] == ("40", "d")
    assert [(record["nfe"], record["rank"], record["row"], record["p_holm"]) for record in records(figure)] == [
        ("10.0", "1", "a", "0.6"),
        ("10.0", "2", "b", "0.6"),
        ("10.0", "3", "c", "0.6"),
        ("40.0", "1", "d", "0.6"),
    ]
    assert opened(figure).width > 600


def test_models_that_share_no_cost_leave_the_figure_of_slices_out() -> None:
    figure = slices_figure(slices(MODELS, FD), "slices", FD)
    assert figure.png is None
    assert "same number of evaluations" in str(figure.left_out)
    assert len(records(figure)) == 4
    assert slices_figure([], "slices", None).csv is None


def test_long_slices_show_their_best_rows_and_say_so() -> None:
    rows = [compared(f"m{i:02d}", 1.0 + i, best=i == 0) for i in range(30)]
    figure = slices_figure(slices(rows, FD), "slices", FD)
    assert "The 12 best rows" in figure.caption
    assert len(records(figure)) == 30


def test_long_names_are_cut_in_the_middle() -> None:
    assert shortened("abcdefghij", 10) == "abcdefghij"
    assert shortened("abcdefghijk", 7) == "abcd…jk"
