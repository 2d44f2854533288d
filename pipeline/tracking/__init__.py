"""Tracking: MLflow as a view of the store, fed through an outbox by one thread. mlflow is loaded on first use only."""

from pipeline.tracking.ledger import experiment_link, stored_ledger
from pipeline.tracking.outbox import Documents, FolderDocuments
from pipeline.tracking.records import Record, ResultRecord, TrainRecord
from pipeline.tracking.sync import sync
from pipeline.tracking.target import Target, default_uri
from pipeline.tracking.tracker import Tracker, TrackingReport

__all__ = [
    "Documents",
    "FolderDocuments",
    "Record",
    "ResultRecord",
    "Target",
    "Tracker",
    "TrackingReport",
    "TrainRecord",
    "default_uri",
    "experiment_link",
    "stored_ledger",
    "sync",
]
