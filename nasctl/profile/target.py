"""Layer 5: which network is meant: one of the literature by name, or one of a run. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nasctl.arch import Architecture, Block, Shape
from nasctl.errors import ConfigError
from nasctl.records import RunRecords, find_run
from nasctl.run_network import find_network
from search_spaces.reference import NETWORKS, reference_network


@dataclass(frozen=True, kw_only=True)
class Target:
    """A network and what it is called: `mobilenet_v2`, `mobilenet_v2@0.75`, `runs/x:0123...`."""

    name: str
    architecture: Architecture


def find_target(
    text: str,
    *,
    input_shape: Shape | None = None,
    num_classes: int | None = None,
    width: float | None = None,
    block_types: Mapping[str, type[Block]] | None = None,
) -> Target:
    """The network that `text` names.

    Args:
        text: `NAME`, `NAME@WIDTH`, or `RUN:ARCH_ID`; the start of an id is enough if only one
            begins with it.
        input_shape, num_classes, width: of a network by name; None: those of its publication.
        block_types: with those of plugins, to read networks of a run that have them.

    Raises:
        ConfigError: an unknown name or id, a setting that the network does not have, an input
            that is too small, blocks without a module.
        EnvironmentProblemError: no such run.
    """
    run, colon, arch_id = text.rpartition(":")
    if colon:
        given = {"--input": input_shape, "--classes": num_classes, "--width": width}
        if wrong := [name for name, value in given.items() if value is not None]:
            raise ConfigError(f"{', '.join(wrong)}: {text} is a network of a run, as it is")
        return _of_run(run, arch_id, block_types)
    name, at, factor = text.partition("@")
    if at:
        if width is not None:
            raise ConfigError(f"--width {width:g}: {text} says a width already")
        try:
            width = float(factor)
        except ValueError:
            raise ConfigError(
                f"{text}: expected NAME@WIDTH, for example mobilenet_v2@0.75"
            ) from None
    if Path(name).is_dir():
        raise ConfigError(f"{name} is a run: give one of its networks, {name}:ARCH_ID")
    architecture = reference_network(
        name, input_shape=input_shape, num_classes=num_classes, width=1 if width is None else width
    )
    scaled = width not in {None, 1}
    return Target(name=f"{name}@{width:g}" if scaled else name, architecture=architecture)


def _of_run(run: str, arch_id: str, block_types: Mapping[str, type[Block]] | None) -> Target:
    if not run or not arch_id:
        raise ConfigError(f"{run}:{arch_id}: expected RUN:ARCH_ID, for example runs/mine:3f2a")
    records = RunRecords(find_run(run))
    architecture = find_network(records, arch_id, block_types)
    return Target(name=f"{records.directory}:{architecture.id}", architecture=architecture)


def list_networks() -> list[dict[str, Any]]:
    """The networks of the literature: `name`, `input_shape`, `num_classes`, `width` (whether it
    has a multiplier), `source`."""
    return [
        {
            "name": name,
            "input_shape": list(published.input_shape),
            "num_classes": published.num_classes,
            "width": published.scalable,
            "source": published.source,
        }
        for name, published in NETWORKS.items()
    ]
