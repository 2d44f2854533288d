"""The searcher: multiples of a step, no point twice, and a memory that can be saved."""

import warnings
from pathlib import Path
from typing import Any

import pytest

from pipeline.grid.proposals import bounds, is_inside, rounded
from pipeline.grid.spec import SearchSpec

SEARCH = SearchSpec(space={"softness_a": (0.4, 1.6), "ordering_r": (0.0, 1.0)}, step=0.1, seed=3)


def value_at(point: dict[str, float]) -> float:
    return (point["softness_a"] - 1.1) ** 2 + (point["ordering_r"] - 0.3) ** 2


def searcher(search: SearchSpec = SEARCH, **options: Any) -> Any:
    from pipeline.tune.searcher import PointSearch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PointSearch(search, **options)


def test_points_are_rounded_to_multiples_of_the_step_inside_the_space() -> None:
    uneven = SEARCH.model_copy(update={"space": {"softness_a": (0.42, 1.58)}, "step": 0.05})
    assert bounds(uneven) == {"softness_a": (0.45, 1.55)}
    assert rounded(uneven, {"softness_a": 0.6000000001}) == {"softness_a": 0.6}
    assert rounded(uneven, {"softness_a": 0.43}) == {"softness_a": 0.45}
    assert is_inside(uneven, {"softness_a": 0.7})
    assert not is_inside(uneven, {"softness_a": 0.72})
    assert not is_inside(uneven, {"baseline": "gaussian"})


@pytest.mark.slow
def test_every_proposal_is_new_and_lies_on_the_lattice() -> None:
    search = searcher()
    seen: set[tuple[float, ...]] = set()
    for number in range(40):
        point = search.suggest(str(number))
        assert rounded(SEARCH, point) == point
        assert tuple(point.values()) not in seen
        seen.add(tuple(point.values()))
        search.on_trial_complete(str(number), {"elbo_bpd": value_at(point), "training_iteration": 1})
    best = min(seen, key=lambda point: value_at(dict(zip(("ordering_r", "softness_a"), point, strict=True))))
    assert value_at(dict(zip(("ordering_r", "softness_a"), best, strict=True))) <= 0.02 + 1e-9


@pytest.mark.slow
def test_a_small_space_ends_in_repetitions_instead_of_a_loop() -> None:
    search = searcher(SEARCH.model_copy(update={"space": {"softness_a": (0.4, 0.6)}}))
    points = [search.suggest(str(number))["softness_a"] for number in range(5)]
    assert set(points[:3]) == {0.4, 0.5, 0.6}
    assert set(points[3:]) <= {0.4, 0.5, 0.6}


@pytest.mark.slow
def test_known_points_are_learned_from_and_not_proposed() -> None:
    known = [({"softness_a": round(0.4 + 0.1 * k, 10)}, float(k)) for k in range(12)]
    search = searcher(SEARCH.model_copy(update={"space": {"softness_a": (0.4, 1.6)}}), known=known)
    assert search.suggest("a") == {"softness_a": 1.6}


@pytest.mark.slow
def test_a_saved_searcher_goes_on_as_the_one_it_was(tmp_path: Path) -> None:
    def ten(search: Any, start: int) -> list[dict[str, float]]:
        points: list[dict[str, float]] = []
        for number in range(start, start + 10):
            points.append(search.suggest(str(number)))
            search.on_trial_complete(str(number), {"elbo_bpd": value_at(points[-1]), "training_iteration": 1})
        return points

    search = searcher()
    ten(search, 0)
    search.save(str(tmp_path / "state"))
    again = searcher()
    again.restore(str(tmp_path / "state"))
    assert ten(search, 10) == ten(again, 10)


@pytest.mark.slow
def test_a_trial_without_the_metric_counts_as_failed_and_does_not_end_the_search() -> None:
    search = searcher()
    search.suggest("a")
    search.on_trial_result("a", {"failed": "RuntimeError: no"})
    search.on_trial_complete("a", {"failed": "RuntimeError: no"})
    search.suggest("b")
    search.on_trial_complete("b", None, error=True)
    assert search.suggest("c") is not None
