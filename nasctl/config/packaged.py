"""Layer 5: the packaged configuration files, and which file a name on the command line means."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Container, Iterable
from dataclasses import dataclass
from pathlib import Path

from nasctl.config.guard import shown
from nasctl.errors import ConfigError, EnvironmentProblemError, nearest, unknown


def packaged_folder() -> Path:
    """The folder of the packaged configuration files (`nasctl.conf`)."""
    return Path(str(importlib.import_module("nasctl.conf").__file__)).resolve().parent


ABLATIONS = "ablation"
"""The folder of the ready ablations, below the packaged one. They are files that a user runs, as
are those of the packaged folder itself; every other folder is a group of options."""

VERIFY = "verify.yaml"
"""The settings of `nasctl verify`: no file that a user runs, but one to look them up in."""


def ready_files(name: str) -> dict[str, Path]:
    """By name the packaged files that a command takes, the one that states every key included.

    Args:
        name: of the command, `search` or `ablate`.
    """
    folder = packaged_folder()
    if name == "ablate":
        found = [folder / "ablate.yaml", *sorted((folder / ABLATIONS).glob("*.yaml"))]
    else:
        others = ("ablate.yaml", VERIFY)
        found = [p for p in sorted(folder.glob("*.yaml")) if p.name not in others]
    return {path.stem: path for path in found}


def locate(config: str, name: str = "search") -> Path:
    """The file that CONFIG means for a command.

    Raises:
        ConfigError: there is none; names the nearest.
    """
    names = ready_files(name)
    if "\0" in config or not config.strip() or len(config) > 4096:
        raise ConfigError(f"config {shown(config)}: expected the path of a .yaml file")
    if config in names and not Path(config).is_file():
        return names[config]
    path = Path(config).expanduser()
    try:
        if path.is_dir():
            inside = [p.name for p in sorted(path.glob("*.yaml"))[:10]]
            listed = f" (in it: {', '.join(inside)})" if inside else ""
            raise ConfigError(f"{config}: a folder; give a .yaml file{listed}")
        if path.suffix == ".yml" or (path.is_file() and path.suffix != ".yaml"):
            raise ConfigError(f"{config}: config files end in .yaml; rename it to {path.stem}.yaml")
        if path.exists():
            return path
        beside = [p.name for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
    except OSError as error:
        raise ConfigError(f"{shown(config)}: {error.strerror}") from error
    if path.suffix == ".yaml":
        raise ConfigError(f"{config}: no such file{_probably(path, beside, names)}")
    other = "ablate" if name == "search" else "search"
    if config in ready_files(other):
        raise ConfigError(f"{config}: is for `nasctl {other} {config}`")
    known = [*names, *(n for n in beside if path.parent == Path())]
    raise ConfigError(unknown("config", config, known))


def _probably(path: Path, beside: Iterable[str], names: Container[str]) -> str:
    """What a file that is not there was meant to be, as the end of a sentence."""
    if path.stem in names:
        return f"; the packaged one goes by its name, {path.stem}"
    stems = {Path(name).stem: name for name in beside}  # that all end alike is no likeness
    guess = nearest(path.stem, stems)
    return f"; did you mean {path.with_name(stems[guess])}?" if guess else ""


@dataclass(frozen=True, kw_only=True)
class PackagedConfig:
    """A packaged file: `group` is None for one that a command takes by its name."""

    name: str
    group: str | None
    description: str


def list_configs() -> list[PackagedConfig]:
    """Every packaged search and option with the first sentence of its file's comment."""
    folder = packaged_folder()
    others = {*ready_files("ablate").values(), folder / VERIFY}
    return [
        _described(path, "/".join(path.relative_to(folder).parent.parts) or None)
        for path in sorted(folder.rglob("*.yaml"), key=lambda p: (len(p.parts), p.parts))
        if path not in others
    ]


def list_ablations() -> list[PackagedConfig]:
    """What `nasctl ablate` takes by name, `ablate` with every key first."""
    return [_described(path, None) for path in ready_files("ablate").values()]


def list_verification() -> list[PackagedConfig]:
    """The file that states every setting of `nasctl verify`."""
    return [_described(packaged_folder() / VERIFY, None)]


def _described(path: Path, group: str | None) -> PackagedConfig:
    description = _first_sentence(path.read_text("utf-8"))
    return PackagedConfig(name=path.stem, group=group, description=description)


def _first_sentence(text: str) -> str:
    """Of the comment at the top of a file."""
    comment = itertools.takewhile(lambda line: line.startswith("# "), text.splitlines())
    sentence, stop, _ = " ".join(line[2:] for line in comment).partition(". ")
    return sentence.removesuffix(":") + stop.strip()


def init_dir(directory: str | Path) -> Path:
    """Writes an example configuration to edit (a copy of `mbv2_space`) into `directory`.

    Returns:
        The file.

    Raises:
        ConfigError: the file exists.
        EnvironmentProblemError: it cannot be written.
    """
    path = Path(directory) / "mbv2_space.yaml"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write((packaged_folder() / "mbv2_space.yaml").read_text("utf-8"))
    except FileExistsError as error:
        raise ConfigError(
            f"{error.filename or path}: exists already; nothing was written"
        ) from error
    except OSError as error:
        raise EnvironmentProblemError(f"{path}: cannot be written: {error.strerror}") from error
    return path
