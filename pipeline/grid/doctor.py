"""What could keep a grid from running here: versions, store, tracking, devices, memory."""

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import torch

from pipeline.config import ConfigError
from pipeline.store import StoreError, StoreUnavailable, open_store, preflight
from pipeline.tracking import Target

PACKAGES = ("torch", "ray", "mlflow", "webdataset", "pyarrow", "boto3", "numpy", "pydantic")


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    is_good: bool
    text: str


def findings(store: str, tracking: str | None) -> Iterator[Finding]:
    """Check everything that can be checked without starting work."""
    yield Finding(True, f"python {platform.python_version()} on {platform.platform()}")
    for name in PACKAGES:
        try:
            yield Finding(True, f"{name} {version(name)}")
        except PackageNotFoundError:
            yield Finding(False, f"{name} is not installed; install requirements.txt with constraints.txt")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            yield Finding(True, f"GPU {index}: {properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    else:
        yield Finding(True, f"no GPU; {os.cpu_count()} CPUs")
    shared = shutil.disk_usage("/dev/shm") if os.path.isdir("/dev/shm") else None
    if shared is not None:
        is_enough = shared.free >= 512 * 2**20
        yield Finding(is_enough, f"/dev/shm has {shared.free / 2**30:.1f} GiB free (Ray's object store lives there)")
    yield Finding(True, f"RAY_AUTH_MODE is {os.environ.get('RAY_AUTH_MODE', 'not set (a private cluster is started)')}")
    try:
        preflight(open_store(store))
        yield Finding(True, f"store {store}: writable, conditional puts work")
    except (StoreError, StoreUnavailable) as error:
        yield Finding(False, f"store {store}: {error}")
    if tracking is not None:
        try:
            yield Finding(True, f"tracking {Target(tracking).resolved}")
        except ConfigError as error:
            yield Finding(False, str(error))
