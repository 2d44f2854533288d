"""Do driver, workers, store and tracking server fit together? Asked on every host before any work starts."""

import base64
import logging
import os
import pickle
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.config import ConfigError
from pipeline.grid import host_facts
from pipeline.store import Store

log = logging.getLogger(__name__)

ANSWER_S = 120.0
"""How long a host may take to start a process and answer."""
MAX_CLOCK_SKEW_S = 120.0
"""S3 refuses requests that are signed 900 s off; certificates and tokens are less patient."""
MIN_FREE_BYTES = 2**30
MIN_SHARED_BYTES = 64 * 2**20
TRACKING_TIMEOUT_S = 5.0
MAX_TOLD = 4


@dataclass(frozen=True)
class Reply:
    """What one host said.

    Attributes:
        name: host name and address, for people.
        facts: see `host_facts`; None where nothing came back.
        error: why there are no facts.
        store: why the store cannot be used from there; None if it can.
        skew_s: how far its clock is ahead of the driver's, as far as the time of travel tells.
        gpus: GPUs that Ray promises there.
    """

    name: str
    facts: Mapping[str, Any] | None
    error: str | None = None
    store: str | None = None
    skew_s: float = 0.0
    gpus: int = 0


def disagreements(mine: Mapping[str, Any], reply: Reply) -> Iterator[str]:
    """One sentence for each thing that keeps a host from working with this driver."""
    facts = reply.facts
    if facts is None:
        yield f"{reply.name} does not answer ({reply.error}); look at its log, or take it out of the cluster"
        return
    if facts["code"] is None:
        yield f"{reply.name} cannot import the package pipeline; use the driver's image there"
    elif facts["code"] != mine["code"]:
        yield (
            f"{reply.name} has another version of the pipeline ({facts['code'][:12]}, here {mine['code'][:12]}); "
            "use one image on all hosts"
        )
    theirs, ours = dict(facts["packages"], python=facts["python"]), dict(mine["packages"], python=mine["python"])
    other = [f"{name} {theirs.get(name)} (here {ours[name]})" for name in ours if _differ(theirs.get(name), ours[name])]
    if other:
        yield f"{reply.name} has {', '.join(other)}; use one image on all hosts"
    if reply.store is not None and facts["code"] == mine["code"]:
        yield f"{reply.name} cannot use the store: {reply.store}"
    if abs(reply.skew_s) > MAX_CLOCK_SKEW_S:
        side = "ahead of" if reply.skew_s > 0 else "behind"
        yield f"{reply.name}: its clock is {abs(reply.skew_s):.0f} s {side} the driver's; set both by NTP"
    yield from _of_room(reply.name, facts)
    if facts["gpus"] is not None and facts["gpus"] < reply.gpus:
        yield (
            f"{reply.name} promises {reply.gpus} GPUs and torch sees {facts['gpus']}; check the driver of the device "
            "and that the image is the CUDA one"
        )


def _differ(theirs: str | None, ours: str | None) -> bool:
    """Builds of one version (2.13.0+cpu, 2.13.0+cu128) count as the same: a head needs no CUDA."""
    return (theirs or "").partition("+")[0] != (ours or "").partition("+")[0]


def _of_room(name: str, facts: Mapping[str, Any]) -> Iterator[str]:
    for folder, found in facts["folders"].items():
        if found["error"] is not None:
            yield f"{name}: {folder} cannot be written ({found['error']}); mount a writable folder there"
        elif found["free_bytes"] < MIN_FREE_BYTES:
            yield f"{name}: {folder} has {found['free_bytes'] / 2**20:.0f} MiB free; at least 1 GiB is needed"
    shared = facts["shared_memory"]
    if shared is None:
        return
    if shared["error"] is not None:
        yield (
            f"{name}: shared memory cannot be written ({shared['error']}); mount an emptyDir of medium Memory at "
            f"{host_facts.SHARED_MEMORY}"
        )
    elif shared["free_bytes"] < MIN_SHARED_BYTES:
        yield f"{name}: {host_facts.SHARED_MEMORY} has {shared['free_bytes'] / 2**20:.0f} MiB free; give it more"


def require_shared_memory(shared_memory: str = host_facts.SHARED_MEMORY) -> None:
    """A Ray of our own cannot start where its shared memory cannot be written, and says so in none of its own words.

    Raises:
        ConfigError: it cannot be written.
    """
    found = host_facts.folder_facts(shared_memory) if os.path.isdir(shared_memory) else None
    if found is not None and found["error"] is not None:
        raise ConfigError(next(_of_room("this machine", {"folders": {}, "shared_memory": found})))


def require_agreement(mine: Mapping[str, Any], store: Store, *, single_driver: bool = False) -> None:
    """Compare every host of the joined cluster with this process.

    Args:
        mine: `host_facts` of this process.
        store: tried from every host.
        single_driver: see `preflight`.

    Raises:
        ConfigError: hosts that do not fit, each with what to do.
    """
    replies = ask_hosts(store, single_driver=single_driver)
    problems = [problem for reply in replies for problem in disagreements(mine, reply)]
    for reply in replies:
        log.info("event=handshake host=%s skew_s=%.1f", reply.name, reply.skew_s)
    if problems:
        more = f"; and {len(problems) - MAX_TOLD} more" if len(problems) > MAX_TOLD else ""
        raise ConfigError(f"the cluster does not fit this driver: {'; '.join(problems[:MAX_TOLD])}{more}")


def ask_hosts(store: Store | None, *, single_driver: bool = False, answer_s: float = ANSWER_S) -> list[Reply]:
    """The answers of all living hosts of the cluster that this process has joined.

    Args:
        store: tried from every host; None asks nothing.
        single_driver: see `preflight`.
        answer_s: longest wait for all of them together.
    """
    import ray
    from ray import cloudpickle
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    cloudpickle.register_pickle_by_value(host_facts)  # works where the package is another one, or missing
    try:
        ask = ray.remote(num_cpus=0, max_retries=0)(host_facts.answer)
        nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
        packed = None if store is None else pickle.dumps((store, {"single_driver": single_driver}))
        started = time.time()
        asked: dict[Any, str] = {}
        for identity, node in nodes.items():
            place = NodeAffinitySchedulingStrategy(identity, soft=False)
            with_gpus = node["Resources"].get("GPU", 0) >= 1
            asked[ask.options(scheduling_strategy=place).remote(packed, with_gpus)] = identity
        ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=answer_s)
        is_alive = {node["NodeID"]: node["Alive"] for node in ray.nodes()}
        return [
            _reply(ray, reference, nodes[identity], started, is_ready=reference in ready, answer_s=answer_s)
            for reference, identity in asked.items()
            if is_alive.get(identity)  # one that has gone in the meantime does no harm
        ]
    finally:
        cloudpickle.unregister_pickle_by_value(host_facts)


def _reply(
    ray: Any, reference: Any, node: Mapping[str, Any], started: float, *, is_ready: bool, answer_s: float
) -> Reply:
    name, gpus = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})", int(node["Resources"].get("GPU", 0))
    if not is_ready:
        return Reply(name, None, f"no answer within {answer_s:.0f} s", gpus=gpus)
    try:
        facts, refusal = ray.get(reference)
    except ray.exceptions.RayError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        return Reply(name, None, lines[-1].strip() if lines else type(error).__name__, gpus=gpus)
    early, late = facts["time_s"] - time.time(), facts["time_s"] - started  # it looked at its clock in between
    skew = early if early > 0 else min(late, 0.0)
    return Reply(name, facts, None, refusal, skew, gpus)


def require_tracking(uri: str | None) -> None:
    """A tracking server that refuses this client for good is told now; one that is away only costs a warning.

    Raises:
        ConfigError: it refuses the host name or the credentials.
    """
    refusal = tracking_refusal(uri)
    if refusal is not None:
        raise ConfigError(refusal)


def tracking_refusal(uri: str | None) -> str | None:
    """Why an MLflow server at an http address will never accept this client, or None."""
    if uri is None or not uri.startswith(("http://", "https://")):
        return None
    request = urllib.request.Request(f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/search?max_results=1")
    token, user = os.environ.get("MLFLOW_TRACKING_TOKEN"), os.environ.get("MLFLOW_TRACKING_USERNAME")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    elif user:
        pair = f"{user}:{os.environ.get('MLFLOW_TRACKING_PASSWORD', '')}".encode()
        request.add_header("Authorization", f"Basic {base64.b64encode(pair).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=TRACKING_TIMEOUT_S):
            return None
    except urllib.error.HTTPError as error:
        body = error.read(2000).decode(errors="replace")
        if error.code == 403 and "host" in body.lower():
            return (
                f"the MLflow server refuses the host name of {uri} (403); start it with --allowed-hosts "
                f"{request.host} or set MLFLOW_SERVER_ALLOWED_HOSTS there, or leave tracking out with --tracking none"
            )
        if error.code in (401, 403):
            return (
                f"the MLflow server at {uri} refuses the credentials ({error.code}); set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD, or leave tracking out with --tracking none"
            )
        log.warning("event=tracking_away uri=%s status=%d", uri, error.code)
    except (OSError, ValueError) as error:
        log.warning("event=tracking_away uri=%s error=%s", uri, error)
    return None
