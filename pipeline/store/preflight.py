"""Does the store do what the protocol needs? Asked before work starts, answered in seconds."""

import logging
import secrets

from pipeline.store.errors import ResourceError, StoreError, StoreUnavailable
from pipeline.store.layout import PREFLIGHT
from pipeline.store.local_errors import free_bytes
from pipeline.store.names import new_ulid
from pipeline.store.objects import Objects
from pipeline.store.store import Store

log = logging.getLogger(__name__)
FIRST_WAIT_S = 0.2
BUDGET_S = 3.0


def preflight(store: Store, *, min_free_bytes: int = 0, single_driver: bool = False) -> None:
    """Write, conditionally overwrite and remove a probe.

    Args:
        store: local or S3.
        min_free_bytes: refuse a local disk with less; 0 asks nothing.
        single_driver: the user promises that one driver at a time uses the store, so conditions that are ignored only
            earn a warning.

    Raises:
        StoreError: one sentence with what is wrong and what to do.
    """
    objects = store.objects.with_retry(first_s=FIRST_WAIT_S, budget_s=BUDGET_S)
    probe = f"{PREFLIGHT}/{new_ulid()}"
    root = objects.backend.local_path(probe)
    free = None if root is None else free_bytes(root)
    if free is not None and free < min_free_bytes:
        raise StoreError(
            f"{store.url} has {free} bytes free and {min_free_bytes} are needed; free space or choose another store"
        )
    try:
        _check_conditional_puts(objects, probe, single_driver=single_driver)
    except StoreUnavailable as error:
        raise StoreError(
            f"the store {store.url} does not answer ({error}); check the address (AWS_ENDPOINT_URL) and that it runs"
        ) from error
    except ResourceError as error:
        raise StoreError(str(error)) from error


def _check_conditional_puts(objects: Objects, probe: str, *, single_driver: bool) -> None:
    first, second = secrets.token_bytes(16), secrets.token_bytes(16)
    version = objects.create(probe, first)
    if version is None:
        raise StoreError(f"{objects.url} says that a fresh name exists; it cannot be used as a store")
    try:
        if objects.create(probe, second) is not None:
            _ignored(
                f"{objects.url} ignores IfNoneMatch, two drivers could both commit; use a store with conditional puts",
                single_driver=single_driver,
            )
            version = objects.create(probe, second) or version
        if objects.replace(probe, second, version=version) is None:
            raise StoreError(f"{objects.url} refuses a matching IfMatch; use a store with conditional puts")
        if objects.replace(probe, first, version=version) is not None:
            _ignored(
                f"{objects.url} ignores IfMatch, so a stale owner could renew; use a store with conditional puts",
                single_driver=single_driver,
            )
        objects.now()
    finally:
        objects.delete(probe)


def _ignored(sentence: str, *, single_driver: bool) -> None:
    if not single_driver:
        raise StoreError(f"{sentence}, or --single-driver where nobody else writes")
    log.warning("event=store_without_conditions reason='%s'", sentence)
