"""Layer 6: `nasctl ablate`."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nasctl.cli_common import (
    command_line,
    print_json,
    run_options,
    say,
    say_places,
    shown_if_it_can_be,
)
from nasctl.errors import ConfigError, InterruptedSearchError, TooManyFailuresError

if TYPE_CHECKING:
    from nasctl.config import LoadedAblation
    from nasctl.config.information_loss import LoadedInformationLoss
    from nasctl.plugins import Registry


@click.command()
@run_options(
    dry_run="Show arms, trainings, time and power; train nothing.",
    as_json="Print the verdicts as one JSON list.",
)
def ablate(  # noqa: PLR0917 - click passes one argument per option
    config: str,
    overrides: tuple[str, ...],
    plugins: tuple[str, ...],
    dry_run: bool,
    fresh: bool,
    progress: str,
    as_json: bool,
) -> None:
    """Ask whether design choices really help: verdicts with intervals, not a lucky run.

    CONFIG is a YAML file or the name of a packaged study (`nasctl configs`). KEY=VALUE changes any
    of its settings: seeds.max=20 decision.smallest_effect=0.01 recipe.epochs=8

    The same command continues an unfinished or interrupted study.
    """
    from nasctl.config import load_ablation
    from nasctl.config.information_loss import load_information_loss
    from nasctl.plugins import load_plugins

    if (special := load_information_loss(config, overrides)) is not None:
        _information_loss(special, dry_run=dry_run, as_json=as_json)
        return
    loaded = load_ablation(config, overrides)
    registry = load_plugins(plugins)
    if dry_run:
        _dry_run(loaded, registry, as_json=as_json)
        return
    directory = _run(loaded, registry, fresh=fresh, progress=progress, as_json=as_json)
    _show(directory, as_json=as_json)
    files = {"report": "report.html", "verdicts": "verdicts.json"}
    say_places(directory, files, loaded.resolved["tracking"])


def _information_loss(loaded: LoadedInformationLoss, *, dry_run: bool, as_json: bool) -> None:
    from nasctl.ablation.information_loss import run_information_loss
    from nasctl.config.guard import dump
    from nasctl.records import LEDGER
    from nasctl.report.information_loss import information_loss_files
    from nasctl.rundir import check_place

    check_place(loaded.directory)
    if (loaded.directory / LEDGER).exists():
        raise ConfigError(f"name: {loaded.directory} is a run with trainings; choose another name")
    if dry_run:
        click.echo(dump(loaded.resolved))
        return
    found = run_information_loss(
        loaded.settings, loaded.directory, lambda text: say(f"{text} ..."), information_loss_files
    )
    if as_json:
        print_json(found)
    else:
        click.echo((loaded.directory / "report.md").read_text(encoding="utf-8"))
    say(f"report    {loaded.directory / 'report.html'}")


def _dry_run(loaded: LoadedAblation, registry: Registry, *, as_json: bool) -> None:
    from nasctl.ablation.outlook import look_ahead
    from nasctl.config import recipe_problems, resolved_yaml

    say("timing a few training steps of each arm ...")
    outlook = look_ahead(loaded.config, registry, recipe_problems)
    if as_json:
        print_json(outlook.to_json())
    else:
        click.echo(resolved_yaml(loaded.config))
        click.echo(outlook.to_text())


def _run(
    loaded: LoadedAblation, registry: Registry, *, fresh: bool, progress: str, as_json: bool
) -> Path:
    from nasctl.ablate import AblationRequest, run_ablation
    from nasctl.config import ablation_diff, recipe_problems, resolved_yaml
    from nasctl.outputs import make_tracker, tracking_settings
    from nasctl.progress import make_progress
    from nasctl.report.ablation import write_ablation_report

    display = make_progress(progress)
    for note in loaded.notes:
        display.warning(note)
    config = loaded.config
    directory = Path(config.output_dir) / config.name
    settings = tracking_settings(loaded.resolved["tracking"], directory.parent)
    request = AblationRequest(
        config=config,
        resolved=loaded.resolved,
        config_text=resolved_yaml(config),
        command=command_line(),
        fresh=fresh,
        registry=registry,
        differences=ablation_diff,
        display=display,
        track=lambda place: make_tracker(place, settings, display.warning),
        check_recipe=recipe_problems,
        publish=write_ablation_report,
    )
    try:
        with display, contextlib.redirect_stdout(sys.stderr):
            run_ablation(request)
    except (InterruptedSearchError, TooManyFailuresError):
        with shown_if_it_can_be():
            if (directory / "ablation.json").is_file():
                _show(directory, as_json=as_json)
        raise
    return directory


def _show(directory: Path, *, as_json: bool) -> None:
    from nasctl.ablation.reading import view_of
    from nasctl.ablation.text import summary
    from nasctl.ablation.view import verdicts_of
    from nasctl.records import RunRecords

    view = view_of(RunRecords(directory))
    if as_json:
        print_json(verdicts_of(view))
    else:
        click.echo(summary(view))
