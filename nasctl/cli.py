"""Layer 6: the commands. Results go to stdout, everything else to stderr.

Only click is imported here at start-up; each command imports what it needs.
"""

from __future__ import annotations

import contextlib
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nasctl.cli_ablate import ablate
from nasctl.cli_cluster import fetch, jobs, logs, send_run, stop, submit
from nasctl.cli_common import (
    command_line,
    is_submitted,
    print_json,
    run_options,
    say,
    say_places,
    shown_if_it_can_be,
    take_marks,
)
from nasctl.cli_export import export
from nasctl.cli_front import front
from nasctl.cli_ui import ui
from nasctl.cli_verify import verify
from nasctl.errors import (
    FULL,
    ConfigError,
    EnvironmentProblemError,
    InterruptedSearchError,
    NasctlError,
)

if TYPE_CHECKING:
    from nasctl.config import LoadedConfig
    from nasctl.plugins import Registry
    from nasctl.records import RunRecords

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class _Commands(click.Group):
    """With a word for those who look for a command that is not needed."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] in ("resume", "continue"):
            ctx.fail(f"No such command {args[0]!r}. The command that began a run continues it.")
        return super().resolve_command(ctx, args)


@click.group(cls=_Commands, context_settings=_CONTEXT)
@click.version_option(package_name="nasctl", message="nasctl %(version)s")
def cli() -> None:
    """Neural architecture search with evidence: which network should I ship to this device? And
    ablations: does this design choice really help?

    \b
    nasctl search mbv2_space            search the packaged MobileNetV2 space
    nasctl search mbv2_space --dry-run  what it would do, how large the space is, how long it takes
    nasctl front runs/mbv2_space        the Pareto front of a run, also while it runs
    nasctl ablate linear_bottleneck     does this design choice really help? verdicts with evidence
    nasctl profile mobilenet_v2         what a network costs, block by block
    nasctl init my_search               a configuration to copy and edit
    """


@cli.command()
@run_options(
    dry_run="Show config, size, costs and time; train nothing.",
    as_json="Print the front as one JSON object.",
)
def search(  # noqa: PLR0917 - click passes one argument per option
    config: str,
    overrides: tuple[str, ...],
    plugins: tuple[str, ...],
    dry_run: bool,
    fresh: bool,
    progress: str,
    as_json: bool,
) -> None:
    """Search a space for the Pareto front of accuracy against cost.

    CONFIG is a YAML file or the name of a packaged configuration (`nasctl configs`). KEY=VALUE
    changes any of its settings: sampler=nsga2 trials=64 recipe.epochs=8 constraints.params=200000

    The same command continues an unfinished or interrupted run.
    """
    from nasctl.config import load_config
    from nasctl.plugins import load_plugins

    loaded = load_config(config, overrides)
    registry = load_plugins(plugins)
    if dry_run:
        _dry_run(loaded, registry, as_json=as_json)
        return
    records = _search(loaded, registry, fresh=fresh, progress=progress, as_json=as_json)
    _show_front(records, as_json=as_json)
    files = {"report": "report.html", "front": "front.json"}
    say_places(records.directory, files, records.config.get("tracking") or {})


def _search(
    loaded: LoadedConfig, registry: Registry, *, fresh: bool, progress: str, as_json: bool
) -> RunRecords:
    from nasctl.config import config_diff, resolved_yaml, with_whole_paths
    from nasctl.outputs import make_tracker, publish, rehearse, tracking_settings
    from nasctl.progress import make_progress
    from nasctl.records import RunRecords
    from nasctl.search import SearchRequest, run_search

    display = make_progress(progress)
    for note in loaded.notes:
        display.warning(note)
    config = loaded.config if is_submitted() else with_whole_paths(loaded.config)
    settings = tracking_settings(loaded.resolved["tracking"], Path(config.output_dir))
    request = SearchRequest(
        config=config,
        resolved=config.model_dump(mode="json"),
        config_text=resolved_yaml(config),
        command=command_line(),
        fresh=fresh,
        registry=registry,
        differences=config_diff,
        display=display,
        track=lambda directory: make_tracker(directory, settings, display.warning),
        publish=publish,
        rehearse=rehearse,
    )
    try:
        # stdout carries results: what plugins print while they work goes to stderr.
        with display, contextlib.redirect_stdout(sys.stderr):
            return run_search(request)
    except InterruptedSearchError:
        with shown_if_it_can_be():
            records = RunRecords(Path(config.output_dir) / config.name)
            if records.trials():
                _show_front(records, as_json=as_json)
        raise


def _dry_run(loaded: LoadedConfig, registry: Registry, *, as_json: bool) -> None:
    from nasctl.config import resolved_yaml
    from nasctl.dryrun import dry_run

    outlook = dry_run(loaded.config, registry, announce=lambda text: say(f"{text} ..."))
    if as_json:
        print_json(outlook.to_json())
    else:
        click.echo(resolved_yaml(loaded.config))
        click.echo(outlook.to_text())


def _show_front(records: RunRecords, *, as_json: bool) -> None:
    if as_json:
        print_json(records.front)
        return
    from nasctl.terminal import print_front

    print_front(records.front, records.trials(), sys.stdout)


@cli.command()
@click.argument("run")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The HTML file, or a folder.")
def report(run: str, output: Path | None) -> None:
    """Write the report of RUN: self-contained HTML, with PNG, CSV and Markdown beside it."""
    from nasctl.outputs import rewrite_report

    if str(output) == "-":
        raise ConfigError("-o -: a report is several files; expected an .html file or a folder")
    records = _open(run)
    for path in rewrite_report(records, output or records.home):
        click.echo(path)


@cli.command()
@click.argument("network", required=False, metavar="NETWORK|RUN:ARCH_ID")
@click.option("--width", type=float, metavar="F", help="Width multiplier, where there is one.")
@click.option("--input", "input_text", metavar="C,H,W", help="Input shape, like 3,224,224.")
@click.option("--classes", type=click.IntRange(min=1), metavar="N", help="Number of classes.")
@click.option("--latency", is_flag=True, help="Measure the latency of each block and of the whole.")
@click.option("--compare", "other", metavar="OTHER", help="Another network, side by side.")
@click.option("--plugin", "plugins", multiple=True, metavar="MODULE",
              help="Python module with the blocks of RUN's networks.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--list", "listed", is_flag=True, help="List the networks that are known by name.")
def profile(  # noqa: PLR0917 - click passes one argument per option
    network: str | None,
    width: float | None,
    input_text: str | None,
    classes: int | None,
    latency: bool,
    other: str | None,
    plugins: tuple[str, ...],
    as_json: bool,
    listed: bool,
) -> None:
    """Show what a network costs, and where: block by block.

    NETWORK is a published one by name (--list), with @WIDTH where it has a multiplier;
    RUN:ARCH_ID is one of a run, the beginning of its id is enough. --input and --classes also
    count for OTHER where it is a name, --width for NETWORK only.
    """
    from nasctl.profile.command import ProfileRequest, run_profile, show_list

    if listed:
        if network is not None:
            raise ConfigError(f"--list takes no network, got {network!r}")
        show_list(sys.stdout, as_json=as_json)
        return
    if network is None:
        raise ConfigError("NETWORK: missing; nasctl profile --list names what exists")
    request = ProfileRequest(
        network=network,
        width=width,
        input_text=input_text,
        num_classes=classes,
        latency=latency,
        other=other,
        plugins=plugins,
    )
    run_profile(request, sys.stdout, as_json=as_json, announce=lambda text: say(f"{text} ..."))


@cli.command()
@click.argument("run")
def sync(run: str) -> None:
    """Bring the tracking store up to date with RUN, after an outage."""
    from nasctl.errors import EnvironmentProblemError
    from nasctl.outputs import tracking_settings
    from nasctl.tracking import sync as synchronise

    records = _open(run)
    settings = tracking_settings(records.config["tracking"], records.home.parent)
    result = synchronise(records, settings)
    if result.problem is not None:
        raise EnvironmentProblemError(result.problem)
    click.echo(f"{result.sent} changes sent, everything is there")


@cli.command()
@click.argument("run")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(run: str, as_json: bool) -> None:
    """Check that nothing of RUN is lost or wrong; changes nothing, also while it runs.

    One line per invariant; exit status 1 if one of them is violated.
    """
    from nasctl.doctor import examine
    from nasctl.records import find_run

    found = examine(find_run(run))
    if as_json:
        print_json(found.to_json())
    else:
        for check in found.checks:
            click.echo(check.to_line())
    if not found.sound:
        raise SystemExit(1)


@cli.command()
def configs() -> None:
    """List the packaged configurations and option groups."""
    from nasctl.config import list_ablations, list_configs, list_verification

    for found in list_configs():
        name = f"{found.group}={found.name}" if found.group else found.name
        click.echo(f"{name:<24} {found.description}".rstrip())
    click.echo("\nfor nasctl ablate")
    for found in list_ablations():
        click.echo(f"{found.name:<32} {found.description}".rstrip())
    click.echo("\nfor nasctl verify")
    for found in list_verification():
        click.echo(f"{found.name:<32} {found.description}".rstrip())


@cli.command()
@click.argument("directory", type=click.Path(path_type=Path))
def init(directory: Path) -> None:
    """Write an example configuration into DIRECTORY, to be edited."""
    from nasctl.config import init_dir

    click.echo(init_dir(directory))


def _open(run: str) -> RunRecords:
    from nasctl.records import RunRecords, find_run

    return RunRecords(find_run(run))


for own in (ablate, export, verify, ui, submit, jobs, logs, stop, fetch, send_run, front):
    cli.add_command(own)


def main() -> None:
    """The entry point: errors become one line on stderr and an exit code."""
    take_marks()
    stdout = sys.stdout
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        say("stopped")
        sys.exit(130)
    except NasctlError as error:
        say(f"Error: {error}")
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of our output has gone (`| head`): not an error, but nothing more to say.
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        if error.errno not in FULL or error.filename is not None:
            raise _bug() from None
        say(f"Error: stdout: {error.strerror}; nothing that was finished is lost")
        sys.exit(EnvironmentProblemError.exit_code)
    except SystemExit as done:
        # click puts another stdout there and exits with 1, which we say is a bug of ours.
        sys.exit(done.code if sys.stdout is stdout else 0)
    except Exception:
        raise _bug() from None


def _bug() -> SystemExit:
    traceback.print_exc()
    say("This is a bug in nasctl; nothing that was finished is lost. Please report the above.")
    return SystemExit(1)
