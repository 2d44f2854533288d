"""Rebuilds a grid's experiment from its records; doing it twice is the same as doing it once."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pipeline.tracking.outbox import Documents
from pipeline.tracking.records import Record
from pipeline.tracking.tracker import Tracker, TrackingReport


def sync(
    uri: str,
    grid_name: str,
    *,
    records: Iterable[Record],
    documents: Documents | Path,
    columns: Sequence[str],
    primary: str,
    ascending: bool = True,
    note_rows: Iterable[Mapping[str, object]] = (),
    timeout_s: float = 600.0,
) -> TrackingReport:
    """Compares every record with what the server has, shows what is missing, and empties the outbox.

    Records win over events of the outbox with the same key: they come from the store, which is the truth.
    """
    tracker = Tracker(
        uri,
        grid_name,
        documents=documents,
        columns=columns,
        primary=primary,
        ascending=ascending,
        resend=True,
    )
    for record in records:
        tracker.put(record)
    return tracker.finish(note_rows, timeout_s)
