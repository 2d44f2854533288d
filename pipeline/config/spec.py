"""Base class of every specification: frozen, strict, and able to say what identifies a result."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Union

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

_RUNTIME = "runtime"
_NEUTRAL = "neutral"


def runtime(default: Any = ..., **constraints: Any) -> Any:
    """A field that says how work is done, not what is computed; it never enters a fingerprint."""
    return Field(default, json_schema_extra={_RUNTIME: True}, **constraints)


def neutral(default: Any, **constraints: Any) -> Any:
    """A field added later: while it equals `default`, it stays out of fingerprints, so old results keep their names."""
    return Field(default, json_schema_extra={_NEUTRAL: True}, **constraints)


def closest(name: object, candidates: list[str]) -> str:
    """`; did you mean X?` for a misspelt name, or the list of what is possible."""
    matches = get_close_matches(str(name), candidates, n=1, cutoff=0.5)
    if matches:
        return f"; did you mean {matches[0]}?"
    return f"; possible: {', '.join(sorted(candidates))}" if candidates else ""


class Spec(BaseModel):
    """A frozen value with ranges on its fields; unknown keys, NaN and infinity are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _reject_unknown_keys(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            for key in data:
                if key not in cls.model_fields:
                    context = {"key": str(key), "hint": closest(key, list(cls.model_fields))}
                    raise PydanticCustomError("unknown_key", "unknown key{hint}", context)
        return data

    def identity(self) -> dict[str, Any]:
        """The JSON-able part of this value that decides what is computed."""
        fields: dict[str, Any] = {}
        for name, info in type(self).model_fields.items():
            marks = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
            value = getattr(self, name)
            if marks.get(_RUNTIME) or (marks.get(_NEUTRAL) and value == info.default):
                continue
            fields[name] = identity_of(value)
        return fields


def identity_of(value: Any) -> Any:
    """`Spec.identity` through lists, tuples and mappings."""
    if isinstance(value, Spec):
        return value.identity()
    if isinstance(value, list | tuple):
        return [identity_of(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): identity_of(item) for key, item in value.items()}
    return value


def union(table: Mapping[str, type[Spec]]) -> Any:
    """The tagged union over a family table; the field `kind` selects the member."""
    members = tuple(table.values())
    if len(members) == 1:
        return members[0]
    return Annotated[Union[members], Field(discriminator="kind")]  # noqa: UP007 - built from a tuple at run time
