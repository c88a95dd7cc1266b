"""Layer 2: where latency is measured: on this machine, or on another one that is the target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from nasctl.latency_bench import Progress
from nasctl.latency_runtimes import device_fingerprint, runtime_version
from nasctl.latency_settings import LatencySettings

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Device:
    """What a latency is of, besides a network.

    Attributes:
        fingerprint: see `device_fingerprint`.
        runtime: with its version.
    """

    fingerprint: str
    runtime: str


def this_device(settings: LatencySettings) -> Device:
    """The device of the process that calls."""
    return Device(fingerprint=device_fingerprint(settings), runtime=runtime_version(settings))


class Place(Protocol):
    """Somewhere that can be asked to measure.

    Attributes:
        node: the name of a device of a cluster; None: this machine.
    """

    @property
    def node(self) -> str | None: ...

    def device(self, settings: LatencySettings, progress: Progress) -> Device:
        """What is there."""

    def measure(
        self,
        fn: Callable[[Progress], T],
        *,
        settings: LatencySettings,
        device: str | None,
        progress: Progress,
    ) -> T:
        """Calls `fn` there while nothing else runs there.

        Args:
            fn: told with what to say what happens; picklable if there is a `node`, as its result.
            settings: what latency means.
            device: the fingerprint that a `node` must have; None: any.
            progress: told in words what happens.

        Raises:
            EnvironmentProblemError: it cannot be reached, or is another device by now.
        """


class Here:
    """This process."""

    node: str | None = None

    def device(self, settings: LatencySettings, progress: Progress) -> Device:
        del progress
        return this_device(settings)

    def measure(
        self,
        fn: Callable[[Progress], T],
        *,
        settings: LatencySettings,
        device: str | None,
        progress: Progress,
    ) -> T:
        del settings, device
        return fn(progress)


HERE = Here()
