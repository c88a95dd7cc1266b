"""Layer 5: the report of a run: one self-contained HTML page, and PNG, CSV, Markdown beside it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from nasctl.errors import ConfigError, EnvironmentProblemError
from nasctl.report.files import front_png, markdown, trials_csv
from nasctl.report.page import page
from nasctl.report.view import BlockCosts, BlockRow, Member, RunView

__all__ = [
    "BlockCosts",
    "BlockRow",
    "Member",
    "RunView",
    "render_html",
    "write_report",
]

OTHER_FILES = {".pdf", ".png", ".svg", ".csv", ".md", ".txt", ".json", ".xml", ".docx", ".xlsx"}


def render_html(view: RunView) -> str:
    """The whole report as one HTML document.

    The charts are drawn by the `basic` bundle of plotly.js (MIT, nasctl/assets), which is inlined:
    the page works from a file, offline, and in a frame that allows nothing but scripts.
    """
    return page(view, **inlined("report", "verified"))


def inlined(name: str, *more: str) -> dict[str, str]:
    """What a page carries with it: the style and the script that all reports share, and its own.

    Args:
        name: of its script, and of its style where it has one.
        more: scripts that run before that.

    Returns:
        `css`, `script` and `plotly`.
    """
    styles = dict.fromkeys(("report.css", f"{name}.css"))
    return {
        "css": "\n".join(map(_asset, styles)),
        "script": "\n".join(_asset(f"{n}.js") for n in ("charts", *more, name)),
        "plotly": _asset("plotly-basic.min.js"),
    }


def _asset(name: str) -> str:
    return (files("nasctl.assets") / name).read_text(encoding="utf-8")


def write_report(view: RunView, target: Path) -> list[Path]:
    """Writes the report, and a PNG, a CSV of all trials and a Markdown summary beside it.

    Args:
        view: the run.
        target: the HTML file (`.html`), or a folder, in which it will be `report.html`.

    Returns:
        The files: HTML, PNG, CSV, Markdown, and the compute ledger as JSON where there is one, all
        with the same stem.

    Raises:
        EnvironmentProblemError: they cannot be written. Older files of these names are then as
            they were: each new one is complete on disk before the first takes its name.
    """
    contents = draw_report(view, target)
    write_together(contents)
    return list(contents)


def draw_report(view: RunView, target: Path) -> dict[Path, bytes]:
    """What `write_report` writes, by its path; writes nothing."""
    page_file = page_path(target)
    png = page_file.with_suffix(".png")
    contents: dict[Path, bytes] = {
        page_file: render_html(view).encode(),
        png: front_png(view),
        page_file.with_suffix(".csv"): trials_csv(view).encode(),
        page_file.with_suffix(".md"): markdown(view, png.name).encode(),
    }
    if view.compute is not None:
        ledger = json.dumps(view.compute, indent=2, allow_nan=False)
        contents[page_file.with_suffix(".compute.json")] = f"{ledger}\n".encode()
    return contents


def page_path(target: Path) -> Path:
    """The HTML file that a target names: itself, or `report.html` in a folder.

    Raises:
        ConfigError: it is another kind of file, or would be by its name.
    """
    target = Path(target)
    suffix = target.suffix.lower()
    if suffix in {".html", ".htm"}:
        return target
    if not target.is_dir() and (target.exists() or suffix in OTHER_FILES):
        raise ConfigError(
            f"report: {target}: it is HTML, with PNG, CSV and Markdown beside it; expected "
            "FILE.html or a folder"
        )
    return target / "report.html"


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Replaces files of one folder, which is made if need be.

    Raises:
        EnvironmentProblemError: they cannot be written. Older files of these names are then as
            they were: each new one is complete on disk before the first takes its name.
    """
    page_file = next(iter(contents))
    written: dict[Path, Path] = {}
    try:
        page_file.parent.mkdir(parents=True, exist_ok=True)
        for path, content in contents.items():
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
            written[path] = Path(name)
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            _apply_umask(written[path])
        for path, temporary in written.items():
            temporary.replace(path)
        _sync_folder(page_file.parent)
    except OSError as error:
        raise EnvironmentProblemError(
            f"report: cannot write {page_file}: {error.strerror or error}"
        ) from error
    finally:
        for temporary in written.values():
            temporary.unlink(missing_ok=True)


def _apply_umask(path: Path) -> None:
    """mkstemp makes files for their owner only; a report is shared like any other file."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
