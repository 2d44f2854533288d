"""Specifications: their base class, strict YAML, overrides, and errors that name file, line and cure."""

from pipeline.config.errors import ConfigError, DataError
from pipeline.config.overrides import with_overrides
from pipeline.config.parsing import parse
from pipeline.config.spec import Spec, closest, identity_of, neutral, runtime, union
from pipeline.config.strict_yaml import Document, load_yaml, parse_yaml

__all__ = [
    "ConfigError",
    "DataError",
    "Document",
    "Spec",
    "closest",
    "identity_of",
    "load_yaml",
    "neutral",
    "parse",
    "parse_yaml",
    "runtime",
    "union",
    "with_overrides",
]
