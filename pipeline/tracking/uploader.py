"""The one thread that talks to the outbox and to the tracking server, so that nobody else ever waits for them."""

import hashlib
import json
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.tracking.ledger import Ledger, ledger_for
from pipeline.tracking.outbox import Documents, Outbox
from pipeline.tracking.progress import Points, ProgressQueue
from pipeline.tracking.records import Key, Record, digest
from pipeline.tracking.runs import Experiment
from pipeline.tracking.server import connected, is_refused, sentence
from pipeline.tracking.target import RESULTS_VIEW, TRAININGS_VIEW, Target
from pipeline.tracking.view import NOTE_TAG, VIEW_TAG, note, view_state

logger = logging.getLogger(__name__)
BACKOFF_S = (1.0, 2.0, 5.0, 15.0, 60.0)  # pause after the n-th failed attempt in a row
PROGRESS_EVERY_S = 5.0


@dataclass(frozen=True)
class Page:
    """What the experiment's page shows: columns of the table, its order, and the rows of the note."""

    columns: tuple[str, ...]
    primary: str
    ascending: bool = True
    rows: tuple[Mapping[str, object], ...] = ()

    def digest(self) -> str:
        data = [self.columns, self.primary, self.ascending, [dict(row) for row in self.rows]]
        return hashlib.sha256(json.dumps(data, default=str).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Wanted:
    record: Record
    digest: str


class Uploader(threading.Thread):
    """Brings the server to the wanted state: every record shown, the page set. Restarting it changes nothing."""

    def __init__(self, target: Target, grid_name: str, documents: Documents, *, page: Page, resend: bool) -> None:
        super().__init__(name="tracking", daemon=True)
        self.target = target
        self.grid_name = grid_name
        self.documents = documents
        self.outbox = Outbox(documents)
        self.page = page
        self.resend = resend
        self.error: str | None = None  # why the last attempt failed
        self.refused: dict[Key, str] = {}  # records that the server will never accept
        self.num_shown = 0
        self.ledger = Ledger(target.resolved)
        self._wanted: dict[Key, Wanted] = {}
        self._fresh: dict[Key, Wanted] = {}  # not in the outbox yet
        self._batches: dict[str, dict[Key, str]] = {}  # outbox batch -> digests that must be confirmed
        self._confirmed: dict[str, str] = {}
        self._progress = ProgressQueue()
        self._experiment: Experiment | None = None
        self._page_tags: dict[str, str] = {}  # what the experiment's tags say already
        self._condition = threading.Condition()
        self._writing = threading.Lock()  # one writer of the outbox: this thread, or `finish` when it gives up
        self._is_started = False
        self._rounds = 0  # finished rounds that saw `_draining`
        self._draining = False
        self._stopping = False

    # --- called by others: no input, no output, no waiting

    def want(self, record: Record) -> None:
        wanted = Wanted(record, digest(record))
        with self._condition:
            self._wanted[record.key] = self._fresh[record.key] = wanted
            self._condition.notify_all()

    def progress(self, fingerprint: str, metrics: Mapping[str, float], *, step: int, run_name: str | None) -> None:
        with self._condition:
            self._progress.put(fingerprint, metrics, step=step, run_name=run_name)

    def drain(self, page: Page, timeout_s: float) -> None:
        """Waits until everything is shown, an attempt failed, or the time is over; then saves what is left."""
        with self._condition:
            self.page = page
            self._draining = True
            rounds = self._rounds
            self._condition.notify_all()
            self._condition.wait_for(lambda: self._rounds > rounds, timeout_s)
            self._stopping = True
            self._condition.notify_all()
        if self._writing.acquire(timeout=1.0):
            try:
                self._save_fresh()
            except Exception as error:  # an outbox that cannot be written must not end the work; `num_unsaved` tells
                self.error = sentence(error)
            finally:
                self._writing.release()

    @property
    def pending(self) -> list[Key]:
        with self._condition:
            return [key for key, wanted in self._wanted.items() if not self._is_done(key, wanted.digest)]

    @property
    def num_unsaved(self) -> int:
        """Records that are neither shown nor in the outbox."""
        with self._condition:
            return sum(not self._is_done(key, wanted.digest) for key, wanted in self._fresh.items())

    # --- the thread

    def run(self) -> None:
        failures, not_before, last_progress = 0, 0.0, 0.0
        while True:
            with self._condition:
                if self._stopping:
                    return
                is_draining = self._draining
                is_idle = self._is_started and not self._fresh
                if not is_draining and (is_idle or self.error is not None):
                    pause = PROGRESS_EVERY_S if self.error is None else max(not_before - time.monotonic(), 0.05)
                    self._condition.wait(min(pause, PROGRESS_EVERY_S))
                    is_draining = self._draining
            try:
                with self._writing:
                    self._start_once()
                    self._save_fresh()
                now = time.monotonic()
                is_due = is_draining or self.pending or now - last_progress >= PROGRESS_EVERY_S
                if is_due and (is_draining or now >= not_before):
                    last_progress = now
                    self._attempt(is_draining)
                    failures, self.error = 0, None
            except Exception as error:  # telemetry must never end the work; the outcome is in `error`
                self._experiment = None
                self.error = sentence(error)
                logger.info("grid=%s tracking=%s attempt failed: %s", self.grid_name, self.target.uri, self.error)
                not_before = time.monotonic() + BACKOFF_S[min(failures, len(BACKOFF_S) - 1)]
                failures += 1
            if is_draining:
                with self._condition:
                    self._draining = False
                    self._rounds += 1
                    self._condition.notify_all()

    def _start_once(self) -> None:
        """Reads what earlier commands left: the ledger and unsent batches."""
        if self._is_started:
            return
        ledger = ledger_for(self.target, self.documents)
        batches = self.outbox.batches()
        with self._condition:
            self.ledger = ledger
            if self.resend:
                ledger.page = ""
            else:
                self._confirmed.update(ledger.sent)
            for name, records in batches.items():
                self._batches[name] = {}
                for record in records:
                    wanted = Wanted(record, digest(record))
                    if record.key not in self._fresh:  # a later batch is newer, what this command puts is newest
                        self._wanted[record.key] = wanted
                    self._batches[name][record.key] = wanted.digest
            self._is_started = True

    def _save_fresh(self) -> None:
        """One durable batch of the records that came since the last one and are not shown already."""
        with self._condition:
            fresh, self._fresh = self._fresh, {}
        new = {key: wanted for key, wanted in fresh.items() if not self._is_done(key, wanted.digest)}
        if not new:
            return
        try:
            name = self.outbox.append(wanted.record for wanted in new.values())
        except BaseException:
            with self._condition:
                self._fresh = {**fresh, **self._fresh}
            raise
        with self._condition:
            self._batches[name] = {key: wanted.digest for key, wanted in new.items()}

    def _is_done(self, key: Key, stamp: str) -> bool:
        return key in self.refused or self._confirmed.get(Ledger.label(key)) == stamp

    def _attempt(self, is_draining: bool) -> None:
        """Shows all that is not shown. Raises on the first failure; the next attempt goes on from there."""
        with self._condition:
            wanted = dict(self._wanted)
            progress = self._progress.taken()
            page = self.page
        has_note = is_draining and bool(page.rows)  # without rows the note of the last command stays
        is_page_due = bool(wanted) and has_note and self.ledger.page != page.digest()
        if not (self._undone(wanted) or progress or is_page_due or self._batches):
            return
        try:
            if self._undone(wanted) or progress or is_page_due:
                experiment = self._connected()
                self._show(experiment, self._undone(wanted))
                self._show_progress(experiment, progress)
                self._show_page(experiment, page, with_note=has_note)
        except BaseException:
            with self._condition:
                self._progress.put_back(progress)
            raise
        self.ledger.sent = dict(self._confirmed)
        self.ledger.save(self.documents)
        self._confirm_batches(wanted)

    def _undone(self, wanted: Mapping[Key, Wanted]) -> dict[Key, Record]:
        return {key: item.record for key, item in wanted.items() if not self._is_done(key, item.digest)}

    def _connected(self) -> Experiment:
        """The experiment; after a fresh look at the server, only what it has counts as confirmed."""
        if self._experiment is not None and self._experiment.is_current():
            return self._experiment
        client = connected(self.target)
        self._experiment = experiment = Experiment(client, self.target, self.grid_name)
        self._confirmed = {Ledger.label(key): run.digest for key, run in experiment.runs.items() if run.digest}
        self._page_tags = {}
        return experiment

    def _show(self, experiment: Experiment, records: Mapping[Key, Record]) -> None:
        for key, record in records.items():
            try:
                self.num_shown += experiment.show(record)
            except Exception as error:
                if not is_refused(error):
                    raise
                self.refused[key] = sentence(error)
                logger.info("fingerprint=%s refused by the server: %s", key[1][:12], self.refused[key])
                continue
            self._confirmed[Ledger.label(key)] = digest(record)

    def _show_progress(self, experiment: Experiment, progress: Mapping[str, Points]) -> None:
        for fingerprint, steps in progress.items():
            key: Key = ("train", fingerprint)
            known = experiment.runs.get(key)
            if known is not None and known.digest is not None:
                continue  # the final record has the whole curve
            name = self._progress.names.get(fingerprint) or (known.name if known else f"train-{fingerprint[:12]}")
            run = experiment.open_run(key, name, {})
            points = [(metric, value, step) for step in sorted(steps) for metric, value in steps[step].items()]
            experiment.log(run, points=points)

    def _show_page(self, experiment: Experiment, page: Page, *, with_note: bool) -> None:
        """Sets what differs of the views and, at the end of the command, the note."""
        names = {kind: _metric_names(experiment, kind) for kind in ("result", "train")}
        loss = "train/loss" if "train/loss" in names["train"] else next(iter(names["train"]), "train/loss")
        params = [column for column in page.columns if column not in names["result"]]
        tags = {
            f"{VIEW_TAG}{RESULTS_VIEW}": view_state(
                page.columns, metrics=names["result"], primary=page.primary, ascending=page.ascending, kind="result"
            ),
            f"{VIEW_TAG}{TRAININGS_VIEW}": view_state(
                [f"metrics.{loss}", *params], metrics=names["train"], primary=loss, ascending=True, kind="train"
            ),
        }
        if with_note:
            identity = experiment.experiment_id
            tags[NOTE_TAG] = note(self.grid_name, page.rows, experiment_id=identity, primary=page.primary)
        for name, value in tags.items():
            if self._page_tags.get(name) != value:
                experiment.set_tag(name, value)
                self._page_tags[name] = value
        self.ledger.link = self.target.link(experiment.experiment_id)
        self.ledger.open_with = self.target.open_with
        if with_note:
            self.ledger.page = page.digest()

    def _confirm_batches(self, wanted: Mapping[Key, Wanted]) -> None:
        """Deletes the batches whose every record, or a newer one of the same key, the server has."""
        for name, stamps in list(self._batches.items()):
            current = {key: wanted[key].digest if key in wanted else stamp for key, stamp in stamps.items()}
            if all(self._is_done(key, stamp) for key, stamp in current.items()):
                self.outbox.confirm(name)
                del self._batches[name]


def _metric_names(experiment: Experiment, kind: str) -> Sequence[str]:
    return sorted({name for key, run in experiment.runs.items() if key[0] == kind for name in run.metrics})
