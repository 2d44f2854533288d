"""Training step of the networks against a matrix product in the same rounds; one JSON line per contender.

    python benchmarks/networks.py [--rounds 5] [--device cpu]

Config A: 32x32x3, base 32, multipliers 1-2-2, 2 blocks, attention at 16, batch 32. Config B: 8x8x1, base 16,
multipliers 1-2, 1 block. CPU seconds (wall seconds on a GPU), median over rounds; every contender runs once per round.
FLOPs are those that `torch.utils.flop_counter` sees in one eager forward and backward, attention unfused.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pipeline.networks import ClassifierSpec, ExponentialMovingAverage, MlpSpec, NetworkSpec, UnetSpec

MATMUL_SIZE = 1024
CONFIG_B = {"base_channels": 16, "channel_multipliers": [1, 2], "num_blocks": 1}
CONTENDERS: dict[str, tuple[NetworkSpec, tuple[int, ...], int]] = {
    "A unet ddpmpp": (UnetSpec.model_validate({"preset": "anchor", "block": "ddpmpp"}), (3, 32, 32), 32),
    "A unet mp": (UnetSpec.model_validate({"preset": "anchor", "block": "mp"}), (3, 32, 32), 32),
    "B unet ddpmpp": (UnetSpec.model_validate({**CONFIG_B, "block": "ddpmpp"}), (1, 8, 8), 128),
    "B unet mp": (UnetSpec.model_validate({**CONFIG_B, "block": "mp"}), (1, 8, 8), 128),
    "tiny unet 28x28": (UnetSpec.model_validate({"preset": "tiny"}), (1, 28, 28), 64),
    "mlp 256 x 3": (MlpSpec(width=256, depth=3), (1, 8, 8), 128),
    "classifier 28x28": (ClassifierSpec(), (1, 28, 28), 64),
}


class Step:
    """Forward and backward of one network, and apart from it optimiser, clipping and average."""

    def __init__(self, spec: NetworkSpec, shape: tuple[int, ...], batch: int, device: torch.device) -> None:
        num_classes = 10 if isinstance(spec, ClassifierSpec) else None
        self.network = spec.build(shape, num_classes).to(device)
        self.optimiser = torch.optim.AdamW(self.network.parameters(), lr=1e-4, fused=True)
        self.average = ExponentialMovingAverage(self.network, decay=0.999)
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(batch, *shape, generator=generator).to(device)
        self.t = torch.rand(batch, generator=generator).to(device)
        self.gamma = (4 * torch.randn(batch, 1, generator=generator)).to(device)

    def forward_backward(self) -> None:
        output: Tensor = self.network(self.x, self.t, self.gamma, None)
        output.square().mean().backward()

    def update(self) -> None:
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.average.update(self.network, num_images=len(self.x))

    def flops(self) -> int:
        """Of one forward and backward."""
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            self.forward_backward()
        return counter.get_total_flops()


def seconds(call: Callable[[], None], device: torch.device, repeats: int) -> float:
    """CPU seconds per call; wall seconds between synchronisations on a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        torch.cuda.synchronize()
        return (time.perf_counter() - start) / repeats
    start = time.process_time()
    for _ in range(repeats):
        call()
    return (time.process_time() - start) / repeats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.set_num_threads(1)

    left, right = torch.randn(2, MATMUL_SIZE, MATMUL_SIZE, device=device)
    steps = {name: Step(spec, shape, batch, device) for name, (spec, shape, batch) in CONTENDERS.items()}
    flops = {name: step.flops() for name, step in steps.items()}
    timings: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    products: list[float] = []
    started = time.perf_counter()
    for number in range(arguments.rounds + 1):
        product = seconds(lambda: torch.mm(left, right), device, 3)
        measured = {
            name: (seconds(step.forward_backward, device, 2), seconds(step.update, device, 2))
            for name, step in steps.items()
        }
        if number > 0:  # the first round warms caches up
            products.append(product)
            for name, pair in measured.items():
                timings[name].append(pair)

    matmul = 2 * MATMUL_SIZE**3 / statistics.median(products) / 1e9
    for name, pairs in timings.items():
        batch = CONTENDERS[name][2]
        compute, update = (statistics.median(values) for values in zip(*pairs, strict=True))
        speed = flops[name] / compute / 1e9
        row = {
            "contender": name,
            "num_parameters": sum(parameter.numel() for parameter in steps[name].network.parameters()),
            "batch": batch,
            "mflop_per_image": round(flops[name] / batch / 1e6, 2),
            "forward_backward_ms": round(1e3 * compute, 2),
            "update_share": round(update / compute, 4),
            "images_per_s": round(batch / (compute + update), 1),
            "gflop_per_s": round(speed, 1),
            "share_of_matmul": round(speed / matmul, 3),
            "matmul_gflop_per_s": round(matmul, 1),
            "wall_s": round(time.perf_counter() - started, 1),
            "load_average": round(os.getloadavg()[0], 2),
        }
        print(json.dumps(row))


if __name__ == "__main__":
    main()
