"""Imagined results: rows of a table, and finished artifacts of a plan without anything trained."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.grid.plan import Cell, Plan
from pipeline.grid.tasks import Task
from pipeline.sample.previews import preview
from pipeline.store import Store

FD = "fd_clf_digits"


def row(
    name: str,
    fd: float | None = None,
    *,
    nfe: float | None = 10.0,
    is_control: bool = False,
    se: float = 0.1,
    sd: float | None = None,
    axes: Mapping[str, Any] | None = None,
    comparison: Mapping[str, Any] | None = None,
    **metrics: float,
) -> dict[str, Any]:
    """A row as figures and tables get it; `sd` makes it a mean over three seeds."""
    values = dict(metrics)
    values |= {} if fd is None else {FD: fd, f"{FD}_se": se}
    values |= {} if nfe is None else {"nfe": nfe}
    spread = {} if sd is None else {FD: {"sd": sd, "n": 3, "low": 0.0, "high": 9.0, "values": {}}}
    return {
        "name": name,
        "axes": {"baseline": name, **(axes or {})},
        "metrics": values,
        "reasons": {},
        "protocol": {"num_images": 100, "net": FD},
        "comparison": {} if comparison is None else {FD: dict(comparison)},
        "spread": spread,
        "is_control": is_control,
    }


def finish(plan: Plan, store: Store, values: Mapping[str, float]) -> None:
    """Results and first images of the cells whose names begin as in `values`, which gives their distances."""
    for position, cell in enumerate(plan.cells):
        fd = next((value for start, value in values.items() if cell.name.startswith(start)), None)
        if fd is not None:
            _finish_cell(store, cell, fd, np.random.default_rng(position))


def _finish_cell(store: Store, cell: Cell, fd: float, rng: np.random.Generator) -> None:
    seed = cell.params["seed"]
    fd += 0.1 * seed
    is_model = cell.tasks.training is not None
    bits = 2.0 + 0.01 * fd + rng.normal(0.0, 0.01, 40)
    metrics = {FD: fd, f"{FD}_jk": fd - 0.5, f"{FD}_se": 0.2, f"{FD}_low": fd - 1.0, f"{FD}_high": fd, "nfe": 4.0}
    metrics |= {"nll_bpd": float(bits.mean()), "nll_se": 0.002} if is_model else {}
    reasons = {} if is_model else {"nll_bpd": "images <of the data> have no density"}
    kind = "sampler" if is_model else cell.params["baseline"]
    protocol = {
        "net": FD,
        "net_sha256": "ab" * 32,
        "reference": {"split": "train", "num_images": 256},
        "seed": seed,
        "num_images": 80,
        "jackknife_blocks": 20,
        "jackknife_group": 4,
        "method": {"kind": kind},
        "nll": {"split": "test"},
    }
    arrays: dict[str, Any] = {"fd_pseudo_values": fd - 0.5 + rng.normal(0.0, 0.9, 20)}
    arrays |= {"nll_index": np.arange(40), "nll_bits_per_dim": bits} if is_model else {}
    result = {"metrics": metrics, "reasons": reasons, "protocol": protocol}
    with _attempt(store, cell.tasks.result) as attempt:
        attempt.path("result.json").write_text(json.dumps(result))
        np.savez(attempt.path("result.npz"), allow_pickle=False, **arrays)
        attempt.commit(meta=result)
    block = cell.tasks.samples[0]
    if store.find(block.key) is None:
        with _attempt(store, block) as attempt:
            picture = preview(rng.integers(0, 17, (40, 1, 8, 8), dtype=np.uint8), 17)
            assert picture is not None
            attempt.path("preview.png").write_bytes(picture)
            attempt.commit(meta={"count": 40, "shape": [1, 8, 8]})


def _attempt(store: Store, task: Task) -> Any:
    return store.attempt(task.key, identity=task.spec.identity(), inputs=dict(task.inputs))
