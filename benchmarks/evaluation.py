"""Distances of feature sets side by side with torch-fidelity and pytorch-fid; one JSON line per measurement.

    python -m venv peers
    peers/bin/pip install -c constraints.txt -r requirements.txt
    peers/bin/pip install --no-deps torch-fidelity==0.4.0 pytorch-fid==0.3.0 torchvision==0.28.0
    PYTHONPATH=. peers/bin/python benchmarks/evaluation.py [--rows 50000] [--neighbour-rows 10000] [--rounds 3]

Without the peers our own times are printed alone. Both peers import torchvision, although nothing of it is measured.
Its wheel is built for a CUDA torch and its operators are missing beside a CPU one, so two of them are declared, without
code, before the import; this is why the peers belong into an environment of their own.

The same float32 arrays for all, of the size of Inception features: correlated channels that are rarely negative. CPU
seconds of one thread, median over rounds, every contender once per round after a small warm-up:

- statistics of the generated set, and distance to stored statistics of the reference. pytorch-fid gets the float64
  array in which it collects features, made beforehand. `fd_shift` is our distance against our own in float64, relative.
- our precision, recall, density and coverage against torch-fidelity's precision and recall.
"""

import argparse
import importlib.util
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from pipeline.baselines.threads import single_thread
from pipeline.evaluate import FeatureStatistics, frechet_distance
from pipeline.evaluate.neighbours import precision_recall_density_coverage

NUM_FACTORS = 128
BLOCK_ROWS = 1000
PEERS = ("torch_fidelity", "pytorch_fid")

Call = Callable[[], Any]


def main() -> None:
    """Print one line per measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--reference-rows", type=int, default=10_000)
    parser.add_argument("--neighbour-rows", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    sizes = parser.parse_args()
    peers = installed_peers()
    with single_thread():
        real = features(max(sizes.reference_rows, sizes.neighbour_rows), sizes.dim, seed=0)
        fake = features(max(sizes.rows, sizes.neighbour_rows), sizes.dim, seed=1, shift=0.02)
        distance(real[: sizes.reference_rows], fake[: sizes.rows], peers, sizes.rounds)
        neighbours(real[: sizes.neighbour_rows], fake[: sizes.neighbour_rows], peers, sizes.rounds)


def distance(real: np.ndarray, fake: np.ndarray, peers: dict[str, Any], rounds: int) -> None:
    """Statistics of the generated set and distance to the reference's."""
    reference = FeatureStatistics.of(real, method="float64")
    of_reference = reference.mean, reference.covariance

    def ours(x: np.ndarray = fake) -> float:
        return frechet_distance(FeatureStatistics.of(x), reference)

    contenders: dict[str, Call] = {"ours": ours}
    if "torch_fidelity" in peers:
        fid = peers["torch_fidelity"].metric_fid
        stored = {"mu": of_reference[0].astype(np.float32), "sigma": of_reference[1]}
        tensor = torch.from_numpy(fake)
        contenders["torch_fidelity"] = lambda: fid.fid_statistics_to_metric(
            fid.fid_features_to_statistics(tensor), stored, False
        )[fid.KEY_METRIC_FID]
    if "pytorch_fid" in peers:
        score, collected = peers["pytorch_fid"].fid_score, fake.astype(np.float64)
        contenders["pytorch_fid"] = lambda: score.calculate_frechet_distance(
            np.mean(collected, axis=0), np.cov(collected, rowvar=False), *of_reference
        )
    ours(fake[:BLOCK_ROWS])
    times, values = measured(contenders, rounds)
    exact = frechet_distance(FeatureStatistics.of(fake, method="float64"), reference)
    row = {"measure": "statistics and distance", "rows": len(fake), "dim": fake.shape[1]}
    found = {"method": FeatureStatistics.of(fake[:, :2]).method, "fd_shift": abs(values["ours"] / exact - 1.0)}
    show(row | found | {"fd": values}, times)


def neighbours(real: np.ndarray, fake: np.ndarray, peers: dict[str, Any], rounds: int) -> None:
    """All four neighbour metrics against torch-fidelity's two."""
    contenders: dict[str, Call] = {"ours": lambda: tuple(precision_recall_density_coverage(real, fake))}
    if "torch_fidelity" in peers:
        prc = peers["torch_fidelity"].metric_prc
        pair = torch.from_numpy(fake), torch.from_numpy(real)
        contenders["torch_fidelity"] = lambda: prc.calculate_precision_recall_full(*pair)
    precision_recall_density_coverage(real[:BLOCK_ROWS], fake[:BLOCK_ROWS])
    times, values = measured(contenders, rounds)
    row = {"measure": "precision, recall, density, coverage", "rows": len(fake), "dim": fake.shape[1]}
    show(row | {"values": values}, times)


def measured(contenders: dict[str, Call], rounds: int) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """CPU seconds per round and the last value of every contender; all take turns."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    values: dict[str, Any] = {}
    for _ in range(rounds):
        for name, call in contenders.items():
            start = time.process_time()
            values[name] = call()
            times[name].append(time.process_time() - start)
    return times, values


def show(row: dict[str, Any], times: dict[str, list[float]]) -> None:
    """One JSON line with median seconds, and our share of every peer's in the same run."""
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratios = {name: round(medians["ours"] / medians[name], 3) for name in PEERS if name in medians}
    absent = [name for name in PEERS if importlib.util.find_spec(name) is None]
    row |= {"cpu_s": {name: round(value, 3) for name, value in medians.items()}, "ratio": ratios}
    print(json.dumps(row | {"not_installed": absent, "load_average": round(os.getloadavg()[0], 2)}), flush=True)


def features(n: int, dim: int, *, seed: int, shift: float = 0.0) -> np.ndarray:
    """Correlated features (n, dim), float32, with a falling spectrum and a long positive side."""
    mix = np.random.default_rng(7).standard_normal((NUM_FACTORS, dim), dtype=np.float32)
    mix *= np.geomspace(0.25, 0.0125, NUM_FACTORS, dtype=np.float32)[:, None]
    rng = np.random.default_rng(seed)
    x = np.empty((n, dim), np.float32)
    for start in range(0, n, BLOCK_ROWS):
        block = x[start : start + BLOCK_ROWS]
        factors = rng.standard_normal((len(block), NUM_FACTORS), dtype=np.float32)
        values = factors @ mix + 0.25 * rng.standard_normal(block.shape, dtype=np.float32) + np.float32(0.2 + shift)
        block[:] = np.maximum(values, 0.05 * values)
    return x


def installed_peers() -> dict[str, Any]:
    """The modules that are installed, by name."""
    if importlib.util.find_spec("torchvision") is not None and torch.version.cuda is None:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    found: dict[str, Any] = {}
    if importlib.util.find_spec("torch_fidelity") is not None:
        import torch_fidelity.metric_fid
        import torch_fidelity.metric_prc

        found["torch_fidelity"] = torch_fidelity
    if importlib.util.find_spec("pytorch_fid") is not None:
        import pytorch_fid.fid_score

        found["pytorch_fid"] = pytorch_fid
    return found


if __name__ == "__main__":
    main()
