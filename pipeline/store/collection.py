"""Removes what nothing refers to: unreachable, old by the store's clock, and under no live lease."""

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pipeline.store.backend import Object, Stat
from pipeline.store.errors import StoreError
from pipeline.store.layout import ARTIFACTS, GRIDS, LEASES, MANIFEST, PREFLIGHT, QUARANTINE, STATE, key_of, manifest_key
from pipeline.store.lease import holder
from pipeline.store.manifest import Manifest
from pipeline.store.names import FINGERPRINT, NAME, Key
from pipeline.store.objects import Objects
from pipeline.store.store import Store

log = logging.getLogger(__name__)
DAY_S = 86400.0
WAIT_S = 60.0
LEASE_TTL_S = 120.0
RECORDED = re.compile(rf'"({NAME.pattern})/({FINGERPRINT.pattern})"')
Roots = Iterable[Key] | Callable[[], Iterable[Key]]


@dataclass(frozen=True)
class Collection:
    """What was, or in a dry run would be, removed.

    Attributes:
        removed: key prefixes, sorted.
        size_bytes: their objects together.
        num_kept: artifacts that stay.
    """

    removed: tuple[str, ...]
    size_bytes: int
    num_kept: int
    is_dry_run: bool


@dataclass(frozen=True)
class Unit:
    """Objects that go together; a manifest goes first, and only in the version that was looked at."""

    prefix: str
    objects: tuple[Stat, ...]
    manifest: Object | None = None
    is_debris: bool = False


@dataclass
class Survey:
    """One look at the whole store."""

    units: dict[str, Unit] = field(default_factory=dict[str, Unit])
    kept: set[Key] = field(default_factory=set[Key])


def collect(
    store: Store, roots: Roots, *, older_than_days: float = 7.0, dry_run: bool = True, wait_s: float = WAIT_S
) -> Collection:
    """List, wait, look again, delete what is garbage both times and did not change.

    Kept are the roots, artifacts younger than the limit, those under a live lease, and all their inputs. Grids'
    documents are never touched.

    Args:
        store: only one collection runs at a time (lease).
        roots: keys that count as used, or a function that is asked at both looks; see recorded_roots.
        older_than_days: by the store's clock; the newest object of an attempt or artifact counts.
        dry_run: only tell.
        wait_s: pause between the looks.

    Raises:
        ArtifactDamaged: a manifest that is needed to know what is used cannot be read; verify(repair=True) helps.
        LeaseHeld: another collection is running.
    """
    if older_than_days < 0:
        raise StoreError(f"older_than_days is {older_than_days}; it cannot be negative")
    if dry_run:
        survey = _survey(store, roots, older_than_days * DAY_S)
        return _told(survey, survey.units.values(), is_dry_run=True)
    with store.lease("collector", owner="collection", ttl_s=LEASE_TTL_S) as lease:
        first = _survey(store, roots, older_than_days * DAY_S)
        if first.units:
            store.objects.retry.clock.sleep(wait_s)
        second = _survey(store, roots, older_than_days * DAY_S) if first.units else first
        removed: list[Unit] = []
        for prefix, unit in sorted(second.units.items()):
            if first.units.get(prefix) == unit:
                lease.require()
                if _delete(store.objects, unit):
                    removed.append(unit)
    return _told(second, removed, is_dry_run=False)


def recorded_roots(store: Store) -> list[Key]:
    """Every 'stage/fingerprint' that occurs as a string in some grids/<name>/plan.json."""

    keys: set[Key] = set()
    for stat in store.objects.scan(f"{GRIDS}/"):
        found = store.objects.get(stat.key) if stat.key.endswith("/plan.json") else None
        if found is not None:
            keys.update(Key(stage, digits) for stage, digits in RECORDED.findall(found.body.decode(errors="replace")))
    return sorted(keys)


def _told(survey: Survey, units: Iterable[Unit], *, is_dry_run: bool) -> Collection:
    units = sorted(units, key=lambda unit: unit.prefix)
    size = sum(stat.size for unit in units for stat in unit.objects)
    return Collection(tuple(unit.prefix for unit in units), size, len(survey.kept), is_dry_run)


def _delete(objects: Objects, unit: Unit) -> bool:
    manifest = f"{unit.prefix}{MANIFEST}"
    if unit.manifest is not None and not objects.delete(manifest, version=unit.manifest.version):
        return False
    for stat in unit.objects:
        if unit.is_debris:
            objects.delete_debris(stat)
        elif stat.key != manifest:  # a manifest that is here now is a new one
            objects.delete(stat.key)
    log.info("event=collected prefix=%s objects=%d", unit.prefix, len(unit.objects))
    return True


def _survey(store: Store, roots: Roots, horizon_s: float) -> Survey:
    objects = store.objects
    limit = objects.now() - horizon_s

    def is_old(stats: Iterable[Stat]) -> bool:
        return all(stat.modified_s < limit for stat in stats)

    artifacts, states = _by_key(objects.scan(f"{ARTIFACTS}/")), _by_key(objects.scan(f"{STATE}/"))
    leases = objects.scan(f"{LEASES}/")
    live = _live(objects, leases)
    committed = {key for key, stats in artifacts.items() if manifest_key(key) in {stat.key for stat in stats}}
    young = {key for group in (artifacts, states) for key, stats in group.items() if not is_old(stats)}
    wanted = set(roots() if callable(roots) else roots)
    leased = {key for key in artifacts.keys() | states.keys() if f"{LEASES}/{key}" in live}
    survey = Survey()
    manifests = _reached(objects, wanted | young | leased, committed)
    survey.kept = committed & manifests.keys()

    for key, stats in artifacts.items():
        prefix = f"{ARTIFACTS}/{key}/"
        if key in manifests:
            if key not in leased:
                for attempt, files in _by_attempt(prefix, stats).items():
                    if is_old(files) and attempt != manifests[key]:
                        name = f"{prefix}attempts/{attempt}/"
                        survey.units[name] = Unit(name, tuple(files))
        else:
            survey.units[prefix] = Unit(prefix, tuple(stats), objects.get(manifest_key(key)))
    for key, stats in states.items():
        is_finished = manifests.get(key) is not None and is_old(stats) and key not in leased
        if key not in manifests or is_finished:
            survey.units[f"{STATE}/{key}/"] = Unit(f"{STATE}/{key}/", tuple(stats))
    rest = objects.scan(f"{QUARANTINE}/") + objects.scan(f"{PREFLIGHT}/")
    for stat in rest + [lease for lease in leases if lease.key not in live]:
        if is_old([stat]):
            survey.units[stat.key] = Unit(stat.key, (stat,))
    for stat in objects.debris():
        if is_old([stat]):
            survey.units[stat.key] = Unit(stat.key, (stat,), is_debris=True)
    return survey


def _live(objects: Objects, leases: Iterable[Stat]) -> set[str]:
    """Keys of the leases that still hold."""
    found = ((stat.key, objects.get(stat.key)) for stat in leases)
    return {key for key, lease in found if lease is not None and holder(objects, lease)[2]}


def _reached(objects: Objects, start: set[Key], committed: set[Key]) -> dict[Key, str | None]:
    """Every key that has to stay -> the attempt its manifest names, None if it is not finished."""
    reached: dict[Key, str | None] = {}
    pending = list(start)
    while pending:
        key = pending.pop()
        if key in reached:
            continue
        found = objects.get(manifest_key(key)) if key in committed else None
        if found is None:
            reached[key] = None
            continue
        manifest = Manifest.decode(found.body, key)
        reached[key] = manifest.attempt
        pending.extend(manifest.inputs.values())
    return reached


def _by_key(stats: Iterable[Stat]) -> dict[Key, list[Stat]]:
    groups: dict[Key, list[Stat]] = defaultdict(list)
    for stat in stats:
        key = key_of(stat.key)
        if key is not None:
            groups[key].append(stat)
    return groups


def _by_attempt(prefix: str, stats: Iterable[Stat]) -> dict[str, list[Stat]]:
    groups: dict[str, list[Stat]] = defaultdict(list)
    for stat in stats:
        kind, _, rest = stat.key[len(prefix) :].partition("/")
        if kind == "attempts":
            groups[rest.partition("/")[0]].append(stat)
    return groups
