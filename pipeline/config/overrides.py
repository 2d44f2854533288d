"""`--set a.b=c`: one value of a document replaced from the command line."""

import copy
from collections.abc import Sequence
from typing import Any

from pipeline.config.errors import ConfigError
from pipeline.config.strict_yaml import Document, parse_yaml


def with_overrides(document: Document, assignments: Sequence[str]) -> Document:
    """The document with every `path=value` applied in order; values are YAML, list positions are numbers.

    Raises:
        ConfigError: an assignment is malformed or leads through something that has no such part.
    """
    data, places = copy.deepcopy(document.data), dict(document.places)
    for assignment in assignments:
        path, separator, text = assignment.partition("=")
        source = f"--set {assignment}"
        if not separator or not path.strip():
            raise ConfigError(f"{source}: write path=value, for example experiment.train.lr=1e-4")
        parts = [int(part) if part.isdigit() else part for part in path.strip().split(".")]
        _assign(data, parts, parse_yaml(text, source).data, source)
        prefix = tuple(parts)
        places = {key: value for key, value in places.items() if key[: len(prefix)] != prefix}
        places[prefix] = source
    return Document(data, places, document.source)


def _assign(data: Any, parts: Sequence[str | int], value: Any, source: str) -> None:
    for index, part in enumerate(parts):
        is_last = index == len(parts) - 1
        if isinstance(data, list) and isinstance(part, int) and part < len(data):
            if is_last:
                data[part] = value
            else:
                data = data[part]
        elif isinstance(data, dict) and isinstance(part, str):
            if is_last:
                data[part] = value
            else:
                data = data.setdefault(part, {})
        else:
            found = f"a list of {len(data)}" if isinstance(data, list) else type(data).__name__
            raise ConfigError(f"{source}: {'.'.join(map(str, parts[:index])) or 'the document'} is {found}")
