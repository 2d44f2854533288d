"""Environment of Ray and its workers; has to be set before ray is imported, which reads it once."""

import os
import secrets
import socket
from urllib.parse import urlsplit

from pipeline.config import ConfigError

WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",  # more BLAS threads change last bits
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(256 * 2**20),  # glibc: keep the memory of tensors for the next ones, so that
    "MALLOC_TRIM_THRESHOLD_": str(512 * 2**20),  # no step pays for fresh pages
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.3",  # Ray Train's poll; its default adds two seconds per report
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
}
CONNECT_S = 10.0


def cluster_address(address: str | None) -> str | None:
    """The cluster to join, or None when Ray is to be started on this machine."""
    address = address or os.environ.get("RAY_ADDRESS")
    return None if address in (None, "", "local") else address


def require_answer(address: str) -> None:
    """Ray itself waits minutes for a cluster that is not there.

    Raises:
        ConfigError: nobody listens at `address`.
    """
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        if parts.hostname is not None and parts.port is not None:
            socket.create_connection((parts.hostname, parts.port), timeout=CONNECT_S).close()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"no Ray cluster answers at {address} ({error}); correct --address or RAY_ADDRESS, or leave both out to "
            "start Ray on this machine"
        ) from None


def prepare_environment(address: str | None) -> None:
    """Set what workers inherit. A cluster of our own gets a token that only this process and its workers know.

    Raises:
        ConfigError: no cluster answers at the address.
    """
    joined = cluster_address(address)
    if joined is not None:
        require_answer(joined)
    for name, value in WORKER_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if "RAY_AUTH_MODE" in os.environ:
        return
    if joined is None:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    else:
        os.environ["RAY_AUTH_MODE"] = "disabled"
