"""Strict YAML, overrides, identity, and sentences that name file, line, path and cure."""

from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import PositiveFloat

from pipeline.config import ConfigError, Spec, load_yaml, neutral, parse, parse_yaml, runtime, union, with_overrides


class _Adam(Spec):
    kind: Literal["adam"] = "adam"
    lr: PositiveFloat = 1e-3
    betas: tuple[float, ...] = (0.9,)


class _Sgd(Spec):
    kind: Literal["sgd"] = "sgd"
    workers: int = runtime(3)
    momentum: float = neutral(0.0)


class _Run(Spec):
    optimiser: union({"adam": _Adam, "sgd": _Sgd})  # type: ignore[valid-type]
    steps: int


def _error(text: str) -> str:
    document = parse_yaml(text, "grid.yaml")
    with pytest.raises(ConfigError) as caught:
        parse(_Run, document.data, locate=document.locate)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optimiser:\n  kind: adam\n  lrr: 1\nsteps: 1", "grid.yaml:3: optimiser.lrr: unknown key; did you mean lr?"),
        ("optimiser: {kind: adm}\nsteps: 1", "grid.yaml:1: optimiser.kind: unknown kind 'adm'; did you mean adam?"),
        ("optimiser: {kind: adam, lr: -1}\nsteps: 1", "greater than 0, found -1"),
        ("optimiser: {kind: adam}\nsteps: '1'", 'grid.yaml:2: steps: input should be a valid integer, found "1"'),
        ("optimiser: {kind: adam}", "grid.yaml:1: steps: is required"),
        ("optimiser: {lr: 1}\nsteps: 1", "optimiser: needs a `kind`"),
        ("optimiser: {kind: adam, lr: .inf}\nsteps: 1", "optimiser.lr"),
    ],
)
def test_an_error_names_place_path_and_cure(text: str, expected: str) -> None:
    assert expected in _error(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\na: 2", "f:2: a: the key is given twice"),
        ("a: &x 1\nb: *x", "anchors and aliases"),
        ("a: [1", "not valid YAML"),
        ("[" * 40 + "]" * 40, "nested deeper"),
        ("? [1, 2]\n: 3", "a key must be a plain word"),
    ],
)
def test_yaml_that_could_surprise_is_refused(text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        parse_yaml(text, "f")


def test_scalars_follow_yaml_1_2() -> None:
    data = parse_yaml("{a: 1e-4, b: on, c: no, d: '1', e: 17, f: ~, g: true, h: 2024-01-01, i: 0x10, j: 1:30}").data
    expected = {"a": 1e-4, "b": "on", "c": "no", "d": "1", "e": 17, "f": None, "g": True, "h": "2024-01-01"}
    assert data == {**expected, "i": 16, "j": "1:30"}


def test_a_file_over_the_limit_is_refused(tmp_path: Any) -> None:
    path = tmp_path / "big.yaml"
    path.write_text("a: " + "x" * 1_000_001)
    with pytest.raises(ConfigError, match="at most 1000000"):
        load_yaml(path)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read"):
        load_yaml("nowhere.yaml")


def test_overrides_replace_values_through_mappings_and_lists() -> None:
    document = parse_yaml("a: {b: 1}\nc: [1, {d: 2}]")
    changed = with_overrides(document, ["a.b=1e-3", "c.1.d=[3, x]", "e.f=true"])
    assert changed.data == {"a": {"b": 1e-3}, "c": [1, {"d": [3, "x"]}], "e": {"f": True}}
    assert document.data["a"]["b"] == 1
    assert changed.locate(("a", "b")) == "--set a.b=1e-3"


@pytest.mark.parametrize("assignment", ["a", "=1", "a.b.c=1", "c.9=1"])
def test_an_impossible_override_is_refused(assignment: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        with_overrides(parse_yaml("a: {b: 1}\nc: [1]"), [assignment])


def test_a_base_file_gives_what_the_grid_does_not() -> None:
    base = parse_yaml("train: {lr: 1, steps: 2}\nseeds: [1, 2]", "base.yaml")
    merged = parse_yaml("train: {lr: 3}\nseeds: [0]", "grid.yaml").merged_over(base)
    assert merged.data == {"train": {"lr": 3, "steps": 2}, "seeds": [0]}
    assert merged.locate(("train", "steps")) == "base.yaml:1"


def test_runtime_and_neutral_fields_stay_out_of_identity() -> None:
    assert _Sgd(workers=9).identity() == {"kind": "sgd"}
    assert _Sgd(momentum=0.5).identity() == {"kind": "sgd", "momentum": 0.5}
    nested = parse(_Run, {"optimiser": {"kind": "sgd", "workers": 5}, "steps": 2})
    assert nested.identity() == {"optimiser": {"kind": "sgd"}, "steps": 2}


@given(st.floats(min_value=1e-6, max_value=1e6), st.lists(st.floats(-1, 1), max_size=4), st.integers(0, 100))
def test_a_specification_survives_yaml(lr: float, betas: list[float], steps: int) -> None:
    spec = _Run(optimiser=_Adam(lr=lr, betas=tuple(betas)), steps=steps)
    text = spec.model_dump_json()
    assert parse(_Run, parse_yaml(text).data) == spec
