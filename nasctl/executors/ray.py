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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from nasctl.errors import ConfigError, EnvironmentProblemError
from nasctl.executors.base import (
    Announce,
    EngineLike,
    Job,
    WritingJob,
    check_no_resource,
    silent,
)
from nasctl.executors.code import Code, installed
from nasctl.executors.ray_cluster import (
    AUTO,
    CONTINUE,
    HeadCheck,
    LocalCheck,
    answers,
    check_reachable,
    explained,
    gone_explained,
    host_port,
    last_line,
    last_resort,
    raylet_children,
    resolved,
    token_environment,
)
from nasctl.executors.ray_local import nothing, start_here
from nasctl.executors.ray_membership import Membership, Need, alive_nodes
from nasctl.executors.reaper import reaper
from nasctl.executors.scratch import scratch_dir
from nasctl.executors.surroundings import (
    environ,
    handlers_now,
    install_handlers,
    kept_handlers,
    replaced,
    silenced,
)
from nasctl.executors.travel import Inbox

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
    # The processes that Ray starts ahead have 1 s by default, then go for the sake of the trainings
    # that have just asked for all cores; and others are started, seconds later.
    "RAY_idle_worker_killing_time_threshold_ms": "30000",
    "RAY_worker_niceness": "0",  # 15 by default: training would yield to everything else
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "inf",  # the ledger is the truth
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_THRESHOLD_S": "inf",
}
WORKER_ENVIRONMENT = (
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO",
    "RAY_CHDIR_TO_TRIAL_DIR",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS",
)
"""What workers on other nodes need of it."""
RETRIES = 3
"""Of the first words with a head, a second apart."""
SET_BY_RAY = ("PYTHONBREAKPOINT", "RAY_CLIENT_MODE", "TUNE_ORIG_WORKING_DIR")
TOKEN = secrets.token_hex(32)
"""Guards a local cluster, which listens on all interfaces. In memory only; one per process,
because Ray reads it once."""


@dataclass(frozen=True, kw_only=True)
class RayExecutor:
    """Runs `workers` trainings at a time, each in a warm process of its own.

    Args:
        workers: trainings at a time; on a running cluster at most so many, and None: as many as
            its nodes have room for, counted again as they join and leave.
        cpus: per training; fractions are allowed.
        gpus: per training; fractions share a GPU.
        timeout_s: a training that takes longer fails; None: no limit.
        address: `host:port` of a running cluster's head, as seen from one of its nodes; `auto`:
            the cluster whose job this process is; None: a private cluster on this machine, which
            ends with the run.
        wait_s: how long a running cluster may be without a node that can run a training.
        window: how many trainings the search has out at most, None: any number; to say it where a
            cluster has room for more.
        plugins: modules of the job with the sha256 of their sources; nodes of a running cluster
            have to have the same.
        announce: told what is being waited for.
        note: told what the user may want to change.

    Raises:
        ConfigError: a number out of range, or an address of another form.
        EnvironmentProblemError: Ray cannot start, be reached or give what a training asks for.
    """

    workers: int | None
    cpus: float = 1.0
    gpus: float = 0.0
    timeout_s: float | None = None
    address: str | None = None
    wait_s: float = 60.0
    window: int | None = None
    plugins: Mapping[str, str] = field(default_factory=dict)
    announce: Announce = silent
    note: Announce = silent

    def __post_init__(self) -> None:
        problems = []
        if self.workers is None and self.address is None:
            problems.append("executor.workers: expected a number where there is no address")
        if self.workers is not None and self.workers < 1:
            problems.append(f"executor.workers: expected at least 1, got {self.workers}")
        if not (math.isfinite(self.cpus) and self.cpus > 0):
            problems.append(f"executor.cpus: expected more than 0, got {self.cpus}")
        if not (math.isfinite(self.gpus) and self.gpus >= 0):
            problems.append(f"executor.gpus: expected 0 or more, got {self.gpus}")
        if self.gpus > 1 and self.gpus != int(self.gpus):
            problems.append(f"executor.gpus: above 1 only whole numbers, got {self.gpus}")
        if self.timeout_s is not None and not self.timeout_s > 0:
            problems.append(f"executor.timeout_s: expected more than 0, got {self.timeout_s}")
        if not self.wait_s >= 0:
            problems.append(f"executor.wait_s: expected 0 or more, got {self.wait_s}")
        if self.address not in (None, AUTO) and host_port(str(self.address)) is None:
            problems.append(f"executor.address: expected host:port or auto, got {self.address!r}")
        if problems:
            raise ConfigError(problems)

    def preflight(self) -> None:
        """Whether something answers at the address, if there is one."""
        if self.address is not None:
            check_reachable(resolved(self.address))

    def run(self, engine: EngineLike, job: Job) -> None:
        """See `Executor.run`. Takes a few seconds to start; handlers of signals stay in force."""
        with contextlib.ExitStack() as cluster:
            cluster.enter_context(silenced("ray"))
            starting = self._cluster(object_bytes=_buffer_bytes(job.payload))
            try:
                folder = cluster.enter_context(starting)
            except EnvironmentProblemError:
                if not engine.stop_requested:
                    raise
                return  # what stopped the search may have stopped what was starting, too
            if engine.stop_requested:
                return
            from nasctl.executors.ray_tune import Flights

            membership = self._membership()
            flights = Flights(
                engine=engine,
                workers=membership.workers if membership is not None else self._local_workers(),
                timeout_s=self.timeout_s,
                inbox=_inbox(job) if membership is not None else Inbox({}),
            )
            try:
                self._tune(flights, job, folder, membership)
            finally:
                flights.release()
            if flights.error is not None:
                raise flights.error
            if not flights.ending:
                raise EnvironmentProblemError("Ray Tune ended before the search did")

    def run_exclusive(
        self,
        fn: Callable[[Announce], T],
        resource: str | None = None,
        *,
        announce: Announce = silent,
        alone: bool = True,
    ) -> T:
        """See `Executor.run_exclusive`."""
        if resource is None or self.address is None:
            check_no_resource(resource)
            return fn(announce)
        with silenced("ray"), self._cluster(object_bytes=0):
            from nasctl.executors.ray_exclusive import call_there

            check = HeadCheck(resolved(self.address))
            return call_there(fn, resource, alone=alone, announce=announce, check=check)

    def _tune(self, flights: Flights, job: Job, folder: str, membership: Membership | None) -> None:
        from ray import tune
        from ray.exceptions import RayError

        from nasctl.executors import ray_tune, ray_worker

        check = LocalCheck() if self.address is None else HeadCheck(resolved(self.address))
        pending = {"TUNE_MAX_PENDING_TRIALS_PG": str(flights.workers)}
        try:
            with _own_environment(inherited=self.address is None), environ(pending):
                tune.run(
                    ray_worker.trainable(job, code=None if membership is None else self._code()),
                    name="trials",
                    search_alg=ray_tune.EngineSearcher(flights),
                    scheduler=ray_tune.EngineScheduler(
                        flights, check_cluster=check, membership=membership
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
            raise EnvironmentProblemError(f"Ray failed: {last_line(error)}{CONTINUE}") from error

    @contextlib.contextmanager
    def _cluster(self, *, object_bytes: int) -> Iterator[str]:
        """Ray, connected; yields a folder for its files. Nothing of it is left afterwards."""
        if self.address is None:
            address = None
            environment = ENVIRONMENT | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
        else:
            address = resolved(self.address)
            environment = ENVIRONMENT | token_environment()
            check_reachable(address)
        watched = contextlib.nullcontext() if address is None else last_resort(address)
        with (
            watched,
            environ(environment, also=SET_BY_RAY),
            scratch_dir() as folder,
            kept_handlers(),
        ):
            import ray

            # Prints the raylet's remarks on dead workers, in spite of log_to_driver=False.
            printer = importlib.import_module("ray._private.worker")
            with replaced(printer, print_to_stdstream=nothing):
                try:
                    self._connect(folder, object_bytes, address)
                    with reaper(raylet_children()) as reap, gone_explained(reap):
                        yield folder
                finally:
                    ray.shutdown()

    def _connect(self, folder: str, object_bytes: int, address: str | None) -> None:
        import ray

        # Both were cached if the program imported Ray before us, or had another cluster.
        raylet: Any = importlib.import_module("ray._raylet")
        raylet.Config.initialize("")
        raylet.AuthenticationTokenLoader.instance().reset_cache()
        common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
        handlers = handlers_now()
        try:
            if address is not None:
                # Something answers there: one that refuses us would be asked for 20 s.
                constants = importlib.import_module("ray._private.ray_constants")
                with replaced(constants, NUM_REDIS_GET_RETRIES=RETRIES):
                    ray.init(address=address, **common)
            else:
                start_here(
                    folder,
                    cpus=math.ceil(self._local_workers() * self.cpus),
                    has_gpus=self.gpus > 0,
                    object_bytes=object_bytes,
                    common=common,
                )
        except SystemExit:  # SIGTERM met the handler that ray.init installs
            install_handlers(handlers)
            signal.raise_signal(signal.SIGTERM)
            return
        except Exception as error:  # whatever it is, the user's environment has to be mended
            message = f"Ray does not start: {last_line(error)}"
            if address is not None:
                message = explained(error, address)
            raise EnvironmentProblemError(message) from error
        install_handlers(handlers)
        if address is None:
            self._check_resources(ray.cluster_resources())

    def _code(self) -> Code:
        return Code(version=installed(), plugins=dict(self.plugins))

    def _local_workers(self) -> int:
        assert self.workers is not None, "checked on construction"
        return self.workers

    def _membership(self) -> Membership | None:
        """None on the private cluster, which nothing joins or leaves."""
        if self.address is None:
            return None
        return Membership(
            need=Need(cpus=self.cpus, gpus=self.gpus),
            cap=self.workers,
            wait_s=self.wait_s,
            window=self.window,
            announce=self.announce,
            note=self.note,
            nodes=alive_nodes,
            answers=answers,
        )

    def _check_resources(self, have: Mapping[str, float]) -> None:
        copies = self._local_workers()
        for key, name, wanted in (("cpus", "CPU", self.cpus), ("gpus", "GPU", self.gpus)):
            if wanted * copies > have.get(name, 0) + 1e-9:
                each = f"{copies} x {wanted:g}" if copies > 1 else f"{wanted:g}"
                raise EnvironmentProblemError(
                    f"executor.{key}: {each} asked for, Ray sees {have.get(name, 0):g}"
                )


def _inbox(job: Job) -> Inbox:
    return Inbox(job.folders if isinstance(job, WritingJob) else {})


def _buffer_bytes(payload: object) -> int:
    """Bytes of the arrays in it, which is what takes room in the object store."""
    buffers: list[pickle.PickleBuffer] = []
    pickle.dumps(payload, protocol=5, buffer_callback=buffers.append)
    return sum(buffer.raw().nbytes for buffer in buffers)


def _own_environment(*, inherited: bool) -> contextlib.AbstractContextManager[None]:
    """Lets Tune start workers with our environment variables instead of its own.

    Tune gives them keys of cloud storage too, which everybody who looks at the cluster could read.
    For the sake of any variable Ray leaves the processes idle that it starts ahead, and starts
    others, seconds later; so on one machine, where they inherit ours anyway, they get none.
    """
    import ray

    cache: Any = importlib.import_module("ray.tune.execution.class_cache")._ActorClassCache
    variables = {name: ENVIRONMENT[name] for name in WORKER_ENVIRONMENT}
    remote = ray.remote if inherited else ray.remote(runtime_env={"env_vars": variables})
    actor_class = functools.cache(remote)
    return replaced(cache, get=lambda _, trainable: actor_class(trainable))
