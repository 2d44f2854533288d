"""The link that the command prints, opened in a real browser: the sorted result table is there without a click."""

from pathlib import Path

import pytest

from pipeline.tracking import ResultRecord, Tracker, TrainRecord
from tests.browser import need_browser, page_dom, page_picture, table_rows
from tests.mlflow_server import MlflowServer

pytestmark = pytest.mark.slow
DISTANCES = [9.5, 2.25, 31.0, 4.75, 17.125]


@pytest.fixture(scope="module")
def link(mlflow_server: MlflowServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    need_browser()
    folder = tmp_path_factory.mktemp("grid")
    columns = ("metrics.fd_clf_digits", "metrics.nll_bpd", "params.baseline")
    tracker = Tracker(mlflow_server.uri, "page", documents=folder, columns=columns, primary="fd_clf_digits")
    for number, distance in enumerate(DISTANCES):
        params, metrics = {"baseline": "ddpm"}, {"fd_clf_digits": distance, "nll_bpd": 3.0}
        tracker.put(ResultRecord(f"{number:064d}", f"ddpm/{distance}", params, metrics))
        tracker.put(TrainRecord(f"{number:064d}", "training", params, {"loss": [(1, 1.0)]}))
    rows: list[dict[str, object]] = [{"cell": f"ddpm/{distance}", "fd_clf_digits": distance} for distance in DISTANCES]
    report = tracker.finish(rows)
    assert report.warning is None
    assert report.link is not None
    return report.link


@pytest.fixture(scope="module")
def dom(link: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return page_dom(link, tmp_path_factory.mktemp("browser"))


def test_link_opens_the_sorted_table(dom: str) -> None:
    rows = table_rows(dom)
    assert [float(row["metrics.`fd_clf_digits`"]) for row in rows] == sorted(DISTANCES)
    assert {row["params.`baseline`"] for row in rows} == {"ddpm"}
    assert rows[0]["attributes.`Run Name`"].endswith("ddpm/2.25")  # after the colour of its dot


def test_note_stands_above_the_table(dom: str) -> None:
    assert "Best: ddpm/9.5, 9.5" in dom


def test_page_can_be_pictured(link: str, tmp_path: Path) -> None:
    picture = page_picture(link, tmp_path / "page.png")
    assert picture.stat().st_size > 50_000  # an empty page has a tenth of it
