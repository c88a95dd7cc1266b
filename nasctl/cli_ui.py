"""Layer 6: `nasctl ui`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from nasctl.cli_common import say
from nasctl.errors import EnvironmentProblemError


@click.command()
@click.argument("run")
@click.option("--port", type=click.IntRange(1, 65535), help="By default 5000, or a free one.")
def ui(run: str, port: int | None) -> None:
    """Open the MLflow UI on the store of RUN (or of a folder with runs)."""
    import subprocess

    from nasctl.interrupt import handling_signals
    from nasctl.outputs import tracking_settings
    from nasctl.records import RunRecords, find_run
    from nasctl.tracking import TrackingSettings, answers, ui_command

    directory = Path(run)
    if (directory / "mlflow.db").is_file():
        settings = TrackingSettings(output_dir=directory)  # the one that was named, no other
    else:
        records = RunRecords(find_run(run))
        settings = tracking_settings(records.config["tracking"], records.home.parent)
    if settings.uri is None and not (settings.output_dir / "mlflow.db").is_file():
        raise EnvironmentProblemError(
            f"{settings.output_dir}: no MLflow store here yet; nasctl sync {run} makes it"
        )
    command = ui_command(settings, port=port)
    if command.argv is None:
        click.echo(command.url)
        return
    with handling_signals() as stop:  # a server that outlived us would keep the port
        say("starting the MLflow server ...")
        server = subprocess.Popen(command.argv, env=command.env, stdout=sys.stderr)
        try:
            if answers(command.url, alive=lambda: server.poll() is None):
                click.echo(command.url)
                say("Ctrl-C stops it")
            raise SystemExit(server.wait())
        except KeyboardInterrupt:
            raise SystemExit(stop.exit_code or 130) from None
        finally:  # also when nobody reads what we print any more
            if server.poll() is None:
                server.terminate()
                server.wait()
