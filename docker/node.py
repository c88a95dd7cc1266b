"""Runs one Ray node of the cluster, the head or a worker, until the container is stopped.

    node.py head
    node.py worker

The environment says how large a worker is: `NASCTL_HEAD` (address of the head, HOST:PORT),
`NASCTL_WORKER_CPUS`, `NASCTL_LATENCY_DEVICE` (a name: this node measures latency for it) and
`NASCTL_NODE_IP` (of this host, where the container shares its network).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

STORE_SHARE = 0.8  # of /dev/shm; the data loaders of the trainings have the rest
SEARCH_STOP_S = 75.0  # what they may need; less than the grace period in docker-compose.yml


def start_command(role: str) -> list[str]:
    """`ray start` for this role.

    The object store has to fit into /dev/shm, which Ray would take from the whole memory.
    """
    store = int(shutil.disk_usage("/dev/shm").total * STORE_SHARE)
    command = ["ray", "start", "--block", "--disable-usage-stats"]
    command += ["--object-store-memory", str(store)]
    if address := os.environ.get("NASCTL_NODE_IP"):
        command += ["--node-ip-address", address]
    if role == "head":  # no processors: the head keeps the searches, trainings run elsewhere
        command += ["--head", "--port", "6379", "--num-cpus", "0", "--num-gpus", "0"]
        return [*command, "--dashboard-host", "0.0.0.0", "--dashboard-port", "8265"]
    command += ["--address", os.environ["NASCTL_HEAD"]]
    command += ["--num-cpus", os.environ.get("NASCTL_WORKER_CPUS", "1")]
    if device := os.environ.get("NASCTL_LATENCY_DEVICE"):
        command += ["--resources", json.dumps({f"latency_device:{device}": 1})]
    return command


def searches() -> list[int]:
    """Process ids of the searches, ablations and verifications in this container."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it ended as we looked
            continue
        programs = {Path(word).name for word in words[:3]}
        if "nasctl" in programs and {"search", "ablate", "verify"} & set(words):
            found.append(int(folder.name))
    return found


def stop_searches() -> None:
    """Lets them keep what they have: SIGTERM, and the time to write it."""
    for pid in searches():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + SEARCH_STOP_S
    while searches() and time.monotonic() < until:
        time.sleep(0.2)  # they are no children of ours: there is nothing to wait for


def main(role: str) -> int:
    """Returns the exit code of the node; 0 after a stop that was asked for."""
    node = subprocess.Popen(start_command(role))
    stopping = False

    def stop(_signum: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    while not stopping:
        try:
            return node.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            continue
    began = time.monotonic()
    stop_searches()
    node.terminate()
    node.wait()
    print(f"{role}: stopped in {time.monotonic() - began:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    if sys.argv[1:] not in (["head"], ["worker"]):
        sys.exit("usage: node.py head|worker")
    sys.exit(main(sys.argv[1]))
