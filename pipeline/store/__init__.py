"""Artifacts: fingerprints, put-if-absent commits, leases, resumable state, on local disk or S3."""

from pipeline.store.artifact import Artifact
from pipeline.store.attempt import Attempt
from pipeline.store.canonical import canonical_json, fingerprint
from pipeline.store.collection import Collection, collect, recorded_roots
from pipeline.store.digest import FileEntry
from pipeline.store.documents import Documents
from pipeline.store.errors import (
    ArtifactDamaged,
    LeaseHeld,
    LeaseLost,
    ResourceError,
    StoreError,
    StoreUnavailable,
)
from pipeline.store.lease import Lease
from pipeline.store.names import Key
from pipeline.store.preflight import preflight
from pipeline.store.retry import Retry
from pipeline.store.state import State, StateStore
from pipeline.store.store import Store, open_store
from pipeline.store.verification import Problem, verify

__all__ = [
    "Artifact",
    "ArtifactDamaged",
    "Attempt",
    "Collection",
    "Documents",
    "FileEntry",
    "Key",
    "Lease",
    "LeaseHeld",
    "LeaseLost",
    "Problem",
    "ResourceError",
    "Retry",
    "State",
    "StateStore",
    "Store",
    "StoreError",
    "StoreUnavailable",
    "canonical_json",
    "collect",
    "fingerprint",
    "open_store",
    "preflight",
    "recorded_roots",
    "verify",
]
