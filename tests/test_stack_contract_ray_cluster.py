"""What the executor relies on in Ray 2.60 on a cluster of several nodes, beyond its documentation.
Starts no cluster."""

from __future__ import annotations

import inspect

import ray._private.node
import ray._private.services
import ray._private.utils
import ray._private.worker
from ray._private import state
from ray._raylet import InnerGcsClient
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayActorError
from ray.experimental import internal_kv
from ray.tune.execution.tune_controller import TrialRunnerWrapper, TuneController
from ray.tune.utils.object_cache import _ObjectCache

from nasctl.executors.ray_cluster import explained


def test_the_number_of_pending_trials_can_be_changed_while_tune_runs() -> None:
    source = inspect.getsource(TuneController.update_max_pending_trials)
    assert "self._max_pending_trials = max_pending_trials or" in source
    assert "self._tune_controller" in inspect.getsource(TrialRunnerWrapper.__init__)


def test_the_maximum_of_warm_workers_can_be_lowered_by_a_negative_raise() -> None:
    cache: _ObjectCache[str, str] = _ObjectCache(may_keep_one=True)
    cache.increase_max("resources", by=3)
    for actor in "abc":
        cache.cache_object("resources", actor)
    cache.increase_max("resources", by=-2)
    assert list(cache.flush_cached_objects()) == ["a", "b"]


def test_warm_workers_are_where_those_of_lost_nodes_are_looked_for() -> None:
    cache: _ObjectCache[str, str] = _ObjectCache(may_keep_one=True)
    cache.increase_max("resources", by=2)
    assert cache.cache_object("resources", "a")
    cache._cached_objects["resources"].remove("a")
    cache._num_cached_objects -= 1
    assert not cache.has_cached_object("resources")
    assert cache.num_cached_objects == 0
    assert "_live_actors_to_ray_actors_resources" in inspect.getsource(RayActorManager.__init__)
    assert callable(TuneController._remove_actor)


def test_a_trial_waits_for_room_as_long_as_its_actor_is_pending() -> None:
    start = inspect.getsource(RayActorManager._try_start_actors)
    acquired = start.index("acquire_resources")
    assert acquired < start.index("_pending_actors_to_attrs.pop")


def test_a_reset_that_meets_a_dead_worker_is_an_error_of_the_trial() -> None:
    source = inspect.getsource(TuneController._schedule_trial_reset)
    assert "on_error=self._trial_task_failure" in source


def test_errors_of_dead_nodes() -> None:
    assert issubclass(ActorDiedError, RayActorError)
    assert issubclass(ActorUnavailableError, RayActorError)
    assert RayActorError().preempted is False


def test_tune_ends_the_search_at_errors_that_are_not_of_an_actor_or_its_task() -> None:
    source = inspect.getsource(RayActorManager._actor_task_failed)
    assert "isinstance(exception, RayActorError)" in source
    assert "isinstance(exception, RayTaskError)" in source
    assert 'raise RuntimeError(\n                f"Caught unexpected exception' in source
    caller = inspect.getsource(RayActorManager._schedule_tracked_actor_task)
    assert "self._actor_task_failed(" in caller, "looked up at each call: it can be replaced"


def test_the_tries_at_a_head_are_counted_when_they_begin() -> None:
    source = inspect.getsource(ray._private.node.Node._init_gcs_client)
    assert "num_retries = ray_constants.NUM_REDIS_GET_RETRIES" in source


def test_what_a_measurement_elsewhere_tells_on_its_way_goes_through_the_head() -> None:
    assert "namespace" in inspect.signature(internal_kv._internal_kv_put).parameters
    assert callable(InnerGcsClient.internal_kv_get)
    assert callable(InnerGcsClient.internal_kv_del)
    for ask in (state.available_resources_per_node, state.actors, state.jobs):
        assert callable(ask)


def test_a_driver_picks_a_node_of_its_own_machine_and_says_so_if_there_is_none() -> None:
    source = inspect.getsource(ray._private.services.get_node_to_connect_for_driver)
    assert "find_node_ids()" in source
    said = "No node info found matching attributes: '' when trying to resolve node to connect to."
    assert "when trying to resolve node to connect to" in source
    assert "no node of it runs on this machine" in explained(RuntimeError(said), "10.0.0.1:6379")


def test_another_version_is_told_with_both() -> None:
    cluster = {"ray_version": "2.9.0", "python_version": "3.9.1"}
    try:
        ray._private.utils.check_version_info(cluster, "node 10.0.0.1")
    except RuntimeError as error:
        said = explained(error, "10.0.0.1:6379")
    assert "it runs Ray 2.9.0 on Python 3.9.1, this is Ray 2.60" in said


def test_the_folder_of_the_driver_is_on_the_path_of_workers() -> None:
    """So that a plugin in it is found by workers that see the folder."""
    source = inspect.getsource(ray._private.worker.connect)
    assert "current_directory = os.path.abspath(os.path.curdir)" in source
    assert "code_paths.append(current_directory)" in source
