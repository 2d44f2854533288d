"""What a host is: versions, code, clock, disks, shared memory, GPUs.

The standard library alone, so that a host that has another version of this package, or none, can be asked as well.
"""

import hashlib
import os
import pickle
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "ray", "mlflow", "webdataset", "pyarrow", "boto3", "numpy", "pydantic")
SHARED_MEMORY = "/dev/shm"
COUNT_GPUS = "import torch; print(torch.cuda.device_count())"
COUNT_TIMEOUT_S = 120


def package_versions(names: Sequence[str] = PACKAGES) -> dict[str, str | None]:
    """Installed versions; None for what is not installed."""
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def code_fingerprint(package: str = "pipeline") -> str | None:
    """sha256 over names and bytes of all sources of a package, 64 hex digits; None where it cannot be imported."""
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        return None
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    if not folders:
        return None
    digest = hashlib.sha256()
    root = Path(folders[0])
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).as_posix()):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()}:{len(content)}:".encode())
        digest.update(content)
    return digest.hexdigest()


def folder_facts(folder: str) -> dict[str, Any]:
    """Free bytes of a folder, and why nothing can be written there (None if it can)."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix="pipeline-probe-") as file:
            file.write(b"probe")
            file.flush()
        return {"free_bytes": shutil.disk_usage(folder).free, "error": None}
    except OSError as error:
        return {"free_bytes": None, "error": error.strerror or str(error)}


def num_visible_gpus(environment: Mapping[str, str] | None = None) -> int | None:
    """GPUs that torch sees in a fresh process that is not told which to use; None where torch cannot say."""
    given = os.environ if environment is None else environment
    env = {name: value for name, value in given.items() if name != "CUDA_VISIBLE_DEVICES"}
    try:
        reply = subprocess.run(
            [sys.executable, "-c", COUNT_GPUS], env=env, capture_output=True, text=True, timeout=COUNT_TIMEOUT_S
        )
        return int(reply.stdout) if reply.returncode == 0 else None
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None


def working_folders() -> list[str]:
    """Where this host keeps temporary files and copies of the store."""
    given = os.environ.get("PIPELINE_CACHE_DIR")
    return [tempfile.gettempdir(), *([given] if given and os.path.isdir(given) else [])]


def host_facts(*, count_gpus: bool = False, shared_memory: str = SHARED_MEMORY) -> dict[str, Any]:
    """Everything that driver and workers compare.

    Args:
        count_gpus: ask torch for GPUs, which takes seconds.
        shared_memory: where Ray's object store lives.
    """
    return {
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "packages": package_versions(),
        "code": code_fingerprint(),
        "time_s": time.time(),
        "folders": {folder: folder_facts(folder) for folder in working_folders()},
        "shared_memory": folder_facts(shared_memory) if os.path.isdir(shared_memory) else None,
        "gpus": num_visible_gpus() if count_gpus else None,
    }


def answer(packed: bytes | None, count_gpus: bool) -> tuple[dict[str, Any], str | None]:
    """What a host says when it is asked: its facts, and why the store cannot be used there, or None.

    Args:
        packed: pickled (store, options of preflight); None asks nothing about a store.
        count_gpus: see `host_facts`.
    """
    facts = host_facts(count_gpus=count_gpus)
    if packed is None:
        return facts, None
    try:
        from pipeline.store import preflight

        store, options = pickle.loads(packed)
        preflight(store, **options)
    except Exception as error:  # whatever keeps the store from working there is the answer
        return facts, " ".join(str(error).split()) or type(error).__name__
    return facts, None
