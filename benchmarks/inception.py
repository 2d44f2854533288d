"""Features of the Inception network per CPU second, ours and torch-fidelity's in the same rounds; one JSON line each.

    python benchmarks/inception.py [--rounds 5] [--images 32] [--torch-fidelity FOLDER]

One thread, 32 x 32 images, seeded weights, resize included. FOLDER is where the package `torch_fidelity` lies, for
example the site-packages of an own environment:

    python -m venv /tmp/peers && /tmp/peers/bin/pip install --no-deps torch-fidelity
    python benchmarks/inception.py --torch-fidelity /tmp/peers/lib/python3.11/site-packages

Its package imports torchvision for nets that are not used here, so only the modules of its Inception extractor are
loaded, below an empty package of its name. It runs as shipped, in every batch size of ours and in its own default of
64 where there are that many images; the fastest counts. Order alternates between rounds, medians are over rounds, and
`ratio` is the median over rounds of its time through ours.
"""

import argparse
import importlib
import json
import os
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.evaluate.nets import InceptionNetSpec, seeded_weights
from pipeline.evaluate.nets.loaded import NUM_AT_ONCE
from pipeline.shards import to_float

PEER = "torch-fidelity"
PEER_BATCHES = (NUM_AT_ONCE, 64)

Contender = Callable[[Tensor], Tensor]
"""Levels uint8 (n, 3, 32, 32) to features (n, 2048)."""


def ours(*, fast: bool) -> Contender:
    """The net as the features stage calls it, from bin centres on."""
    net = InceptionNetSpec(seeded=True, fast=fast).load("cpu")
    return lambda levels: net.features(to_float(levels, 256))


def torch_fidelity(folder: Path) -> Contender:
    """Its extractor with the same weights, tapped at 2048 alone."""
    shell = types.ModuleType("torch_fidelity")
    shell.__path__ = [str(folder / "torch_fidelity")]
    sys.modules["torch_fidelity"] = shell
    module = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "weights.pth"
        torch.save(seeded_weights(), path)
        extractor = module.FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(path))

    @torch.no_grad()
    def features(levels: Tensor) -> Tensor:
        return extractor(levels)[0]

    return features


def in_batches(contender: Contender, size: int) -> Contender:
    return lambda levels: torch.cat([contender(part) for part in levels.split(size)])


def cpu_seconds(call: Callable[[], Tensor]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--torch-fidelity", type=Path, default=None, metavar="FOLDER")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    levels = torch.from_numpy(rng.integers(0, 256, (arguments.images, 3, 32, 32), np.uint8))

    contenders: dict[str, Contender] = {"float32": ours(fast=False), "bfloat16": ours(fast=True)}
    if arguments.torch_fidelity is not None:
        peer = torch_fidelity(arguments.torch_fidelity)
        sizes = sorted({min(size, arguments.images) for size in PEER_BATCHES})
        contenders |= {f"{PEER} batch {size}": in_batches(peer, size) for size in sizes}

    first = levels[:2]
    exact = contenders["float32"](first)
    errors = {name: float((contender(first) - exact).abs().max()) for name, contender in contenders.items()}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(arguments.rounds):
        for name in list(contenders)[:: 1 if number % 2 == 0 else -1]:
            contender = contenders[name]
            times[name].append(cpu_seconds(lambda contender=contender: contender(levels)) / arguments.images)
    peers = [name for name in contenders if name.startswith(PEER)]
    fastest = min(peers, key=lambda name: statistics.median(times[name]), default=None)
    for name, seconds in times.items():
        row: dict[str, object] = {
            "contender": name,
            "cpu_ms_per_image": round(1e3 * statistics.median(seconds), 1),
            "largest_difference_from_float32": errors[name],
            "rounds": arguments.rounds,
            "images": arguments.images,
            "load_average": round(os.getloadavg()[0], 2),
        }
        if fastest is not None:
            ratios = [theirs / own for theirs, own in zip(times[fastest], seconds, strict=True)]
            row |= {"ratio": round(statistics.median(ratios), 2), "ratio_to": fastest}
        print(json.dumps(row))


if __name__ == "__main__":
    main()
