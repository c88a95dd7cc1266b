"""The compose cluster as files: what can be known without an engine. `compose.sh` runs it."""

from __future__ import annotations

import http.server
import importlib.util
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PAGE = (ROOT / "docs" / "cluster.md").read_text("utf-8")
SCRIPT = (ROOT / "tests" / "e2e" / "compose.sh").read_text("utf-8")


def test_only_keys_that_compose_1_29_takes() -> None:
    known = {"services", "networks", "volumes", "secrets"}
    assert {key for key in COMPOSE if not key.startswith("x-")} == known
    assert set(SERVICES) == {"ray-head", "ray-worker", "mlflow", "postgres", "nasctl"}


def compose() -> list[str] | None:
    """The Compose that is here, if one is."""
    for command in (["docker-compose"], ["docker", "compose"]):
        if shutil.which(command[0]):
            done = subprocess.run([*command, "version"], capture_output=True, check=False)
            if done.returncode == 0:
                return command
    return None


@pytest.mark.skipif(compose() is None, reason="no docker-compose and no Compose plugin here")
@pytest.mark.parametrize("override", [[], ["compose.gpu.yaml"]])
def test_compose_reads_the_files(override: list[str]) -> None:
    command = compose()
    assert command is not None
    arguments = [word for file in ["docker-compose.yml", *override] for word in ("-f", file)]
    done = subprocess.run(
        [*command, *arguments, "config"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    read = yaml.safe_load(done.stdout)["services"]["ray-worker"]
    assert ("deploy" in read) == bool(override)


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "network_mode", "pid", "user"} & set(service)
    assert service["init"] is True
    assert service["mem_limit"]
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    if name != "nasctl":
        assert service["restart"] == "unless-stopped"
        assert {"test", "interval", "timeout", "retries"} <= set(service["healthcheck"])
        assert service["stop_grace_period"]


def test_the_database_is_reached_by_mlflow_alone() -> None:
    assert COMPOSE["networks"]["database"] == {"internal": True}
    members = {name for name, service in SERVICES.items() if "database" in service["networks"]}
    assert members == {"postgres", "mlflow"}
    assert SERVICES["postgres"]["networks"] == ["database"]
    assert "ports" not in SERVICES["postgres"]
    published = [port for s in SERVICES.values() for port in s.get("ports", ())]
    assert [port.rpartition(":")[2] for port in published] == ["8265", "5000"]


def test_who_waits_for_whom() -> None:
    waits = {name: service.get("depends_on") for name, service in SERVICES.items()}
    healthy = {"condition": "service_healthy"}
    assert waits["ray-worker"] == {"ray-head": healthy}
    assert waits["mlflow"] == {"postgres": healthy}
    assert waits["ray-head"] is None, "a search does not need MLflow"


def test_secrets_are_files_that_only_those_get_who_need_them() -> None:
    got = {name: set(service["secrets"]) for name, service in SERVICES.items()}
    assert got == {
        "ray-head": {"ray_token", "mlflow_password"},
        "ray-worker": {"ray_token"},
        "mlflow": {"postgres_password", "mlflow_password"},
        "postgres": {"postgres_password"},
        "nasctl": {"ray_token", "mlflow_password"},
    }
    for name, service in SERVICES.items():
        for key, value in (service.get("environment") or {}).items():
            is_path = key == "RAY_AUTH_TOKEN_PATH" and value == "/run/secrets/ray_token"
            assert is_path or not re.search("token$|password|secret|key", key, re.I), (name, key)
    assert SERVICES["ray-head"]["environment"]["RAY_AUTH_MODE"] == "token"
    assert SERVICES["ray-worker"]["environment"]["RAY_AUTH_MODE"] == "token"


def test_mlflow_runs_nothing_and_tells_nobody() -> None:
    environment = SERVICES["mlflow"]["environment"]
    assert environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert environment["MLFLOW_MODEL_CATALOG_URI"] == ""
    assert "mlflow:5000" in environment["MLFLOW_HOSTS"]
    assert "MLFLOW_DISABLE_TELEMETRY=true" in (ROOT / "Dockerfile").read_text("utf-8")


def test_the_image_is_built_from_pins_without_root_and_by_the_old_builder_too() -> None:
    text = (ROOT / "Dockerfile").read_text("utf-8")
    assert text.count("-c constraints.txt") == 2
    assert not re.search(r"^RUN .*(--mount|<<)", text, re.M)
    stages = re.split(r"^FROM ", text, flags=re.M)[1:]
    users = {stage.split()[2]: re.findall(r"^USER (\w+)$", stage, re.M) for stage in stages}
    assert {name: last for name, last in users.items() if last} == {
        "postgres": ["database"],
        "nasctl": ["nasctl"],
    }
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert "*" in ignored, "nothing goes to the engine but what is named"
    assert "!.cluster" not in ignored


def test_the_page_and_the_script_have_the_same_blocks() -> None:
    shown = re.findall(r"^```sh engine (\w+)$", PAGE, re.M)
    run = re.findall(r"^ *block (\w+)$", SCRIPT, re.M)
    assert sorted(shown) == sorted(set(run))
    other = set(re.findall(r"^```sh(?: (\w+))?", PAGE, re.M))
    assert other == {"engine", "gpu", "hosts"}, "a plain block would be run by test_docs.py"


def test_every_setting_is_on_the_page() -> None:
    text = (ROOT / "docker-compose.yml").read_text("utf-8")
    internal = {"NASCTL_IMAGE", "NASCTL_POSTGRES_IMAGE", "NASCTL_SECRETS", "NASCTL_UID"}
    for name in set(re.findall(r"\$\{(\w+)", text)) - internal:
        assert f"`{name}`" in PAGE or f"`{name}=" in PAGE, name


# -- the scripts -----------------------------------------------------------------------------------


def write_secrets(folder: Path) -> None:
    subprocess.run(
        [ROOT / "docker" / "cluster.sh", "secrets"],
        env={**os.environ, "NASCTL_SECRETS": str(folder)},
        check=True,
        capture_output=True,
    )


def test_secrets_are_made_once_for_their_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    write_secrets(folder)
    files = {path.name: path for path in folder.iterdir()}
    assert set(files) == set(COMPOSE["secrets"])
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    contents = {name: path.read_text() for name, path in files.items()}
    assert len(set(contents.values())) == 3
    assert all(re.fullmatch("[0-9a-f]{64}", content) for content in contents.values())
    for path in files.values():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.stat().st_uid == (10001 if os.getuid() == 0 else os.getuid())
    files["ray_token"].unlink()
    write_secrets(folder)
    again = {path.name: path.read_text() for path in folder.iterdir()}
    assert again["ray_token"] != contents["ray_token"]
    assert again["postgres_password"] == contents["postgres_password"]


def entry(tmp_path: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "docker" / "entry.sh", *command],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_node_does_not_start_without_its_token(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    for path in (tmp_path / "missing", empty):
        done = entry(tmp_path, "echo", "started", RAY_AUTH_TOKEN_PATH=str(path))
        assert (done.returncode, done.stdout) == (4, "")
        assert str(path) in done.stderr
        assert done.stderr.count("\n") == 1
    empty.write_text("token")
    assert entry(tmp_path, "echo", "started", RAY_AUTH_TOKEN_PATH=str(empty)).stdout == "started\n"


def test_a_database_does_not_start_without_its_password(tmp_path: Path) -> None:
    done = subprocess.run(
        [ROOT / "docker" / "postgres.sh"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 4
    assert done.stderr.startswith("no PostgreSQL password")


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docker" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_head_trains_nothing_and_a_worker_says_what_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = load("node")
    head = node.start_command("head")
    assert head[head.index("--num-cpus") + 1] == "0"
    assert "--address" not in head
    monkeypatch.setenv("NASCTL_HEAD", "ray-head:6379")
    monkeypatch.setenv("NASCTL_WORKER_CPUS", "3")
    monkeypatch.setenv("NASCTL_LATENCY_DEVICE", "")
    worker = node.start_command("worker")
    assert worker[worker.index("--address") + 1] == "ray-head:6379"
    assert worker[worker.index("--num-cpus") + 1] == "3"
    assert "--resources" not in worker
    monkeypatch.setenv("NASCTL_LATENCY_DEVICE", "pi5")
    worker = node.start_command("worker")
    assert json.loads(worker[worker.index("--resources") + 1]) == {"latency_device:pi5": 1}
    store = int(worker[worker.index("--object-store-memory") + 1])
    assert 0 < store < shutil.disk_usage("/dev/shm").total


class Answers(http.server.BaseHTTPRequestHandler):
    """One answer, for whoever brings the right header."""

    nodes: list[dict[str, Any]] = []  # noqa: RUF012
    seen: list[dict[str, str]] = []  # noqa: RUF012

    def do_GET(self) -> None:
        type(self).seen.append(dict(self.headers))
        self.send_response(200 if self.headers["Authorization"] == "Bearer s3cret" else 401)
        self.end_headers()
        self.wfile.write(json.dumps({"data": {"summary": self.nodes}}).encode())

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the output of a test is for failures."""


@pytest.fixture
def dashboard() -> Iterator[str]:
    """An address on which the health check finds a dashboard at its fixed port, 8265."""
    address = f"127.77.{os.getpid() % 250 + 1}.1"  # a loopback address of this process's own
    server = http.server.ThreadingHTTPServer((address, 8265), Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield address
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("nodes", "token", "healthy"),
    [
        ([{"hostname": socket.gethostname(), "raylet": {"state": "ALIVE"}}], "s3cret", True),
        ([{"hostname": socket.gethostname(), "raylet": {"state": "DEAD"}}], "s3cret", False),
        ([{"hostname": "another", "raylet": {"state": "ALIVE"}}], "s3cret", False),
        ([{"hostname": socket.gethostname(), "raylet": {"state": "ALIVE"}}], "wrong", False),
    ],
)
def test_a_node_is_healthy_if_the_head_knows_it(
    nodes: list[dict[str, Any]], token: str, healthy: bool, dashboard: str, tmp_path: Path
) -> None:
    Answers.nodes = nodes
    path = tmp_path / "token"
    path.write_text(token + "\n")
    done = subprocess.run(
        [sys.executable, ROOT / "docker" / "ray_health.py"],
        env={"NASCTL_HEAD": f"{dashboard}:6379", "RAY_AUTH_TOKEN_PATH": str(path)},
        capture_output=True,
        check=False,
    )
    assert (done.returncode == 0) == healthy, done.stderr


# -- where there is no engine ---------------------------------------------------------------------


def without_engine(tmp_path: Path, **stubs: str) -> str:
    """What compose.sh says with nothing on its PATH but the usual tools and these commands."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "dirname", "mktemp", "rm", "seq", "sleep", "tail"):
        found = shutil.which(name)
        assert found is not None
        (tools / name).symlink_to(found)
    for name, text in stubs.items():
        (tools / name).write_text(f"#!{tools}/bash\n{text}\n")
        (tools / name).chmod(0o755)
    done = subprocess.run(
        [tools / "bash", ROOT / "tests" / "e2e" / "compose.sh"],
        env={"PATH": str(tools), "TMPDIR": str(tmp_path), "SHORT": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bin"], "nothing is left"
    (line,) = [x for x in done.stderr.splitlines() if x.startswith("SKIPPED")]
    return line.removeprefix("SKIPPED, nothing of the compose cluster was tested: ")


def test_without_an_engine_the_script_says_so_and_succeeds(tmp_path: Path) -> None:
    assert without_engine(tmp_path) == "no docker command"


def test_an_engine_that_may_not_be_started_is_said(tmp_path: Path) -> None:
    said = without_engine(tmp_path, docker="exit 1", dockerd="exit 1", id="echo 1000")
    assert said == "no engine answers, none can be started"


def test_an_engine_that_does_not_start_is_said(tmp_path: Path) -> None:
    said = without_engine(tmp_path, docker="exit 1", dockerd="echo no >&2; exit 1", id="echo 0")
    assert said == "dockerd did not start"


def test_a_build_that_would_find_no_torch_is_said(tmp_path: Path) -> None:
    said = without_engine(tmp_path, docker="exit 0", ls="exit 1", curl="exit 7")
    assert said == "no wheel of PyTorch's CPU build is here, and its index does not answer"
