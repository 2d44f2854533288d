"""The driver's side of tracking: hand over records, never wait, ask for the outcome at the end."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import ConfigError
from pipeline.tracking.outbox import Documents, FolderDocuments
from pipeline.tracking.records import Record, finite
from pipeline.tracking.runs import is_experiment_name
from pipeline.tracking.target import Target
from pipeline.tracking.uploader import Page, Uploader

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrackingReport:
    """Outcome: records shown by this command, records still in the outbox, the page, and one sentence if it failed."""

    sent: int
    pending: int
    link: str | None
    warning: str | None
    open_with: str | None = None  # the command that serves a local database; None for a server


class Tracker:
    """Shows a grid's records on a tracking server.

    `put` and `progress` return at once whatever the server does; `finish` waits at most its timeout. Unsent records
    stay in the outbox and are sent by the next tracker of the same grid.

    Args:
        uri: `sqlite:///FILE.db`, `http://HOST:PORT`, or None for no tracking at all.
        grid_name: name of the experiment; no slash.
        documents: the grid's documents in the store, or a local folder.
        columns: params and metrics of the table in this order; `params.x` and `metrics.x` leave no doubt.
        primary: the metric that sorts the table.
        ascending: whether small values of `primary` are good.
        resend: show again what the ledger says is shown; `sync` does.

    Raises:
        ConfigError: the address or the name cannot be used.
    """

    def __init__(
        self,
        uri: str | None,
        grid_name: str,
        *,
        documents: Documents | Path,
        columns: Sequence[str],
        primary: str,
        ascending: bool = True,
        resend: bool = False,
    ) -> None:
        if not is_experiment_name(grid_name):
            raise ConfigError(f"grid name {grid_name!r}: an experiment name has no slash and is not empty")
        self.grid_name = grid_name
        self._page = Page(tuple(columns), primary, ascending)
        self._uploader: Uploader | None = None
        if uri is not None:
            documents = FolderDocuments(documents) if isinstance(documents, Path) else documents
            self._uploader = Uploader(Target(uri), grid_name, documents, page=self._page, resend=resend)
            self._uploader.start()

    def put(self, record: Record) -> None:
        """Shows the record; a later one with the same kind and fingerprint replaces it."""
        if self._uploader is not None:
            self._uploader.want(finite(record))

    def progress(
        self, fingerprint: str, metrics: Mapping[str, float], step: int, *, run_name: str | None = None
    ) -> None:
        """Live metrics of a training that has not ended; thinned when they come faster than the server takes them."""
        if self._uploader is not None:
            self._uploader.progress(fingerprint, metrics, step=step, run_name=run_name)

    @property
    def link(self) -> str | None:
        """The page, as soon as the server has answered once or an earlier command has stored it."""
        return None if self._uploader is None else self._uploader.ledger.link

    @property
    def error(self) -> str | None:
        """Why the last attempt failed, for a status line; None while all is well."""
        return None if self._uploader is None else self._uploader.error

    def finish(self, note_rows: Iterable[Mapping[str, object]] = (), timeout_s: float = 60.0) -> TrackingReport:
        """Sends what is left, writes the page's note and ends the thread; the tracker is used up.

        Args:
            note_rows: the best rows in the order shown, column name -> value; none leaves the note as it is.
            timeout_s: upper limit of the wait, plus 1 s; a server that is down ends it earlier.
        """
        if self._uploader is None:
            return TrackingReport(0, 0, None, None)
        uploader = self._uploader
        page = Page(self._page.columns, self._page.primary, self._page.ascending, tuple(note_rows))
        uploader.drain(page, timeout_s)
        pending = len(uploader.pending)
        return TrackingReport(
            sent=uploader.num_shown,
            pending=pending,
            link=uploader.ledger.link,
            warning=self._warning(uploader, pending),
            open_with=uploader.target.open_with,
        )

    def _warning(self, uploader: Uploader, pending: int) -> str | None:
        if uploader.error is not None or pending:
            reason = uploader.error or "not everything was sent in time"
            unsaved = uploader.num_unsaved
            kept = f"{pending - unsaved} records are kept in the outbox of grid {self.grid_name}"
            lost = f", {unsaved} could not be written there" if unsaved else ""
            return (
                f"tracking at {uploader.target.uri} does not work ({reason}); {kept}{lost}; "
                "the results are safe in the store, repeat the command or `sync` sends them"
            )
        if uploader.refused:
            key, reason = next(iter(uploader.refused.items()))
            return f"the tracking server refused {len(uploader.refused)} records, first {key[1][:12]}: {reason}"
        return None
