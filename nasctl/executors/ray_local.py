"""Layer 4: the private cluster on this machine: which of Ray's processes are started, and what the
driver does meanwhile."""

from __future__ import annotations

import contextlib
import functools
import importlib
import signal
from collections.abc import Callable, Mapping
from typing import Any

from nasctl.executors.surroundings import handlers_now, install_handlers, replaced

OBJECT_STORE_BYTES = 100 * 2**20  # beside the payload; Ray's minimum is 75 MiB
AHEAD = ("nasctl.executors.ray_tune", "nasctl.executors.ray_worker")
"""What the driver needs next."""


def start_here(
    folder: str, *, cpus: int, has_gpus: bool, object_bytes: int, common: Mapping[str, Any]
) -> None:
    """Starts Ray, and connects.

    Args:
        folder: of its files.
        cpus: that it may give to trainings.
        has_gpus: whether it may give those that it finds.
        object_bytes: room for what trainings share.
        common: other arguments of `ray.init`.
    """
    import ray

    # The autoscaler's monitor, the dashboard's server (in spite of include_dashboard=False) and
    # the log monitor do nothing for us, but take seconds of both cores while the first
    # trainings want to start; and so does most of the dashboard's agent, which is smaller where
    # Ray takes itself for an installation without a dashboard.
    node: Any = importlib.import_module("ray._private.node").Node
    utils: Any = importlib.import_module("ray._private.utils")
    # A group of their own: a signal to ours (a terminal's Ctrl-C, a service manager's SIGTERM)
    # is for the driver, which ends them when it is done.
    services: Any = importlib.import_module("ray._private.services")
    popen = functools.partial(services.ConsolePopen, process_group=0)
    with (
        replaced(services, ConsolePopen=popen),
        replaced(utils, get_dashboard_dependency_error=_no_dashboard),
        replaced(
            node,
            start_monitor=nothing,
            start_api_server=nothing,
            start_log_monitor=nothing,
            start_raylet=_then_imports(node.start_raylet, handlers_now()),
        ),
    ):
        ray.init(
            address="local",
            num_cpus=cpus,
            num_gpus=None if has_gpus else 0,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES + object_bytes,
            _temp_dir=folder,
            **common,
        )


def _then_imports(
    start: Callable[..., None], handlers: Mapping[signal.Signals, Any]
) -> Callable[..., None]:
    """The same, and imports what comes next: a raylet needs a second, and is looked for once a
    second.

    Args:
        handlers: of signals, from then on. Those of Ray raise, which is lost where compiled code is
            imported.
    """

    def start_and_import(*args: object, **kwargs: object) -> None:
        start(*args, **kwargs)
        install_handlers(handlers)
        with contextlib.suppress(ImportError):  # comes again where it is needed
            for name in AHEAD:
                importlib.import_module(name)

    return start_and_import


def _no_dashboard() -> ImportError:
    return ImportError("not wanted")


def nothing(*args: object, **kwargs: object) -> None:
    """In the place of what is not wanted."""
    del args, kwargs
