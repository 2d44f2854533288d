"""Small mutable documents beside the artifacts: plans, progress, unsent tracking events."""

from pipeline.store.errors import StoreError
from pipeline.store.layout import RESERVED
from pipeline.store.names import checked_path
from pipeline.store.objects import Objects


class Documents:
    """Named byte strings below one prefix. Readers see the old or the new bytes of a document, never a mixture."""

    def __init__(self, objects: Objects, prefix: str) -> None:
        if checked_path(prefix).split("/")[0] in RESERVED:
            raise StoreError(f"{prefix!r:.80} is reserved; documents live below grids/<name>")
        self._objects = objects
        self._prefix = prefix

    def _key(self, name: str) -> str:
        return checked_path(f"{self._prefix}/{name}")

    def put(self, name: str, body: bytes) -> None:
        """Create or replace."""
        self._objects.put(self._key(name), body)

    def put_if_absent(self, name: str, body: bytes) -> bool:
        """Create; False if it exists. Competing writers should write different bodies, so that a lost reply can be
        resolved."""
        return self._objects.create(self._key(name), body) is not None

    def get(self, name: str) -> bytes | None:
        """The bytes, or None."""
        found = self._objects.get(self._key(name))
        return None if found is None else found.body

    def list(self, prefix: str = "") -> list[str]:
        """Sorted names that start with the prefix."""
        base = f"{self._prefix}/"
        return [stat.key[len(base) :] for stat in self._objects.scan(base + prefix)]

    def delete(self, name: str) -> None:
        """Remove; nothing to remove is fine."""
        self._objects.delete(self._key(name))
