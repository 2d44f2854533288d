"""Why a cell is or is not computed again: its chain of artifacts, and how each differs from the nearest one stored."""

from collections.abc import Iterator
from typing import Any

from pipeline.grid.plan import Cell, Plan
from pipeline.grid.tasks import Task
from pipeline.store import Artifact, Key, Store

MAX_COMPARED = 2000


def flattened(value: Any, prefix: str = "") -> dict[str, Any]:
    """A nested identity as dotted paths."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = ((str(index), item) for index, item in enumerate(value))
    else:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for name, item in items:
        flat |= flattened(item, f"{prefix}.{name}" if prefix else str(name))
    return flat


def differences(old: Any, new: Any) -> list[str]:
    """`path: old -> new` for everything that differs between two identities."""
    before, after = flattened(old), flattened(new)
    lines: list[str] = []
    for path in sorted({*before, *after}):
        if before.get(path) != after.get(path):
            lines.append(f"{path}: {before.get(path, '(absent)')} -> {after.get(path, '(absent)')}")
    return lines


def find_cell(plan: Plan, name: str) -> Cell | None:
    """The cell of that name, or the only one whose name or result address begins with it."""
    exact = [cell for cell in plan.cells if cell.name == name]
    begins = [cell for cell in plan.cells if cell.name.startswith(name) or cell.key.fingerprint.startswith(name)]
    matches = exact or begins
    return matches[0] if len(matches) == 1 else None


def explanation(plan: Plan, cell: Cell, store: Store) -> Iterator[str]:
    """Lines from the data to the result: what is stored, what is missing, and what changed against what is stored."""
    yield f"{cell.name}  result {cell.key.fingerprint[:12]}"
    seen: set[Key] = set()
    blocks: dict[str, list[bool]] = {}
    for task in cell.tasks.in_order():
        if task.key in seen:
            continue
        seen.add(task.key)
        stored = store.find(task.key) is not None
        if task.stage in ("sample", "features", "nearest", "likelihood"):
            blocks.setdefault(task.stage, []).append(stored)
            if len(blocks[task.stage]) > 1 or stored:
                continue
        state = "stored" if stored else "to be computed"
        yield f"  {task.stage:<11} {task.key.fingerprint[:12]}  {state:<15} {task.label}"
        if not stored:
            yield from (f"      {line}" for line in _against_nearest(task, store))
    for stage, found in blocks.items():
        yield f"  {stage:<11} {sum(found)} of {len(found)} blocks stored"


def _against_nearest(task: Task, store: Store) -> list[str]:
    identity = task.spec.identity()
    best: tuple[int, Artifact, list[str]] | None = None
    for count, key in enumerate(store.keys(task.stage)):
        if count >= MAX_COMPARED:
            break
        artifact = store.find(key)
        if artifact is None:
            continue
        changed = differences(artifact.identity, identity)
        if best is None or len(changed) < best[0]:
            best = (len(changed), artifact, changed)
    if best is None:
        return ["nothing of this stage is stored yet"]
    _, nearest, changed = best
    what = changed[:6] or ["same settings, other inputs (see above)"]
    more = [f"and {len(changed) - 6} more"] if len(changed) > 6 else []
    return [f"nearest stored: {nearest.key.fingerprint[:12]}", *what, *more]
