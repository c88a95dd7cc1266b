"""Layer 6: `nasctl export`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nasctl.cli_common import print_json, say

if TYPE_CHECKING:
    from torch import nn

    from nasctl.arch import Architecture
    from nasctl.dataset import Dataset
    from nasctl.export.flow import Exported
    from nasctl.export.int8_flow import Int8Export
    from nasctl.latency_settings import LatencySettings
    from nasctl.records import RunRecords


@click.command()
@click.argument("run")
@click.argument("arch_id", required=False)
@click.option("--at", metavar="METRIC=VALUE",
              help="Instead of ARCH_ID: the best member of the front within a budget.")  # fmt: skip
@click.option("--format", "kind", type=click.Choice(["onnx", "pt2", "torch"]), default="onnx",
              show_default=True, help="ONNX, torch.export, or Python for torch alone.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False),
              help="The file; by default ARCH_ID.onnx, ARCH_ID-int8.onnx, ARCH_ID.pt2 or "
              "net_ARCH_ID.py here.")  # fmt: skip
@click.option("--int8", is_flag=True,
              help="Quantise it (ONNX only), and compare it with the float file.")  # fmt: skip
@click.option("--calibration-images", type=int, metavar="N",
              help="How many training images --int8 takes its ranges from; 256.")  # fmt: skip
@click.option("--mlflow", "as_model", is_flag=True,
              help="Also log it (ONNX only) as an MLflow model where RUN is tracked.")  # fmt: skip
@click.option("--plugin", "plugins", multiple=True, metavar="MODULE",
              help="Python module with the blocks, families or data of RUN.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def export(  # noqa: PLR0917 - click passes one argument per option
    run: str,
    arch_id: str | None,
    at: str | None,
    kind: str,
    output: Path | None,
    int8: bool,
    calibration_images: int | None,
    as_model: bool,
    plugins: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write a trained network of RUN as a file that needs no nasctl.

    ARCH_ID may be the beginning of an id. Batch norms are folded; the file is read back and must
    agree with the trained network on validation images, or nothing is written. Preprocessing,
    classes and where it comes from are inside.
    """
    from nasctl.export.formats import default_path

    _check_options(kind, int8, calibration_images, as_model)
    subject = _subject(run, arch_id, at, plugins)
    say("checking on validation images ...")
    with contextlib.redirect_stdout(sys.stderr):  # of exporters, plugins and MLflow
        path = output or default_path(subject.architecture.id, kind, int8=int8)
        done = _int8(subject, path, calibration_images) if int8 else _export(subject, kind, path)
        model = _log_model(subject, path) if as_model else None
    if as_json:
        print_json(done.to_json() | ({"mlflow_model": model} if model else {}))
        return
    for line in done.lines():
        click.echo(line)
    if model:
        click.echo(f"MLflow model {model}")


def _check_options(kind: str, int8: bool, images: int | None, as_model: bool) -> None:
    from nasctl.errors import ConfigError

    for option, given in (("--int8", int8), ("--mlflow", as_model)):
        if given and kind != "onnx":
            raise ConfigError(f"{option}: of ONNX files only; leave out --format {kind}")
    if images is not None and not int8:
        raise ConfigError(f"--calibration-images {images}: needs --int8")


@dataclass(frozen=True, kw_only=True)
class _Subject:
    """What is exported."""

    records: RunRecords
    architecture: Architecture
    build: Callable[[Architecture], nn.Module]
    dataset: Dataset
    settings: LatencySettings


def _subject(run: str, arch_id: str | None, at: str | None, plugins: tuple[str, ...]) -> _Subject:
    from nasctl.config import stored_config
    from nasctl.errors import ConfigError
    from nasctl.plugins import load_plugins
    from nasctl.prepare import load_problem
    from nasctl.pricing import latency_settings
    from nasctl.records import RunRecords, find_run
    from nasctl.run_network import find_network
    from search_spaces import network

    records = RunRecords(find_run(run))
    if records.is_ablation:
        raise ConfigError(f"{run}: an ablation study keeps no networks; export one of a search")
    if records.is_verification:
        raise ConfigError(f"{run}: export from its search, which has its weights: {records.home}")
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
    return _Subject(
        records=records,
        architecture=architecture,
        build=own or network.build,
        dataset=problem.dataset,
        settings=latency_settings(config),
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


def _export(subject: _Subject, kind: str, path: Path) -> Exported:
    from nasctl.export.flow import export_network

    return export_network(
        subject.records,
        subject.architecture,
        build=subject.build,
        dataset=subject.dataset,
        kind=kind,
        path=path,
    )


def _int8(subject: _Subject, path: Path, images: int | None) -> Int8Export:
    from nasctl.export.int8 import CALIBRATION_IMAGES
    from nasctl.export.int8_flow import export_int8

    done = export_int8(
        subject.records,
        subject.architecture,
        build=subject.build,
        dataset=subject.dataset,
        path=path,
        settings=subject.settings,
        images=CALIBRATION_IMAGES if images is None else images,
        progress=say,
    )
    for warning in done.warnings:
        say(f"warning: {warning}")
    return done


def _log_model(subject: _Subject, path: Path) -> str:
    """Puts the file among the run's models, and brings the tracking store up to date.

    Returns:
        What MLflow loads it by.
    """
    from nasctl import augment
    from nasctl.errors import ConfigError, EnvironmentProblemError
    from nasctl.export.models import keep_model
    from nasctl.outputs import tracking_settings
    from nasctl.tracking import sync

    records = subject.records
    settings = tracking_settings(records.config["tracking"], records.directory.parent)
    if not settings.artifacts:
        raise ConfigError(
            f"--mlflow: {records.directory} is tracked with tracking.artifacts=false: no files are "
            f"stored; {path} is written"
        )
    size = subject.architecture.input_shape[1:]
    (image,) = augment.resize(subject.dataset.val_images[:1], (size[0], size[1]))
    name = keep_model(records.directory, path, image)
    say("logging it in MLflow ...")
    result = sync(records, settings)
    if result.problem is not None:
        raise EnvironmentProblemError(
            f"{path} is written, but not logged: {result.problem}; nasctl sync {records.directory} "
            "logs it later"
        )
    return result.models[name]
