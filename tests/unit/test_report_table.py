"""Result tables: order, marks, reasons and the four output formats."""

import csv
import io
from typing import Any

import pytest

from pipeline.report.formats import csv_text, latex_text, markdown_text, terminal_text
from pipeline.report.table import Cell, result_table

FD = "fd_clf_digits"


def row(
    baseline: str, fd: float | None, *, reasons: dict[str, str] | None = None, n: int = 2000, **axes: Any
) -> dict[str, Any]:
    metrics = {"nfe": 50.0} if fd is None else {"nfe": 50.0, FD: fd, f"{FD}_se": 0.034, f"{FD}_jk": fd - 0.1}
    return {
        "axes": {"dataset": "digits", "baseline": baseline, **axes},
        "metrics": metrics,
        "reasons": reasons or {},
        "protocol": {"num_images": n},
    }


def column(table: Any, name: str) -> list[Cell]:
    return [cells[table.columns.index(name)] for cells in table.rows]


def test_rows_are_sorted_by_the_primary_metric_and_absent_ones_come_last() -> None:
    rows = [row("a", 3.0), row("b", None, reasons={FD: "no images"}), row("c", 1.0), row("d", 2.0)]
    assert [cell.value for cell in column(result_table(rows, FD), "baseline")] == ["c", "d", "a", "b"]


def test_only_axes_that_tell_rows_apart_are_columns() -> None:
    rows = [row("ddpm", 1.0, schedule="cosine", loss="mse"), row("ddpm", 2.0, schedule="linear_beta", loss="mse")]
    table = result_table(rows, FD)
    assert "schedule" in table.columns
    assert not {"loss", "dataset"} & set(table.columns)
    assert "baseline" in table.columns


def test_values_show_the_digits_that_their_error_supports() -> None:
    table = result_table([row("ddpm", 1.23456)], FD)
    assert column(table, FD)[0].text == "1.235 ± 0.034"


@pytest.mark.parametrize(("se", "text"), [(0.0996, "1.23 ± 0.10"), (12.3, "1 ± 12"), (0.000123, "1.23456 ± 0.00012")])
def test_two_digits_of_the_error_are_shown_after_rounding(se: float, text: str) -> None:
    assert Cell(1.23456, se).text == text


def test_an_error_of_mere_rounding_is_not_shown() -> None:
    assert Cell(3996.2226552705602, 3.3e-12).text == "3996"


def test_diversity_has_its_columns() -> None:
    entry = row("ddpm", 1.0)
    entry["metrics"] |= {"pairwise_ratio": 0.9, "pairwise_ratio_se": 0.01, "class_share_min_clf_x": 0.03}
    table = result_table([entry], FD)
    assert column(table, "pairwise_ratio")[0].text == "0.900 ± 0.010"
    assert column(table, "class_share_min_clf_x")[0].text == "0.03"


def test_best_and_indistinguishable_cells_are_marked_and_explained() -> None:
    rows = [row("a", 1.0), row("b", 1.1), row("c", 9.0)]
    for entry, best, significant in zip(rows, (True, False, False), (False, False, True), strict=True):
        entry["comparison"] = {FD: {"best": best, "significant": significant}}
    table = result_table(rows, FD)
    assert [cell.mark for cell in column(table, FD)] == ["*", "~", ""]
    assert any("cannot be told" in note for note in table.notes)


def test_absent_metrics_and_skipped_cells_give_their_reason_below_the_table() -> None:
    rows = [row("a", 1.0), row("test_split", 0.5, reasons={"nll_bpd": "images are no model"})]
    rows[0]["metrics"]["nll_bpd"] = 2.5
    table = result_table(rows, FD, skipped=[("gud basis=pca ordering=level", "needs haar")])
    text = terminal_text(table)
    assert "images are no model" in text
    assert "skipped: gud basis=pca ordering=level: needs haar" in text


def means(fd: float, sd: float) -> dict[str, Any]:
    """A row over three seeds."""
    entry = row("a", fd)
    entry["spread"] = {FD: {"sd": sd, "n": 3, "low": fd - 1.0, "high": fd + 1.0}}
    entry["comparison"] = {FD: {"best": True, "significant": False, "p": 1.0, "p_holm": 1.0}}
    return entry


def test_means_over_seeds_show_their_scatter_and_number() -> None:
    table = result_table([means(1.23456, 0.2)], FD)
    assert column(table, FD)[0].text == "1.23 ± 0.20 (3) *"
    assert any("standard deviation over seeds" in note for note in table.notes)
    assert not any("seeds" in note for note in result_table([row("a", 1.0)], FD).notes)


def test_markdown_and_latex_have_both_errors_and_csv_all_digits() -> None:
    table = result_table([means(1.23456, 0.2)], FD)
    assert r"**1.23 ± 0.20 (3) \[0.034\] \***" in markdown_text(table)
    assert r"\textbf{1.23 $\pm$ 0.20 (3) [0.034] *}" in latex_text(table)
    assert "in square brackets the standard error" in markdown_text(table)
    (record,) = csv.DictReader(io.StringIO(csv_text(table)))
    parts = ["", "_se", "_sd", "_seeds", "_mean_low", "_mean_high", "_p", "_p_holm"]
    found = [float(record[f"{FD}{part}"]) for part in parts]
    assert found == [1.23456, 0.034, 0.2, 3.0, 1.23456 - 1.0, 1.23456 + 1.0, 1.0, 1.0]


def test_a_row_that_cannot_be_compared_says_so() -> None:
    rows = [means(1.0, 0.1), row("b", 2.0)]
    table = result_table(rows, FD)
    assert [cell.mark for cell in column(table, FD)] == ["*", "?"]
    assert any(note.startswith("? not compared") for note in table.notes)


def test_a_table_without_fid_names_what_sorts_it() -> None:
    note = f"sorted by {FD}: fid is not measured in these rows"
    assert note in result_table([row("a", 1.0)], FD).notes
    entry = row("a", 1.0)
    entry["metrics"]["fid"] = 3.0
    assert not any("fid is not measured" in note for note in result_table([entry], "fid").notes)
    assert result_table([], FD).notes == ()


def test_columns_stand_in_the_order_of_their_families_without_parts_and_classes() -> None:
    entry = row("a", 1.0)
    names = [
        "nfe",
        "recall",
        "kid_subsets",
        "kid",
        "vlb_bpd",
        "vlb_se",
        "inception_score",
        "clean_fid",
        "fid",
        "fid_se",
    ]
    entry["metrics"] = dict.fromkeys((*names, "fid_jk", "fid_low", "fid_class_3", "fd_rand_inception"), 1.0)
    table = result_table([entry], "fid")
    expected = ["fid", "clean_fid", "fd_rand_inception", "vlb_bpd", "kid_subsets", "kid", "recall", "inception_score"]
    assert list(table.columns) == ["baseline", *expected, "nfe"]


def test_headings_of_several_nets_stay_apart() -> None:
    entry = row("a", 1.0)
    entry["protocol"]["net"] = FD
    entry["metrics"] |= {"fid": 2.0, "kid": 0.1, "kid_clf_digits": 0.2, "recall_clf_digits": 0.3}
    table = result_table([entry], "fid")
    assert table.headings == ("baseline", "fid", FD, "kid", "kid_clf_digits", "recall", "nfe")
    assert f"recall: features of {FD}" in table.notes


def test_different_numbers_of_images_are_shown_with_a_warning() -> None:
    table = result_table([row("a", 1.0), row("test_split", 0.5, n=360)], FD)
    assert [cell.value for cell in column(table, "images")] == [360, 2000]
    assert any("bias" in note for note in table.notes)
    assert [cell.text for cell in column(table, f"{FD}_jk")] == ["0.400 ± 0.034", "0.900 ± 0.034"]


def test_headings_leave_out_the_net_that_a_note_names() -> None:
    entry = row("a", 1.0)
    entry["metrics"]["kid_clf_digits"] = 0.5
    entry["protocol"]["net"] = FD
    table = result_table([entry], FD)
    assert table.columns == ("baseline", FD, "kid_clf_digits", "nfe")
    assert table.headings == ("baseline", FD, "kid", "nfe")
    assert f"kid: features of {FD}" in table.notes


def test_csv_keeps_full_precision_and_splits_value_and_error() -> None:
    text = csv_text(result_table([row("a", 1.23456789)], FD))
    (record,) = csv.DictReader(io.StringIO(text))
    assert float(record[FD]) == 1.23456789
    assert float(record[f"{FD}_se"]) == 0.034


@pytest.mark.parametrize("text", ["=1+1", "+cmd", "-2", "@SUM(A1)", "\t=1"])
def test_csv_texts_are_no_spreadsheet_formulas(text: str) -> None:
    (record,) = csv.DictReader(
        io.StringIO(
            csv_text(
                result_table(
                    [
                        row("a", 1.0, note=text),
                    ],
                    FD,
                    columns=(FD,),
                )
            )
        )
    )
    table = result_table([row("a", 1.0, note=text), row("a", 2.0, note="x")], FD)
    first = next(csv.DictReader(io.StringIO(csv_text(table))))
    assert first["note"] == f"'{text}"
    assert "note" not in record


def test_negative_numbers_stay_numbers_in_csv() -> None:
    entry = row("a", 1.0)
    entry["metrics"]["kid_clf_digits"] = -0.25
    (record,) = csv.DictReader(io.StringIO(csv_text(result_table([entry], FD))))
    assert float(record["kid_clf_digits"]) == -0.25


def test_markdown_cells_cannot_break_the_table() -> None:
    text = markdown_text(result_table([row("a|b\nc", 1.0)], FD))
    lines = text.partition("\n\n")[0].splitlines()
    assert len(lines) == 3
    assert r"a\|b c" in lines[2]


def test_latex_special_characters_are_escaped() -> None:
    text = latex_text(result_table([row("a_b&c%", 1.0)], FD))
    assert r"a\_b\&c\%" in text
    assert r"fd\_clf\_digits" in text
    assert r"$\pm$" in text


def test_brackets_in_values_are_no_terminal_markup() -> None:
    assert "[bold]x" in terminal_text(result_table([row("[bold]x", 1.0)], FD))


def test_a_grid_without_results_is_an_empty_table() -> None:
    assert result_table([], FD).rows == ()
    assert csv_text(result_table([], FD)).strip() == f"baseline,{FD}"
