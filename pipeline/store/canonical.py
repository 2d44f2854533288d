"""Canonical JSON and the fingerprint made of it."""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, cast

from pipeline.store.errors import StoreError
from pipeline.store.names import Key, checked_name

FORMAT = 1


def plain(value: Any, where: str = "value") -> Any:
    """The value as dict, list, str, int, float, bool, None; tuples become lists and -0.0 becomes 0.0.

    Raises:
        StoreError: NaN, infinity, a key that is no string, or a type JSON does not have, with its path.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise StoreError(f"{where}: {value} has no place in canonical JSON")
        return float(value) + 0.0
    if isinstance(value, list | tuple):
        items = cast(list[Any], value)
        return [plain(item, f"{where}[{index}]") for index, item in enumerate(items)]
    if isinstance(value, Mapping):
        fields = cast(Mapping[Any, Any], value)
        for name in fields:
            if not isinstance(name, str):
                raise StoreError(f"{where}: the key {name!r} is not a string")
        return {str(name): plain(item, f"{where}.{name}") for name, item in fields.items()}
    raise StoreError(f"{where}: {type(value).__name__} is not JSON")


def canonical_json(value: Any, where: str = "value") -> bytes:
    """The one spelling of a JSON value: sorted keys, no spaces, ASCII, no NaN."""
    text = json.dumps(plain(value, where), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.encode("ascii")


def fingerprint(stage: str, version: int, identity: Any, inputs: Mapping[str, Key]) -> str:
    """sha256 over what an artifact is made from, 64 hex digits.

    Args:
        stage: name of the stage.
        version: its STAGE_VERSION; a new one makes everything it produced unfindable.
        identity: JSON value of all settings that change the output (seed and data digest included).
        inputs: the artifacts it reads, by role; their fingerprints enter, not their content.
    """
    recipe = {
        "format": FORMAT,
        "stage": checked_name(stage),
        "version": version,
        "identity": identity,
        "inputs": {role: str(key) for role, key in inputs.items()},
    }
    return hashlib.sha256(canonical_json(recipe, "identity")).hexdigest()
