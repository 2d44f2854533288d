"""Small grids for tests: seconds, not minutes."""

from pathlib import Path
from typing import Any

import yaml

TINY: dict[str, Any] = {
    "name": "tiny",
    "experiment": {
        "dataset": {"kind": "digits", "name": "digits", "max_train": 256},
        "network": {"kind": "mlp", "width": 16, "depth": 1},
        "train": {"steps": 20, "batch": 32, "lr": 1e-3},
    },
    "grid": [
        {"baseline": "ddpm", "schedule": ["cosine", "linear_beta"]},
        {"baseline": "gud", "softness_a": 0.5},
        {"baseline": ["gaussian", "test_split"]},
    ],
    "evaluate": {
        "num_images": 80,
        "block_images": 40,
        "batch_images": 40,
        "samplers": {"ddpm": {"kind": "ddim", "steps": 3}, "gud": {"kind": "ddim", "steps": 3}},
        "metrics": ["fd_clf", "nll"],
        "likelihood": {"kind": "ode", "steps": 2, "trace": "rademacher"},
        "nll_images": 40,
        "nll_block_images": 20,
        "feature_net": {"train": {"steps": 30, "batch": 32, "lr": 1e-3}},
    },
}


def merged(base: Any, changes: Any) -> Any:
    """`base` with nested `changes`."""
    if isinstance(base, dict) and isinstance(changes, dict):
        return {**base, **{key: merged(base.get(key), value) for key, value in changes.items()}}
    return changes


def tiny_grid(folder: Path, **changes: Any) -> Path:
    """The tiny grid with changes, as a file."""
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump(merged(TINY, changes), sort_keys=False))
    return path
