"""Layer 4: the executor on Ray Tune, on this machine or on a running cluster.

Ray is imported when a run begins, after the environment that it reads on import has been set.
Everything that Ray writes is disposable: it lives in a temporary folder that goes with the run.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import math
import pickle
import secrets
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from nasctl.errors import ConfigError, EnvironmentProblemError
from nasctl.executors.base import EngineLike, Job
from nasctl.executors.reaper import children, reaper
from nasctl.executors.scratch import scratch_dir
from nasctl.executors.surroundings import (
    environ,
    handlers_now,
    install_handlers,
    kept_handlers,
    replaced,
    silenced,
)

if TYPE_CHECKING:
    from nasctl.executors.ray_tune import Flights

T = TypeVar("T")

ENVIRONMENT = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a trial without gpus sees none
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_COUNT_PREEMPTION_AS_FAILURE": "1",  # or Tune would retry behind the engine's back
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # 15 by default: training would yield to everything else
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "inf",  # the ledger is the truth
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_THRESHOLD_S": "inf",
}
SET_BY_RAY = ("PYTHONBREAKPOINT", "RAY_CLIENT_MODE", "TUNE_ORIG_WORKING_DIR")
TOKEN = secrets.token_hex(32)
"""Guards a local cluster, which listens on all interfaces. In memory only; one per process,
because Ray reads it once."""

OBJECT_STORE_BYTES = 100 * 2**20  # beside the payload; Ray's minimum is 75 MiB
CONNECT_S = 10.0
CHECK_S = 5.0
CONTINUE = "; every finished trial is kept, the same command continues"


@dataclass(frozen=True, kw_only=True)
class RayExecutor:
    """Runs `workers` trainings at a time, each in a warm process of its own.

    Args:
        workers: trainings at a time.
        cpus: per training; fractions are allowed.
        gpus: per training; fractions share a GPU.
        timeout_s: a training that takes longer fails; None: no limit.
        address: `host:port` of a running cluster's head, as seen from one of its nodes;
            None: a private cluster on this machine, which ends with the run.

    Raises:
        ConfigError: a number out of range, or an address of another form.
        EnvironmentProblemError: Ray cannot start, be reached or give what a training asks for.
    """

    workers: int
    cpus: float = 1.0
    gpus: float = 0.0
    timeout_s: float | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        problems = []
        if self.workers < 1:
            problems.append(f"executor.workers: expected at least 1, got {self.workers}")
        if not (math.isfinite(self.cpus) and self.cpus > 0):
            problems.append(f"executor.cpus: expected more than 0, got {self.cpus}")
        if not (math.isfinite(self.gpus) and self.gpus >= 0):
            problems.append(f"executor.gpus: expected 0 or more, got {self.gpus}")
        if self.gpus > 1 and self.gpus != int(self.gpus):
            problems.append(f"executor.gpus: above 1 only whole numbers, got {self.gpus}")
        if self.timeout_s is not None and not self.timeout_s > 0:
            problems.append(f"executor.timeout_s: expected more than 0, got {self.timeout_s}")
        if self.address is not None and not _host_port(self.address):
            problems.append(f"executor.address: expected host:port, got {self.address!r}")
        if problems:
            raise ConfigError(problems)

    def run(self, engine: EngineLike, job: Job) -> None:
        """See `Executor.run`. Takes a few seconds to start; handlers of signals stay in force."""
        with silenced("ray"), self._cluster(object_bytes=_buffer_bytes(job.payload)) as folder:
            if engine.stop_requested:
                return
            from nasctl.executors.ray_tune import Flights

            flights = Flights(engine=engine, workers=self.workers, timeout_s=self.timeout_s)
            try:
                self._tune(flights, job, folder)
            finally:
                flights.release()
            if flights.error is not None:
                raise flights.error
            if not flights.ending:
                raise EnvironmentProblemError("Ray Tune ended before the search did")

    def run_exclusive(self, fn: Callable[[], T], resource: str | None = None) -> T:
        """See `Executor.run_exclusive`; on one machine always in this process."""
        if resource is None or self.address is None:
            return fn()
        with silenced("ray"), self._cluster(object_bytes=0):
            import ray

            have = ray.cluster_resources().get(resource, 0)
            if have < 1:
                raise EnvironmentProblemError(
                    f"latency device: no node of the cluster {self.address} offers the Ray "
                    f"resource {resource!r}"
                )
            from ray.exceptions import RayTaskError

            def call() -> T:  # Ray takes nothing but plain functions
                return fn()

            remote = ray.remote(call).options(num_cpus=0, resources={resource: 1})
            try:
                result: T = ray.get(remote.remote())
            except RayTaskError as error:
                raise error.cause from None
            return result

    def _tune(self, flights: Flights, job: Job, folder: str) -> None:
        from ray import tune
        from ray.exceptions import RayError

        from nasctl.executors import ray_tune

        try:
            with _inherited_environment() if self.address is None else contextlib.nullcontext():
                tune.run(
                    ray_tune.trainable(job),
                    name="trials",
                    search_alg=ray_tune.EngineSearcher(flights),
                    scheduler=ray_tune.EngineScheduler(
                        flights, workers=self.workers, check_cluster=self._cluster_check()
                    ),
                    stop=ray_tune.EngineStopper(flights),
                    num_samples=-1,
                    resources_per_trial={"cpu": self.cpus, "gpu": self.gpus},
                    reuse_actors=True,
                    max_failures=0,
                    raise_on_failed_trial=False,
                    storage_path=folder,
                    trial_dirname_creator=lambda trial: trial.trial_id,
                    verbose=0,
                )
        except (RayError, tune.TuneError, RuntimeError, OSError) as error:
            raise EnvironmentProblemError(f"Ray failed: {_last_line(error)}{CONTINUE}") from error

    @contextlib.contextmanager
    def _cluster(self, *, object_bytes: int) -> Iterator[str]:
        """Ray, connected; yields a folder for its files. Nothing of it is left afterwards."""
        environment = {**ENVIRONMENT, "TUNE_MAX_PENDING_TRIALS_PG": str(self.workers)}
        if self.address is None:
            environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
        else:
            _check_reachable(self.address)
        with environ(environment, also=SET_BY_RAY), scratch_dir() as folder, kept_handlers():
            import ray

            # Prints the raylet's remarks on dead workers, in spite of log_to_driver=False.
            printer = importlib.import_module("ray._private.worker")
            with replaced(printer, print_to_stdstream=_nothing):
                try:
                    self._connect(folder, object_bytes)
                    with reaper(_raylet_children()) as reap:
                        try:
                            yield folder
                        except _ClusterGoneError as error:
                            reap()
                            raise EnvironmentProblemError(f"{error}{CONTINUE}") from None
                finally:
                    ray.shutdown()

    def _connect(self, folder: str, object_bytes: int) -> None:
        import ray

        # Both were cached if the program imported Ray before us, or had another cluster.
        raylet: Any = importlib.import_module("ray._raylet")
        raylet.Config.initialize("")
        raylet.AuthenticationTokenLoader.instance().reset_cache()
        common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
        handlers = handlers_now()
        try:
            if self.address is not None:
                ray.init(address=self.address, **common)
            else:
                # The autoscaler's monitor, the dashboard's server (in spite of
                # include_dashboard=False) and the log monitor do nothing for us, but take
                # seconds of both cores while the first trainings want to start.
                node: Any = importlib.import_module("ray._private.node").Node
                # A group of their own: a signal to ours (a terminal's Ctrl-C, a service manager's
                # SIGTERM) is for the driver, which ends them when it is done.
                services: Any = importlib.import_module("ray._private.services")
                popen = functools.partial(services.ConsolePopen, process_group=0)
                with (
                    replaced(services, ConsolePopen=popen),
                    replaced(
                        node,
                        start_monitor=_nothing,
                        start_api_server=_nothing,
                        start_log_monitor=_nothing,
                    ),
                ):
                    ray.init(
                        address="local",
                        num_cpus=math.ceil(self.workers * self.cpus),
                        num_gpus=0 if self.gpus == 0 else None,
                        include_dashboard=False,
                        object_store_memory=OBJECT_STORE_BYTES + object_bytes,
                        _temp_dir=folder,
                        **common,
                    )
        except SystemExit:  # SIGTERM met the handler that ray.init installs
            install_handlers(handlers)
            signal.raise_signal(signal.SIGTERM)
            return
        except Exception as error:  # whatever it is, the user's environment has to be mended
            where = f"the cluster at {self.address}" if self.address else "Ray on this machine"
            message = (
                f"executor.address: no connection to {where}: {_last_line(error)} (something "
                "answers there; wrong RAY_AUTH_TOKEN, or no Ray node on this machine?)"
            )
            if self.address is None:
                message = f"Ray does not start: {_last_line(error)}"
            raise EnvironmentProblemError(message) from error
        install_handlers(handlers)
        self._check_resources(ray.cluster_resources())

    def _cluster_check(self) -> Callable[[], None]:
        """Raises once the cluster is gone; a driver that waits is ended by Ray after a minute."""
        head = _host_port(self.address) if self.address is not None else None
        node: Any = importlib.import_module("ray._private.worker")._global_node
        due = time.monotonic() + CHECK_S
        missed = 0

        def check() -> None:
            nonlocal due, missed
            if head is None:
                dead = [kind for kind, _ in node.dead_processes()]
                if dead:
                    raise _ClusterGoneError(f"Ray's {', '.join(dead)} died")
            elif time.monotonic() > due:
                missed = 0 if _answers(head, timeout_s=1.0) is None else missed + 1
                due = time.monotonic() + CHECK_S
                if missed == 3:
                    raise _ClusterGoneError(f"executor.address: {self.address} does not answer")

        return check

    def _check_resources(self, have: Mapping[str, float]) -> None:
        copies = self.workers if self.address is None else 1
        for key, name, wanted in (("cpus", "CPU", self.cpus), ("gpus", "GPU", self.gpus)):
            if wanted * copies > have.get(name, 0) + 1e-9:
                each = f"{copies} x {wanted:g}" if copies > 1 else f"{wanted:g}"
                raise EnvironmentProblemError(
                    f"executor.{key}: {each} asked for, Ray sees {have.get(name, 0):g}"
                )


class _ClusterGoneError(BaseException):
    """Not an Exception: for those Tune cleans up first, which waits for the dead."""


def _host_port(address: str) -> tuple[str, int] | None:
    host, colon, port = address.rpartition(":")
    if not colon or not host or "/" in host or not port.isdecimal() or int(port) > 65535:
        return None
    return host.strip("[]"), int(port)


def _raylet_children() -> list[int]:
    """Ray's two agents, which stay for a minute after a driver that was killed.

    They try to tell the dead head why they end; everything else goes within seconds.
    """
    node: Any = importlib.import_module("ray._private.worker")._global_node
    infos = [] if node is None else node.all_processes.get("raylet", [])
    return [child for info in infos for child in children(info.process.pid)]


def _answers(target: tuple[str, int], *, timeout_s: float) -> OSError | None:
    try:
        socket.create_connection(target, timeout=timeout_s).close()
    except OSError as error:
        return error
    return None


def _check_reachable(address: str) -> None:
    """Ray itself would try for a minute, and say little."""
    target = _host_port(address)
    assert target is not None, "checked on construction"
    error = _answers(target, timeout_s=CONNECT_S)
    if error is not None:
        raise EnvironmentProblemError(
            f"executor.address: nothing answers at {address} ({error}); is the cluster running?"
        )


def _buffer_bytes(payload: object) -> int:
    """Bytes of the arrays in it, which is what takes room in the object store."""
    buffers: list[pickle.PickleBuffer] = []
    pickle.dumps(payload, protocol=5, buffer_callback=buffers.append)
    return sum(buffer.raw().nbytes for buffer in buffers)


def _last_line(error: BaseException) -> str:
    """Of an error text that may hold a traceback: the line that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and lines[0].startswith("Version mismatch"):  # which says it in many lines
        return " ".join(lines)[:300]
    return (lines[-1] if lines else type(error).__name__)[:300]


def _inherited_environment() -> contextlib.AbstractContextManager[None]:
    """Lets Tune's workers be the processes that Ray starts ahead.

    Tune gives its workers environment variables, which they inherit on one machine anyway; for
    their sake Ray would leave those processes idle and start others, seconds later.
    """
    import ray

    cache: Any = importlib.import_module("ray.tune.execution.class_cache")._ActorClassCache
    actor_class = functools.cache(ray.remote)
    return replaced(cache, get=lambda _, trainable: actor_class(trainable))


def _nothing(*args: object, **kwargs: object) -> None:
    del args, kwargs
