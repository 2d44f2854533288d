"""Names, keys and fingerprints."""

import math

import pytest

from pipeline.store import Key, StoreError, canonical_json, fingerprint
from pipeline.store.names import NAME, new_ulid

BASE = fingerprint("train", 1, {"lr": 1e-4, "seed": 0}, {"shards": Key("ingest", "a" * 64)})


def test_the_order_of_settings_does_not_matter() -> None:
    assert fingerprint("train", 1, {"seed": 0, "lr": 1e-4}, {"shards": Key("ingest", "a" * 64)}) == BASE


@pytest.mark.parametrize(
    ("stage", "version", "identity", "inputs"),
    [
        ("sample", 1, {"lr": 1e-4, "seed": 0}, {"shards": Key("ingest", "a" * 64)}),
        ("train", 2, {"lr": 1e-4, "seed": 0}, {"shards": Key("ingest", "a" * 64)}),
        ("train", 1, {"lr": 1e-4, "seed": 1}, {"shards": Key("ingest", "a" * 64)}),
        ("train", 1, {"lr": 1e-4, "seed": 0}, {"shards": Key("ingest", "b" * 64)}),
        ("train", 1, {"lr": 1e-4, "seed": 0}, {"teacher": Key("ingest", "a" * 64)}),
        ("train", 1, {"lr": 1e-4, "seed": 0}, {}),
    ],
)
def test_every_ingredient_changes_the_fingerprint(stage, version, identity, inputs) -> None:
    assert fingerprint(stage, version, identity, inputs) != BASE


def test_a_fingerprint_stays_what_it_was() -> None:
    assert BASE == "84acd54ae2f958573f9ecdcc02274369ca6b1510d91cf1c970bd1111f51a62fd"


def test_equal_values_have_one_spelling() -> None:
    assert canonical_json({"b": (1, 2), "a": -0.0}) == canonical_json({"a": 0.0, "b": [1, 2]}) == b'{"a":0.0,"b":[1,2]}'


def test_integers_and_floats_differ() -> None:
    assert canonical_json(1) != canonical_json(1.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, {1: 2}, {"a": b"x"}, {"a": {2, 3}}, object()])
def test_what_is_not_json_is_refused(value) -> None:
    with pytest.raises(StoreError):
        canonical_json(value)


def test_the_refusal_names_the_path() -> None:
    with pytest.raises(StoreError, match=r"identity\.sampler\[1\]\.eta"):
        fingerprint("train", 1, {"sampler": [{}, {"eta": math.nan}]}, {})


@pytest.mark.parametrize("stage", ["../x", "a/b", "", "A", "x" * 65, "tr\u0430in", "a\nb", ".a"])
def test_hostile_stages_are_refused(stage: str) -> None:
    with pytest.raises(StoreError):
        Key(stage, "a" * 64)


@pytest.mark.parametrize("digits", ["a" * 63, "a" * 65, "A" * 64, "g" * 64, "../" + "a" * 61, "a" * 64 + "\n"])
def test_hostile_fingerprints_are_refused(digits: str) -> None:
    with pytest.raises(StoreError):
        Key("train", digits)


def test_a_key_is_read_back_from_its_text() -> None:
    key = Key("train", "a" * 64)
    assert Key.parse(str(key)) == key
    assert key.short == "train/aaaaaaaaaaaa"


def test_ulids_are_valid_names_and_differ() -> None:
    ulids = {new_ulid() for _ in range(1000)}
    assert len(ulids) == 1000
    assert all(NAME.fullmatch(ulid) and len(ulid) == 26 for ulid in ulids)
