"""What rank 0 tells the world about the cells of a group: one small document per cell, the newest wins."""

import json
import logging
import threading
from typing import Any, Protocol

from pipeline.store import Key

log = logging.getLogger(__name__)

MAX_FRUITLESS_STARTS = 2
"""A cell that took its workers down so often without a new checkpoint in between is given up."""


class Documents(Protocol):
    """Small mutable files of a grid."""

    def put(self, name: str, body: bytes) -> None: ...

    def get(self, name: str) -> bytes | None: ...


def status_name(key: Key) -> str:
    """Name of the document about a training; the whole key stands inside."""
    return f"status/{key.short}.json"


def read_status(documents: Documents, key: Key) -> dict[str, Any] | None:
    """The newest document about `key`; None if there is none."""
    body = documents.get(status_name(key))
    status = None if body is None else json.loads(body)
    return status if status is not None and status.get("key") == str(key) else None


class StatusBoard:
    """Writes documents from a thread of its own, so that a slow store never holds up a step; only the newest counts."""

    def __init__(self, documents: Documents | None, run_name: str) -> None:
        self._documents, self._run_name = documents, run_name
        self._waiting: dict[str, dict[str, Any]] = {}
        self._condition = threading.Condition()
        self._is_writing = self._is_closed = False
        self._thread = threading.Thread(target=self._write_all, name="status-board", daemon=True)
        self._thread.start()

    def put(self, key: Key, fields: dict[str, Any]) -> None:
        """Replace the document about `key`."""
        with self._condition:
            self._waiting[status_name(key)] = {"key": str(key), "run": self._run_name, **fields}
            self._condition.notify_all()

    def put_now(self, key: Key, fields: dict[str, Any]) -> None:
        """Replace it and wait until it is written (or has failed to be)."""
        self.put(key, fields)
        with self._condition:
            self._condition.wait_for(lambda: not self._waiting and not self._is_writing)

    def get(self, key: Key) -> dict[str, Any]:
        """What this run said about `key` before a restart; empty if nothing."""
        if self._documents is None:
            return {}
        try:
            status = read_status(self._documents, key)
        except Exception as error:  # status is a convenience: whatever is wrong with it, the training goes on
            log.warning("event=status_unreadable key=%s error=%r", key, error)
            return {}
        return status if status is not None and status.get("run") == self._run_name else {}

    def close(self) -> None:
        """Write what waits and end the thread."""
        with self._condition:
            self._is_closed = True
            self._condition.notify_all()
        self._thread.join()

    def _write_all(self) -> None:
        while True:
            with self._condition:
                self._is_writing = False
                self._condition.notify_all()
                self._condition.wait_for(lambda: self._waiting or self._is_closed)
                if not self._waiting:
                    return
                batch, self._waiting, self._is_writing = self._waiting, {}, True
            for name, fields in batch.items():
                if self._documents is None:
                    continue
                try:
                    self._documents.put(name, json.dumps(fields).encode())
                except Exception as error:  # as above
                    log.warning("event=status_unwritable name=%s error=%r", name, error)
