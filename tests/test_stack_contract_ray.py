"""What the Ray executor relies on in Ray 2.60 beyond its documentation. Starts no cluster."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys

import pytest
import ray._private.node
import ray._private.utils
import ray._private.worker
import ray._raylet
from ray._private import services
from ray.exceptions import ActorDiedError
from ray.tune.execution import class_cache, tune_controller
from ray.tune.experiment.trial import Trial
from ray.tune.search import Searcher
from ray.tune.search.search_generator import SearchGenerator
from ray.tune.tune import _setup_signal_catching
from ray.tune.utils.object_cache import _ObjectCache

from nasctl.executors.ray import ENVIRONMENT
from nasctl.executors.scratch import LONGEST


@pytest.mark.parametrize("name", ["start_monitor", "start_api_server", "start_log_monitor"])
def test_the_helpers_of_a_local_node_are_started_by_methods_whose_result_is_not_used(
    name: str,
) -> None:
    assert callable(getattr(ray._private.node.Node, name))
    source = inspect.getsource(ray._private.node.Node.start_head_processes)
    source += inspect.getsource(ray._private.node.Node.start_ray_processes)
    lines = [line.strip() for line in source.splitlines() if f"self.{name}(" in line]
    assert lines
    assert all(line.startswith(f"self.{name}(") for line in lines)


def test_names_that_are_used_although_private() -> None:
    assert callable(ray._private.node.Node.dead_processes)
    assert callable(ray._private.worker.print_to_stdstream)
    assert hasattr(ray._private.worker, "_global_node")
    assert callable(ray._raylet.Config.initialize)
    assert callable(ray._raylet.AuthenticationTokenLoader.instance().reset_cache)


def test_tune_gives_workers_nothing_but_what_they_inherit_on_one_machine() -> None:
    assert class_cache.DEFAULT_ENV_VARS == {"PL_DISABLE_FORK": "1"}  # for PyTorch Lightning
    source = inspect.getsource(class_cache._ActorClassCache.get)
    assert "os.environ[env_var_to_propagate]" in source
    assert "ray.remote(runtime_env=runtime_env)(trainable_cls)" in source


def test_remarks_of_the_raylet_are_printed_by_a_function_that_is_looked_up_when_called() -> None:
    source = inspect.getsource(ray._private.worker.listen_error_messages)
    assert "print_to_stdstream(" in source


def test_a_raised_maximum_keeps_every_idle_worker_and_the_default_keeps_one() -> None:
    kept = {}
    for raised in (0, 2):
        cache = _ObjectCache(may_keep_one=True)
        cache.increase_max("resources", by=raised)
        kept[raised] = [cache.cache_object("resources", actor) for actor in ("a", "b")]
        kept[raised] += list(cache.flush_cached_objects())
    assert kept == {0: [True, False], 2: [True, True]}


def test_the_scheduler_is_asked_in_every_step_and_first_about_results() -> None:
    controller = tune_controller.TuneController
    step = inspect.getsource(controller.step)
    assert "self._maybe_add_actors()" in step
    assert "choose_trial_to_run" in inspect.getsource(controller._maybe_add_actors)
    result = inspect.getsource(controller._process_trial_result)
    told = result.index("_scheduler_alg.on_trial_result")
    assert told < result.index("_search_alg.on_trial_result")
    assert "increase_max" in inspect.getsource(controller._maybe_add_actors)


def test_ray_starts_its_processes_by_one_class_that_can_give_them_a_group() -> None:
    source = inspect.getsource(services.start_ray_process)
    assert "process = ConsolePopen(" in source
    assert issubclass(services.ConsolePopen, subprocess.Popen)


def test_tune_leaves_sigint_alone_when_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = (signal.SIGINT, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    monkeypatch.setenv("TUNE_DISABLE_SIGINT_HANDLER", ENVIRONMENT["TUNE_DISABLE_SIGINT_HANDLER"])
    try:
        _setup_signal_catching()
        assert signal.getsignal(signal.SIGINT) == before[0]
        assert signal.getsignal(signal.SIGUSR1) != before[1]  # so the executor restores it
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def test_pending_trials_are_limited_to_one_unless_the_environment_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Nothing(Searcher):
        def suggest(self, trial_id: str) -> None:
            """Nothing to do."""

    generator = SearchGenerator(Nothing())
    monkeypatch.delenv("TUNE_MAX_PENDING_TRIALS_PG", raising=False)
    assert tune_controller._get_max_pending_trials(generator) == 1
    monkeypatch.setenv("TUNE_MAX_PENDING_TRIALS_PG", "5")
    assert tune_controller._get_max_pending_trials(generator) == 5


@pytest.mark.parametrize("counted", [True, False])
def test_a_preempted_trial_is_retried_by_tune_itself_unless_it_counts_as_a_failure(
    counted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "RAY_TRAIN_COUNT_PREEMPTION_AS_FAILURE"
    monkeypatch.setenv(name, ENVIRONMENT[name] if counted else "0")
    trial = Trial("stub", stub=True, max_failures=0)
    error = ActorDiedError()
    monkeypatch.setattr(ActorDiedError, "preempted", property(lambda self: True))
    trial._handle_ray_actor_error(error)
    assert trial.should_recover() is not counted


def test_the_authentication_mode_is_cached_when_ray_is_imported_until_it_is_initialised() -> None:
    program = """
import os
os.environ.pop("RAY_AUTH_MODE", None)
import ray._raylet as raylet
os.environ["RAY_AUTH_MODE"] = "token"
before = raylet.get_authentication_mode()
raylet.Config.initialize("")
token = raylet.AuthenticationMode.TOKEN
print(before == token, raylet.get_authentication_mode() == token)
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["False", "True"]


def test_the_path_of_a_socket_fits_below_the_longest_scratch_folder() -> None:
    session = "session_2026-12-31_23-59-59_999999_4194304"
    path = "x" * LONGEST + f"/{session}/sockets/plasma_store.12"
    assert len(os.fsencode(path)) <= 107


def test_a_cluster_of_another_version_is_told_as_a_version_mismatch() -> None:
    source = inspect.getsource(ray._private.utils.check_version_info)
    assert 'error_message = f"Version mismatch: {mismatch_msg}"' in source
    assert "raise RuntimeError(error_message)" in source
