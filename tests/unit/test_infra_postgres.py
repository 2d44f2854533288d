"""The tracking database of the compose file: a real Postgres, its backup, its way back, and MLflow on top of it."""

import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import boto3
import psycopg
import pytest
from mlflow import MlflowClient

from tests.processes import Child, free_port, wait_until
from tests.unit.test_infra import INFRA, PROGRAMS, SERVICES

pytestmark = pytest.mark.slow
PASSWORD = "only-for-this-test"


@dataclass(frozen=True)
class Database:
    """A server of this test; `env` has what libpq reads."""

    env: Mapping[str, str]
    port: int

    def ask(self, statement: str) -> list[tuple[object, ...]]:
        address = f"host=127.0.0.1 port={self.port} user=mlflow dbname=mlflow password={PASSWORD}"
        with psycopg.connect(address, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description is not None else []


def programs_of_postgres() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    where = shutil.which("initdb")
    if not found and where is None:
        pytest.skip("Postgres is not installed: apt-get install postgresql")
    return found[-1] if found else Path(str(where)).resolve().parent


@pytest.fixture
def database() -> Iterator[Database]:
    """Postgres as a child process; it refuses to run as root, so root runs it as the user `postgres`."""
    programs = programs_of_postgres()
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    as_user: list[str] = []
    if os.getuid() == 0:
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        shutil.chown(folder, "postgres", "postgres")
    port, data, password = free_port(), folder / "data", folder / "password"
    password.write_text(PASSWORD)
    password.chmod(0o644)
    env = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "LC_ALL": "C.UTF-8", "HOME": str(folder)}
    options = [f"--pgdata={data}", "--username=mlflow", "--auth=scram-sha-256", f"--pwfile={password}", "--no-sync"]
    made = subprocess.run(
        [*as_user, "initdb", *options], env=env, cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert made.returncode == 0, made.stderr
    command = [*as_user, "postgres", "-D", str(data), "-p", str(port), "-c", "listen_addresses=127.0.0.1"]
    command += ["-c", f"unix_socket_directories={folder}", "-c", "fsync=off"]
    child = Child(command, env=env, output=folder / "postgres.log", cwd=folder)
    client = {"PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": "mlflow", "PGDATABASE": "mlflow"}
    client |= {"PGPASSWORD": PASSWORD, **env}
    try:
        ready = [str(programs / "pg_isready"), "--quiet"]
        wait_until(
            lambda: subprocess.run(ready, env=client, timeout=30).returncode == 0,
            timeout_s=60, what="Postgres", child=child,
        )  # fmt: skip
        subprocess.run(["createdb", "mlflow"], env={**client, "PGDATABASE": "postgres"}, check=True, timeout=60)
        yield Database(client, port)
    finally:
        child.stop(grace_s=3.0)
        shutil.rmtree(folder, ignore_errors=True)


def backup(database: Database, *arguments: str | Path, **changes: str) -> subprocess.CompletedProcess[str]:
    command = ["sh", str(INFRA / "postgres-backup.sh"), *map(str, arguments)]
    return subprocess.run(command, env={**database.env, **changes}, capture_output=True, text=True, timeout=60)


def dumps(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_restored_database_is_the_one_that_was_backed_up(database: Database, tmp_path: Path) -> None:
    database.ask("create table runs (name text primary key, fid float)")
    database.ask("insert into runs select 'run-' || i, i / 7.0 from generate_series(1, 2000) as i")
    before = database.ask("select * from runs order by name")
    done = backup(database, "once", tmp_path)
    assert done.returncode == 0, done.stderr
    (dump,) = tmp_path.iterdir()
    assert dump.stat().st_mode & 0o077 == 0
    database.ask("delete from runs where fid > 1")
    database.ask("alter table runs add column later text")
    restored = backup(database, "restore", dump)
    assert restored.returncode == 0, restored.stderr
    assert database.ask("select * from runs order by name") == before


def test_a_cut_backup_is_refused_and_changes_nothing(database: Database, tmp_path: Path) -> None:
    database.ask("create table runs as select i, md5(i::text) as name from generate_series(1, 20000) as i")
    assert backup(database, "once", tmp_path).returncode == 0
    (dump,) = tmp_path.iterdir()
    content = dump.read_bytes()
    for size in (len(content) // 2, len(content) - 100, 0):
        dump.write_bytes(content[:size])
        done = backup(database, "restore", dump)
        assert done.returncode == 2
        assert f"{dump} is not a readable backup" in done.stderr
    assert database.ask("select count(*) from runs") == [(20000,)]


def test_the_oldest_backups_go_and_other_files_stay(database: Database, tmp_path: Path) -> None:
    old = [f"mlflow-2020010{day}T000000Z.dump" for day in (1, 2, 3)]
    for name in [*old, "notes.txt"]:
        (tmp_path / name).touch()
    assert backup(database, "once", tmp_path, "2").returncode == 0
    left = dumps(tmp_path)
    assert len(left) == 3
    assert {old[2], "notes.txt"} < set(left)


def test_a_backup_that_fails_leaves_no_file_and_removes_none(database: Database, tmp_path: Path) -> None:
    kept = ["mlflow-20200101T000000Z.dump", "mlflow-20200102T000000Z.dump"]
    for name in kept:
        (tmp_path / name).touch()
    done = backup(database, "once", tmp_path, "1", PGPASSWORD="wrong")
    assert done.returncode != 0
    assert "password authentication failed" in done.stderr
    assert dumps(tmp_path) == kept


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("once", "/nowhere"), "/nowhere: no such folder"),
        (("once", "/tmp", "0"), "KEEP is 0; expected a number of backups of at least 1"),
        (("once", "/tmp", "all"), "KEEP is all"),
        (("restore", "/nowhere.dump"), "/nowhere.dump: no such file"),
        ((), "usage:"),
    ],
)
def test_wrong_arguments_are_one_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    done = subprocess.run(
        ["sh", str(INFRA / "postgres-backup.sh"), *arguments], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 2
    assert sentence in done.stderr


def compose_mlflow(database: Database, bucket: str, port: int) -> tuple[list[str], dict[str, str]]:
    """Command and environment of the service `mlflow`, its addresses replaced by those of this test."""
    service = SERVICES["mlflow"]
    replaced = {
        "@postgres:5432": f"@127.0.0.1:{database.port}",
        "http://s3:8333": os.environ["AWS_ENDPOINT_URL"],
        "s3://mlflow/": f"s3://{bucket}/",
    }
    env = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MLFLOW_"))}
    for name, value in service["environment"].items():
        for old, new in replaced.items():
            value = value.replace(old, new)
        env[name] = value
    env |= {"PGPASSWORD": PASSWORD, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    assert not any("${" in value for name, value in env.items() if name in service["environment"])
    words: list[str] = [
        {"0.0.0.0": "127.0.0.1", "5000": str(port), "2": "1"}.get(word) or word for word in service["command"]
    ]
    return [str(PROGRAMS / words[0]), *words[1:]], env


def status_for(host: str, port: int) -> int:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search?max_results=1", headers={"Host": host}
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        return error.code


def test_mlflow_of_the_compose_file_serves_its_name_keeps_files_in_s3_and_survives_a_restore(
    database: Database, s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket, port = s3_url.removeprefix("s3://").partition("/")[0], free_port()
    command, env = compose_mlflow(database, bucket, port)
    check = [sys.executable, *SERVICES["mlflow"]["healthcheck"]["test"][2:]]
    check[-1] = check[-1].replace("http://127.0.0.1:5000", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    client = MlflowClient(f"http://127.0.0.1:{port}")
    env["MLFLOW_SERVER_ALLOWED_HOSTS"] += f",127.0.0.1:{port}"
    server = Child(command, env=env, output=tmp_path / "mlflow.log")
    try:
        wait_until(
            lambda: subprocess.run(check, capture_output=True, timeout=60).returncode == 0,
            timeout_s=180, what="MLflow", child=server,
        )  # fmt: skip
        assert status_for("mlflow:5000", port) == 200
        assert status_for("mlflow.example.com", port) == 403
        experiment = client.create_experiment("kept")
        run = client.create_run(experiment).info.run_id
        client.log_metric(run, "fid", 1.5)
        client.log_text(run, "hello", "note.txt")
        keys = [item["Key"] for item in boto3.client("s3").list_objects_v2(Bucket=bucket)["Contents"]]
        assert [key for key in keys if key.startswith("artifacts/") and key.endswith("note.txt")] != []
        assert backup(database, "once", tmp_path).returncode == 0
        client.delete_experiment(experiment)
        client.create_experiment("made after the backup")
    finally:
        server.stop(grace_s=3.0)
    (dump,) = tmp_path.glob("mlflow-*.dump")
    assert backup(database, "restore", dump).returncode == 0
    server = Child(command, env=env, output=tmp_path / "mlflow.log")
    try:
        wait_until(
            lambda: subprocess.run(check, capture_output=True, timeout=60).returncode == 0,
            timeout_s=180, what="MLflow after the restore", child=server,
        )  # fmt: skip
        assert client.get_run(run).data.metrics == {"fid": 1.5}
        assert {item.name for item in client.search_experiments()} == {"Default", "kept"}
    finally:
        server.stop(grace_s=3.0)
