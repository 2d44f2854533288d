"""YAML 1.2 scalars, no duplicate keys, no aliases, bounded size and depth, and the line of every value."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

import yaml

from pipeline.config.errors import ConfigError
from pipeline.config.parsing import Path

MAX_BYTES = 1_000_000
MAX_DEPTH = 32

_SCALARS: list[tuple[str, re.Pattern[str], Any]] = [
    ("null", re.compile(r"^(?:~|null|)$"), lambda text: None),
    ("bool", re.compile(r"^(?:true|false)$"), lambda text: text == "true"),
    ("int", re.compile(r"^[-+]?[0-9]+$"), int),
    ("hex", re.compile(r"^0x[0-9a-fA-F]+$"), lambda text: int(text, 16)),
    ("float", re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$"), float),
]


@dataclass(frozen=True)
class Document:
    """Plain data with the place of every value."""

    data: Any
    places: dict[Path, str] = field(default_factory=dict[Path, str])
    source: str = ""

    def locate(self, path: Path) -> str:
        """`file:line` of the value at `path`, or of the nearest enclosing value."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return self.source

    def merged_over(self, base: "Document") -> "Document":
        """This document with the values of `base` where it has none (mappings merge, lists replace)."""
        places = {**base.places, **self.places}
        return Document(_merge(base.data, self.data), places, self.source)


def _merge(base: Any, over: Any) -> Any:
    if isinstance(base, Mapping) and isinstance(over, Mapping):
        keys = [*base, *(key for key in over if key not in base)]
        return {key: _merge(base.get(key), over[key]) if key in over else base[key] for key in keys}
    return over


def load_yaml(path: FilePath | str) -> Document:
    """Read one YAML file.

    Raises:
        ConfigError: the file is missing, too large, or not strict YAML; names file and line.
    """
    source = str(path)
    try:
        content = FilePath(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{source}: cannot be read ({error.strerror}); check the path") from None
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{source}: {len(content)} bytes; a configuration has at most {MAX_BYTES}")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{source}: not UTF-8 text (byte {error.start})") from None
    return parse_yaml(text, source)


def parse_yaml(text: str, source: str = "") -> Document:
    """Parse YAML text; `source` names it in messages."""
    try:
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            line = event.start_mark.line + 1
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise ConfigError(f"{source}:{line}: anchors and aliases are not allowed; write the value out")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise ConfigError(f"{source}:{line}: nested deeper than {MAX_DEPTH} levels")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{source}{line}: not valid YAML: {getattr(error, 'problem', error)}") from None
    places: dict[Path, str] = {}
    data = None if node is None else _value(node, (), source, places)
    return Document(data, places, source)


def _value(node: yaml.Node, path: Path, source: str, places: dict[Path, str]) -> Any:
    line = node.start_mark.line + 1
    places[path] = f"{source}:{line}"
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node)
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*path, index), source, places) for index, item in enumerate(node.value)]
    mapping: dict[str, Any] = {}
    for key_node, value_node in node.value:
        place = f"{source}:{key_node.start_mark.line + 1}"
        if not isinstance(key_node, yaml.ScalarNode):
            raise ConfigError(f"{place}: a key must be a plain word")
        key = str(key_node.value)
        if key in mapping:
            raise ConfigError(f"{place}: {'.'.join(map(str, (*path, key)))}: the key is given twice; keep one")
        mapping[key] = _value(value_node, (*path, key), source, places)
        places[(*path, key)] = place
    return mapping


def _scalar(node: yaml.ScalarNode) -> Any:
    if node.style is not None:  # quoted or block text stays text
        return node.value
    for _, pattern, convert in _SCALARS:
        if pattern.match(node.value):
            return convert(node.value)
    return node.value
