"""A real MLflow server on a free loopback port, over a copy of one sqlite template per test session."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import Child, free_port, is_answering, wait_until


class MlflowServer:
    """`python -m mlflow server`; may be stopped, started again, or started again with an empty database."""

    def __init__(self, folder: Path, template: Path) -> None:
        self.folder = folder
        self.template = template
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.database = folder / "mlflow.db"
        self.child: Child | None = None
        self.empty()

    def empty(self) -> None:
        """Forgets everything; the server must not run."""
        assert self.child is None
        self.folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.template, self.database)

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{self.database}"]
        command += ["--artifacts-destination", str(self.folder / "artifacts"), "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--workers", "1"]
        env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        env.pop("MLFLOW_TRACKING_URI", None)
        self.child = Child(command, env=env, output=self.folder / "server.log")
        wait_until(lambda: is_answering(f"{self.uri}/health"), timeout_s=90, what="MLflow server", child=self.child)

    def stop(self) -> None:
        if self.child is not None:
            self.child.stop(grace_s=2.0)
            self.child = None


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sqlite file with MLflow's tables and nothing in them; making it takes seconds, copying it does not."""
    from mlflow import MlflowClient

    template = tmp_path_factory.mktemp("mlflow-template") / "mlflow.db"
    MlflowClient(f"sqlite:///{template}").search_experiments()
    return template


@pytest.fixture
def tracking_uri(mlflow_template: Path, tmp_path: Path) -> str:
    """A fresh local sqlite target, tables made."""
    database = tmp_path / "tracking" / "mlflow.db"
    database.parent.mkdir()
    shutil.copyfile(mlflow_template, database)
    return f"sqlite:///{database}"


@pytest.fixture(scope="session")
def mlflow_server(mlflow_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """One running server for the session: tests share it, so each takes an experiment name of its own."""
    server = MlflowServer(tmp_path_factory.mktemp("mlflow"), mlflow_template)
    server.start()
    try:
        yield server
    finally:
        server.stop()
