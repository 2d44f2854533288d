"""Comparison of rows: p-values, Holm's correction, and rows of several seeds."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from pipeline.evaluate.comparison import Result, compared_with_best, holm, paired_difference, with_comparison
from pipeline.evaluate.jackknife import Difference, mean_difference
from pipeline.evaluate.seeds import Setting, Spread, aggregated_rows, seed_difference

RNG = np.random.default_rng(7)
A, B = RNG.normal(0.3, 1.0, 12), RNG.normal(0.0, 2.0, 12)
FD = "fd_clf_x"
REFERENCE = {"name": "x", "num_images": 100}


def protocol(seed: int = 0, kind: str = "sampler") -> dict[str, Any]:
    scored = {"split": "test", "seed": 0}
    return {
        "net": FD,
        "net_sha256": "0",
        "reference": REFERENCE,
        "seed": seed,
        "num_images": 40,
        "jackknife_blocks": 20,
        "jackknife_group": 2,
        "method": {"kind": kind},
        "nll": scored,
    }


def result(fd: float, *, seed: int = 0, bits: Sequence[float] = (), kind: str = "sampler", **axes: Any) -> Result:
    """A row at a distance `fd` with a jackknife error of about 0.1, and bits/dim of images 0, 1, ..."""
    noise = np.random.default_rng(seed).normal(0.0, 0.45, 20)
    metrics = {FD: fd + 1.0, f"{FD}_jk": fd, f"{FD}_se": 0.1, f"{FD}_low": fd - 0.2, f"{FD}_high": fd + 0.2}
    if bits:
        metrics |= {"nll_bpd": float(np.mean(bits)), "nll_se": 0.05}
    row = {"axes": axes, "metrics": metrics, "reasons": {}, "protocol": protocol(seed, kind)}
    index = np.arange(len(bits)) if bits else None
    return Result(row, fd + noise - noise.mean(), index, np.array(bits) if bits else None)


def setting(distances: Sequence[float], bits: Sequence[Sequence[float]] = (), **options: Any) -> Setting:
    rows = {
        seed: result(fd, seed=seed, bits=bits[seed] if bits else (), **options) for seed, fd in enumerate(distances)
    }
    return Setting(rows)


def test_p_values_are_those_of_the_t_tests() -> None:
    assert mean_difference(A, B, is_paired=True).p_value == pytest.approx(stats.ttest_rel(A, B).pvalue, rel=1e-12)
    welch = stats.ttest_ind(A, B[:9], equal_var=False)
    assert mean_difference(A, B[:9], is_paired=False).p_value == pytest.approx(welch.pvalue, rel=1e-12)


def test_a_p_value_is_at_the_level_where_the_interval_ends_at_zero() -> None:
    difference = mean_difference(A, B, is_paired=True)
    shifted = mean_difference(A - difference.low, B, is_paired=True)
    assert shifted.low == pytest.approx(0.0, abs=1e-12)
    assert shifted.p_value == pytest.approx(0.05, rel=1e-9)


def test_a_difference_without_error_is_certain() -> None:
    same, other = (mean_difference(A + shift, A, is_paired=True) for shift in (0.0, 1.0))
    assert same.p_value == 1.0
    assert other.p_value < 1e-12


def test_variances_of_a_sum_add_up_with_satterthwaites_freedom() -> None:
    difference = Difference.of(1.0, [(0.04, 4.0), (0.05, 9.0)], is_paired=False)
    assert difference.se == pytest.approx(0.3)
    assert difference.freedom == pytest.approx(0.09**2 / (0.04**2 / 4 + 0.05**2 / 9))


def test_holm_multiplies_by_the_number_of_hypotheses_that_are_left() -> None:
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02], rtol=1e-12)
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_keeps_the_chance_of_any_false_finding_below_the_level() -> None:
    rng = np.random.default_rng(0)
    found = sum(min(holm(list(rng.uniform(size=8)))) < 0.05 for _ in range(2000))
    assert 0.03 < found / 2000 < 0.062  # independent hypotheses: 1 - 0.99375^8 = 0.049


def test_the_family_of_a_table_is_every_comparison_with_its_best_row() -> None:
    differences = {1: (0.30, 0.13), 2: (0.40, 0.17), 3: (3.0, 0.1)}

    def difference(i: int, j: int) -> Difference | None:
        assert j == 0
        value, se = differences.get(i, (0.0, 1.0))
        return None if i == 4 else Difference.of(value, [(se**2, 19.0)], is_paired=True)

    entries = compared_with_best([1.0, 1.3, 1.4, 4.0, 1.1], [True] * 5, difference)
    assert entries[4] is None
    best, *others = [entry for entry in entries if entry is not None]
    assert (best["best"], best["p_holm"], best["significant"]) == (True, 1.0, False)
    assert [entry["p"] < 0.05 for entry in others] == [True, True, True]
    assert [entry["significant"] for entry in others] == [False, False, True]
    assert others[0]["p_holm"] == others[1]["p_holm"] == pytest.approx(2 * others[1]["p"])
    assert others[2]["p_holm"] == pytest.approx(3 * others[2]["p"])


def test_rows_with_the_same_values_are_one_hypothesis() -> None:
    bits = np.random.default_rng(5).normal(2.0, 0.3, (3, 60))
    models = [result(1.0, bits=list(bits[i])) for i in (0, 1, 2)]
    entries = [row["comparison"]["nll_bpd"] for row in with_comparison(models, FD)]
    repeated = [row["comparison"]["nll_bpd"] for row in with_comparison([*models, *models, *models], FD)]
    assert repeated == entries * 3
    assert [entry["best"] for entry in entries].count(True) == 1


def test_rows_hold_raw_and_corrected_p_values() -> None:
    rows = with_comparison([result(1.0), result(1.3, seed=1), result(9.0, seed=2)], FD)
    entries = [row["comparison"][FD] for row in rows]
    assert [entry["best"] for entry in entries] == [True, False, False]
    assert entries[1]["p_holm"] == pytest.approx(max(entries[1]["p"], 2 * entries[2]["p"]))
    assert entries[2]["significant"]


def test_data_sets_have_a_best_row_each() -> None:
    rows = with_comparison([result(1.0, dataset="a"), result(2.0, dataset="a"), result(5.0, dataset="b")], FD)
    assert [row["comparison"][FD]["best"] for row in rows] == [True, False, True]


def test_every_distance_with_pseudo_values_is_compared() -> None:
    values = np.linspace(-0.1, 0.1, 20)
    rows = []
    for fid in (3.0, 4.0):
        own = result(1.0)
        own.row["metrics"]["fid"] = fid
        rows.append(Result(own.row, own.fd_pseudo_values, pseudo_values={"fid": fid + values}))
    compared = with_comparison(rows, "fid")
    assert list(compared[1]["comparison"]) == ["fid", FD]
    assert compared[1]["comparison"]["fid"]["difference"] == pytest.approx(1.0)


def test_pseudo_values_belong_to_the_name_with_the_number_of_images() -> None:
    rows = []
    for value in (1.0, 2.0):
        own = result(value)
        own.row["protocol"] |= {"net": "fid", "num_images": 2000}
        own.row["metrics"]["fid_2k"] = value
        rows.append(own)
    assert rows[0].distance == "fid_2k"
    assert list(with_comparison(rows, "fid_2k")[1]["comparison"]) == ["fid_2k"]


def test_a_metric_without_errors_has_no_paired_comparison() -> None:
    with pytest.raises(ValueError, match="no paired comparison for metric 'recall'"):
        paired_difference(result(1.0), result(2.0), "recall")


def test_the_interval_over_seeds_is_students() -> None:
    values = [3.0, 4.5, 4.0]
    over = Spread.of(values)
    expected = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert (over.low, over.high) == pytest.approx(expected)
    assert over.sd == pytest.approx(np.std(values, ddof=1))
    with pytest.raises(ValueError, match="at least two"):
        Spread.of([1.0])


def test_seeds_become_one_row_with_scatter_apart_from_the_error_of_the_images() -> None:
    (row,) = aggregated_rows([setting([1.0, 2.0, 4.0])], FD)
    assert row["metrics"][FD] == pytest.approx(10 / 3)
    assert row["metrics"][f"{FD}_se"] == pytest.approx(0.1)
    assert row["spread"][FD]["sd"] == pytest.approx(np.std([1, 2, 4], ddof=1))
    assert row["spread"][FD]["n"] == 3
    assert row["seeds"] == [0, 1, 2]
    assert row["protocol"]["seed"] == [0, 1, 2]
    assert row["protocol"]["net"] == FD
    assert f"{FD}_low" not in row["metrics"]


def test_what_no_seed_changes_has_no_scatter() -> None:
    (row,) = aggregated_rows([setting([2.0, 2.0])], FD)
    assert row["metrics"][FD] == 3.0
    assert row["spread"] == {}


def test_errors_of_rows_are_joined_by_their_root_mean_square() -> None:
    both = setting([1.0, 2.0])
    both.results[1].row["metrics"][f"{FD}_se"] = 0.7
    (row,) = aggregated_rows([both], FD)
    assert row["metrics"][f"{FD}_se"] == pytest.approx(np.sqrt((0.1**2 + 0.7**2) / 2))


def test_a_metric_that_some_seeds_lack_counts_those_that_have_it() -> None:
    three = setting([1.0, 2.0, 3.0])
    del three.results[2].row["metrics"][FD]
    three.results[2].row["reasons"][FD] = "too few images"
    (row,) = aggregated_rows([three], FD)
    assert row["spread"][FD]["n"] == 2
    assert FD not in row["reasons"]


def test_settings_are_paired_by_seed() -> None:
    a, b = setting([1.0, 5.0, 9.0]), setting([1.5, 5.6, 9.4])
    difference = seed_difference(b, a, FD)
    assert difference is not None
    assert difference.over_seeds is not None
    assert difference.over_seeds.is_paired
    assert difference.over_seeds.p_value == pytest.approx(stats.ttest_rel([1.5, 5.6, 9.4], [1.0, 5.0, 9.0]).pvalue)


def test_settings_without_common_seeds_are_compared_by_welch() -> None:
    a, b = setting([1.0, 1.2, 1.1]), setting([3.0, 3.4])
    moved = Setting({seed + 10: entry for seed, entry in b.results.items()})
    difference = seed_difference(moved, a, FD)
    assert difference is not None
    assert difference.over_seeds is not None
    assert not difference.over_seeds.is_paired
    expected = stats.ttest_ind([3.0, 3.4], [1.0, 1.2, 1.1], equal_var=False).pvalue
    assert difference.over_seeds.p_value == pytest.approx(expected)
    errors = [[row.fd_pseudo_values.var(ddof=1) / 20 for row in side.results.values()] for side in (a, b)]
    assert difference.se == pytest.approx(np.sqrt(sum(errors[0]) / 9 + sum(errors[1]) / 4))


def test_the_error_of_the_images_is_that_of_the_paired_rows_over_the_root_of_the_seeds() -> None:
    rng = np.random.default_rng(3)
    a, b = setting([1.0, 5.0]), setting([1.5, 5.6])
    moved = {seed: replace(row, fd_pseudo_values=rng.normal(size=20)) for seed, row in b.results.items()}
    pairs = [paired_difference(moved[seed], a.results[seed]) for seed in (0, 1)]
    difference = seed_difference(Setting(moved), a, FD)
    assert difference is not None
    assert difference.se == pytest.approx(np.sqrt(sum(pair.se**2 for pair in pairs if pair)) / 2)
    assert 19 < difference.freedom <= 38


def test_a_difference_that_training_again_would_not_show_is_not_significant() -> None:
    steady, jumping = setting([3.0, 3.1, 3.05]), setting([1.0, 9.0, 2.0])
    best = setting([1.0, 1.1, 1.05])
    rows = aggregated_rows([best, steady, jumping], FD)
    entries = [row["comparison"][FD] for row in rows]
    assert all(entry["p_holm"] < 0.001 for entry in entries[1:])
    assert [entry["p_seeds"] < 0.05 for entry in entries[1:]] == [True, False]
    assert [entry["significant"] for entry in entries] == [False, True, False]


def test_a_difference_inside_the_error_of_the_images_is_not_significant() -> None:
    rng = np.random.default_rng(0)
    rows = aggregated_rows([setting([1.0, 1.1]), _noisy(setting([1.05, 1.15]), rng)], FD)
    entry = rows[1]["comparison"][FD]
    assert entry["p_seeds"] < 1e-9
    assert not entry["significant"]


def _noisy(given: Setting, rng: np.random.Generator) -> Setting:
    """The same rows with images of their own."""
    return Setting({s: replace(row, fd_pseudo_values=rng.normal(size=20)) for s, row in given.results.items()})


def test_values_without_an_error_of_their_images_have_their_scatter_over_seeds() -> None:
    bare = [
        Setting({seed: replace(row, fd_pseudo_values=None) for seed, row in setting(values).results.items()})
        for values in ([1.0, 1.3], [2.0, 2.4])
    ]
    difference = seed_difference(bare[1], bare[0], FD)
    assert difference is not None
    assert difference.over_seeds is None
    assert difference.se == pytest.approx(np.std([1.0, 1.1], ddof=1) / np.sqrt(2))


def test_one_training_cannot_be_compared_with_several() -> None:
    assert seed_difference(setting([1.0]), setting([2.0, 3.0]), FD) is None


def test_what_is_not_trained_adds_no_scatter_over_seeds() -> None:
    control = Setting(setting([1.0], kind="test_split").results, is_trained=False)
    models = setting([3.0, 3.2, 3.1])
    difference = seed_difference(control, models, FD)
    assert difference is not None
    assert difference.over_seeds is not None
    assert difference.over_seeds.se == pytest.approx(np.std([3.0, 3.2, 3.1], ddof=1) / np.sqrt(3))
    errors = [[row.fd_pseudo_values.var(ddof=1) / 20 for row in side.results.values()] for side in (control, models)]
    assert difference.se == pytest.approx(np.sqrt(sum(errors[0]) + sum(errors[1]) / 9))


def test_bits_of_several_seeds_keep_the_scatter_of_the_held_out_images() -> None:
    bits = np.random.default_rng(1).normal(2.0, 0.3, (2, 50))
    a = setting([1.0, 1.0], bits=[list(bits[0]), list(bits[0] + 0.01)])
    b = setting([1.0, 1.0], bits=[list(bits[1]), list(bits[1] + 0.01)])
    difference = seed_difference(a, b, "nll_bpd")
    assert difference is not None
    assert difference.se == pytest.approx(np.std(bits[0] - bits[1], ddof=1) / np.sqrt(50))
    assert difference.difference == pytest.approx((bits[0] - bits[1]).mean())


def test_the_best_of_several_seeds_is_a_model() -> None:
    control = Setting(setting([0.1], kind="test_split").results, is_trained=False)
    rows = aggregated_rows([control, setting([3.0, 3.1]), setting([8.0, 8.2])], FD)
    assert [row["comparison"][FD]["best"] for row in rows] == [False, True, False]
    assert rows[2]["comparison"][FD]["significant"]
