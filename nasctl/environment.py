"""Layer 1: where a run happens. Versions, processor, code; recorded with every run."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from nasctl.errors import EnvironmentProblemError
from nasctl.files import cannot_be_written

RUN_MARK = "NASCTL_RUN"
"""Environment variable with the uid of the run that a process was started for."""

_PACKAGES = ("nasctl", "torch", "ray", "optuna", "mlflow", "onnxruntime", "numpy", "hydra-core")


def describe_environment() -> dict[str, str]:
    """Versions, processor and git commit as text, without importing any of the packages."""
    found = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cores": str(usable_cores()),
    }
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    if commit := git_commit():
        found["git_commit"] = commit
    return found


def head_runs(environment: Mapping[str, str]) -> Path:
    """Where the head of a cluster keeps the runs that were submitted: a folder of its own."""
    return Path(environment.get("NASCTL_RUNS") or Path(environment.get("HOME", "/"), "nasctl-runs"))


def cache_directory() -> Path:
    """Where tables are kept between runs: `NASCTL_CACHE`, else the XDG cache folder.

    Raises:
        EnvironmentProblemError: it cannot be written to.
    """
    if own := os.environ.get("NASCTL_CACHE"):
        found = Path(own)
    else:
        home = os.environ.get("HOME") or os.path.expanduser("~")
        found = Path(os.environ.get("XDG_CACHE_HOME") or Path(home, ".cache")) / "nasctl"
    if (problem := cannot_be_written(found)) is not None:
        raise EnvironmentProblemError(
            f"the cache of costs: {problem}; set NASCTL_CACHE to a folder that can be written to"
        )
    return found


def usable_cores() -> int:
    """Cores that this process may use (affinity), not those of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_model() -> str:
    """The processor's name."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def git_commit(directory: Path | None = None) -> str | None:
    """The commit of the working directory, with `+changes` if files differ; None outside git."""
    try:
        commit = _git(directory, "rev-parse", "HEAD")
        changed = _git(directory, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+changes" if changed else "")


def _git(directory: Path | None, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=directory, capture_output=True, text=True, timeout=5, check=True
    )
    return done.stdout.strip()


def worker_count(workers: int | None, cpus: float) -> int:
    """How many trainings run at a time: as asked, else as many as fit on the usable cores."""
    return workers or max(1, int(usable_cores() // cpus))
