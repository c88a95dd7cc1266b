"""Layer 4: a worker of the Ray executor. Imports Ray; itself imported by `executors.ray_tune`."""

from __future__ import annotations

import contextlib
import dataclasses
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import ray
from ray import cloudpickle
from ray.exceptions import RayError
from ray.tune import Trainable

from nasctl.executors.attempt import Attempt, Message
from nasctl.executors.base import Job, WritingJob, failure
from nasctl.executors.code import Code, check_same
from nasctl.executors.scratch import scratch_dir
from nasctl.executors.travel import Files, Outbox
from nasctl.trial import Outcome, OutcomeKind


class Sent:
    """Files on their way to a worker: one object, however often Tune copies a configuration.

    Attributes:
        ref: in the object store; None: they have arrived, or are no longer needed.
    """

    def __init__(self, files: Files) -> None:
        self.ref: Any = ray.put(files)

    def forget(self) -> None:
        """Frees their room: Tune keeps configurations for ever, and a worker its last one."""
        self.ref = None

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __repr__(self) -> str:  # Tune writes it into names
        return "files"


class JobTrainable(Trainable):  # type: ignore[misc]  # Ray is not typed
    """A warm worker: one process that trains one work after the other; a step is an epoch.

    Attributes:
        job_ref: the job and its data, in the object store.
        driver_node: the only node that sees the run's folder; None: all do.
        code: of the driver, which nodes of a cluster have to have too; None: there are no others.
    """

    job_ref: Any  # set by `trainable`
    driver_node: str | None
    code: Code | None

    def setup(self, config: dict[str, Any]) -> None:
        self._node = ray.get_runtime_context().get_node_id()
        self._unfit: Outcome | None = None  # for any work
        self._broken: Outcome | None = None  # for the current one
        self._outbox: Outbox | None = None
        self._attempt: Attempt | None = None
        self._scratch = contextlib.ExitStack()
        try:
            if self.code is not None:
                check_same(self.code)
            shell, payload = ray.get(self.job_ref)
            self._job: Job = self._placed(shell).with_payload(payload)
            self._job.prepare()
        except Exception as error:  # told as the failure of the work, not as a dead worker
            self._unfit = failure(error)
            if self.driver_node not in (None, self._node):  # it would fail whatever it is given
                self._unfit = dataclasses.replace(self._unfit, kind=OutcomeKind.BROKEN)
            self._unfit = self._located(self._unfit)
        self.reset_config(config)

    def step(self) -> dict[str, Any]:
        if self._attempt is None:
            return {"message": Message(outcome=self._broken, node=self._node)}
        message = self._attempt.step()
        if self._outbox is None:
            return {"message": dataclasses.replace(message, node=self._node)}
        outcome = self._located(message.outcome)
        try:
            files = self._outbox.collect()
        except OSError as error:
            return {"message": Message(outcome=self._failure(error), node=self._node)}
        said = dataclasses.replace(message, outcome=outcome, files=files, node=self._node)
        return {"message": said}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        if self._attempt is not None:
            self._attempt.close()
        self._attempt = None
        self._broken = self._unfit or self._unpack(new_config)
        if self._broken is None:
            self._attempt = Attempt(self._job, cloudpickle.loads(new_config["work"]))
        return True

    def cleanup(self) -> None:
        self._scratch.close()

    def _placed(self, job: Job) -> Job:
        """The job as it is done here: out of sight of the run's folder it writes elsewhere."""
        if not isinstance(job, WritingJob) or self.driver_node in (None, self._node):
            return job
        if not job.folders:
            return job
        root = Path(self._scratch.enter_context(scratch_dir()), "files")
        self._outbox = Outbox(root, list(job.folders))
        return job.with_folders(self._outbox.folders)

    def _unpack(self, config: Mapping[str, Any]) -> Outcome | None:
        """What an earlier attempt left, where the work looks for it; how it ended if it cannot."""
        if self._outbox is None:
            return None
        try:
            self._outbox.clear()
            if "files" in config:
                sent: Sent = config["files"]
                self._outbox.unpack(ray.get(sent.ref))
                sent.forget()
        except RayError:  # what has travelled is lost on the way: the next attempt gets it anew
            raise
        except Exception as error:  # see `setup`
            return self._failure(error)
        return None

    def _failure(self, error: Exception) -> Outcome:
        return self._located(failure(error)) or failure(error)

    def _located(self, outcome: Outcome | None) -> Outcome | None:
        """Says which machine it is that is broken."""
        if outcome is None or outcome.kind is not OutcomeKind.BROKEN or self.driver_node is None:
            return outcome
        return dataclasses.replace(outcome, error=f"on the node {platform.node()}: {outcome.error}")


def trainable(job: Job, *, code: Code | None) -> type[JobTrainable]:
    """The worker class with its job and data, which go into the object store once.

    Args:
        job: with its data.
        code: that other nodes have to have, which do not see the run's folder; None: there are
            none.
    """
    ref = ray.put((job.with_payload(None), job.payload))
    here = ray.get_runtime_context().get_node_id() if code is not None else None
    return type("Worker", (JobTrainable,), {"job_ref": ref, "driver_node": here, "code": code})
