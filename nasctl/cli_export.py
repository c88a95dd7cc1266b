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
    from nasctl.export.choice import Choice
    from nasctl.export.flow import Exported
    from nasctl.export.int8_flow import Int8Export
    from nasctl.latency_settings import LatencySettings
    from nasctl.plugins import Registry
    from nasctl.records import RunRecords
    from nasctl.tracking import TrackingSettings


@click.command()
@click.argument("run")
@click.argument("arch_id", required=False)
@click.option("--at", metavar="METRIC=VALUE",
              help="Instead of ARCH_ID: the best member of the front within a budget; by verified "
              "values where RUN was verified.")  # fmt: skip
@click.option("--format", "kind", type=click.Choice(["onnx", "pt2", "torch"]), default="onnx",
              show_default=True, help="ONNX, torch.export, or Python for torch alone.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False),
              help="The file; by default ARCH_ID.onnx, ARCH_ID-int8.onnx, ARCH_ID.pt2 or "
              "net_ARCH_ID.py here. Earlier exports are replaced, no other files.")  # fmt: skip
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
    _check_options(kind, int8, calibration_images, as_model)
    asked = _asked(run, arch_id, at, plugins)
    path = _checked_path(asked, output, kind, int8=int8, as_model=as_model)
    if asked.choice is not None:
        say(asked.choice.line())
    subject = _subject(asked)
    say("checking on validation images ...")
    with contextlib.redirect_stdout(sys.stderr):  # of exporters, plugins and MLflow
        done = _int8(subject, path, calibration_images) if int8 else _export(subject, kind, path)
        model = _log_model(subject, path) if as_model else None
    if as_json:
        chosen = {"chosen": asked.choice.to_json()} if asked.choice is not None else {}
        print_json(done.to_json() | chosen | ({"mlflow_model": model} if model else {}))
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
    if images is not None:
        if not int8:
            raise ConfigError(f"--calibration-images {images}: needs --int8")
        from nasctl.export.int8 import check_count

        check_count(images)


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """Which network of which run; its data are not read yet.

    Attributes:
        choice: by which it was chosen, if not by its id.
    """

    records: RunRecords
    architecture: Architecture
    registry: Registry
    choice: Choice | None


def _asked(run: str, arch_id: str | None, at: str | None, plugins: tuple[str, ...]) -> _Asked:
    from nasctl.errors import ConfigError
    from nasctl.export.choice import choose
    from nasctl.plugins import load_plugins
    from nasctl.records import RunRecords, find_run
    from nasctl.run_network import find_network

    records = RunRecords(find_run(run))
    if records.is_ablation:
        raise ConfigError(f"{run}: an ablation study keeps no networks; export one of a search")
    if records.is_verification:
        raise ConfigError(f"{run}: export from its search, which has its weights: {records.home}")
    if (arch_id is None) == (at is None):
        raise ConfigError(
            "ARCH_ID or --at METRIC=VALUE, one of them: which network? "
            f"nasctl front {records.directory} lists ids"
        )
    if (evaluator := records.config.get("evaluator", "train")) != "train":
        raise ConfigError(
            f"{run}: nothing was trained in it: evaluator={evaluator} gave its results"
        )
    registry = load_plugins(plugins)
    choice = choose(records, at) if at is not None else None
    wanted = str(arch_id) if choice is None else choice.arch_id
    return _Asked(
        records=records,
        architecture=find_network(records, wanted, registry.blocks),
        registry=registry,
        choice=choice,
    )


def _checked_path(
    asked: _Asked, output: Path | None, kind: str, *, int8: bool, as_model: bool
) -> Path:
    """Where to write. What can go wrong there does so before data are read and networks run."""
    from nasctl.errors import ConfigError
    from nasctl.export.flow import check_export
    from nasctl.export.formats import default_path

    records, network = asked.records, asked.architecture.id
    path = output or default_path(network, kind, int8=int8)
    check_export(records, network, path, kind)
    if as_model and not _tracking(records).artifacts:
        raise ConfigError(
            f"--mlflow: {records.directory} is tracked with tracking.artifacts=false: no files are "
            "stored; leave it out to write the file alone"
        )
    return path


def _tracking(records: RunRecords) -> TrackingSettings:
    from nasctl.outputs import tracking_settings

    return tracking_settings(records.config["tracking"], records.directory.parent)


@dataclass(frozen=True, kw_only=True)
class _Subject:
    """What is exported."""

    records: RunRecords
    architecture: Architecture
    build: Callable[[Architecture], nn.Module]
    dataset: Dataset
    settings: LatencySettings


def _subject(asked: _Asked) -> _Subject:
    from nasctl.config import stored_config
    from nasctl.prepare import load_problem
    from nasctl.pricing import latency_settings
    from search_spaces import network

    records, architecture = asked.records, asked.architecture
    config = stored_config(records.config, source=str(records.directory))
    problem = load_problem(config, asked.registry, read_weights=False)
    assert problem.dataset is not None, "what is trained has data"
    published = {t.arch_id for t in records.references()}
    own = problem.family.build if architecture.id not in published else None
    return _Subject(
        records=records,
        architecture=architecture,
        build=own or network.build,
        dataset=problem.dataset,
        settings=latency_settings(config),
    )


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
    from nasctl.errors import EnvironmentProblemError
    from nasctl.export.models import keep_model
    from nasctl.tracking import sync

    records = subject.records
    size = subject.architecture.input_shape[1:]
    (image,) = augment.resize(subject.dataset.val_images[:1], (size[0], size[1]))
    name = keep_model(records.directory, path, image)
    say("logging it in MLflow ...")
    result = sync(records, _tracking(records))
    if result.problem is not None:
        raise EnvironmentProblemError(
            f"{path} is written, but not logged: {result.problem}; nasctl sync {records.directory} "
            "logs it later"
        )
    return result.models[name]
