"""Damaged manifests are put aside, so that the next look-up finds nothing and the work is done again."""

import logging

from pipeline.store.layout import QUARANTINE
from pipeline.store.names import new_ulid
from pipeline.store.objects import Objects

log = logging.getLogger(__name__)


def quarantine(objects: Objects, manifest: str, *, version: str, reason: object) -> None:
    """Move this version of a manifest to quarantine/; a newer one that took its place is left alone."""
    log.error("event=quarantine store=%s manifest=%s reason=%s", objects.url, manifest, reason)
    found = objects.get(manifest)
    if found is None or found.version != version:
        return
    objects.put(f"{QUARANTINE}/{manifest}-{new_ulid()}", found.body)
    objects.delete(manifest, version=version)
