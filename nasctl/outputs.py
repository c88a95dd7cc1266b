"""Layer 5: what a run leaves for people to look at: its report, and its projection into MLflow."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nasctl.arch import Architecture
from nasctl.blocktable import BlockTable
from nasctl.front import front_entries, near_front_entries
from nasctl.latency import LatencyTable
from nasctl.records import RunRecords, open_records
from nasctl.report import draw_report, write_report
from nasctl.report.view import BlockRow, RunView
from nasctl.tracking import Tracker, TrackingSettings, default_uri
from search_spaces.blocks import BLOCKS


def tracking_settings(section: Mapping[str, Any], output_dir: Path) -> TrackingSettings:
    """From the `tracking` section of a configuration; without an address in it, the one that the
    environment has for this machine (`NASCTL_TRACKING_URI`).

    Raises:
        ConfigError: an address that MLflow cannot write to.
    """
    options = {k: v for k, v in section.items() if k not in ("name", "uri")}
    return TrackingSettings(
        kind=section.get("name", "mlflow"),
        output_dir=output_dir,
        uri=section.get("uri") or default_uri(),
        **options,
    )


def make_tracker(
    directory: Path, settings: TrackingSettings, on_problem: Callable[[str], None]
) -> Tracker:
    """The projection of the run in `directory`; with `tracking=none` it does nothing."""
    opener = functools.partial(open_records, directory.absolute())
    return Tracker(opener, settings, on_problem, run=directory)


def publish(records: RunRecords) -> None:
    """Writes the report into the run's folder.

    Raises:
        EnvironmentProblemError: it cannot be written; an older report stays as it was.
    """
    write_report(report_view(records), records.directory)


def rehearse(records: RunRecords) -> None:
    """Draws the report of a run that goes on, and drops it: the first time takes the imports."""
    draw_report(report_view(records), records.directory)


def rewrite_report(records: RunRecords, target: Path) -> list[Path]:
    """The report of a search or an ablation study, from its ledger.

    Raises:
        EnvironmentProblemError: it cannot be written, or the ledger is damaged.
    """
    if records.is_ablation:
        from nasctl.ablation.reading import view_of
        from nasctl.report.ablation import write_ablation_report

        return write_ablation_report(view_of(records), target)
    if records.is_verification:  # it is a section of the report of its search
        records = RunRecords(records.home)
    return write_report(report_view(records), target)


def report_view(records: RunRecords) -> RunView:
    """A run as its report shows it, from its ledger."""
    members = front_entries(records.entries, records.objectives)
    near = near_front_entries(records.entries, members, records.objectives)
    return RunView(
        name=records.name,
        command=records.command,
        run_dir=str(records.directory),
        config=records.config,
        trials=tuple(records.trials()),
        front=records.front,
        near_front=tuple(e.to_json() for e in near if e.arch_id in records.measurements),
        hypervolume_history=records.hypervolume_history(),
        rejections=Counter(_kind_of(r.violations) for r in records.rejections()),
        environment=records.environment,
        latency=records.latency,
        space_size=records.meta("space_size"),
        seconds=float(records.meta("seconds") or 0.0),
        block_costs=_block_costs(records),
        unfinished=not records.finished,
        compute=records.compute,
        verified=records.verified,
    )


def _kind_of(violations: Mapping[str, float]) -> str:
    return f"over constraints.{' and '.join(violations)}" if violations else "cannot be built"


def _block_costs(records: RunRecords) -> Callable[[Architecture], Sequence[BlockRow]] | None:
    """Costs block by block from the tables in the ledger; None for runs without them, or with
    blocks of a plugin, whose modules are not here."""
    stored, latency_stored = records.meta("block_costs"), records.meta("latency_table")
    if stored is None or any(row["block"]["op"] not in BLOCKS for row in stored["blocks"]):
        return None
    table = BlockTable.from_json(stored, BLOCKS)
    latency = LatencyTable.from_json(latency_stored) if latency_stored is not None else None

    def rows(architecture: Architecture) -> list[BlockRow]:
        return [
            BlockRow(
                op=block.op,
                in_shape=shape,
                out_shape=out_shape,
                params=(cost := table.block(block, shape)).params,
                macs=cost.macs,
                latency_ms=latency.block_ms(block, shape) if latency is not None else None,
            )
            for (block, shape), out_shape in zip(
                architecture.placed(), architecture.shapes[1:], strict=True
            )
        ]

    return rows
