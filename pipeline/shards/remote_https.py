"""HTTPS download with an allow-list of hosts, a checked address, and caps on size, time and redirects."""

import http.client
import ipaddress
import os
import socket
import ssl
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from pipeline.config import ConfigError, DataError
from pipeline.store import Retry
from pipeline.store.backend import Transient

HOSTS_VARIABLE = "PIPELINE_HTTPS_HOSTS"
DEFAULT_HOSTS = (
    "www.cs.toronto.edu",
    "ossci-datasets.s3.amazonaws.com",
    "storage.googleapis.com",
    "huggingface.co",
    "zenodo.org",
)
MAX_BYTES = 64 * 2**30
MAX_REDIRECTS = 5
TIMEOUT_S = 30.0
MAX_DURATION_S = 6 * 3600.0
_CHUNK_BYTES = 1 << 20

Connect = Callable[[str, int, str], http.client.HTTPConnection]
"""(host, port, checked address) -> connection."""


def allowed_hosts() -> tuple[str, ...]:
    """Hosts that may be contacted: the built-in list and `$PIPELINE_HTTPS_HOSTS` (comma separated)."""
    extra = os.environ.get(HOSTS_VARIABLE, "")
    return (*DEFAULT_HOSTS, *(host.strip().lower() for host in extra.split(",") if host.strip()))


def public_address(host: str, port: int) -> str:
    """One resolved address of `host`, all of which must be public.

    Raises:
        DataError: the name does not resolve, or leads to a private, loopback or link-local address.
    """
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except OSError as error:
        raise DataError(f"https://{host}: the name does not resolve ({error.strerror})") from None
    for address in sorted(found):
        if not ipaddress.ip_address(address.split("%")[0]).is_global:
            raise DataError(f"https://{host}: resolves to {address}, which is not a public address; refused")
    return sorted(found)[0]


class _PinnedConnection(http.client.HTTPSConnection):
    """TLS to a checked address, with the certificate checked against the host's name."""

    def __init__(self, host: str, port: int, address: str) -> None:
        context = ssl.create_default_context()
        super().__init__(host, port, timeout=TIMEOUT_S, context=context)
        self._address, self._checked_context = address, context

    def connect(self) -> None:
        plain = socket.create_connection((self._address, self.port), timeout=TIMEOUT_S)
        self.sock = self._checked_context.wrap_socket(plain, server_hostname=self.host)


def download_https(
    url: str,
    target: Path,
    *,
    connect: Connect = _PinnedConnection,
    resolve: Callable[[str, int], str] = public_address,
    max_bytes: int = MAX_BYTES,
    retry: Retry | None = None,
) -> None:
    """Write the body of `url` to `target`.

    Args:
        url: `https://host/...`; the host and every redirect's host must be on the list.
        target: file to write.
        connect: makes a connection to a checked address.
        resolve: gives the checked address of a host.
        max_bytes: upper limit of the body.
        retry: for lost connections and 5xx answers.

    Raises:
        ConfigError: another scheme, or a host that is not on the list.
        DataError: the server refuses, the address is not public, the body is too large or too slow.
        StoreUnavailable: not reachable within the retry budget.
    """
    attempt = partial(_download, url, target, connect=connect, resolve=resolve, max_bytes=max_bytes)
    (retry or Retry())(url, attempt)


def _download(url: str, target: Path, *, connect: Connect, resolve: Callable[[str, int], str], max_bytes: int) -> None:
    deadline = time.monotonic() + MAX_DURATION_S
    start = url
    for _ in range(MAX_REDIRECTS + 1):
        parts = urlsplit(url)
        host, port = (parts.hostname or "").lower(), parts.port or 443
        if parts.scheme != "https" or parts.username is not None:
            raise ConfigError(f"uri: {start} leads to {parts.scheme}://{host}; only plain https:// is opened")
        if host not in allowed_hosts():
            raise ConfigError(f"uri: host {host} of {start} is not on the list; add it to {HOSTS_VARIABLE}")
        connection = connect(host, port, resolve(host, port))
        try:
            path = parts.path or "/"
            connection.request("GET", f"{path}?{parts.query}" if parts.query else path)
            response = connection.getresponse()
            location = response.headers.get("Location")
            if response.status in (301, 302, 303, 307, 308) and location:
                url = urljoin(url, location)
                continue
            if response.status >= 500 or response.status == 429:
                raise Transient(f"{response.status} {response.reason}")
            if response.status != 200:
                raise DataError(f"{start}: the server answered {response.status} {response.reason}")
            _save(response, target, start=start, max_bytes=max_bytes, deadline=deadline)
            return
        except ssl.SSLCertVerificationError as error:
            raise DataError(f"{start}: no trusted connection to {host} ({error.verify_message})") from None
        except (OSError, http.client.HTTPException) as error:
            raise Transient(f"{type(error).__name__}: {error}") from None
        finally:
            connection.close()
    raise DataError(f"{start}: more than {MAX_REDIRECTS} redirects")


def _save(response: http.client.HTTPResponse, target: Path, *, start: str, max_bytes: int, deadline: float) -> None:
    declared = response.headers.get("Content-Length")
    if declared is not None and declared.isdigit() and int(declared) > max_bytes:
        raise DataError(f"{start}: {declared} bytes are more than the limit of {max_bytes}")
    written = 0
    with target.open("wb") as file:
        while chunk := response.read(_CHUNK_BYTES):
            written += len(chunk)
            if written > max_bytes:
                raise DataError(f"{start}: more than the limit of {max_bytes} bytes")
            if time.monotonic() > deadline:
                raise DataError(f"{start}: not finished after {MAX_DURATION_S:.0f} s")
            file.write(chunk)
    if declared is not None and declared.isdigit() and written != int(declared):
        raise Transient(f"{written} of {declared} bytes arrived")
