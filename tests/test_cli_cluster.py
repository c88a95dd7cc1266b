"""The commands for a cluster, on one whose jobs are processes here; `tests/e2e/test_submit.py` has
a real one."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nasctl import cluster as cluster_module
from nasctl import cluster_follow
from nasctl.cluster import ClusterJob, LostContactError
from nasctl.records import RunRecords
from tests.e2e.servers import free_port
from tests.faults.drive import PLUGIN, TOY, Bench, Said, until
from tests.jobs_api import LocalCluster

SECRET = "s3cret-token"
NASCTL = """\
#!/bin/sh
for word; do
    shift
    case "$word" in
        executor=ray) word=executor=inline ;;
        executor.address=auto) continue ;;
    esac
    set -- "$@" "$word"
done
exec '{python}' -m nasctl "$@"
"""
"""The head's nasctl, which trains without a cluster."""


@pytest.fixture
def bench(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    made = Bench(tmp_path / "desk", tmp_path_factory.getbasetemp() / "cache")
    made.folder.mkdir()
    made.write("toy.yaml", TOY)
    return made


@pytest.fixture
def head(tmp_path: Path) -> Path:
    """The folder for runs of the cluster's head."""
    return tmp_path / "head" / "runs"


@pytest.fixture
def cluster(tmp_path: Path, head: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalCluster]:
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "nasctl").write_text("#!/bin/sh\n")
    (tools / "nasctl").chmod(0o755)
    made = LocalCluster(tmp_path, head, tools=tools)
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", *cluster_module.ADDRESS_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cluster_module, "connect", lambda url, token: made)
    yield made
    made.close()


@pytest.fixture
def training(cluster: LocalCluster, tmp_path: Path) -> None:
    """The cluster's nasctl does something."""
    (tmp_path / "bin" / "nasctl").write_text(NASCTL.format(python=sys.executable))


def submit(bench: Bench, *arguments: str) -> Said:
    return bench.call("submit", "toy.yaml", *PLUGIN, "trials=3", *arguments)


def running(cluster: LocalCluster, run: str = "toy", command: str = "sleep 100") -> str:
    job_id = f"nasctl-{run}-000001"
    metadata = {"nasctl.run": run, "nasctl.output_dir": "", "nasctl.command": "nasctl submit it"}
    cluster.submit(job_id, command, metadata=metadata)
    return job_id


# -- submit ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("training")
def test_a_search_is_shown_as_if_it_were_here_and_fetched(
    bench: Bench, cluster: LocalCluster, head: Path
) -> None:
    said = submit(bench, "--json", "executor=inline")
    assert said.code == 0, said.err
    records = RunRecords(head / "toy")
    assert json.loads(said.out) == records.front
    typed = ["nasctl", "submit", "toy.yaml", *PLUGIN, "trials=3", "--json", "executor=inline"]
    assert records.command == " ".join(typed), "what its user has to type to continue"
    assert "executor=inline: a submitted run has executor=ray" in said.err
    assert "[3/3] COMPLETE" in said.err
    assert "stdout| " not in said.err
    assert "Running entrypoint" not in said.err
    assert said.err.splitlines()[-1] == "folder    nasctl fetch toy"

    (job,) = cluster.jobs()
    assert said.err.count(f"job {job.id} at {cluster.url}") == 1
    assert job.metadata == {
        "nasctl.kind": "search",
        "nasctl.run": "toy",
        "nasctl.output_dir": "",
        "nasctl.config": "toy.yaml",
        "nasctl.command": records.command,
    }
    assert cluster.sent[job.id] == {"toy.yaml"}, "the plugin is not below the current directory"

    # The same command again finds nothing to do, and shows the front as text.
    again = submit(bench)
    assert again.code == 0, again.err
    assert again.out == bench.call("front", str(head / "toy")).out
    # And what the job has printed can be read again, as it was.
    logged = bench.call("logs", "toy")
    assert again.out in logged.out

    came = bench.call("fetch", "toy")
    assert (came.code, came.out) == (0, "runs/toy\n"), came.err
    assert bench.call("front", "runs/toy").out == again.out
    assert bench.call("doctor", "runs/toy").code == 0


@pytest.mark.usefixtures("training")
def test_the_job_s_failure_is_the_command_s_and_is_said_once(
    bench: Bench, cluster: LocalCluster
) -> None:
    said = submit(bench, "evaluator=no_such")
    assert said.code == 2
    assert "no_such" in said.error
    assert said.out == ""


def test_a_job_that_cannot_say_why_it_ended_is_explained(
    bench: Bench, cluster: LocalCluster, tmp_path: Path
) -> None:
    (tmp_path / "bin" / "nasctl").write_text("#!/bin/sh\nkill -9 $$\n")
    said = submit(bench)
    assert said.code == 4
    assert re.search(r"the job nasctl-toy-\w+ failed: ended by signal 9 .*continues", said.error)


@pytest.mark.parametrize(("end", "code"), [("exit 143", 143), ("exit 130", 130), ("kill $$", 143)])
def test_a_job_that_a_signal_ended_was_stopped(
    bench: Bench, cluster: LocalCluster, tmp_path: Path, end: str, code: int
) -> None:
    (tmp_path / "bin" / "nasctl").write_text(f"#!/bin/sh\n{end}\n")
    said = submit(bench)
    (job,) = cluster.jobs()
    error = f"Error: the job {job.id} was stopped; the same command continues the run"
    assert (said.code, said.error) == (code, error)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["submit", "toy.yaml", "trails=3"], "trails"),
        (["submit", "none.yaml"], "none.yaml"),
        (["submit", "toy.yaml", "--plugin", "plug.py"], "--plugin plug.py"),
        (["submit", "toy.yaml", "--ablate"], "toy.yaml"),
        (["submit", "toy.yaml", "--address", "127.0.0.1:8265"], "--address=127.0.0.1:8265"),
        (["jobs", "--address", "nowhere"], "--address=nowhere"),
    ],
)
def test_bad_input_is_refused_before_anything_is_asked(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    def connect(url: str, token: str | None) -> None:
        pytest.fail("asked the cluster")

    monkeypatch.setattr(cluster_module, "connect", connect)
    found = bench.call(*arguments)
    assert found.code == 2, found.err
    assert said in found.err
    assert found.out == ""


def test_a_run_has_one_driver(bench: Bench, cluster: LocalCluster) -> None:
    job_id = running(cluster)
    said = submit(bench)
    assert said.code == 4
    assert f"the run toy is being driven by the job {job_id}" in said.error
    assert len(cluster.jobs()) == 1
    other = submit(bench, "name=other", "--detach")
    assert other.code == 0, other.err
    elsewhere = submit(bench, f"output_dir={bench.folder}/elsewhere", "--detach")
    assert elsewhere.code == 0, elsewhere.err
    assert len(cluster.jobs()) == 3


def test_detached(bench: Bench, cluster: LocalCluster) -> None:
    said = submit(bench, "--detach", "name=a")
    assert said.code == 0, said.err
    assert said.out.strip() == cluster.jobs()[0].id
    as_json = json.loads(submit(bench, "--detach", "--json", "name=b").out)
    assert as_json == {"job": cluster.jobs()[1].id, "run": "b"}


def interrupt(*_: object, **__: object) -> ClusterJob:
    raise KeyboardInterrupt


def lose(*_: object, **__: object) -> ClusterJob:
    raise LostContactError("http://x: nothing answers there")


@pytest.mark.parametrize(("what", "code"), [(interrupt, 130), (lose, 4)])
def test_the_job_goes_on_without_its_client(
    bench: Bench,
    cluster: LocalCluster,
    monkeypatch: pytest.MonkeyPatch,
    what: Callable[..., ClusterJob],
    code: int,
) -> None:
    monkeypatch.setattr(cluster_follow, "follow", what)
    said = submit(bench, "--address", "http://head:1", "--token-file", bench_token(bench))
    assert said.code == code
    (job,) = cluster.jobs()
    where = f"--address http://head:1 --token-file {bench_token(bench)}"
    assert f"nasctl logs {job.id} {where} follows it" in said.error
    assert f"nasctl stop {job.id} {where} ends it" in said.error
    assert SECRET not in said.out + said.err


def bench_token(bench: Bench) -> str:
    return str(bench.write("token", SECRET))


def test_a_dry_run_is_done_here(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "connect", lambda url, token: pytest.fail("asked"))
    here = bench.call("search", "toy.yaml", *PLUGIN, "--dry-run", "--json")
    assert bench.call("submit", "toy.yaml", *PLUGIN, "--dry-run", "--json").out == here.out
    here = bench.call("ablate", "relu_information_loss", "--dry-run")
    study = bench.call("submit", "relu_information_loss", "--ablate", "--dry-run")
    assert (study.code, study.out) == (0, here.out), study.err


# -- the others -----------------------------------------------------------------------------------


def test_jobs_are_listed(bench: Bench, cluster: LocalCluster) -> None:
    running(cluster)
    cluster.submit("raysubmit_x", "exit 3", metadata={})
    cluster.submit("nasctl-fetch-a", "exit 0", metadata={"nasctl.kind": "fetch"})
    cluster.wait("raysubmit_x")
    header, first, second = bench.call("jobs").out.splitlines()
    assert header.split() == ["JOB", "RUN", "STATUS", "SINCE", "DURATION"]
    assert first.split()[:3] == ["nasctl-toy-000001", "toy", "RUNNING"]
    assert second.split()[:3] == ["raysubmit_x", "-", "FAILED"]
    as_json = json.loads(bench.call("jobs", "--json").out)
    assert [job["job"] for job in as_json] == ["nasctl-toy-000001", "raysubmit_x"]
    assert as_json[0]["command"] == "nasctl submit it"
    assert as_json[1]["exit_code"] == 3


def test_the_time_of_a_job_is_readable() -> None:
    from nasctl.cli_cluster import _clock

    assert [_clock(s) for s in (0, 59.9, 3600, 100_000)] == [
        *("0:00:00", "0:00:59", "1:00:00", "27:46:40")
    ]


def test_logs_follow_or_do_not(bench: Bench, cluster: LocalCluster) -> None:
    done = running(cluster, "a", "echo one; echo 'stdout| two'; exit 3")
    said = bench.call("logs", done)
    assert said.code == 0
    assert said.out.splitlines()[-2:] == ["one", "two"]
    going = running(cluster, "b", "echo one; sleep 100")
    until(lambda: "one" in cluster.log(going).split("\n"))
    assert bench.call("logs", going, "--no-follow").out.splitlines()[-1] == "one"


def test_ctrl_c_on_logs_leaves_the_job(
    bench: Bench, cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_follow, "follow", interrupt)
    job_id = running(cluster)
    said = bench.call("logs", job_id)
    assert (said.code, said.error) == (130, f"Error: {job_id} goes on")
    assert not cluster.job(job_id).is_over


def test_stop_waits_for_the_end_and_says_how_to_continue(
    bench: Bench, cluster: LocalCluster
) -> None:
    job_id = running(cluster)
    said = bench.call("stop", "toy")
    assert said.code == 0
    assert said.err.splitlines()[-2:] == [f"{job_id}: STOPPED", "to continue: nasctl submit it"]
    again = bench.call("stop", job_id)
    assert (again.code, again.err) == (0, f"{job_id} is over already: STOPPED\n")


@pytest.mark.parametrize("command", ["logs", "stop"])
def test_an_unknown_job_names_the_nearest(
    bench: Bench, cluster: LocalCluster, command: str
) -> None:
    job_id = running(cluster)
    said = bench.call(command, "nasctl-toy-00002")
    assert said.code == 4
    assert said.error == f"Error: unknown job 'nasctl-toy-00002'; did you mean {job_id!r}?"


def test_the_token_is_never_shown(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    for arguments in (["jobs"], ["submit", "toy.yaml", *PLUGIN], ["fetch", "toy"]):
        said = bench.call(*arguments, "--address", address, RAY_AUTH_TOKEN=SECRET)
        assert said.code == 4
        assert said.error == f"Error: {address}: nothing answers there (Connection refused)"
        assert SECRET not in said.out + said.err
    said = bench.call("jobs", "--token-file", "none")
    assert said.code == 4
    assert "--token-file=none: cannot be read" in said.error


def test_help_shows_what_is_for_people(bench: Bench) -> None:
    said = bench.call("--help")
    for command in ("submit", "jobs", "logs", "stop", "fetch"):
        assert re.search(rf"^  {command} ", said.out, flags=re.MULTILINE)
    assert "send-run" not in said.out


def test_the_variables_of_a_job_are_its_own(bench: Bench, cluster: LocalCluster) -> None:
    assert "NASCTL_JOB" not in os.environ
    said = bench.call("configs", NASCTL_COMMAND="nasctl submit x")
    assert "stdout| " not in said.out
    assert "NASCTL_COMMAND" not in os.environ
