"""Logs and events of all hosts of a cluster, copied into the store before the cluster goes.

python -m pipeline.grid.submit_logs STORE GRID NAME copies them from a cluster that still runs (a preStop hook, say).
"""

import fnmatch
import io
import json
import logging
import os
import re
import sys
import tarfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.grid.environment import cluster_address, prepare_environment
from pipeline.grid.status import grid_documents
from pipeline.store import Store, open_store
from pipeline.store.retry import Retry

log = logging.getLogger(__name__)

KEPT = ("job-driver-*", "worker-*", "raylet.*", "gcs_server.*", "monitor.*", "dashboard*.log", "runtime_env*.log")
"""Names below Ray's log folder; the rest tells about Ray's own parts that no run depends on."""
EVENTS = "events"
MAX_FILE_BYTES = 2 << 20
MAX_HOST_BYTES = 48 << 20
MAX_EVENT_BYTES = 1 << 20
BUDGET_S = 25.0
"""Ray gives a job that is stopped a minute: half of it is the driver's."""
EARLIER_S = 120.0
SECRET = re.compile(r"SECRET|TOKEN|PASSWORD|PASSWD|ACCESS_KEY", re.IGNORECASE)
MIN_SECRET_LETTERS = 6


@dataclass(frozen=True)
class KeptLogs:
    """Where the copies are, and of how many hosts."""

    place: str
    num_hosts: int


@dataclass(frozen=True)
class Packed:
    """What one host gave: an archive that it stored itself, and its events."""

    name: str
    num_files: int
    events: str


def keep_logs(
    store_url: str,
    grid: str,
    submission: str,
    *,
    exit_code: int | None = None,
    since_s: float | None = None,
    budget_s: float = BUDGET_S,
) -> KeptLogs:
    """Copy what the hosts of this cluster logged lately below `grids/<grid>/logs/<submission>-<time>/`.

    Args:
        store_url: where to.
        grid: its name.
        submission: first part of the folder's name.
        exit_code: of the driver, if it has ended.
        since_s: age of the oldest file that matters; None takes all.
        budget_s: longest wait for the hosts.
    """
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    joined = cluster_address(None)
    prepare_environment(joined)
    ray.init(address=joined or "auto", logging_level=logging.ERROR, log_to_driver=False)
    try:
        store = open_store(store_url, retry=Retry(budget_s=budget_s / 2))
        folder = f"logs/{submission}-{time.strftime('%Y%m%dt%H%M%Sz', time.gmtime())}"
        nodes = ray.nodes()
        pack = ray.remote(num_cpus=0, max_retries=0)(pack_host)
        oldest = None if since_s is None else since_s + EARLIER_S
        asked = [
            pack.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                store, grid, folder, document_name(node["NodeManagerHostname"]), oldest
            )
            for node in one_per_host(node for node in nodes if node["Alive"])
        ]
        ready, late = ray.wait(asked, num_returns=len(asked), timeout=budget_s)
        packed: list[Packed] = []
        for reference in ready:
            try:
                packed.append(ray.get(reference))
            except RayError as error:
                log.warning("event=logs_missing error=%r", error)
        documents = grid_documents(store, grid)
        documents.put(f"{folder}/events.jsonl", "".join(item.events for item in packed).encode())
        told = {
            "submission": submission,
            "exit_code": exit_code,
            "ray_version": ray.__version__,
            "hosts": {item.name: {"num_files": item.num_files} for item in packed},
            "num_hosts_without_answer": len(late),
            "nodes": [_told(node) for node in nodes],
        }
        documents.put(f"{folder}/cluster.json", json.dumps(told, indent=1).encode())
        return KeptLogs(f"{store_url.rstrip('/')}/grids/{grid}/{folder}", len(packed))
    finally:
        ray.shutdown()


def pack_host(store: Store, grid: str, folder: str, name: str, oldest_s: float | None) -> Packed:
    """Run on a host: its log files as one archive in the store."""
    from ray._private import worker

    node: Any = worker._global_node
    root = Path(node.get_logs_dir_path())
    content, num_files = archive(root, chosen(root, oldest_s), secret_values(os.environ))
    grid_documents(store, grid).put(f"{folder}/{name}.tar.gz", content)
    return Packed(name, num_files, event_lines(root / EVENTS, oldest_s, secret_values(os.environ)))


def one_per_host(nodes: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Ray nodes that share a host share its log folder."""
    return list({(node["NodeManagerHostname"], node["NodeManagerAddress"]): node for node in nodes}.values())


def document_name(host: str) -> str:
    """A host's name in the letters that a store knows."""
    return re.sub(r"[^a-z0-9.-]", "-", host.lower()).strip(".-")[:48] or "host"


def chosen(root: Path, oldest_s: float | None) -> list[Path]:
    """Files that are kept, newest first."""
    now = time.time()
    found: list[tuple[float, Path]] = []
    for path in root.rglob("*"):
        is_kept = path.parent.name == EVENTS or any(fnmatch.fnmatch(path.name, pattern) for pattern in KEPT)
        if not is_kept or path.is_symlink() or not path.is_file():
            continue
        changed = path.stat().st_mtime
        if oldest_s is None or now - changed <= oldest_s:
            found.append((changed, path))
    return [path for _, path in sorted(found, reverse=True)]


def archive(root: Path, paths: Iterable[Path], secrets: Iterable[bytes]) -> tuple[bytes, int]:
    """(tar.gz, number of files): the end of each file, without secrets, until the host's share is used up."""
    secrets = list(secrets)
    buffer, left, count = io.BytesIO(), MAX_HOST_BYTES, 0
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=3) as tar:
        for path in paths:
            try:
                content = without(tail(path), secrets)
                changed = path.stat().st_mtime
            except OSError:  # rotated away in between
                continue
            if not content or len(content) > left:
                continue
            left -= len(content)
            entry = tarfile.TarInfo(path.relative_to(root).as_posix())
            entry.size, entry.mtime = len(content), int(changed)
            tar.addfile(entry, io.BytesIO(content))
            count += 1
    return buffer.getvalue(), count


def tail(path: Path, most_bytes: int = MAX_FILE_BYTES) -> bytes:
    """The end of a file; a cut is said in its first line."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= most_bytes:
            return file.read()
        file.seek(size - most_bytes)
        return f"[{size - most_bytes} earlier bytes are left out]\n".encode() + file.read(most_bytes)


def event_lines(folder: Path, oldest_s: float | None, secrets: Iterable[bytes]) -> str:
    """Ray's own events (JSON, one per line), the newest ones."""
    paths = sorted(chosen(folder, oldest_s)) if folder.is_dir() else []
    content = b"".join(without(tail(path, MAX_EVENT_BYTES), list(secrets)) for path in paths)[-MAX_EVENT_BYTES:]
    lines = content.decode(errors="replace").splitlines()
    return "".join(f"{line}\n" for line in lines if line.startswith("{"))


def secret_values(environment: Mapping[str, str]) -> list[bytes]:
    """Values of this process's variables that no log may show."""
    found = {value for name, value in environment.items() if SECRET.search(name) and not name.endswith("_PATH")}
    return [value.encode() for value in sorted(found, key=len, reverse=True) if len(value) >= MIN_SECRET_LETTERS]


def without(content: bytes, secrets: Iterable[bytes]) -> bytes:
    """The content with every secret replaced."""
    for secret in secrets:
        content = content.replace(secret, b"[redacted]")
    return content


def _told(node: Mapping[str, Any]) -> dict[str, Any]:
    names = ("NodeID", "NodeManagerHostname", "NodeManagerAddress", "Alive", "DeathReason", "DeathReasonMessage")
    return {name: node.get(name) for name in names} | {"Resources": dict(node.get("Resources", {}))}


if __name__ == "__main__":
    kept = keep_logs(*sys.argv[1:4])
    print(f"logs and events of {kept.num_hosts} hosts are kept in {kept.place}")  # noqa: T201
