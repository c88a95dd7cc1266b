"""What `nasctl submit` relies on in Ray's Jobs API, beyond what its documentation says."""

from __future__ import annotations

import inspect

import pytest
from ray.dashboard.modules.job import job_manager, utils
from ray.dashboard.modules.job.job_supervisor import JobSupervisor
from ray.dashboard.utils import get_address_for_submission_client
from ray.job_submission import JobSubmissionClient


def test_the_environment_wins_over_the_address_that_a_program_gives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So `connect` sets the variable, or --address would mean nothing."""
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_ADDRESS", "http://b:2")
    assert get_address_for_submission_client("http://a:1") == "http://b:2"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://c:3")
    assert get_address_for_submission_client("http://a:1") == "http://c:3"


def test_requests_have_no_timeout_of_their_own_and_take_one() -> None:
    source = inspect.getsource(JobSubmissionClient._do_request)
    assert "**kwargs" in source
    assert "timeout" not in source


def test_a_job_is_stopped_by_sigterm_to_all_its_processes_with_a_wait_of_its_own() -> None:
    """The wait is read from the job's `env_vars`, which are the supervisor's environment."""
    source = inspect.getsource(JobSupervisor.run)
    assert "children(recursive=True)" in source
    assert '"RAY_JOB_STOP_WAIT_TIME_S"' in source
    assert JobSupervisor.DEFAULT_RAY_JOB_STOP_WAIT_TIME_S < 60, "too short for a search"


def test_a_log_begins_with_the_command_and_is_appended_to() -> None:
    source = inspect.getsource(JobSupervisor._exec_entrypoint)
    assert 'f"Running entrypoint for job {self._job_id}: {self._entrypoint}\\n"' in source
    assert 'open(logs_path, "a")' in source, "a job that empties its log leaves no hole"
    assert "stderr=subprocess.STDOUT" in source, "there is one stream"


def test_the_log_is_streamed_in_messages_of_some_lines() -> None:
    """A line of an archive has 64 KiB, a message of a websocket 4 MiB at most."""
    assert "lines) >= 10" in inspect.getsource(utils.file_tail_iterator)
    assert utils.MAX_CHUNK_CHAR_LENGTH <= 65_536


def test_a_job_that_has_ended_is_looked_at_once_more() -> None:
    """Deleted before that it comes back as FAILED and without metadata: `fetch` deletes later."""
    source = inspect.getsource(job_manager.JobManager._monitor_job_internal)
    assert "job_status is not None and job_status.is_terminal()" in source
