"""Layer 2: does what is to measure latency answer at all? One call, before all others."""

from __future__ import annotations

from nasctl.latency_bench import CANARY_SHAPE, Progress, canary_network, silent
from nasctl.latency_runtimes import open_runtime
from nasctl.latency_settings import LatencySettings


def try_runtime(settings: LatencySettings, progress: Progress = silent) -> None:
    """Opens the runtime; a program of the user's is asked once, for the canary network.

    Args:
        settings: what latency means.
        progress: told in words what happens.

    Raises:
        ConfigError, EnvironmentProblemError: see `open_runtime` and `run_command`.
    """
    with open_runtime(settings) as runtime:
        if settings.runtime == "command":
            progress(f"trying {settings.command[0]} on one small network")
            runtime.prepare(canary_network(), CANARY_SHAPE)(1)
