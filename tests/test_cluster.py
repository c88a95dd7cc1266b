"""The Jobs API from outside: addresses, tokens, and every way in which a cluster is not there.

What Ray's own server says in these cases is asserted in `tests/e2e/test_submit.py`.
"""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import ray

from nasctl import cluster as cluster_module
from nasctl.cluster import (
    DEFAULT_ADDRESS,
    Cluster,
    JobGoneError,
    LostContactError,
    connect,
    find_job,
    read_address,
    read_token,
)
from nasctl.errors import ConfigError, EnvironmentProblemError
from tests.e2e.servers import HangingServer, free_port
from tests.jobs_api import VERSION, details, job, site, version

SECRET = "s3cret-token"


def test_the_address_is_the_option_then_the_environment_then_this_machine() -> None:
    ours = {"NASCTL_ADDRESS": "http://a:1", "RAY_API_SERVER_ADDRESS": "http://b:2/"}
    assert read_address("https://c.example:3/", ours) == "https://c.example:3"
    assert read_address(None, ours) == "http://a:1"
    assert read_address(None, {**ours, "NASCTL_ADDRESS": ""}) == "http://b:2"
    assert read_address(None, {}) == DEFAULT_ADDRESS


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("127.0.0.1:8265", "did you mean http://127.0.0.1:8265?"),
        ("ray://head:10001", "expected the URL"),
        ("http://", "expected the URL"),
        ("http://head:port", "expected the URL"),
        ("http://head:99999", "expected the URL"),
        ("http://head:0", "expected the URL"),
        ("http://head:8265/api/jobs", "expected the URL"),
        ("http://head:8265?x=1", "expected the URL"),
        ("http://he ad:8265", "expected the URL"),
        ("http://head:8265\n", "expected the URL"),
        ("http://[::1", "expected the URL"),
        ("", "expected the URL"),
    ],
)
def test_what_is_no_address_is_refused_with_its_source(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_address(text, {})
    assert str(error.value).startswith("--address=")
    assert said in str(error.value)
    if text:
        with pytest.raises(ConfigError, match=r"^NASCTL_ADDRESS="):
            read_address(None, {"NASCTL_ADDRESS": text})


def test_a_password_in_an_address_is_not_repeated() -> None:
    with pytest.raises(ConfigError, match="no user or password") as error:
        read_address(f"http://me:{SECRET}@head:8265", {})
    assert SECRET not in str(error.value)


def test_the_token_is_of_the_option_then_the_environment_then_its_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{SECRET}\n")
    ours = {"RAY_AUTH_TOKEN": "from-variable", "RAY_AUTH_TOKEN_PATH": str(file)}
    other = tmp_path / "other"
    other.write_text("from-option")
    assert read_token(other, ours) == "from-option"
    assert read_token(None, ours) == "from-variable"
    assert read_token(None, {"RAY_AUTH_TOKEN_PATH": str(file)}) == SECRET
    assert read_token(None, {}) is None


@pytest.mark.parametrize("content", [b"", b"\n", b"two words", b"a\nb", b"caf\xc3\xa9", b"a\x00b"])
def test_a_file_without_a_token_is_refused_and_not_shown(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(EnvironmentProblemError, match="no token in it") as error:
        read_token(file, {})
    assert str(error.value) == f"--token-file={file}: no token in it: expected one word"


def test_a_token_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblemError, match=r"--token-file=.*No such file"):
        read_token(tmp_path / "none", {})
    with pytest.raises(EnvironmentProblemError, match=r"RAY_AUTH_TOKEN_PATH=.*directory"):
        read_token(None, {"RAY_AUTH_TOKEN_PATH": str(tmp_path)})
    with pytest.raises(EnvironmentProblemError, match="RAY_AUTH_TOKEN: no token"):
        read_token(None, {"RAY_AUTH_TOKEN": "a b"})


# -- what answers, or does not --------------------------------------------------------------------


def test_nothing_answers() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(LostContactError) as error:
        connect(url, SECRET)
    assert str(error.value) == f"{url}: nothing answers there (Connection refused)"
    with pytest.raises(LostContactError, match="nothing answers there"):
        connect("http://no-such-host.invalid:8265", None)


def test_somebody_accepts_and_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "TIMEOUT_S", (1.0, 0.1))
    server = HangingServer()
    try:
        with pytest.raises(LostContactError, match="no answer within"):
            connect(server.uri, None)
    finally:
        server.stop()


@pytest.mark.parametrize(
    "answer",
    [
        (200, "<html>nginx</html>"),
        (200, '{"version": 1}'),
        (200, "[]"),
        (404, "not here"),
        (500, "oops"),
        (403, "Invalid Host header"),
        (401, "who are you?"),
    ],
)
def test_something_else_answers(answer: tuple[int, str]) -> None:
    with (
        site({VERSION: answer}) as other,
        pytest.raises(EnvironmentProblemError, match="not the Jobs API of a Ray cluster") as error,
    ):
        connect(other.url, SECRET)
    assert not isinstance(error.value, LostContactError)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((401, "Unauthorized: Missing authentication token"), "wants a token: set RAY_AUTH_TOKEN"),
        ((403, "Forbidden: Invalid authentication token"), "does not know this token"),
    ],
)
def test_the_token_is_missing_or_wrong(answer: tuple[int, str], said: str) -> None:
    with (
        site({VERSION: answer}) as other,
        pytest.raises(EnvironmentProblemError, match=said) as error,
    ):
        connect(other.url, SECRET)
    assert SECRET not in str(error.value)
    assert "\n" not in str(error.value)


def test_another_ray_is_named_with_the_remedy() -> None:
    with (
        site({VERSION: version("2.61.1")}) as other,
        pytest.raises(EnvironmentProblemError) as error,
    ):
        connect(other.url, None)
    assert str(error.value) == (
        f"{other.url}: the cluster runs Ray 2.61.1, this nasctl Ray {ray.__version__}: install "
        "the same here: pip install 'ray[default]==2.61.1'"
    )


@pytest.mark.parametrize("library", ["aiohttp", "requests"])
def test_the_jobs_api_is_not_installed(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    real = cluster_module.importlib.util.find_spec
    monkeypatch.setattr(
        cluster_module.importlib.util, "find_spec", lambda n: None if n == library else real(n)
    )
    with pytest.raises(EnvironmentProblemError, match=r"pip install 'nasctl\[cluster\]'"):
        connect(DEFAULT_ADDRESS, None)


def test_only_the_address_asked_for_gets_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    with site({VERSION: version(ray.__version__)}) as ours, site({}) as other:
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", other.url)
        monkeypatch.setenv("RAY_ADDRESS", other.url)
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        monkeypatch.setenv("RAY_AUTH_TOKEN", "another")
        connect(ours.url, SECRET)
        connect(ours.url, None)
    assert {a for _, _, a in ours.asked} == {f"Bearer {SECRET}", None}
    assert other.asked == []


# -- jobs -----------------------------------------------------------------------------------------


def test_jobs_are_those_that_were_submitted_the_newest_last() -> None:
    listed = [
        details("b", start_time=2000, end_time=5500, status="FAILED", driver_exit_code=3,
                message="what happened", metadata={"nasctl.run": "toy", "nasctl.output_dir": "/x"}),
        details("a", start_time=1000),
        {"type": "DRIVER", "job_id": "01000000", "status": "RUNNING", "entrypoint": "python"},
    ]  # fmt: skip
    answers = {VERSION: version(ray.__version__), "/api/jobs/": (200, json.dumps(listed))}
    with site(answers) as ours:
        first, second = connect(ours.url, None).jobs()
    assert (first.id, first.run, first.output_dir, first.is_over) == ("a", None, "", False)
    assert (second.id, second.run, second.output_dir, second.is_over) == ("b", "toy", "/x", True)
    assert (second.started, second.ended, second.exit_code) == (2.0, 5.5, 3)
    assert second.message == "what happened"


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        ((404, "Job a does not exist"), JobGoneError, "does not know the job a"),
        ((500, "No available agent to submit job"), LostContactError, "not ready for jobs yet"),
        ((500, "Traceback\n  File x\nValueError: no\n"), EnvironmentProblemError,
         "the cluster says: ValueError: no"),
        ((200, "<html>"), EnvironmentProblemError, "Expecting value"),
    ],
)  # fmt: skip
def test_requests_that_fail(answer: tuple[int, str], kind: type[Exception], said: str) -> None:
    with site({VERSION: version(ray.__version__), "/api/jobs/a": answer}) as ours:
        cluster = connect(ours.url, None)
        with pytest.raises(kind, match=said) as error:
            cluster.job("a")
    assert type(error.value) is kind
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("job_id", "remedy"),
    [("nasctl-toy-1", "; the same submit command continues the run"), ("nasctl-fetch-toy-1", "")],
)
def test_a_job_that_is_gone_has_a_remedy(job_id: str, remedy: str) -> None:
    answer = (404, f"Job {job_id} does not exist")
    with site({VERSION: version(ray.__version__), f"/api/jobs/{job_id}": answer}) as ours:
        with pytest.raises(JobGoneError) as error:
            connect(ours.url, None).job(job_id)
        assert str(error.value) == (
            f"{ours.url} does not know the job {job_id}: it was deleted, or the head has started "
            f"anew{remedy}"
        )


def test_the_cluster_goes_away() -> None:
    with site({VERSION: version(ray.__version__)}) as ours:
        cluster: Cluster = connect(ours.url, None)
    with pytest.raises(LostContactError, match=r"nothing answers there \(Connection refused\)"):
        cluster.jobs()


def test_every_job_has_time_to_store_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: dict[str, Any] = {}
    with site({VERSION: version(ray.__version__)}) as ours:
        cluster: Cluster = connect(ours.url, None)
        monkeypatch.setattr(cluster._client, "submit_job", lambda **given: sent.update(given))
        cluster.submit("a", "true", metadata={})
    assert sent["runtime_env"] == {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "75"}}
    assert (sent["submission_id"], sent["entrypoint"]) == ("a", "true")


def test_a_disk_of_ours_that_is_full_is_not_blamed_on_the_cluster(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with site({VERSION: version(ray.__version__)}) as ours:
        cluster: Cluster = connect(ours.url, None)

        def full(**_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(cluster._client, "submit_job", full)
        with pytest.raises(
            EnvironmentProblemError, match=r"^not submitted: .*No space left"
        ) as error:
            cluster.submit("a", "true", metadata={}, folder=tmp_path)
        assert not isinstance(error.value, LostContactError)


def test_a_job_is_found_by_id_by_run_and_by_likeness() -> None:
    jobs = [
        job("nasctl-toy-000001", metadata={"nasctl.run": "toy"}, status="STOPPED"),
        job("nasctl-toy-000002", metadata={"nasctl.run": "toy"}),
        job("raysubmit_x"),
    ]
    assert find_job(jobs, "nasctl-toy-000001", "u").id == "nasctl-toy-000001"
    assert find_job(jobs, "toy", "u").id == "nasctl-toy-000002"
    with pytest.raises(JobGoneError) as error:
        find_job(jobs, "nasctl-toy-00003", "u")
    assert str(error.value).startswith(
        "unknown job 'nasctl-toy-00003'; did you mean 'nasctl-toy-00000"
    )
    with pytest.raises(JobGoneError, match="nasctl jobs lists"):
        find_job(jobs, "?", "u")
    fetches = [job("nasctl-fetch-nope-3df9bb", metadata={"nasctl.kind": "fetch"})]
    with pytest.raises(JobGoneError, match="'nope'; nasctl jobs lists"):
        find_job([*jobs, *fetches], "nope", "u")
    assert find_job(fetches, "nasctl-fetch-nope-3df9bb", "u") == fetches[0]
    for none in ([], fetches):
        with pytest.raises(JobGoneError, match="nothing was submitted to u"):
            find_job(none, "nope", "u")
