"""Where tracking goes: a local sqlite file or an MLflow server, the link that a reader opens, and how to open it."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.config import ConfigError

SQLITE = "sqlite:///"
LOCAL_UI = "http://127.0.0.1:5000"  # where `mlflow ui` listens by default
RESULTS_VIEW = "results"
TRAININGS_VIEW = "trainings"


@dataclass(frozen=True)
class Target:
    """A checked tracking URI: `sqlite:////absolute/file.db`, `http://host:port` or `https://host`."""

    uri: str

    def __post_init__(self) -> None:
        parts = urlsplit(self.uri)
        if self.uri.startswith(SQLITE) and len(self.uri) > len(SQLITE):
            return
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(
                f"--tracking {self.uri}: not a tracking address; use sqlite:///FILE.db or http://HOST:PORT "
                "(MLflow's file store is closed since version 3)"
            )
        if parts.username or parts.password:
            raise ConfigError(
                "--tracking: the address holds a user name or password; "
                "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead"
            )

    @property
    def database(self) -> Path | None:
        """The sqlite file, or None for a server."""
        return Path(self.uri.removeprefix(SQLITE)).absolute() if self.uri.startswith(SQLITE) else None

    @property
    def resolved(self) -> str:
        """The URI with an absolute path: workers and later commands run in other directories."""
        return self.uri.rstrip("/") if self.database is None else f"{SQLITE}{self.database}"

    @property
    def artifact_location(self) -> str | None:
        """Artifacts of a sqlite target lie beside the file; a server decides for itself."""
        return None if self.database is None else (self.database.parent / "mlflow-artifacts").as_uri()

    @property
    def open_with(self) -> str | None:
        """The command that serves a sqlite target to a browser, or None for a server."""
        return None if self.database is None else f"python -m mlflow ui --backend-store-uri {self.resolved}"

    def link(self, experiment_id: str, view: str = RESULTS_VIEW) -> str:
        """The page that shows the sorted table of the experiment at once."""
        base = self.resolved if self.database is None else LOCAL_UI
        return f"{base}/{fragment(experiment_id, view)}"


def fragment(experiment_id: str, view: str) -> str:
    return f"#/experiments/{experiment_id}/runs?viewStateShareKey={view}"


def default_uri(store_uri: str) -> str | None:
    """`mlflow.db` inside a local store; None for a remote store, where sqlite cannot live."""
    if "://" in store_uri and not store_uri.startswith("file://"):
        return None
    return f"{SQLITE}{Path(store_uri.removeprefix('file://')).absolute() / 'mlflow.db'}"
