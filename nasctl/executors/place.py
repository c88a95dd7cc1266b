"""Layer 4: the place where a run's latencies are measured: the driver's machine, or a node."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from nasctl.errors import EnvironmentProblemError
from nasctl.executors.base import DEVICE_PREFIX, Announce, Executor
from nasctl.executors.code import check_plugins
from nasctl.latency_place import Device, this_device
from nasctl.latency_settings import LatencySettings

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ExecutorPlace:
    """See `nasctl.latency_place.Place`.

    Attributes:
        executor: whose cluster the node belongs to.
        node: of the Ray resource `latency_device:NODE`; None: this process.
        plugins: modules whose blocks and families are measured, and the sha256 of their sources.
    """

    executor: Executor
    node: str | None
    plugins: Mapping[str, str]

    def device(self, settings: LatencySettings, progress: Announce) -> Device:
        """What is there. Others may train there meanwhile, except on its GPUs."""
        if self.node is None:
            return this_device(settings)
        progress(f"asking {self.node} what it is")
        ask = functools.partial(_identify, settings)
        return self._there(ask, progress, alone=settings.device != "cpu")

    def measure(
        self,
        fn: Callable[[Announce], T],
        *,
        settings: LatencySettings,
        device: str | None,
        progress: Announce,
    ) -> T:
        """Calls `fn` there, alone."""
        if self.node is None:
            return self.executor.run_exclusive(fn, announce=progress)
        call = fn if device is None else functools.partial(_on, device, settings, fn)
        return self._there(call, progress, alone=True)

    def check(self, settings: LatencySettings, device: str, progress: Announce) -> None:
        """Whether the node is there, and is that device.

        Raises:
            EnvironmentProblemError: it is not.
        """
        if self.node is not None:
            found = self.device(settings, progress).fingerprint
            if found != device:
                raise EnvironmentProblemError(
                    f"latency.node: {self.node}: {_changed(found, device)}"
                )

    def _there(self, fn: Callable[[Announce], T], progress: Announce, *, alone: bool) -> T:
        return self.executor.run_exclusive(
            AfterPlugins(fn, self.plugins) if self.plugins else fn,
            f"{DEVICE_PREFIX}{self.node}",
            announce=progress,
            alone=alone,
        )


def _identify(settings: LatencySettings, tell: Announce) -> Device:
    del tell
    return this_device(settings)


def _on(device: str, settings: LatencySettings, fn: Callable[[Announce], T], tell: Announce) -> T:
    found = this_device(settings).fingerprint
    if found != device:
        raise EnvironmentProblemError(_changed(found, device))
    return fn(tell)


def _changed(found: str, device: str) -> str:
    return (
        f"is another device now: {found}; the latencies of this run are of: {device}; give that "
        "one its name back, or start a run with another name"
    )


class AfterPlugins(Generic[T]):
    """A call whose parts come from plugins: they are imported before it is unpickled elsewhere.

    Args:
        fn: picklable.
        plugins: module to the sha256 of its source, here; another one elsewhere is an error.
    """

    def __init__(self, fn: Callable[[Announce], T], plugins: Mapping[str, str]) -> None:
        self._fn = fn
        self._plugins = dict(plugins)

    def __call__(self, tell: Announce) -> T:
        return self._fn(tell)

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpacked, (self._plugins, pickle.dumps(self._fn))


def _unpacked(plugins: Mapping[str, str], data: bytes) -> Any:
    check_plugins(plugins)
    return pickle.loads(data)
