"""Compare a finished grid of exact predictors with the closed recursions of its samplers; one JSON line per sampler.

    python -m pipeline tune grids/gud_analytic_grid.yaml --store STORE
    python benchmarks/analytic_grid.py --store STORE

Reference: tests/golden/gud/analytic_grid.npz, 1080 entries over prior, softness_a, ordering_r, steps and sampler.
Samplers that draw nothing are exact: worst relative error of the 32 output variances and of the Fréchet distance (w2),
and the largest output mean. Ancestral sampling is measured on n images: every variance has z = (v / v_reference - 1) /
sqrt(2 / n), a unit normal for large n; the worst |z|, how many are above 4 and how many one expects. All points share
their noise, so their z are not independent. An entry without a result is counted as missing.
"""

import argparse
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.grid import load_grid, make_plan
from pipeline.grid.plan import Plan
from pipeline.store import Store, open_store

ROOT = Path(__file__).parents[1]
PRIORS = {"data": "white", "standard": "raw"}
LIMIT = 4.0  # of |z|
SMALLEST = 1e-9  # Fréchet distances below it are round-off and have no relative error


def main() -> None:
    """Print one line per sampler, and one for all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", default="runs")
    parser.add_argument("--grid", default=str(ROOT / "grids" / "gud_analytic_grid.yaml"))
    parser.add_argument("--set", action="append", default=[], help="as for `tune`, for a part of the grid")
    arguments = parser.parse_args()
    plan = make_plan(load_grid(arguments.grid, tuple(arguments.set)))
    lines = compared(plan, open_store(arguments.store))
    for line in lines:
        print(json.dumps(line))
    print(json.dumps({"rows": len(plan.cells), "found": sum(line["found"] for line in lines)}))


def compared(plan: Plan, store: Store) -> list[dict[str, Any]]:
    """What the rows of each sampler differ by from the reference, in the order of the reference."""
    with np.load(ROOT / "tests" / "golden" / "gud" / "analytic_grid.npz", allow_pickle=False) as stored:
        reference = dict(stored)
    rows: dict[str, list[dict[str, Any] | None]] = {str(name): [] for name in reference["sampler"]}
    for cell in plan.cells:
        (task,) = (task for task in cell.tasks.in_order() if task.stage == "moments")
        artifact, result = store.find(task.key), store.find(cell.key)
        row = None
        if artifact is not None and result is not None:
            with np.load(artifact.path("moments.npz"), allow_pickle=False) as arrays:
                row = _differences(dict(arrays), result.meta["metrics"]["w2"], reference, place(cell.params, reference))
        rows[cell.params["sampler"]].append(row)
    return [_line(name, found) for name, found in rows.items() if found]


def place(params: Mapping[str, Any], reference: Mapping[str, np.ndarray]) -> tuple[int, ...]:
    """Position of a row in the reference arrays.

    Raises:
        ValueError: the reference has no such entry.
    """
    wanted = {
        "scaling": PRIORS[params["prior"]],
        "a": params["softness_a"],
        "r": params["ordering_r"],
        "steps": params["steps"],
        "sampler": params["sampler"],
    }
    found: list[int] = []
    for name, value in wanted.items():
        axis = reference[name]
        is_there = np.isclose(axis, value) if axis.dtype.kind == "f" else axis == value
        if is_there.sum() != 1:
            raise ValueError(f"the reference has no {name} = {value}, it has {axis.tolist()}")
        found.append(int(is_there.argmax()))
    return tuple(found)


def _differences(
    arrays: Mapping[str, np.ndarray], w2: float, reference: Mapping[str, np.ndarray], at: tuple[int, ...]
) -> dict[str, Any]:
    assert np.array_equal(arrays["target_variance"], reference["Sigma"]), "the data are not those of the reference"
    expected = float(reference["frechet"][at])
    return {
        "count": int(arrays["count"]),
        "ratio": arrays["variance"] / reference["sample_variance"][at],
        "mean": float(np.abs(arrays["mean"]).max()),
        "frechet": abs(w2 - expected),
        "frechet_relative": abs(w2 / expected - 1) if expected > SMALLEST else 0.0,
    }


def _line(sampler: str, rows: list[dict[str, Any] | None]) -> dict[str, Any]:
    found = [row for row in rows if row is not None]
    line: dict[str, Any] = {"sampler": sampler, "found": len(found), "missing": len(rows) - len(found)}
    if not found:
        return line
    ratios = np.stack([row["ratio"] for row in found])
    counts = {row["count"] for row in found}
    line |= {"images": max(counts), "variances": ratios.size}
    if counts == {0}:
        line["variance_relative_error"] = float(np.abs(ratios - 1).max())
        line["mean"] = max(row["mean"] for row in found)
    else:
        z = np.abs(ratios - 1) / np.sqrt(2 / np.array([row["count"] for row in found]))[:, None]
        line["worst_z"] = float(z.max())
        line["above_4"] = int((z > LIMIT).sum())
        line["expected_above_4"] = round(ratios.size * math.erfc(LIMIT / math.sqrt(2)), 2)
        line["rms_z"] = round(float(np.sqrt(np.square(z).mean())), 4)
    for name in ("frechet", "frechet_relative"):
        line[f"{name}_error"] = max(row[name] for row in found)
    return line


if __name__ == "__main__":
    main()
