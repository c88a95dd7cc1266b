"""Layer 6: `nasctl verify`."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nasctl.cli_common import (
    command_line,
    print_json,
    run_flags,
    say_places,
    shown_if_it_can_be,
)
from nasctl.errors import InterruptedSearchError

if TYPE_CHECKING:
    from nasctl.config.verification import LoadedVerification
    from nasctl.plugins import Registry
    from nasctl.records import RunRecords


@click.command()
@click.argument("run")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--at", metavar="METRIC=VALUE",
              help="Only the best member within a budget, instead of all finalists.")  # fmt: skip
@run_flags(
    dry_run="Show finalists, trainings and time; train nothing.",
    as_json="Print the verified front as one JSON object.",
    fresh="Move an earlier verification of RUN aside first.",
)
def verify(  # noqa: PLR0917 - click passes one argument per option
    run: str,
    overrides: tuple[str, ...],
    at: str | None,
    plugins: tuple[str, ...],
    dry_run: bool,
    fresh: bool,
    progress: str,
    as_json: bool,
) -> None:
    """Train the finalists of RUN again on fresh seeds, and judge them on the test split.

    Finalists are the front and the candidates near it. KEY=VALUE changes verify.*, recipe.*,
    executor.* or tracking.*: verify.seeds=5 recipe.epochs=40 executor=inline

    The same command continues an interrupted verification; verify.max_seeds may be raised later.
    """
    from nasctl.config.verification import load_verification
    from nasctl.plugins import load_plugins
    from nasctl.records import RunRecords, find_run
    from nasctl.verification.checks import check_run

    source = RunRecords(find_run(run))
    check_run(source)
    loaded = load_verification(source.config, overrides, at=at, source=str(source.directory))
    registry = load_plugins(plugins)
    if dry_run:
        _dry_run(source, loaded, registry, as_json=as_json)
        return
    verified = _run(source, loaded, registry, fresh=fresh, progress=progress, as_json=as_json)
    show_verified(verified, as_json=as_json)
    files = {"report": "report.html", "verified": "verified.json", "promised": "promised.csv"}
    say_places(source.directory, files, loaded.resolved["tracking"])


def _dry_run(
    source: RunRecords, loaded: LoadedVerification, registry: Registry, *, as_json: bool
) -> None:
    from nasctl.prepare import load_problem
    from nasctl.terminal_verified import outlook_text
    from nasctl.verification.checks import check_data, check_front, finalists_for, seeds_for
    from nasctl.verification.outlook import look_ahead

    config, settings = loaded.config, loaded.settings
    with contextlib.redirect_stdout(sys.stderr):  # of plugins
        problem = load_problem(config, registry)
    finalists = finalists_for(source, settings, registry)
    seeds_for(finalists, config, settings, problem)
    check_data(source, problem, finalists)
    check_front(source, finalists, config, settings, problem)
    outlook = look_ahead(
        source,
        finalists,
        settings,
        epochs=config.recipe.epochs,
        workers=1 if config.executor.name == "inline" else config.executor.workers,
        cpus=config.executor.cpus,
        has_test=problem.dataset is not None and problem.dataset.test_labels is not None,
    )
    if as_json:
        print_json(outlook.to_json())
    else:
        click.echo(outlook_text(outlook))


def _run(
    source: RunRecords,
    loaded: LoadedVerification,
    registry: Registry,
    *,
    fresh: bool,
    progress: str,
    as_json: bool,
) -> dict[str, Any]:
    from nasctl.config.verification import verification_diff, verification_yaml
    from nasctl.outputs import make_tracker, publish, tracking_settings
    from nasctl.progress import make_progress
    from nasctl.verify import VerifyRequest, run_verification

    display = make_progress(progress)
    if not source.finished:
        display.warning(
            f"{source.directory}: the search is not finished; finalists are those of the trials "
            "so far"
        )
    stored: dict[str, str] = source.meta("plugins") or {}
    changed = [n for n, code in stored.items() if registry.sources.get(n, code) != code]
    for name in changed:
        display.warning(
            f"--plugin {name}: its code has changed since the search; differences may be its doing"
        )
    home: Path = source.directory
    settings = tracking_settings(loaded.resolved["tracking"], home.parent)
    request = VerifyRequest(
        source=source,
        config=loaded.config,
        settings=loaded.settings,
        same_recipe=loaded.same_recipe and not changed,
        resolved=loaded.resolved,
        config_text=verification_yaml(loaded),
        command=command_line(),
        fresh=fresh,
        registry=registry,
        differences=verification_diff,
        remedy="--fresh moves that verification aside and begins anew",
        display=display,
        track=lambda place: make_tracker(place, settings, display.warning),
        publish=publish,
    )
    try:
        # stdout carries results: what plugins print while they work goes to stderr.
        with display, contextlib.redirect_stdout(sys.stderr):
            return run_verification(request)
    except InterruptedSearchError:
        from nasctl.records import RunRecords

        with shown_if_it_can_be():
            verified = RunRecords(home).verified
            if verified is not None and verified["status"] == "INTERRUPTED":
                show_verified(verified, as_json=as_json)
        raise


def show_verified(verified: dict[str, Any], *, as_json: bool) -> None:
    """The verified front: a table, or one JSON object."""
    if as_json:
        print_json(verified)
        return
    from nasctl.terminal_verified import print_verified

    print_verified(verified, sys.stdout)
