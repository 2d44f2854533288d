"""One worker or two, with one BLAS thread or two, in whatever order blocks come: the stores are equal byte for byte."""

from pathlib import Path

import pytest

from tests.commands import contents, run
from tests.grids import tiny_grid

pytestmark = pytest.mark.slow
NUM_ARTIFACTS = 2 + 3 + 6 + 7 + 1 + 6 + 3  # data and statistics, trainings, blocks, features, ladder, nll, results


def test_one_and_two_workers_fill_equal_stores(tmp_path: Path) -> None:
    blocks = [{"baseline": "ddpm", "schedule": ["cosine", "linear_beta"]}, {"baseline": "gaussian"}]
    grid = tiny_grid(tmp_path, grid=blocks, evaluate={"metrics": ["fd_clf", "kid", "precision_recall", "nll"]})
    stores: list[dict[str, dict[str, str]]] = []
    for units in (1, 2):
        store = str(tmp_path / f"store{units}")
        request = ("run", str(grid), "--store", store, "--tracking", "none", "--units", str(units))
        finished = run(*request, OMP_NUM_THREADS=str(units))
        assert finished.code == 0, finished.output
        stores.append(contents(store))
    one, two = stores
    assert len(one) == NUM_ARTIFACTS
    assert one == two
