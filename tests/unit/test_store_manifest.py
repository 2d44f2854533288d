"""The manifest notices every changed byte of itself."""

import pytest

from pipeline.store import ArtifactDamaged, FileEntry, Key, StoreError
from pipeline.store.canonical import canonical_json
from pipeline.store.manifest import Manifest, opened, sealed

KEY = Key("train", "a" * 64)
MANIFEST = Manifest(
    key=KEY,
    attempt="01h" + "0" * 23,
    identity={"lr": 1e-4},
    inputs={"shards": Key("ingest", "b" * 64)},
    files={"weights.safetensors": FileEntry(7, "c" * 64)},
    meta={"loss": 0.5, "note": "ä"},
)
BODY = MANIFEST.encode()


def test_a_manifest_is_read_back_as_written() -> None:
    assert Manifest.decode(BODY, KEY) == MANIFEST


@pytest.mark.parametrize("bit", [0, 5, 7])
def test_a_flipped_bit_anywhere_is_damage(bit: int) -> None:
    for position in range(len(BODY)):
        damaged = BODY[:position] + bytes([BODY[position] ^ 1 << bit]) + BODY[position + 1 :]
        with pytest.raises(ArtifactDamaged):
            Manifest.decode(damaged, KEY)


def test_a_cut_anywhere_is_damage() -> None:
    for length in range(len(BODY)):
        with pytest.raises(ArtifactDamaged):
            Manifest.decode(BODY[:length], KEY)


def test_a_manifest_of_another_key_is_damage() -> None:
    with pytest.raises(ArtifactDamaged, match="is that of"):
        Manifest.decode(BODY, Key("train", "d" * 64))


@pytest.mark.parametrize("body", [b"[]", b"null", b"1", b'"x"', b"[" * 100_000, b'{"sha256": 3}', b"\xff\xfe"])
def test_nonsense_is_damage(body: bytes) -> None:
    with pytest.raises(ArtifactDamaged):
        Manifest.decode(body, KEY)


def test_a_path_that_leaves_the_attempt_is_damage_even_when_sealed() -> None:
    record = opened(BODY, "x")
    record["files"] = {"../../../etc/passwd": {"size": 1, "sha256": "c" * 64}}
    with pytest.raises(ArtifactDamaged):
        Manifest.decode(sealed(record), KEY)


def test_an_intact_manifest_of_another_format_is_a_request_to_upgrade() -> None:
    with pytest.raises(StoreError, match="format 2"):
        Manifest.decode(sealed({**opened(BODY, "x"), "format": 2}), KEY)


def test_a_manifest_is_canonical_json() -> None:
    import json

    assert canonical_json(json.loads(BODY)) == BODY
