"""Validation of plain data against a specification, with errors that name the place and the cure."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError

from pipeline.config.errors import ConfigError
from pipeline.config.spec import Spec, closest

Path = tuple[str | int, ...]
"""Keys and list positions that lead from the root of a document to a value."""


def parse(annotation: Any, value: Any, where: str = "", locate: Any = None) -> Any:
    """Validate `value` (plain data or a ready specification) as `annotation`.

    Args:
        annotation: a `Spec` class or an annotation made by `union`.
        value: mapping, list or scalar as YAML gives it; specifications inside are accepted.
        where: prefix of the path in messages, for example `process`.
        locate: maps a path to `file:line`, when the value came from a file.

    Raises:
        ConfigError: the first thing that is wrong, in one sentence.
    """
    if isinstance(annotation, type) and isinstance(value, annotation):
        return value
    try:
        text = json.dumps(value, default=_plain, allow_nan=True)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where or 'value'}: {error}") from None
    plain = json.loads(text)
    try:
        return TypeAdapter(annotation).validate_python(_frozen(plain), strict=True)
    except ValidationError as error:
        raise ConfigError(_sentence(error, plain, where, locate)) from None


def _frozen(value: Any) -> Any:
    """Lists as tuples: specifications are values."""
    if isinstance(value, list):
        return tuple(_frozen(item) for item in value)
    if isinstance(value, dict):
        return {key: _frozen(item) for key, item in value.items()}
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Spec):
        return value.model_dump(mode="json")
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} cannot be part of a specification")


def _sentence(error: ValidationError, data: Any, where: str, locate: Any) -> str:
    problems = error.errors(include_url=False)
    first = problems[0]
    path, found = _path_in(data, first["loc"])
    context = first.get("ctx", {})
    if first["type"] == "unknown_key":
        path, message = (*path, context["key"]), f"unknown key{context['hint']}"
    elif first["type"] == "missing":
        path = (*path, str(first["loc"][-1]))
        message = "is required"
    elif first["type"] == "union_tag_invalid":
        tag = context["tag"]
        expected = [name.strip(" '") for name in context["expected_tags"].split(",")]
        path, message = (*path, "kind"), f"unknown kind {tag!r}{closest(tag, expected)}"
    elif first["type"] == "union_tag_not_found":
        message = "needs a `kind`"
    elif first["type"] == "value_error":
        message = str(context["error"])
    else:
        text = first["msg"][0].lower() + first["msg"][1:]
        message = f"{text}, found {_short(found)}"
    label = ".".join(([where] if where else []) + [str(part) for part in path])
    prefix = f"{locate(path)}: " if locate else ""
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{prefix}{label + ': ' if label else ''}{message}{more}"


def _path_in(data: Any, location: Sequence[str | int]) -> tuple[Path, Any]:
    """The part of a pydantic location that exists in the data (union tags are dropped), and the value there."""
    path: Path = ()
    for part in location:
        is_key = isinstance(data, Mapping) and part in data
        is_position = isinstance(data, list) and isinstance(part, int) and part < len(data)
        if is_key or is_position:
            data, path = cast(Any, data)[part], (*path, part)
    return path, data


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
