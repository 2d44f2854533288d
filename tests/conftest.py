"""Shared set-up: shape checks on, one thread, explicit Ray authentication, servers as fixtures."""

import importlib.util
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from jaxtyping import install_import_hook

_hook = install_import_hook(["pipeline.diffusion", "pipeline.networks"], "beartype.beartype")

import torch  # noqa: E402

torch.set_num_threads(1)

pytest_plugins = [
    name for name in ("tests.s3_server", "tests.mlflow_server", "tests.ray_cluster") if importlib.util.find_spec(name)
]
