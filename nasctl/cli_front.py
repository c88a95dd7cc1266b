"""Layer 6: `nasctl front`: of a run as it is, and of its networks under other circumstances."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from nasctl.cli_common import print_json, say
from nasctl.errors import ConfigError

if TYPE_CHECKING:
    from nasctl.records import RunRecords

GAP_TRAININGS = 20
"""Trainings that the gap looks ahead: about those of a small search."""


@click.command()
@click.argument("run")
@click.option("--at", metavar="METRIC=VALUE",
              help="Only the best member: at most that cost, at least that accuracy.")  # fmt: skip
@click.option("--device", metavar="NAME",
              help="Measure the trained networks elsewhere: onnxruntime or torch on this machine, "
              "a node of a cluster, or any name together with --latency.")  # fmt: skip
@click.option("--latency", "latency", multiple=True, metavar="KEY=VALUE",
              help="Of --device: a setting of the section latency, such as threads=4.")  # fmt: skip
@click.option("--constraint", "constraints", multiple=True, metavar="METRIC=VALUE",
              help="Upper bound on a cost; METRIC=none lifts one of the run.")  # fmt: skip
@click.option("--limit", type=click.IntRange(min=1), default=24, show_default=True, metavar="N",
              help="Of --device: networks measured whole at most, in this call.")  # fmt: skip
@click.option("--no-gap", is_flag=True,
              help="Do not estimate what a new search might add.")  # fmt: skip
@click.option("--address", metavar="HOST:PORT",
              help="Of --device: the cluster with the node; else the run's.")  # fmt: skip
@click.option("--plugin", "plugins", multiple=True, metavar="MODULE",
              help="Python module with the blocks, families or data of RUN.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def front(  # noqa: PLR0917 - click passes one argument per option
    run: str,
    at: str | None,
    device: str | None,
    latency: tuple[str, ...],
    constraints: tuple[str, ...],
    limit: int,
    no_gap: bool,
    address: str | None,
    plugins: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show the Pareto front of RUN, a table and a picture; also while it runs.

    With --device or --constraint: the front among the networks that RUN has trained, on another
    device or runtime or within other bounds, without training anything.
    """
    from nasctl.records import RunRecords, find_run

    records = RunRecords(find_run(run))
    if records.is_ablation:
        raise ConfigError(
            f"{run}: an ablation study has verdicts and no front; nasctl report {run}"
        )
    if records.is_verification:
        if at is not None or device is not None or constraints:
            raise ConfigError(
                f"{run}: a verification; --at, --device and --constraint are for its search: "
                f"{records.home}"
            )
        from nasctl.cli_verify import show_verified
        from nasctl.verification.reading import verified_of

        show_verified(verified_of(records), as_json=as_json)
        return
    if device is None:
        for option, given in (("--latency", latency), ("--address", address)):
            if given:
                raise ConfigError(f"{option}: of --device; give its name too")
    shown = records.front
    if device is not None or constraints:
        shown = _elsewhere(
            records,
            device=device,
            latency=latency,
            bounds=constraints,
            limit=limit,
            proposals=0 if no_gap else GAP_TRAININGS,
            address=address,
            plugins=plugins,
        )
    if at is not None:
        from nasctl.budget import best_within, read_budget

        shown = {**shown, "members": [best_within(shown, *read_budget(at))]}
    if as_json:
        print_json(shown)
        return
    _print(records, shown, only_table=at is not None)


def _print(records: RunRecords, shown: Mapping[str, Any], *, only_table: bool) -> None:
    from nasctl.terminal import front_table, print_front

    trials = records.trials()
    if shown.get("among_trained"):
        from nasctl.device_lines import among_trained_lines

        click.echo("\n".join([*among_trained_lines(shown), ""]))
        if shown["device"]:
            trials = []  # their latencies are those of the run's own device
    if only_table:
        click.echo(front_table(shown))
    else:
        print_front(shown, trials, sys.stdout)


def _elsewhere(
    records: RunRecords,
    *,
    device: str | None,
    latency: Sequence[str],
    bounds: Sequence[str],
    limit: int,
    proposals: int,
    address: str | None,
    plugins: tuple[str, ...],
) -> dict[str, Any]:
    from nasctl.config import stored_config
    from nasctl.device_front import FrontRequest, device_front
    from nasctl.executors import create_executor
    from nasctl.plugins import load_plugins

    missing = [name for name in records.meta("plugins") or {} if name not in plugins]
    if missing:
        names = " ".join(f"--plugin {name}" for name in missing)
        raise ConfigError(f"{records.directory}: was searched with plugins; give {names}")
    config = stored_config(records.config, source=str(records.directory))
    node = None
    if device is not None:
        from nasctl.config.device import device_latency

        section = device_latency(config.latency, device, latency)
        config, node = config.model_copy(update={"latency": section}), section.node
        if address is not None and node is None:
            raise ConfigError(
                f"--address {address}: --device {device} is measured on this machine; for a node "
                "of the cluster give --latency node=NAME, too"
            )
    address = address or config.executor.address
    if node is not None and address is None:
        raise ConfigError(
            f"--device {device}: no runtime of this machine (onnxruntime, torch, command), so a "
            "node of a cluster: give --address HOST:PORT, or say what it is: --latency threads=4"
        )
    # What plugins print while they work goes to stderr.
    with contextlib.redirect_stdout(sys.stderr):
        request = FrontRequest(
            config=config,
            device=device,
            constraints=_bounds(config.bounds, bounds),
            limit=limit,
            proposals=proposals,
            executor=(
                create_executor("ray", address=address)
                if node is not None
                else create_executor("inline")
            ),
            registry=load_plugins(plugins),
            announce=lambda text: say(f"{text} ..."),
        )
        return device_front(records, request)


def _bounds(own: Mapping[str, float], given: Sequence[str]) -> dict[str, float]:
    found = dict(own)
    for text in given:
        metric, _, value = text.partition("=")
        try:
            if value == "none":
                found.pop(metric, None)
            else:
                found[metric] = float(value)
                if not math.isfinite(found[metric]):
                    raise ValueError
        except ValueError:
            raise ConfigError(
                f"--constraint {text}: expected METRIC=VALUE, for example params=20000"
            ) from None
    return found
