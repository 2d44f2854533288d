"""Where things are in a store.

artifacts/<stage>/<fingerprint>/manifest.json             put-if-absent; its presence is the commit
artifacts/<stage>/<fingerprint>/attempts/<ulid>/<files>   written freely, visible only through a manifest
state/<stage>/<fingerprint>/<step>-<ulid>/...             resumable state, each with its own manifest
leases/<stage>/<fingerprint>                              saves work, not needed for correctness
grids/<name>/...                                          documents: plans, progress, unsent tracking events
quarantine/...                                            manifests of damaged artifacts
preflight/...                                             probes, removed at once
tmp/                                                      temporary files of a local store
"""

from pipeline.store.names import FINGERPRINT, NAME, Key

ARTIFACTS = "artifacts"
STATE = "state"
LEASES = "leases"
GRIDS = "grids"
QUARANTINE = "quarantine"
PREFLIGHT = "preflight"
RESERVED = {ARTIFACTS, STATE, LEASES, QUARANTINE, PREFLIGHT, "tmp", "clock"}
MANIFEST = "manifest.json"


def key_of(path: str) -> Key | None:
    """The key that an object below artifacts/ or state/ belongs to; None for a stray object."""
    parts = path.split("/")
    if len(parts) < 4 or not (NAME.fullmatch(parts[1]) and FINGERPRINT.fullmatch(parts[2])):
        return None
    return Key(parts[1], parts[2])


def artifact_prefix(key: Key) -> str:
    """Everything of an artifact, with the final '/'."""
    return f"{ARTIFACTS}/{key}/"


def manifest_key(key: Key) -> str:
    """The object whose presence is the commit."""
    return f"{artifact_prefix(key)}{MANIFEST}"


def attempt_prefix(key: Key, attempt: str) -> str:
    """The files of one attempt, with the final '/'."""
    return f"{artifact_prefix(key)}attempts/{attempt}/"


def state_prefix(key: Key) -> str:
    """All resumable states of a key, with the final '/'."""
    return f"{STATE}/{key}/"


def lease_key(key: Key | str) -> str:
    """The lease of an artifact's key, or of a checked path such as grids/<name>."""
    return f"{LEASES}/{key}"
