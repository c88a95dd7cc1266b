"""docker/cluster.sh with an engine that pretends: what it refuses before anything is changed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCKER = """#!/bin/bash
# What is there is told by files of $STATE; every command is noted.
echo "$*" >> "$STATE/said"
case "$*" in
    "compose version") exit 0 ;;
    "compose ps -q "*) cat "$STATE/${4}" 2>/dev/null ;;
    "compose ps -q") ;;
    "inspect --format {{range"*) echo "MLFLOW_AUTH=$(cat "$STATE/login" 2>/dev/null)" ;;
    "volume inspect "*) [ -e "$STATE/volume-$3" ] ;;
    "compose up "*) [ ! -e "$STATE/up_fails" ] || { cat "$STATE/up_fails" >&2; exit 1; } ;;
    "compose port "*) echo 127.0.0.1:1 ;;
esac
"""


class Engine:
    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        self.checkout = folder / "Check Out.2"
        for place in (self.state, folder / "bin", self.checkout / "docker", self.checkout / "conf"):
            place.mkdir(parents=True)
        (folder / "bin" / "docker").write_text(DOCKER)
        (folder / "bin" / "docker").chmod(0o755)
        shutil.copy(ROOT / "docker" / "cluster.sh", self.checkout / "docker")
        self._path = f"{folder / 'bin'}:{os.environ['PATH']}"

    def has(self, name: str, text: str = "id\n") -> None:
        (self.state / name).write_text(text)

    def run(self, *arguments: str, **environment: str) -> tuple[int, str]:
        known = ("NASCTL_", "COMPOSE_")
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(known)}
        done = subprocess.run(
            [self.checkout / "docker" / "cluster.sh", *arguments],
            env={**inherited, "PATH": self._path, "STATE": str(self.state), **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stderr

    @property
    def said(self) -> list[str]:
        return (self.state / "said").read_text().splitlines()

    def started(self) -> list[str]:
        return [line for line in self.said if line.startswith("compose up")]


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(tmp_path)


def test_a_new_cluster_has_two_workers_and_keeps_what_it_has_later(engine: Engine) -> None:
    assert engine.run("launch")[0] == 0
    engine.has("ray-head")
    engine.has("ray-worker", "a\nb\nc\n")
    assert engine.run("launch")[0] == 0
    assert engine.run("launch", "1")[0] == 0
    assert [line.rpartition("=")[2] for line in engine.started()] == ["2", "3", "1"]


def test_a_login_is_not_lost_with_the_variable_that_turned_it_on(engine: Engine) -> None:
    engine.has("mlflow")
    engine.has("login", "basic")
    code, said = engine.run("launch")
    assert (code, engine.started()) == (2, [])
    assert said.startswith("NASCTL_MLFLOW_AUTH: MLflow asks for a login and would not any more")
    assert engine.run("launch", NASCTL_MLFLOW_AUTH="none")[0] == 0
    (engine.checkout / ".env").write_text("NASCTL_MLFLOW_AUTH=basic\n")
    assert engine.run("launch")[0] == 0
    assert len(engine.started()) == 2


def test_a_secret_that_is_in_use_is_not_replaced(engine: Engine) -> None:
    secrets = engine.checkout / ".cluster"
    assert engine.run("launch")[0] == 0
    before = {path.name: path.read_text() for path in secrets.iterdir()}
    engine.has("ray-head")
    (secrets / "ray_token").unlink()
    code, said = engine.run("launch")
    assert (code, len(engine.started())) == (2, 1)
    assert said.startswith(".cluster/ray_token is gone, and the cluster runs with it")
    assert not (secrets / "ray_token").exists()
    (engine.state / "ray-head").unlink()
    assert engine.run("launch")[0] == 0  # after cluster-down, which is how one gets a new token
    assert (secrets / "ray_token").read_text() != before["ray_token"]

    (secrets / "postgres_password").unlink()
    engine.has("volume-checkout2_database")
    code, said = engine.run("launch")
    assert (code, len(engine.started())) == (2, 2)
    assert said.startswith(".cluster/postgres_password is gone, and the database asks for it")
    assert engine.run("launch", COMPOSE_PROJECT_NAME="new")[0] == 0


def test_too_few_open_files_are_named(engine: Engine) -> None:
    engine.has("up_fails", "error setting rlimits: error setting rlimit type 7: not permitted\n")
    code, said = engine.run("launch", NASCTL_NOFILE="99999")
    assert code == 1
    assert "may not give 99999 open files to a container: set NASCTL_NOFILE to what it may" in said


def test_a_search_without_a_cluster_or_with_a_file_that_it_cannot_see(engine: Engine) -> None:
    code, said = engine.run("search", "conf/space.yaml")
    assert (code, said) == (4, "the cluster is not up: make cluster-up\n")
    assert engine.run("search") == (2, "search: no CONFIG given\n")
    engine.has("ray-head")
    (engine.checkout / "my.yaml").touch()
    code, said = engine.run("search", "my.yaml", "trials=2")
    assert code == 2
    assert said.startswith("CONFIG=my.yaml: this search sees nothing but conf/: put the file there")
    (engine.checkout / "conf" / "space.yaml").touch()
    assert engine.run("search", "conf/space.yaml", "trials=2")[0] == 0
    assert engine.run("search", "mbv2_space")[0] == 0  # a packaged name
    runs = [line for line in engine.said if line.startswith("compose run")]
    assert runs == [
        "compose run --rm nasctl submit conf/space.yaml trials=2",
        "compose run --rm nasctl submit mbv2_space",
    ]
