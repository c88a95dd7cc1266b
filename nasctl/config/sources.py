"""Layer 5: which files Hydra gets to see, and how they are read.

Every file, the user's and the packaged ones, reaches Hydra through a config source of ours that
reads with `nasctl.config.guard`; what Hydra would act on by itself (its own settings, search paths,
package headers, defaults) is checked first.
"""

from __future__ import annotations

import contextlib
import functools
import os
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nasctl.config import guard
from nasctl.config.guard import GuardedFile, Key, shown
from nasctl.config.packaged import ready_files
from nasctl.config.type_errors import Schema, fields_at
from nasctl.errors import ConfigError

PRIMARY = "__primary__"
_SCHEME = "nasctl"


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One file that took part.

    Attributes:
        prefix: the section that its keys belong to; () for a primary file.
        is_packaged: ours, not the user's.
    """

    file: GuardedFile
    prefix: Key
    is_packaged: bool


@dataclass(kw_only=True)
class Session:
    """One call of `compose`: what for, where files are looked for, and which were read."""

    primary: Path
    packaged: Path
    schema: Schema[Any]
    files: dict[Path, GuardedFile] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)

    def shown(self, path: Path) -> str:
        """The path as the user would type it."""
        with contextlib.suppress(ValueError):
            relative = os.path.relpath(path)
            return relative if not relative.startswith("..") else str(path)
        return str(path)

    def read(self, path: Path, config_path: str) -> GuardedFile:
        """The guarded file; an optional `hydra.searchpath` is the only thing for Hydra in it."""
        if path not in self.files:
            file = guard.load(path, shown_as=self.shown(path), start=self.schema.start)
            _check_for_hydra(file, self.schema, is_primary=config_path == PRIMARY)
            prefix = () if config_path == PRIMARY else Path(config_path).parent.parts
            if file.package is not None:
                prefix = () if file.package == "_global_" else tuple(file.package.split("."))
            self.files[path] = file
            is_packaged = path.is_relative_to(self.packaged)
            self.layers.append(Layer(file=file, prefix=prefix, is_packaged=is_packaged))
        return self.files[path]


_SESSION: ContextVar[Session | None] = ContextVar("_SESSION", default=None)


def _session() -> Session:
    session = _SESSION.get()
    assert session is not None, "a nasctl config source outside of compose()"
    return session


def _check_for_hydra(file: GuardedFile, schema: Schema[Any], *, is_primary: bool) -> None:
    """The parts of a file that Hydra itself would act on.

    Raises:
        ConfigError: with every problem.
    """
    problems = []
    if is_primary and file.package is not None:
        problems.append(f"{file.path}:1: remove the `# @package` line: it would move every key")
    hydra = file.data.get("hydra")
    for key in hydra if isinstance(hydra, dict) else ():
        if key != "searchpath" or not is_primary:
            problems.append(
                f"{file.where(('hydra', str(key)))}: hydra.{key}: nasctl only takes "
                "hydra.searchpath, in the file given to it"
            )
    if "hydra" in file.data and not isinstance(hydra, dict):
        problems.append(f"{file.where(('hydra',))}: hydra: only hydra.searchpath may be set")
    elif is_primary and not problems:
        problems += _searchpath_problems(file)
    problems += _defaults_problems(file, schema, is_primary=is_primary)
    if problems:
        raise ConfigError(problems)


def _searchpath_problems(file: GuardedFile) -> Iterator[str]:
    paths = (file.data.get("hydra") or {}).get("searchpath", [])
    where = f"{file.where(('hydra', 'searchpath'))}: hydra.searchpath"
    if not isinstance(paths, list) or not all(isinstance(p, str) for p in paths):
        yield f"{where}: expected a list of folders"
        return
    for path in paths:
        if "://" in path and not path.startswith("file://"):
            yield f"{where}: {shown(path)}: only folders; packages could run code"
        elif not _beside(file, path).is_dir():
            yield f"{where}: {shown(path)}: no such folder"


def _beside(file: GuardedFile, path: str) -> Path:
    return Path(file.path).absolute().parent / Path(path.removeprefix("file://")).expanduser()


def _entry_problem(entry: object) -> str | None:
    """What is wrong with one entry of a defaults list: a name, or one `group: option`."""
    if isinstance(entry, dict) and len(entry) != 1:
        return f"one `group: option` per entry, got {shown(entry)}"
    group, value = next(iter(entry.items())) if isinstance(entry, dict) else ("", entry)
    if not isinstance(value, str) and not (group and value is None):
        return f"expected a name or `group: option`, got {shown(entry)}"
    if any(bad in f"{group} {value}" for bad in ("..", guard.MARK, "@", "://")):
        return f"{shown(value)}: expected the name of a packaged file or of one beside this"
    return None


def _defaults_problems(
    file: GuardedFile, schema: Schema[Any], *, is_primary: bool
) -> Iterator[str]:
    if "defaults" not in file.data:
        return
    defaults, base = file.data["defaults"], schema.name
    if not isinstance(defaults, list):
        yield f"{file.where(('defaults',))}: defaults: expected a list such as [{base}, _self_]"
        return
    if len(defaults) > 100:
        yield f"{file.where(('defaults',))}: defaults: more than 100 entries"
        return
    names = []
    for position, entry in enumerate(defaults):
        where = f"{file.where(('defaults', str(position)))}: defaults"
        if message := _entry_problem(entry):
            yield f"{where}: {message}"
        elif isinstance(entry, str):
            names.append(entry)
    has_content = any(key not in ("defaults", "hydra") for key in file.data)
    if "_self_" not in names and has_content:
        yield (
            f"{file.where(('defaults',))}: defaults: `_self_` is missing; put it last, so that "
            f"the values of this file win: [{base}, _self_]"
        )
    elif is_primary and base in names and "_self_" in names[: names.index(base)]:
        yield (
            f"{file.where(('defaults',))}: defaults: `_self_` comes before `{base}`, so the "
            "packaged values would win over this file; put it last"
        )


def _find(provider: str, root: Path, config_path: str) -> Path | None:
    """The file below `root` that Hydra asks for, if it is one."""
    session = _session()
    if config_path == PRIMARY:
        return session.primary if provider == "main" else None
    name = config_path.removesuffix(".yaml")
    path = Path(os.path.normpath(root / f"{name}.yaml"))
    if not path.is_relative_to(root) or not path.is_file():
        # A packaged study is found by its bare name, as a packaged search is.
        return ready_files(session.schema.name).get(name) if root == session.packaged else None
    # `search` is always the packaged base, also for a file that is itself called search.yaml.
    return None if path.parent == root and path.name in _BASES and not _is_base(path) else path


_BASES = ("search.yaml", "ablate.yaml")


def _is_base(path: Path) -> bool:
    return path.parent == _session().packaged and path.name in _BASES


def _is_group(root: Path, config_path: str) -> bool:
    session, top = _session(), config_path.split("/", maxsplit=1)[0]
    if root == session.packaged and top not in session.schema.groups:
        return False  # of another command, or files to run
    # A folder that happens to be called `trials` does not make trials=3 choose a file.
    own = fields_at(session.schema.model) or {}
    if top == "hydra" or (top not in session.schema.groups and top in own):
        return False
    return any((root / config_path).glob("*.yaml"))


@functools.cache
def _register() -> None:
    """Tells Hydra about the guarded source and the packaged folder, once per process."""
    from hydra.core.config_search_path import ConfigSearchPath
    from hydra.core.object_type import ObjectType
    from hydra.core.plugins import Plugins
    from hydra.plugins.config_source import ConfigResult, ConfigSource
    from hydra.plugins.search_path_plugin import SearchPathPlugin
    from omegaconf import OmegaConf

    class GuardedSource(ConfigSource):
        @staticmethod
        def scheme() -> str:
            return _SCHEME

        def load_config(self, config_path: str) -> ConfigResult:
            path = _find(self.provider, Path(self.path), config_path)
            assert path is not None, config_path
            file = _session().read(path, config_path)
            return ConfigResult(
                config=OmegaConf.create(_for_hydra(file, is_base=_is_base(path))),
                path=f"{_SCHEME}://{self.path}",
                provider=self.provider,
                header={"package": file.package},
            )

        def available(self) -> bool:
            return True

        def is_group(self, config_path: str) -> bool:
            return _is_group(Path(self.path), config_path)

        def is_config(self, config_path: str) -> bool:
            return _find(self.provider, Path(self.path), config_path) is not None

        def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
            if results_filter is ObjectType.GROUP:
                return []
            return sorted(p.stem for p in (Path(self.path) / config_path).glob("*.yaml"))

    class PackagedConf(SearchPathPlugin):
        def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
            session = _SESSION.get()
            if session is None:  # somebody else's Hydra application in this process
                return
            for element in search_path.get_path():
                if element.provider == "main":
                    element.path = f"{_SCHEME}://{session.primary.parent}"
            search_path.append(provider="nasctl", path=f"{_SCHEME}://{session.packaged}")

    Plugins.instance().register(GuardedSource)
    Plugins.instance().register(PackagedConf)


def _for_hydra(file: GuardedFile, *, is_base: bool) -> dict[str, Any]:
    """The file's data, with its search path made absolute and guarded.

    Mappings are merged, but a file that names objectives names all of them: those of the packaged
    default that it leaves out become null, which means that they are none.
    """
    data = dict(file.data)
    if paths := (data.get("hydra") or {}).get("searchpath"):
        absolute = [f"{_SCHEME}://{_beside(file, p).resolve()}" for p in paths]
        data["hydra"] = {"searchpath": absolute}
    if not is_base and isinstance(data.get("objectives"), dict):
        dropped = dict.fromkeys(("accuracy", "latency_ms", "params"))
        data["objectives"] = {**dropped, **data["objectives"]}
    controls = data.get("controls")
    if not is_base and isinstance(controls, dict) and isinstance(controls.get("positive"), dict):
        # Of two forms that exclude each other, the one that a file names.
        positive = {"width": None, "set": None, **controls["positive"]}
        data["controls"] = {**controls, "positive": positive}
    return data


@contextlib.contextmanager
def hydra_over(session: Session) -> Iterator[None]:
    """Hydra set up to read through `session`; its global state is put back afterwards."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    _register()
    outer = GlobalHydra.instance().hydra
    token = _SESSION.set(session)
    GlobalHydra.instance().clear()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as advice to set Hydra's version base
            # The constructor does the work, entering does none (hydra #3364).
            initialize_config_dir(str(session.primary.parent), "nasctl", version_base="1.3")
            yield
    finally:
        GlobalHydra.instance().hydra = outer
        _SESSION.reset(token)
