"""The one place that loads mlflow (seconds), with short timeouts, no retries of its own and no chatter."""

import logging
import os
from typing import TYPE_CHECKING

from pipeline.tracking.target import Target

if TYPE_CHECKING:
    from mlflow import MlflowClient

TIMEOUT_S = 5
REFUSED = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST"}  # repeating the call cannot help
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # with the default, one call to a dead server blocks 245 s
    "MLFLOW_HTTP_REQUEST_TIMEOUT": str(TIMEOUT_S),
    "MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT": "60",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}


def connected(target: Target) -> "MlflowClient":
    """A client of the target; a new sqlite file gets its tables here (1 to 10 s)."""
    os.environ.update(ENVIRONMENT)
    for name in ("alembic", "mlflow.store.db.utils", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.ERROR)
    from mlflow import MlflowClient

    if target.database is not None:
        target.database.parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(target.resolved)


def is_refused(error: Exception) -> bool:
    """Whether the server understood the request and will never accept it, as opposed to being out of reach."""
    return getattr(error, "error_code", None) in REFUSED


def sentence(error: Exception) -> str:
    """First line of the error, at most 160 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:160]
