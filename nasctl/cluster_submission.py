"""Layer 5: what a submitted run consists of: a few files, a command for the head, and its names.

The configuration is checked here first, as `nasctl search` does. Only what it needs travels: the
user's YAML file with those beside it that its defaults name, the files that it names itself
(`nasctl.cluster_files`), and the source of plugins.
"""

from __future__ import annotations

import ast
import secrets
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from nasctl.cluster_files import check_size, named_files
from nasctl.errors import ConfigError

if TYPE_CHECKING:
    from nasctl.config.load import Loaded

HEAD_RUNS = "${NASCTL_RUNS:-$HOME/nasctl-runs}"
"""Read by the shell on the head; see `nasctl.environment.head_runs`."""
JOB_VARIABLE = "NASCTL_JOB"
COMMAND_VARIABLE = "NASCTL_COMMAND"
OWN_KEYS = {"executor": "ray", "executor.address": "auto"}
"""What a submitted run cannot have otherwise."""


class ForShell(str):
    """An argument that the shell on the head completes: quoted already."""

    __slots__ = ()


HEAD_OUTPUT_DIR = ForShell(f"output_dir=\"'{HEAD_RUNS}'\"")
"""The inner quotes are for Hydra's grammar."""


@dataclass(frozen=True, kw_only=True)
class Submission:
    """One run, ready to be submitted.

    Attributes:
        run: its name.
        output_dir: on the head; empty: the head's own folder for runs.
        files: what travels, by its place in the job's working directory.
        arguments: of `nasctl` on the head.
        notes: what was decided against the user's word, a line each.
    """

    run: str
    output_dir: str
    config: str
    files: Mapping[PurePosixPath, Path]
    arguments: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def kind(self) -> str:
        """search, ablate or verify."""
        return self.arguments[0]

    def entrypoint(self, job_id: str, command: str) -> str:
        """The shell command of the job. `exec`: signals are for nasctl, not for a shell.

        Args:
            command: what continues the run, for the user.

        Raises:
            ConfigError: an argument that is not text.
        """
        marks = [f"{JOB_VARIABLE}={job_id}", f"{COMMAND_VARIABLE}={command}"]
        arguments = (a if isinstance(a, ForShell) else shlex.quote(a) for a in self.arguments)
        text = " ".join(["exec env", shlex.join([*marks, "nasctl"]), *arguments])
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ConfigError("command line: cannot be read as UTF-8 text") from None
        return text

    def write(self, folder: Path) -> None:
        """Copies the files into an empty folder."""
        for name, source in self.files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def new_job_id(kind: str, name: str) -> str:
    """Readable and unique: `nasctl-mbv2_space-3f09ab`."""
    return "-".join(part for part in ("nasctl", kind, name, secrets.token_hex(3)) if part)


def prepare(
    config: str,
    overrides: Sequence[str],
    plugins: Sequence[str],
    *,
    ablate: bool,
    fresh: bool,
    as_json: bool,
    root: Path,
) -> Submission:
    """Checks a configuration and collects what its run needs.

    Args:
        config, overrides, plugins: as for `nasctl search`, or `nasctl ablate`.
        root: where plugins are found: the current directory.

    Raises:
        ConfigError: it is not valid, or names files that cannot travel.
    """
    kept, notes = _own_settings(overrides)
    loaded = _load(config, [*kept, *(f"{k}={v}" for k, v in OWN_KEYS.items())], ablate=ablate)
    output_dir = str(loaded.resolved["output_dir"])
    if not output_dir.startswith("/"):
        if output_dir != "runs":
            notes.append(f"output_dir={output_dir}: not an absolute path of the head; its own "
                         "folder for runs is used")  # fmt: skip
        kept = [text for text in kept if _key(text) != "output_dir"]
        output_dir = ""
    if loaded.resolved.get("evaluator") == "replay":
        raise ConfigError(
            f"evaluator=replay: it trains nothing: run it here: nasctl search {config}"
        )
    if not ablate:
        _check_data(loaded.resolved)
    name, files = _config_files(loaded)
    files = _together(files, _plugins(plugins, root, notes), named_files(loaded.resolved, root))
    check_size(files)
    arguments = ["ablate" if ablate else "search", *_flags(plugins, fresh=fresh, as_json=as_json)]
    arguments += ["--", name, *kept, *(f"{k}={v}" for k, v in OWN_KEYS.items())]
    arguments += [] if output_dir else [HEAD_OUTPUT_DIR]
    return Submission(
        run=str(loaded.resolved["name"]),
        output_dir=output_dir,
        config=name,
        files=files,
        arguments=tuple(arguments),
        notes=tuple(notes),
    )


def prepare_verification(
    run: str,
    output_dir: str,
    overrides: Sequence[str],
    plugins: Sequence[str],
    *,
    fresh: bool,
    as_json: bool,
    root: Path,
) -> Submission:
    """What verifies a run on the head, where its ledger is: there the settings are checked.

    Args:
        run: its name.
        output_dir: the head's folder that it is in; empty: the usual one.
        overrides, plugins: as for `nasctl verify`.
        root: where plugins are found: the current directory.

    Raises:
        ConfigError: a plugin that cannot travel.
    """
    kept, notes = _own_settings(overrides)
    files = _plugins(plugins, root, notes)
    place = f"{output_dir.rstrip('/')}/{run}"
    if not output_dir:
        place = ForShell(f'"{HEAD_RUNS}"/{shlex.quote(run)}')
    arguments = ["verify", *_flags(plugins, fresh=fresh, as_json=as_json), "--", place]
    arguments += [*kept, *(f"{k}={v}" for k, v in OWN_KEYS.items())]
    return Submission(
        run=run,
        output_dir=output_dir,
        config="",
        files=files,
        arguments=tuple(arguments),
        notes=tuple(notes),
    )


def _flags(plugins: Sequence[str], *, fresh: bool, as_json: bool) -> list[str]:
    options = ["--progress", "plain", *["--fresh"] * fresh, *["--json"] * as_json]
    return options + [f"--plugin={plugin}" for plugin in plugins]


def _plugins(plugins: Sequence[str], root: Path, notes: list[str]) -> dict[PurePosixPath, Path]:
    """Their sources; a note for each that is not here."""
    files: dict[PurePosixPath, Path] = {}
    for plugin in dict.fromkeys(plugins):
        sources = plugin_files(plugin, root)
        if not sources:
            notes.append(f"--plugin {plugin}: not below {root}; the cluster has to have it")
        files |= sources
    return files


def _together(*parts: Mapping[PurePosixPath, Path]) -> dict[PurePosixPath, Path]:
    """All of them; no two may want the same place."""
    found: dict[PurePosixPath, Path] = {}
    for name, path in ((n, p) for part in parts for n, p in part.items()):
        other = found.setdefault(name, path)
        if other.resolve() != path.resolve():
            raise ConfigError(
                f"{path} and {other} would both be {name} on the cluster: rename one of them"
            )
    return found


def _key(text: str) -> str:
    return text.partition("=")[0].lstrip("+~").strip()


def _own_settings(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """The overrides that stay, and a line for each that cannot be."""
    kept, notes = [], []
    for text in overrides:
        own = OWN_KEYS.get(_key(text))
        if own is None:
            kept.append(text)
        elif text.partition("=")[2].strip() != own:
            notes.append(f"{text}: a submitted run has {_key(text)}={own}")
    return kept, notes


def _load(config: str, overrides: Sequence[str], *, ablate: bool) -> Loaded:
    from nasctl.config import load_ablation, load_config
    from nasctl.config.information_loss import load_information_loss

    if not ablate:
        return load_config(config, overrides)
    if load_information_loss(config, []) is not None:
        raise ConfigError(
            f"{config}: this study trains nothing: run it here: nasctl ablate {config}"
        )
    return load_ablation(config, overrides)


def _check_data(resolved: Mapping[str, Any]) -> None:
    """The options of a packaged data set, which is on the cluster; those of plugins are not known
    here, and each arm of a study may have its own."""
    from nasctl.data import DATASETS, check_dataset_options

    options = dict(resolved["data"])
    name = options.pop("name")
    if resolved["evaluator"] == "train" and name in DATASETS:
        check_dataset_options(name, options)


def _config_files(loaded: Loaded) -> tuple[str, dict[PurePosixPath, Path]]:
    """What CONFIG is on the head, and the user's files behind it."""
    if not loaded.files:
        return loaded.source.stem, {}
    folder = loaded.source.resolve().parent
    found = {}
    for path in (file.resolve() for file in loaded.files):
        if not path.is_relative_to(folder):
            raise ConfigError(
                f"{path}: only files beside {loaded.source} travel to the cluster; copy it there"
            )
        found[PurePosixPath(path.relative_to(folder))] = path
    own = PurePosixPath(loaded.source.resolve().name)
    name = loaded.source.name  # of a symbolic link, maybe: a run is called after that
    found[PurePosixPath(name)] = found.pop(own)
    return name if not name.startswith("-") else f"./{name}", found


# -- plugins --------------------------------------------------------------------------------------


def plugin_files(module: str, root: Path) -> dict[PurePosixPath, Path]:
    """The source of a module below `root`, and of what it imports from there, at any depth.

    Nothing is executed. Empty for a module that is not there: an installed one, for example.

    Raises:
        ConfigError: no module's name, or a file that is not Python.
    """
    if not all(part.isidentifier() for part in module.split(".")) or module.endswith(".py"):
        guess = module.removesuffix(".py").strip("./").replace("/", ".")
        raise ConfigError(f"--plugin {module}: give the name of a module: --plugin {guess}")
    found: dict[PurePosixPath, Path] = {}
    waiting = [module]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        path = _source(name, root)
        if path is None:
            continue
        if "." in name:
            waiting.append(name.rpartition(".")[0])
        found[PurePosixPath(path.relative_to(root).as_posix())] = path
        waiting += _imported(path, name)
    return found


def _source(module: str, root: Path) -> Path | None:
    place = root.joinpath(*module.split("."))
    for path in (place / "__init__.py", place.with_name(f"{place.name}.py")):
        if path.is_file():
            return path
    return None


def _imported(path: Path, module: str) -> Iterator[str]:
    """Names that may be modules: `from a import b` is both `a` and `a.b`."""
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except (SyntaxError, ValueError) as error:
        where = f":{error.lineno}" if isinstance(error, SyntaxError) else ""
        reason = error.msg if isinstance(error, SyntaxError) else error
        raise ConfigError(f"--plugin {module}: {path}{where}: {reason}") from None
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            if base:
                yield base
            yield from (f"{base}.{alias.name}".lstrip(".") for alias in node.names)
