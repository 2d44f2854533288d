"""The amortisation gap: which rows are paired, the difference by hand, and what budgets are called."""

import numpy as np
import pytest

from pipeline.grid.study_gaps import gaps
from pipeline.grid.study_points import StudyPoint
from pipeline.report.gud_gap import NATS_PER_BIT, Gap, gap_table
from tests.gud_points import point, result

OWN, SHARED = (2.0, 2.2, 2.1), (2.1, 2.4, 2.15)
"""bits/dim per image; the differences are .1, .2, .05."""


def row(values: tuple[float, ...], a: float = 1.0, r: float = 0.0, **more: object) -> StudyPoint:
    measured = result({"elbo_bpd": float(np.mean(values)), "elbo_se": 0.1}, elbo=values)
    return point(a, r, result=measured, **more)  # pyright: ignore[reportArgumentType]


def means(found: list[Gap]) -> list[Gap]:
    return [gap for gap in found if gap.seed is None]


def test_the_gap_is_the_mean_of_the_differences_image_by_image() -> None:
    single, mean = gaps([row(SHARED), row(OWN, training="per_cell")])
    differences = np.array([0.1, 0.2, 0.05])
    assert single.difference == mean.difference == pytest.approx(differences.mean())
    assert single.se == mean.se == pytest.approx(differences.std(ddof=1) / np.sqrt(3))
    assert (single.seed, mean.seed, single.num_images) == (0, None, 3)
    assert single.budget == "equal compute per network"
    assert single.task == "PCA, standard prior"


def test_over_trainings_the_error_is_the_standard_deviation_of_their_mean() -> None:
    points = [row(SHARED, seed=0), row(OWN, seed=0, training="per_cell")]
    points += [row(OWN, seed=1), row(OWN, seed=1, training="per_cell")]
    (mean,) = means(gaps(points))
    single = [np.mean([0.1, 0.2, 0.05]), 0.0]
    assert mean.difference == pytest.approx(np.mean(single))
    assert mean.se == pytest.approx(np.std(single, ddof=1) / np.sqrt(2))
    assert mean.num_seeds == 2


@pytest.mark.parametrize(
    "other",
    [{"a": 0.4}, {"r": 0.5}, {"seed": 1}, {"prior": "data"}, {"basis": "dct"}, {"network.width": "64"}],
)
def test_rows_that_differ_in_more_than_their_training_are_not_paired(other: dict[str, object]) -> None:
    assert gaps([row(SHARED), row(OWN, training="per_cell", **other)]) == []  # pyright: ignore[reportArgumentType]


def test_only_images_that_both_rows_scored_count() -> None:
    (single, _) = gaps([row((*SHARED, 9.0)), row(OWN, training="per_cell")])
    assert single.num_images == 3
    assert single.difference == pytest.approx(np.mean([0.1, 0.2, 0.05]))


def test_samplers_do_not_multiply_the_gaps_of_a_likelihood() -> None:
    points = [row(SHARED, sampler=name) for name in ("ddim 10", "ddim 50")]
    points += [row(OWN, training="per_cell", sampler=name) for name in ("ddim 10", "ddim 50")]
    assert len(means(gaps(points))) == 1


def test_budgets_are_told_by_the_images_that_were_trained_on() -> None:
    points = [row(SHARED, a) for a in (0.4, 0.7, 1.0, 1.3, 1.6)]
    for images, steps in ((6000, ""), (2001, "a third"), (1200, "a fifth"), (600, "a tenth")):
        own = {"train.steps": steps} if steps else {}
        points += [row(OWN, a, training="per_cell", images=images, **own) for a in (0.4, 1.0, 1.6)]
    found = means(gaps(points))
    assert [gap.budget for gap in found if gap.softness_a == 1.0] == [
        "equal compute per network",
        "equal total compute (3 networks)",
        "equal total compute (5 networks)",
        "0.1 x the compute per network",
    ]
    assert len(found) == 12


def test_the_table_has_both_units() -> None:
    text = gap_table(gaps([row(SHARED), row(OWN, training="per_cell")]))
    line = text.splitlines()[-1]
    difference, se = np.mean([0.1, 0.2, 0.05]), np.std([0.1, 0.2, 0.05], ddof=1) / np.sqrt(3)
    assert f"{difference:+.4f} ± {se:.4f}" in line
    assert f"{NATS_PER_BIT * difference:+.4f} ± {NATS_PER_BIT * se:.4f}" in line
    assert "mean of 1" in line
