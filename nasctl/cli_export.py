"""Layer 6: `nasctl export`."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nasctl.cli_common import print_json, say

if TYPE_CHECKING:
    from nasctl.records import RunRecords


@click.command()
@click.argument("run")
@click.argument("arch_id", required=False)
@click.option("--at", metavar="METRIC=VALUE",
              help="Instead of ARCH_ID: the best member of the front within a budget.")  # fmt: skip
@click.option("--format", "kind", type=click.Choice(["onnx", "pt2", "torch"]), default="onnx",
              show_default=True, help="ONNX, torch.export, or Python for torch alone.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False),
              help="The file; by default ARCH_ID.onnx, .pt2 or net_ARCH_ID.py here.")  # fmt: skip
@click.option("--plugin", "plugins", multiple=True, metavar="MODULE",
              help="Python module with the blocks, families or data of RUN.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def export(  # noqa: PLR0917 - click passes one argument per option
    run: str,
    arch_id: str | None,
    at: str | None,
    kind: str,
    output: Path | None,
    plugins: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write a trained network of RUN as a file that needs no nasctl.

    ARCH_ID may be the beginning of an id. Batch norms are folded; the file is read back and must
    agree with the trained network on validation images, or nothing is written. Preprocessing,
    classes and where it comes from are inside.
    """
    from nasctl.config import stored_config
    from nasctl.errors import ConfigError
    from nasctl.export.flow import export_network
    from nasctl.export.formats import default_path
    from nasctl.plugins import load_plugins
    from nasctl.prepare import load_problem
    from nasctl.records import RunRecords, find_run
    from nasctl.run_network import find_network
    from search_spaces import network

    records = RunRecords(find_run(run))
    if records.is_ablation:
        raise ConfigError(f"{run}: an ablation study keeps no networks; export one of a search")
    registry = load_plugins(plugins)
    architecture = find_network(records, _chosen(records, arch_id, at), registry.blocks)
    config = stored_config(records.config, source=str(records.directory))
    problem = load_problem(config, registry)
    if problem.dataset is None:
        raise ConfigError(
            f"{run}: nothing was trained in it: evaluator={config.evaluator} gave its results"
        )
    published = {t.arch_id for t in records.references()}
    own = problem.family.build if architecture.id not in published else None
    say("checking on validation images ...")
    with contextlib.redirect_stdout(sys.stderr):  # of exporters and plugins
        done = export_network(
            records,
            architecture,
            build=own or network.build,
            dataset=problem.dataset,
            kind=kind,
            path=output or default_path(architecture.id, kind),
        )
    if as_json:
        print_json(done.to_json())
        return
    parity = done.parity
    for file in done.files:
        click.echo(f"{file}  {file.stat().st_size:,} bytes")
    click.echo(
        f"{done.params:,} parameters; outputs within {parity.max_error:.1g} of the largest (mean "
        f"{parity.mean_error:.1g}); accuracy {parity.exported_accuracy:.4f}, {parity.accuracy:.4f} "
        f"before, on {parity.images:,} validation images"
    )


def _chosen(records: RunRecords, arch_id: str | None, at: str | None) -> str:
    from nasctl.budget import best_within, read_budget
    from nasctl.errors import ConfigError

    if (arch_id is None) == (at is None):
        raise ConfigError(
            "ARCH_ID or --at METRIC=VALUE, one of them: which network? "
            f"nasctl front {records.directory} lists ids"
        )
    if at is None:
        return str(arch_id)
    return str(best_within(records.front, *read_budget(at))["arch_id"])
