"""Reads every committed byte and compares it with the manifests."""

from dataclasses import dataclass

from pipeline.store.errors import ArtifactDamaged, StoreError
from pipeline.store.layout import attempt_prefix, manifest_key
from pipeline.store.manifest import Manifest
from pipeline.store.names import Key
from pipeline.store.quarantine import quarantine
from pipeline.store.store import Store


@dataclass(frozen=True)
class Problem:
    """One thing that is not as promised."""

    key: Key
    message: str

    def __str__(self) -> str:
        return f"{self.key.short}: {self.message}"


def verify(store: Store, *, stage: str | None = None, repair: bool = False) -> list[Problem]:
    """Problems of all finished artifacts; empty when every byte is right.

    Args:
        store: read completely, past all caches.
        stage: only this one.
        repair: put damaged artifacts aside, so that the next run makes them again.
    """
    problems: list[Problem] = []
    committed = set(store.keys())
    for key in sorted(committed):
        if stage is not None and key.stage != stage:
            continue
        found = store.objects.get(manifest_key(key))
        if found is None:
            continue
        damages, others = _problems(store, key, body=found.body, committed=committed)
        problems += [Problem(key, message) for message in damages + others]
        if damages and repair:
            quarantine(store.objects, manifest_key(key), version=found.version, reason=damages[0])
    return problems


def _problems(store: Store, key: Key, *, body: bytes, committed: set[Key]) -> tuple[list[str], list[str]]:
    """(what damages this artifact, what is wrong around it)."""
    try:
        manifest = Manifest.decode(body, key)
    except (ArtifactDamaged, StoreError) as error:
        return [str(error)], []
    damages: list[str] = []
    for name, entry in manifest.files.items():
        found = store.objects.digest(attempt_prefix(key, manifest.attempt) + name)
        if found is None:
            damages.append(f"{name} is missing")
        elif found != entry:
            damages.append(
                f"{name} has {found.size} bytes, sha256 {found.sha256}; promised {entry.size}, {entry.sha256}"
            )
    absent = [
        f"input {role} {parent.short} is absent" for role, parent in manifest.inputs.items() if parent not in committed
    ]
    return damages, absent
