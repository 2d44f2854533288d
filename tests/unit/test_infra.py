"""The container image and the compose file: their linters, their pins, and the policy that every container obeys."""

import importlib.util
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from packaging.utils import canonicalize_name
from ray.scripts.scripts import start

from pipeline import __version__

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
PROGRAMS = Path(sys.executable).parent
COMPOSE = yaml.safe_load((INFRA / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OWN_IMAGE = f"${{PIPELINE_IMAGE:-pipeline:{__version__}-cpu}}"
PINNED = re.compile(r"[a-z0-9./-]+:[a-z0-9.-]+@sha256:[0-9a-f]{64}")
LOCKED = re.compile(r"([a-z0-9.-]+)==(\S+) --hash=sha256:[0-9a-f]{64}")


def loaded(name: str) -> Any:
    """A script of infra/ as a module."""
    spec = importlib.util.spec_from_file_location(f"infra_{name}", INFRA / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def linted(program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [str(PROGRAMS / program), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)


def interpolated(text: str) -> str:
    """Compose's defaults in place of variables."""
    return re.sub(r"\$\{(\w+):-([^}]*)\}", r"\2", text)


LINTERS: dict[str, tuple[tuple[str, ...], str, tuple[str, str]]] = {
    "hadolint": (("hadolint",), "Dockerfile", ("WORKDIR /app", "WORKDIR app")),
    "compose": (
        ("check-jsonschema", "--builtin-schema", "vendor.compose-spec"),
        "compose.yaml",
        ("stop_grace_period", "stop_grace_time"),
    ),
    "compose with GPUs": (
        ("check-jsonschema", "--builtin-schema", "vendor.compose-spec"),
        "compose.gpu.yaml",
        ("reservations", "reservation"),
    ),
    "yamllint": (("yamllint", "--strict"), "compose.yaml", ("  postgres: {}", "  s3: {}")),
    "seaweedfs.sh": (("shellcheck",), "seaweedfs.sh", ('>"$config"', ">$config")),
    "secrets.sh": (("shellcheck",), "secrets.sh", ('if [ -e "$file" ]', "if [ -e $file ]")),
    "postgres-backup.sh": (("shellcheck",), "postgres-backup.sh", ('rm -- "$old"', "rm -- $old")),
}


@pytest.mark.parametrize("name", LINTERS)
def test_linter_passes_the_file_and_catches_a_planted_mistake(name: str, tmp_path: Path) -> None:
    (program, *options), file, (good, bad) = LINTERS[name]
    text = (INFRA / file).read_text()
    assert good in text
    if program == "yamllint":
        options += ["-c", str(ROOT / ".yamllint.yaml")]
    clean = linted(program, *options, INFRA / file)
    assert clean.returncode == 0, clean.stdout + clean.stderr
    planted = tmp_path / file
    planted.write_text(text.replace(good, bad, 1))
    assert linted(program, *options, planted).returncode != 0


def test_kubernetes_knows_the_objects_of_the_base_and_refuses_an_unknown_key(tmp_path: Path) -> None:
    """As `make check-infra` does; kinds of operators have no schema there and are warned about."""
    files = sorted((ROOT / "k8s" / "base").glob("*.yaml"))
    clean = linted("kubernetes-validate", "--strict", "--no-warn", *files)
    assert clean.returncode == 0, clean.stdout
    assert clean.stdout.count(" passed for resource ") >= 10
    planted = tmp_path / "postgres.yaml"
    planted.write_text((ROOT / "k8s/base/postgres.yaml").read_text().replace("replicas:", "replica:", 1))
    assert linted("kubernetes-validate", "--strict", "--no-warn", planted).returncode == 1


def test_every_image_is_pinned_by_digest_or_is_ours() -> None:
    bases = re.findall(r"^FROM (\S+)", (INFRA / "Dockerfile").read_text(), re.MULTILINE)
    foreign = [base for base in bases if base != "base"]
    foreign += [service["image"] for service in SERVICES.values() if service["image"] != OWN_IMAGE]
    assert len(foreign) >= 4
    assert [image for image in foreign if not PINNED.fullmatch(image)] == []


def test_files_name_the_version_of_the_code() -> None:
    for name in ("compose.gpu.yaml", "ray-cluster.yaml"):
        assert set(re.findall(r"pipeline:([0-9][0-9.]*)-", (INFRA / name).read_text())) == {__version__}, name


def test_s3_server_is_new_enough_for_conditional_puts() -> None:
    version = re.search(r"seaweedfs:(\d+)\.(\d+)@", SERVICES["s3"]["image"])
    assert version is not None
    assert tuple(map(int, version.groups())) >= (4, 30)


@pytest.mark.parametrize("name", SERVICES)
def test_container_is_locked_down(name: str) -> None:
    service = SERVICES[name]
    user, group = map(int, service["user"].split(":"))
    assert user > 0
    assert group > 0
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "devices", "pid", "ipc", "userns_mode"} & service.keys()
    assert service.get("network_mode", "none") == "none"
    assert not any("docker.sock" in str(volume) for volume in service.get("volumes", ()))
    limits = service["deploy"]["resources"]["limits"]
    assert {"cpus", "memory", "pids"} <= limits.keys()
    assert {"max-size", "max-file"} <= service["logging"]["options"].keys()
    for port in service.get("ports", ()):
        assert port.startswith("127.0.0.1:"), f"{port} is open to the network"


def test_only_mlflow_and_its_backup_reach_the_database() -> None:
    assert COMPOSE["networks"]["database"] == {"internal": True}
    reach = {name for name, service in SERVICES.items() if "database" in service.get("networks", ())}
    assert reach == {"postgres", "backup", "mlflow"}
    assert SERVICES["postgres"]["networks"] == ["database"]


def test_servers_and_the_backup_have_a_health_check() -> None:
    once = {name for name, service in SERVICES.items() if service["restart"] == "no"}
    assert once == {"s3-volume", "bucket", "pipeline"}
    assert {name for name in SERVICES.keys() - once if "healthcheck" not in SERVICES[name]} == {"bucket-care"}


def mounts(service: dict[str, Any]) -> list[tuple[str, str]]:
    """Source and target of each volume of a service."""
    found: list[tuple[str, str]] = []
    for volume in service.get("volumes", ()):
        if isinstance(volume, dict):
            found.append((volume["source"], volume["target"]))
        else:
            source, target = interpolated(volume).split(":")[:2]
            found.append((source, target))
    return found


def test_whatever_a_service_refers_to_exists() -> None:
    """The schema of compose files does not follow references."""
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            assert other in SERVICES, f"{name} waits for {other}"
            if how["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[other]
            else:
                assert how["condition"] == "service_completed_successfully"
                assert SERVICES[other]["restart"] == "no"
        assert set(service.get("networks", ())) <= COMPOSE["networks"].keys()
        for source, _ in mounts(service):
            assert (INFRA / source).is_file() if source.startswith("./") else source in COMPOSE["volumes"], source
    assert {source for service in SERVICES.values() for source, _ in mounts(service)} >= COMPOSE["volumes"].keys()


def test_paths_that_are_written_are_mounts() -> None:
    """Roots are read-only, so a path that a command writes below has to be a volume or a tmpfs."""
    for name, service in SERVICES.items():
        targets = {target for _, target in mounts(service)}
        targets |= {entry.partition(":")[0] for entry in service.get("tmpfs", ())}
        if service["image"] == OWN_IMAGE and name != "s3-volume":
            assert "/tmp" in targets, name
            assert "/home/pipeline" in targets or not name.startswith("ray-"), name
    folder = SERVICES["backup"]["command"][1]
    assert ("backups", folder) in mounts(SERVICES["backup"])
    assert ("postgres", "/var/lib/postgresql/data") in mounts(SERVICES["postgres"])


def ray_options(command: list[str]) -> dict[str, Any]:
    """What Ray's own command line makes of a command.

    Raises:
        click.UsageError: an option that it does not know, or a wrong value.
    """
    assert command[:2] == ["ray", "start"]
    arguments = [interpolated(word) for word in command[2:]]
    return start.make_context("start", arguments, resilient_parsing=False).params


@pytest.mark.parametrize("name", ["ray-head", "ray-worker"])
def test_ray_understands_the_command_of_its_container(name: str) -> None:
    options = ray_options(SERVICES[name]["command"])
    assert options["head"] is (name == "ray-head")
    assert options["block"] is True
    with pytest.raises(click.UsageError):
        ray_options([*SERVICES[name]["command"], "--node-manger-port=1"])


def test_ports_of_a_ray_node_are_fixed_and_distinct() -> None:
    for name in ("ray-head", "ray-worker"):
        options = ray_options(SERVICES[name]["command"])
        names = ["node_manager_port", "object_manager_port", "runtime_env_agent_port", "metrics_export_port"]
        names += ["dashboard_agent_grpc_port", "dashboard_agent_listen_port"]
        names += ["port", "dashboard_port", "ray_client_server_port"] if name == "ray-head" else []
        ports = [int(options[key]) for key in names]
        ports += range(int(options["min_worker_port"]), int(options["max_worker_port"]) + 1)
        assert 0 not in ports
        assert len(ports) == len(set(ports)), f"{name} uses a port twice"
        assert options["max_worker_port"] - options["min_worker_port"] >= 500


def test_ray_asks_for_a_token_and_drivers_know_every_address() -> None:
    for name in ("ray-head", "ray-worker", "pipeline"):
        environment = SERVICES[name]["environment"]
        assert environment["RAY_AUTH_MODE"] == "token"
        assert environment["RAY_AUTH_TOKEN"].startswith("${RAY_AUTH_TOKEN:?")
        assert environment["AWS_ENDPOINT_URL_S3"] == "http://s3:8333"
        assert environment["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
        assert {"RAY_ROTATION_MAX_BYTES", "RAY_ROTATION_BACKUP_COUNT"} <= environment.keys()


def secrets_in(folder: Path) -> dict[str, str]:
    script = folder / "secrets.sh"
    script.write_text((INFRA / "secrets.sh").read_text())
    subprocess.run(["sh", str(script)], check=True, capture_output=True, timeout=30)
    return dict(line.split("=", 1) for line in (folder / ".env").read_text().splitlines())


def test_secrets_are_random_private_complete_and_made_once(tmp_path: Path) -> None:
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    first, second = map(secrets_in, folders)
    needed = set(re.findall(r"\$\{(\w+):\?", (INFRA / "compose.yaml").read_text()))
    assert first.keys() == needed
    assert not set(first.values()) & set(second.values())
    assert all(re.fullmatch("[0-9a-f]{20,}", value) for value in first.values())
    assert stat.S_IMODE((folders[0] / ".env").stat().st_mode) == 0o600
    assert secrets_in(folders[0]) == first
    assert os.listdir(folders[0]).count(".env") == len(os.listdir(folders[0])) - 1


def seaweedfs(tmp_path: Path, **changes: str) -> tuple[subprocess.CompletedProcess[str], Path]:
    weed = tmp_path / "weed"
    weed.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    weed.chmod(0o755)
    config = tmp_path / "s3.json"
    keys = {
        f"S3_{who}_{kind}_KEY": f"{who}{kind}1"
        for who in ("ADMIN", "PIPELINE", "MLFLOW")
        for kind in ("ACCESS", "SECRET")
    }
    env = {"PATH": os.environ["PATH"], "WEED": str(weed), "S3_CONFIG": str(config), **keys, **changes}
    script = str(INFRA / "seaweedfs.sh")
    return subprocess.run(["sh", script], env=env, capture_output=True, text=True, timeout=30), config


def test_s3_users_other_than_the_administrator_reach_one_bucket_each(tmp_path: Path) -> None:
    done, config = seaweedfs(tmp_path)
    assert done.returncode == 0, done.stderr
    identities = {item["name"]: item for item in json.loads(config.read_text())["identities"]}
    assert identities.keys() == {"admin", "pipeline", "mlflow"}
    for name in ("pipeline", "mlflow"):
        assert identities[name]["actions"] == [f"{verb}:{name}" for verb in ("Read", "Write", "List", "Tagging")]
        expected = {"accessKey": f"{name.upper()}ACCESS1", "secretKey": f"{name.upper()}SECRET1"}
        assert identities[name]["credentials"] == [expected]
    assert stat.S_IMODE(config.stat().st_mode) == 0o600


def test_only_s3_listens_outside_of_its_container(tmp_path: Path) -> None:
    done, config = seaweedfs(tmp_path)
    arguments = done.stdout.splitlines()
    bound = [word for word in arguments if ".bind=" in word or word.startswith("-ip=")]
    assert sorted(bound) == ["-ip.bind=127.0.0.1", "-ip=127.0.0.1", "-s3.ip.bind=0.0.0.0"]
    assert f"-s3.config={config}" in arguments


@pytest.mark.parametrize("value", ["", 'a", "x": "b'])
def test_s3_server_refuses_keys_that_would_change_its_file(tmp_path: Path, value: str) -> None:
    done, config = seaweedfs(tmp_path, S3_MLFLOW_SECRET_KEY=value)
    assert done.returncode == 2
    assert "S3_MLFLOW_SECRET_KEY" in done.stderr
    assert not config.exists()


def is_in_build(path: str) -> bool:
    """Whether .dockerignore lets a path into the build: the last pattern that matches it or a folder above it wins."""
    included = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!")
        parts = [path, *map(str, Path(path).parents)]
        name = pattern.removeprefix("**/")
        if pattern == "*" or pattern in parts or (name != pattern and name in path.split("/")):
            included = line.startswith("!")
    return included


def test_build_sees_what_it_copies_and_nothing_private() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (INFRA / "Dockerfile").read_text(), re.MULTILINE)
    sources = [source for line in copied for source in line.split()]
    for variant in ("cpu", "cuda"):
        for source in sources:
            name = source.replace("${VARIANT}", variant)
            assert (ROOT / name).exists(), f"{name} does not exist"
            assert is_in_build(name), f".dockerignore keeps {name} out"
    assert {"pipeline", "grids"} <= set(sources)
    private = [
        ".git/config",
        ".venv/bin/python",
        "infra/.env",
        "runs/x",
        "tests/conftest.py",
        "pipeline/__pycache__/a.pyc",
    ]
    assert [name for name in private if is_in_build(name)] == []


def test_image_has_neither_root_nor_secrets() -> None:
    text = (INFRA / "Dockerfile").read_text()
    last = text.rpartition("\nFROM ")[2]
    assert re.findall(r"^USER (.*)$", last, re.MULTILINE) == ["1000:1000"]
    assert not re.search(r"(?i)(secret|password|token|access_key)\w*=", text)
    assert "org.opencontainers.image.revision=" in last
    assert "--require-hashes" in text


def locked(variant: str) -> dict[str, str]:
    lines = (INFRA / f"requirements-{variant}.lock").read_text().splitlines()
    pins = [line for line in lines if not line.startswith(("#", "--extra-index-url"))]
    found = [LOCKED.fullmatch(line) for line in pins]
    assert None not in found, [line for line, match in zip(pins, found, strict=True) if match is None]
    return {canonicalize_name(match[1]): match[2] for match in found if match is not None}


@pytest.mark.parametrize("variant", ["cpu", "cuda"])
def test_image_installs_the_versions_that_are_tested(variant: str) -> None:
    constraints = [line.split("==") for line in (ROOT / "constraints.txt").read_text().split()]
    tested: dict[str, str] = {canonicalize_name(name): version for name, version in constraints}
    pins = locked(variant)
    differ = {name for name, version in pins.items() if version.removesuffix("+cpu") != tested.get(name, version)}
    assert differ == set()
    assert len(pins.keys() & tested.keys()) > 100
    files = [ROOT / "requirements.txt", INFRA / "requirements-image.txt"]
    lines = [line for file in files for line in file.read_text().splitlines() if re.match(r"\w", line)]
    wanted = {canonicalize_name(re.split(r"[\[=]", line)[0]) for line in lines}
    assert wanted <= pins.keys()
    assert any(name.startswith("nvidia-") for name in pins) is (variant == "cuda")


def test_lock_takes_the_wheel_that_the_image_can_install() -> None:
    lock = loaded("lock")
    names = ["a-1-cp312-cp312-manylinux_2_28_x86_64.whl", "a-1-cp311-cp311-manylinux_2_28_x86_64.whl"]
    names += [
        "a-1-cp311-cp311-manylinux_2_28_aarch64.whl",
        "a-1-py3-none-any.whl",
        "a-1-cp311-cp311-manylinux_2_39_x86_64.whl",
    ]
    wheels = [{"name": name, "hashes": {"sha256": "0" * 64}} for name in names]
    assert lock.chosen_wheel(wheels)["name"] == names[1]
    assert lock.chosen_wheel(wheels[3:])["name"] == names[3]
    assert lock.chosen_wheel([wheels[0], wheels[2], wheels[4]]) is None
    with pytest.raises(SystemExit, match=r"no wheel .* a==1"):
        lock.lock_text({"packages": [{"name": "a", "version": "1", "wheels": [wheels[0]]}]}, "cpu")
