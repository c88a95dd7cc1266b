"""Layer 5: a Ray cluster as its Jobs API shows it. The one place for `ray.job_submission`.

Nothing here needs a Ray node on this machine: it is HTTP to the dashboard of the head.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import re
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from nasctl.errors import ConfigError, EnvironmentProblemError, nearest, unknown
from nasctl.executors.surroundings import environ

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
ADDRESS_VARIABLES = ("NASCTL_ADDRESS", "RAY_API_SERVER_ADDRESS")
TIMEOUT_S = (10.0, 60.0)
"""To connect, and to answer: Ray's client would wait for ever."""
STOP_WAIT_S = 75
"""Seconds from SIGTERM to SIGKILL: a search may take 60 to store what it has."""
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
KIND, RUN, OUTPUT_DIR, CONFIG, COMMAND = (
    f"nasctl.{key}" for key in ("kind", "run", "output_dir", "config", "command")
)
"""What the metadata of our jobs say; an empty output_dir is the head's own folder for runs."""
FETCH = "fetch"
"""The kind of the jobs behind `nasctl fetch`, which nobody asked for by name."""


class LostContactError(EnvironmentProblemError):
    """The cluster does not answer, or no longer; another try may succeed."""


class JobGoneError(EnvironmentProblemError):
    """The cluster does not know the job: it was deleted, or the head has started anew since."""


@dataclass(frozen=True, kw_only=True)
class ClusterJob:
    """One submitted job.

    Attributes:
        metadata: of whoever submitted it.
        status: PENDING, RUNNING, or one of `ENDED`.
        started, ended: seconds since the epoch, where they are known.
        exit_code: of its process, if that came to an end by itself.
        message: what Ray says of its state.
    """

    id: str
    metadata: Mapping[str, str]
    status: str
    started: float | None
    ended: float | None
    exit_code: int | None
    message: str
    entrypoint: str

    @property
    def is_over(self) -> bool:
        return self.status in ENDED

    @property
    def run(self) -> str | None:
        """The run that it drives; None for a job that `nasctl submit` did not make."""
        return self.metadata.get(RUN)

    @property
    def output_dir(self) -> str:
        return self.metadata.get(OUTPUT_DIR, "")


class Cluster:
    """The jobs of a cluster; see `connect`. Every failure is a `NasctlError` of one line."""

    def __init__(self, client: Any, url: str) -> None:
        self._client = client
        self.url = url

    def submit(
        self,
        job_id: str,
        entrypoint: str,
        *,
        metadata: Mapping[str, str],
        folder: Path | None = None,
    ) -> None:
        """Starts a shell command on the head.

        Args:
            folder: everything in it is uploaded, and is the command's working directory.
        """
        # Between SIGTERM and SIGKILL Ray's own default leaves three seconds.
        runtime_env: dict[str, Any] = {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)}}
        if folder is not None:
            runtime_env["working_dir"] = str(folder)
        with _explained(self.url):
            self._client.submit_job(
                entrypoint=entrypoint,
                submission_id=job_id,
                metadata=dict(metadata),
                runtime_env=runtime_env,
            )

    def jobs(self) -> list[ClusterJob]:
        """Everything that was submitted since the head started, the newest last."""
        with _explained(self.url):
            found = [_job(d) for d in self._client.list_jobs() if d.type.value == "SUBMISSION"]
        return sorted(found, key=lambda job: job.started or 0.0)

    def job(self, job_id: str) -> ClusterJob:
        with _explained(self.url, job_id):
            return _job(self._client.get_job_info(job_id))

    def stop(self, job_id: str) -> None:
        """Asks for it; SIGTERM goes to the job's processes."""
        with _explained(self.url, job_id):
            self._client.stop_job(job_id)

    def delete(self, job_id: str) -> None:
        """Forgets a job that is over."""
        with _explained(self.url, job_id):
            self._client.delete_job(job_id)

    def log(self, job_id: str) -> str:
        """What the job has printed so far."""
        with _explained(self.url, job_id):
            return str(self._client.get_job_logs(job_id))

    async def tail(self, job_id: str) -> AsyncGenerator[str, None]:
        """The log from its beginning, in pieces, until the job is over; needs the head's agent."""
        with _explained(self.url, job_id):
            async with aclosing(self._client.tail_job_logs(job_id)) as pieces:
                async for piece in pieces:
                    yield piece


def connect(url: str, token: str | None) -> Cluster:
    """A cluster that answers, takes the token, and runs this Ray.

    Args:
        url: of the dashboard; see `read_address`.

    Raises:
        EnvironmentProblemError: it does not, or Ray's Jobs API is not installed here.
    """
    if importlib.util.find_spec("aiohttp") is None or importlib.util.find_spec("requests") is None:
        raise EnvironmentProblemError(
            "the Jobs API of Ray is not installed: pip install 'nasctl[cluster]'"
        )
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    # Ray puts the variable above every argument, and would add tokens of its own finding.
    ours = {"RAY_API_SERVER_ADDRESS": url, "RAY_AUTH_MODE": "disabled"}
    with environ(ours), _explained(url, connecting=True):
        client = _client_class()(url, headers)
    import ray

    theirs = str(client._server_ray_version)
    if theirs.split(".")[:2] != ray.__version__.split(".")[:2]:
        raise EnvironmentProblemError(
            f"{url}: the cluster runs Ray {theirs}, this nasctl Ray {ray.__version__}: install "
            f"the same here: pip install 'ray[default]=={theirs}'"
        )
    return Cluster(client, url)


def _client_class() -> Any:
    """Ray's client, with patience that ends."""
    from ray.job_submission import JobSubmissionClient

    raylet: Any = importlib.import_module("ray._raylet")
    raylet.Config.initialize("")  # it may have been imported with another RAY_AUTH_MODE
    for module in ("dashboard_sdk", "job.sdk"):  # "Uploading package ..."
        logging.getLogger(f"ray.dashboard.modules.{module}").setLevel(logging.WARNING)
    logging.getLogger("ray._private.runtime_env.packaging").setLevel(logging.WARNING)

    class PatientClient(JobSubmissionClient):  # type: ignore[misc]  # Ray is not typed
        def __init__(self, url: str, headers: dict[str, str]) -> None:
            super().__init__(url, headers=headers)
            # Ray says None for "as usual", which aiohttp no longer likes to hear.
            self._ssl_context: Any = True

        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            return super()._do_request(method, endpoint, **{"timeout": TIMEOUT_S, **options})

    return PatientClient


def _job(details: Any) -> ClusterJob:
    return ClusterJob(
        id=str(details.submission_id),
        metadata=dict(details.metadata or {}),
        status=str(details.status.value),
        started=None if details.start_time is None else details.start_time / 1000,
        ended=None if details.end_time is None else details.end_time / 1000,
        exit_code=details.driver_exit_code,
        message=str(details.message or ""),
        entrypoint=str(details.entrypoint),
    )


def find_job(jobs: Sequence[ClusterJob], name: str, url: str) -> ClusterJob:
    """The job of that id, or the newest that drives the run of that name.

    Raises:
        JobGoneError: there is none; names the nearest of those that `nasctl jobs` lists.
    """
    found = [job for job in jobs if job.id == name] or [job for job in jobs if job.run == name]
    if found:
        return found[-1]
    listed = [job for job in jobs if job.metadata.get(KIND) != FETCH]
    if not listed:
        raise JobGoneError(
            f"unknown job {name!r}: nothing was submitted to {url} since its head started"
        )
    by_name = {name: job.id for job in listed for name in (job.run, job.id) if name is not None}
    guess = nearest(name, by_name)
    hint = f"did you mean {by_name[guess]!r}?" if guess else "nasctl jobs lists what there is"
    raise JobGoneError(f"{unknown('job', name, ())}; {hint}")


# -- where, and with which token ------------------------------------------------------------------


def read_address(given: str | None, environment: Mapping[str, str]) -> str:
    """The URL of the dashboard: as given, else from the environment, else on this machine.

    Raises:
        ConfigError: it is none.
    """
    source, text = "--address", given
    for variable in ADDRESS_VARIABLES:
        if text is None and environment.get(variable):
            source, text = variable, environment[variable]
    if text is None:
        return DEFAULT_ADDRESS
    problem = _address_problem(text)
    if problem is not None:
        shown = re.sub(r"//[^/]*@", "//...@", text)
        raise ConfigError(f"{source}={shown}: {problem}")
    return text.rstrip("/")


def _address_problem(text: str) -> str | None:
    expected = f"expected the URL of the cluster's dashboard, like {DEFAULT_ADDRESS}"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        return f"{error}; {expected}"
    if parts.scheme not in ("http", "https"):
        bare = re.fullmatch(r"[\w.-]+:\d+/?", text)
        return f"did you mean http://{text}?" if bare else expected
    if parts.username is not None or parts.password is not None:
        return "no user or password here: the token is in RAY_AUTH_TOKEN or --token-file"
    if not parts.hostname or port == 0 or _has_more(parts) or re.search(r"[\s\x00-\x1f]", text):
        return expected
    return None


def _has_more(parts: SplitResult) -> bool:
    return bool(parts.path.strip("/") or parts.query or parts.fragment)


def read_token(file: Path | None, environment: Mapping[str, str]) -> str | None:
    """The cluster's token: of the file, else RAY_AUTH_TOKEN, else the file RAY_AUTH_TOKEN_PATH.

    Raises:
        EnvironmentProblemError: a file cannot be read, or there is no token in it.
    """
    if file is not None:
        return _token_in(file, "--token-file")
    if environment.get("RAY_AUTH_TOKEN"):
        return _checked_token(environment["RAY_AUTH_TOKEN"], "RAY_AUTH_TOKEN")
    if environment.get("RAY_AUTH_TOKEN_PATH"):
        return _token_in(Path(environment["RAY_AUTH_TOKEN_PATH"]), "RAY_AUTH_TOKEN_PATH")
    return None


def _token_in(file: Path, source: str) -> str:
    try:
        text = file.expanduser().read_text(encoding="ascii")
    except UnicodeDecodeError:
        text = "\0"
    except OSError as error:
        raise EnvironmentProblemError(
            f"{source}={file}: cannot be read: {error.strerror}"
        ) from None
    return _checked_token(text, f"{source}={file}")


def _checked_token(text: str, source: str) -> str:
    """Without the end of the line; what HTTP would not carry would be shown in its error."""
    token = text.strip()
    if not re.fullmatch(r"[\x21-\x7e]{1,4096}", token):
        raise EnvironmentProblemError(f"{source}: no token in it: expected one word")
    return token


# -- what can go wrong ----------------------------------------------------------------------------


@contextlib.contextmanager
def _explained(url: str, job_id: str = "", *, connecting: bool = False) -> Iterator[None]:
    """Ray's, requests' and aiohttp's errors as one line each."""
    aiohttp: Any = importlib.import_module("aiohttp")
    requests: Any = importlib.import_module("requests")
    from ray.exceptions import AuthenticationError

    other = EnvironmentProblemError(
        f"{url}: something answers there, but it is not the Jobs API of a Ray cluster"
    )
    try:
        yield
    except AuthenticationError as error:
        raise _about_token(str(error), url) or other from None
    except aiohttp.WSServerHandshakeError as error:
        if error.status in (401, 403):
            raise EnvironmentProblemError(f"{url}: the cluster refuses the token") from None
        raise LostContactError(f"{url}: no log (HTTP status {error.status})") from None
    except requests.Timeout:
        raise LostContactError(
            f"{url}: no answer within {TIMEOUT_S[1]:.0f} s; is it the dashboard of a cluster?"
        ) from None
    except (requests.HTTPError, ValueError, LookupError, TypeError) as error:
        if connecting:
            raise other from None
        raise EnvironmentProblemError(f"{url}: {_line(error)}") from error
    except OSError as error:
        network = (ConnectionError, TimeoutError, requests.RequestException, aiohttp.ClientError)
        if not isinstance(error, network):  # a disk of ours that is full, as Ray packs what travels
            raise EnvironmentProblemError(f"not submitted: {error}") from error
        raise LostContactError(f"{url}: nothing answers there{_cause(error)}") from None
    except aiohttp.ClientError as error:
        raise LostContactError(f"{url}: nothing answers there{_cause(error)}") from None
    except RuntimeError as error:
        if connecting and "404" in str(error):
            raise other from None
        raise _refused(str(error), url, job_id) from None


def _about_token(text: str, url: str) -> EnvironmentProblemError | None:
    if "Missing authentication token" in text:
        return EnvironmentProblemError(
            f"{url}: the cluster wants a token: set RAY_AUTH_TOKEN, or --token-file FILE"
        )
    if "Invalid authentication token" in text:
        return EnvironmentProblemError(f"{url}: the cluster does not know this token")
    return None


def _refused(text: str, url: str, job_id: str) -> EnvironmentProblemError:
    """Of a request that reached the Jobs API and failed there, or of a log that broke off."""
    if "WebSocket" in text:
        return LostContactError(f"{url}: the connection broke")
    if job_id and "status code 404" in text:
        drives = not job_id.startswith(f"nasctl-{FETCH}-")
        return JobGoneError(
            f"{url} does not know the job {job_id}: it was deleted, or the head has started anew"
            + ("; the same submit command continues the run" if drives else "")
        )
    if "status code 50" in text and "No available agent" in text:
        return LostContactError(f"{url}: the head is not ready for jobs yet")
    return EnvironmentProblemError(f"{url}: the cluster says: {_line(text)}")


def _line(error: object) -> str:
    """The last line of a text that may hold a traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" .")]
    return (lines[-1] if lines else type(error).__name__)[:300]


def _cause(error: BaseException) -> str:
    """The system's word for it, which is at the end of a chain of wrappers."""
    text, inner = "", error.__context__ or error.__cause__
    for found in (error, inner):
        match = re.search(r"\[Errno -?\d+\] ([^'\")\]]+)|\[SSL: (\w+)\]", str(found))
        text = text or ((match[1] or match[2]) if match else "")
    return f" ({text.strip()})" if text else ""
