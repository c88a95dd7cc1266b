"""A table as a search problem whose evaluators have accidents, as the environment says.

`--plugin tests.faults.plugin`; the folder of `FAULT_FOLDER` counts the trainings that were finished
and remembers which accidents have happened.
"""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nasctl.api import Architecture, Choices, Cost, Decision, Family, Opaque, SearchSpace


def family(*, size: int = 6) -> Family:
    numbers = tuple(range(size))
    space = SearchSpace((Decision("depth", numbers), Decision("width", numbers)))

    def decode(choices: Choices) -> Architecture:
        block = Opaque("cell", depth=choices["depth"], width=choices["width"])
        return Architecture(input_shape=(1, 8, 8), blocks=(block,), num_classes=10)

    def cost(architecture: Architecture) -> Cost:
        depth, width = values(architecture)
        return Cost(latency_ms=1.0 + depth, params=10.0 + width)

    return Family(space=space, decode=decode, cost=cost)


def values(architecture: Architecture) -> tuple[int, int]:
    found = dict(architecture.blocks[0].values)  # type: ignore[attr-defined]
    return found["depth"], found["width"]


def accuracy(architecture: Architecture, seed: int) -> float:
    """Noise makes histories of different seeds and orders tell apart."""
    depth, width = values(architecture)
    noise = int(architecture.id[:4], 16) / 65536 + seed % 7
    return 0.97 - 0.6 * 0.92**depth * 0.97**width + 0.002 * noise


def lookup(architecture: Architecture, *, budget: int, seed: int) -> Iterator[dict[str, float]]:
    """Two epochs, `FAULT_SECONDS` in all (times 0.5 to 1.5), and a line in the log."""
    seconds = float(os.environ.get("FAULT_SECONDS", "0"))
    factor = 0.5 + int(architecture.id[4:8], 16) / 65536
    for epoch in (1, 2):
        time.sleep(seconds * factor / 2)
        if epoch == 2 and (folder := os.environ.get("FAULT_FOLDER")):
            with open(Path(folder, "finished"), "a") as log:
                log.write(f"{architecture.id} {seed}\n")
        yield {"accuracy": accuracy(architecture, seed) * epoch / 2}


def _once(name: str) -> bool:
    """Whether this accident has not happened yet."""
    try:
        Path(os.environ["FAULT_FOLDER"], name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def accidents(architecture: Architecture, *, budget: int, seed: int) -> dict[str, float]:
    """One kind for each depth."""
    depth, width = values(architecture)
    if depth == 1 and _once(f"killed {width}"):
        os.kill(os.getpid(), signal.SIGKILL)
    if depth == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    if depth == 3:
        time.sleep(600)
    if depth == 4:
        exhaust_memory()
    return {"accuracy": accuracy(architecture, seed)}


def deadly(architecture: Architecture, *, budget: int, seed: int) -> dict[str, float]:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def exhaust_memory() -> None:
    """What `ulimit -v` does: the allocation is refused."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    try:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**28, limits[1]))
        bytearray(2**34)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def odd_values(architecture: Architecture, *, budget: int, seed: int) -> Iterator[Any]:
    """By width, what no result may be; with depth 0 all is well."""
    depth, width = values(architecture)
    good = accuracy(architecture, seed)
    yield {"accuracy": good / 2}
    if depth == 0:
        yield {"accuracy": good}
        return
    yield (
        {"accuracy": float("nan")},
        {"accuracy": float("inf")},
        {"accuracy": 1e308},
        {"accuracy": 93.1},
        {"loss": 0.5},
        {"accuracy": -0.25},
    )[width]


def chance(architecture: Architecture, *, budget: int, seed: int) -> dict[str, float]:
    """Anything from 0 to 1, so that few networks are on the front, as usual."""
    return {"accuracy": int(architecture.id[:6], 16) / 2**24}


def mortal(architecture: Architecture, *, budget: int, seed: int) -> dict[str, float]:
    """The same of any network; kills its process once, after `FAULT_AFTER` trainings."""
    log = Path(os.environ["FAULT_FOLDER"], "finished")
    after = int(os.environ.get("FAULT_AFTER", "-1"))
    if log.exists() and len(log.read_text().splitlines()) == after and _once("killed"):
        os.kill(os.getpid(), signal.SIGKILL)
    with open(log, "a") as file:
        file.write(f"{architecture.id} {seed}\n")
    return chance(architecture, budget=budget, seed=seed)


def drawn(architecture: Architecture, *, budget: int, seed: int) -> Iterator[dict[str, float]]:
    """A learning curve of any network, with noise; one network in twelve cannot be trained."""
    own = int(architecture.id[:6], 16) / 2**24
    noise = (int(architecture.id[6:8], 16) * 37 + seed * 101) % 64 / 64
    for epoch in range(1, budget + 1):
        if epoch == 2 and int(architecture.id[8:12], 16) % 12 == 0:
            raise ValueError("no such network")
        yield {"accuracy": (0.4 + 0.5 * own + 0.02 * noise) * (1 - 0.6**epoch)}


def percent(architecture: Architecture, *, budget: int, seed: int) -> dict[str, float]:
    return {"accuracy": 100 * accuracy(architecture, seed)}


def full_disk(architecture: Architecture, *, budget: int, seed: int) -> dict[str, float]:
    """Writes as a trainer does that keeps something of its own."""
    with open(Path(os.environ["FAULT_FOLDER"], "own"), "ab") as file:
        file.write(bytes(2**16))
    return {"accuracy": accuracy(architecture, seed)}


FAMILIES = {"toy": family}
EVALUATORS = {
    "lookup": lookup,
    "accidents": accidents,
    "deadly": deadly,
    "odd_values": odd_values,
    "chance": chance,
    "mortal": mortal,
    "drawn": drawn,
    "percent": percent,
    "full_disk": full_disk,
}
