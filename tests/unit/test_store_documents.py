"""Documents: small, mutable, below grids/<name>."""

from pathlib import Path

import pytest

from pipeline.store import Documents, StoreError, open_store


@pytest.fixture
def documents(store_url: str, tmp_path: Path) -> Documents:
    return open_store(store_url, cache=tmp_path / "cache").documents("grids/quick")


def test_an_absent_document_is_none(documents: Documents) -> None:
    assert documents.get("plan.json") is None


def test_put_replaces(documents: Documents) -> None:
    documents.put("plan.json", b"1")
    documents.put("plan.json", b"2")
    assert documents.get("plan.json") == b"2"


def test_put_if_absent_keeps_the_first(documents: Documents) -> None:
    assert documents.put_if_absent("outbox/1", b"first")
    assert not documents.put_if_absent("outbox/1", b"second")
    assert documents.get("outbox/1") == b"first"


def test_list_is_sorted_and_takes_a_prefix(documents: Documents) -> None:
    for name in ("status/b", "plan.json", "status/a"):
        documents.put(name, b"")
    assert documents.list() == ["plan.json", "status/a", "status/b"]
    assert documents.list("status/") == ["status/a", "status/b"]


def test_a_deleted_document_is_gone_and_deleting_again_is_fine(documents: Documents) -> None:
    documents.put("plan.json", b"1")
    documents.delete("plan.json")
    documents.delete("plan.json")
    assert documents.list() == []


@pytest.mark.parametrize("name", ["../other/plan.json", "/x", "A", ""])
def test_hostile_names_are_refused(documents: Documents, name: str) -> None:
    with pytest.raises(StoreError):
        documents.put(name, b"")


@pytest.mark.parametrize("prefix", ["artifacts", "leases/train", "../x", "state", "tmp"])
def test_the_protocols_own_places_are_refused(tmp_path: Path, prefix: str) -> None:
    with pytest.raises(StoreError):
        open_store(tmp_path).documents(prefix)
