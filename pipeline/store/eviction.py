"""Keeps the copies of a host below a limit: the longest unused go first, those used lately never."""

import logging
import os
import time
from pathlib import Path

from pipeline.store.errors import StoreError

log = logging.getLogger(__name__)
LIMIT_VARIABLE = "PIPELINE_CACHE_BYTES"
DEFAULT_LIMIT_BYTES = 100 << 30
GRACE_S = 3600.0  # a path that was handed out this recently may not be open yet; this host's clock on this host's files


def limit_bytes() -> int:
    """PIPELINE_CACHE_BYTES, default 100 GiB."""
    text = os.environ.get(LIMIT_VARIABLE, str(DEFAULT_LIMIT_BYTES))
    if not text.isdigit():
        raise StoreError(f"{LIMIT_VARIABLE} is {text!r:.40}; write a number of bytes")
    return int(text)


def touch(path: Path) -> None:
    """Note that a copy is in use."""
    try:
        os.utime(path)
    except OSError as error:  # evicted by another process just now, or the cache is read-only
        log.debug("event=cache_touch path=%s error=%s", path, error)


def evict(objects: Path, *, limit: int, grace_s: float = GRACE_S) -> list[Path]:
    """Remove copies until at most `limit` bytes are left or all that remain were used within the grace period."""
    found: list[tuple[float, int, Path]] = []
    for path in objects.glob("*/*/*"):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        found.append((status.st_mtime, status.st_size, path))
    excess = sum(size for _, size, _ in found) - limit
    newest = time.time() - grace_s
    removed: list[Path] = []
    for used, size, path in sorted(found):
        if excess <= 0 or used > newest:
            break
        path.unlink(missing_ok=True)
        removed.append(path)
        excess -= size
    if removed:
        log.info("event=cache_evicted files=%d", len(removed))
    return removed
