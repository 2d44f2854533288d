"""What could keep a grid from running here or on a cluster: versions, store, tracking, devices, memory, hosts."""

import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.config import ConfigError
from pipeline.grid.handshake import Reply, ask_hosts, disagreements, tracking_refusal
from pipeline.grid.host_facts import PACKAGES, SHARED_MEMORY, host_facts
from pipeline.store import Store, StoreError, StoreUnavailable, open_store, preflight
from pipeline.store.acceptance import acceptance, verdict
from pipeline.tracking import Target

MIN_SHARED_BYTES = 512 * 2**20
CLOCK_GRAIN_S = 2.0
MAX_CLOCK_SKEW_S = 120.0


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    is_good: bool
    text: str


def findings(store: str, tracking: str | None, address: str | None = None) -> Iterator[Finding]:
    """Check everything that can be checked without starting work.

    Args:
        store: folder or s3://bucket/prefix; an S3 server is taken through the whole list of `acceptance`.
        tracking: MLflow, if it is to be asked.
        address: Ray cluster whose hosts are asked, HEAD:6379.
    """
    mine = host_facts()
    yield from _of_this_host(mine)
    opened = None
    try:
        opened = open_store(store)
        preflight(opened)
        yield Finding(True, f"store {store}: writable, conditional puts work")
    except (StoreError, StoreUnavailable) as error:
        yield Finding(False, f"store {store}: {error}")
    if opened is not None and "://" in store:
        yield from _of_store(opened)
    if tracking is not None:
        yield _of_tracking(tracking)
    if address is not None:
        yield from _of_cluster(mine, opened, address)


def _of_this_host(mine: dict[str, Any]) -> Iterator[Finding]:
    yield Finding(True, f"python {mine['python']} on {platform.platform()}")
    for name in PACKAGES:
        found = mine["packages"][name]
        missing = f"{name} is not installed; install requirements.txt with constraints.txt"
        yield Finding(found is not None, missing if found is None else f"{name} {found}")
    yield Finding(mine["code"] is not None, f"pipeline code {str(mine['code'])[:12]}")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            yield Finding(True, f"GPU {index}: {properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    else:
        yield Finding(True, f"no GPU; {os.cpu_count()} CPUs")
    for folder, found in mine["folders"].items():
        yield _of_folder(folder, found, least_bytes=2**30)
    if mine["shared_memory"] is not None:
        yield _of_folder(
            SHARED_MEMORY, mine["shared_memory"], least_bytes=MIN_SHARED_BYTES, note=" (Ray's object store lives there)"
        )
    yield Finding(True, f"RAY_AUTH_MODE is {os.environ.get('RAY_AUTH_MODE', 'not set (a private cluster is started)')}")


def _of_folder(folder: str, found: dict[str, Any], *, least_bytes: int, note: str = "") -> Finding:
    if found["error"] is not None:
        return Finding(False, f"{folder} cannot be written: {found['error']}{note}")
    return Finding(found["free_bytes"] >= least_bytes, f"{folder} has {found['free_bytes'] / 2**30:.1f} GiB free{note}")


def _of_store(store: Store) -> Iterator[Finding]:
    """The clock of a server and the acceptance list; nothing where no server answers."""
    try:
        before = time.time()
        skew = store.objects.with_retry(first_s=0.2, budget_s=3.0).now() - before
    except (StoreError, StoreUnavailable):
        return
    side = "behind" if skew < 0 else "ahead of"
    text = f"the store's clock is {abs(skew):.0f} s {side} this host's" if abs(skew) > CLOCK_GRAIN_S else "clocks agree"
    yield Finding(abs(skew) <= MAX_CLOCK_SKEW_S, text)
    checks = list(acceptance(store))
    for check in checks:
        yield Finding(check.is_good, f"store: {check}")
    yield Finding(all(check.is_good for check in checks), f"store {store.url}: {verdict(checks)}")


def _of_tracking(tracking: str) -> Finding:
    try:
        resolved = Target(tracking).resolved
    except ConfigError as error:
        return Finding(False, str(error))
    refusal = tracking_refusal(resolved)
    return Finding(refusal is None, refusal or f"tracking {resolved}")


def _of_cluster(mine: dict[str, Any], store: Store | None, address: str) -> Iterator[Finding]:
    from pipeline.grid.environment import prepare_environment

    try:
        prepare_environment(address)
        import ray

        from pipeline.grid.ray import start_ray

        start_ray(address, None)
    except ConfigError as error:
        yield Finding(False, str(error))
        return
    try:
        for reply in ask_hosts(store):
            problems = list(disagreements(mine, reply))
            yield from (Finding(False, problem) for problem in problems)
            if not problems:
                yield Finding(True, _of_host(reply))
    finally:
        ray.shutdown()


def _of_host(reply: Reply) -> str:
    facts = reply.facts
    assert facts is not None
    free = min(found["free_bytes"] for found in facts["folders"].values()) / 2**30
    gpus = f", {facts['gpus']} GPUs" if facts["gpus"] is not None else ""
    return f"host {reply.name}: same versions and code, store reached, clock agrees, {free:.0f} GiB free{gpus}"
