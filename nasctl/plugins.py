"""Layer 3: the registries, packaged and brought by users (`--plugin my_pkg.my_module`)."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import search_spaces
from nasctl.arch import Block
from nasctl.data import DATASETS
from nasctl.errors import ConfigError, nearest, unknown
from nasctl.train import TRAINERS
from search_spaces.blocks import BLOCKS

_KINDS = ("BLOCKS", "FAMILIES", "DATASETS", "TRAINERS", "EVALUATORS")
PACKAGED_EVALUATORS = ("train", "table", "replay")
"""What candidates are judged by without a plugin: training on the data, the results of
`space.family=table`, those of an earlier run. Flows, no registry entries."""


@dataclass(frozen=True, kw_only=True)
class Registry:
    """Everything that a configuration may name.

    Attributes:
        sources: plugin module name to the sha256 of its source and of what it imports from its own
            folder, for the ledger.
    """

    blocks: Mapping[str, type[Block]]
    families: Mapping[str, Callable[..., Any]]
    datasets: Mapping[str, Callable[..., Any]]
    trainers: Mapping[str, Callable[..., Any]]
    evaluators: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def user_blocks(self) -> Mapping[str, type[Block]]:
        """Those that plugins brought."""
        return {op: block for op, block in self.blocks.items() if op not in BLOCKS}

    def lookup(self, kind: str, key: str, name: str) -> Callable[..., Any]:
        """The entry `name` of `kind` (`families`, ...).

        Raises:
            ConfigError: there is none; names the config `key` and the nearest valid name.
        """
        table: Mapping[str, Callable[..., Any]] = getattr(self, kind)
        if name not in table:
            raise ConfigError(f"{key}: {unknown(kind[:-1].replace('ie', 'y'), name, table)}")
        return table[name]


def load_plugins(modules: Iterable[str]) -> Registry:
    """Imports the modules (the current directory comes first) and merges their dicts.

    Raises:
        ConfigError: a module that cannot be imported, defines nothing, or redefines a name.
    """
    tables: dict[str, dict[str, Any]] = {
        "BLOCKS": dict(BLOCKS),
        "FAMILIES": dict(search_spaces.FAMILIES),
        "DATASETS": dict(DATASETS),
        "TRAINERS": dict(TRAINERS),
        "EVALUATORS": {},
    }
    sources: dict[str, str] = {}
    names = list(dict.fromkeys(modules))
    if names and str(Path.cwd()) not in sys.path[:1]:
        sys.path.insert(0, str(Path.cwd()))
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")) or name.endswith(".py"):
            guess = name.removesuffix(".py").strip("./").replace("/", ".")
            raise ConfigError(f"--plugin {name}: give the name of a module: --plugin {guess}")
        try:
            module = importlib.import_module(name)
        except Exception as error:
            raise ConfigError(
                f"--plugin {name}: cannot be imported: {type(error).__name__}: {error}"
            ) from error
        wrong = [k for k in _KINDS if not isinstance(getattr(module, k, {}), dict)]
        if wrong:
            given = type(getattr(module, wrong[0])).__name__
            raise ConfigError(f"--plugin {name}: {wrong[0]} is a {given}, expected a dict")
        found = [kind for kind in _KINDS if hasattr(module, kind)]
        if not found:
            raise ConfigError(
                f"--plugin {name}: defines none of the dicts {', '.join(_KINDS)}{_slip(module)}"
            )
        problems = list(_block_problems(getattr(module, "BLOCKS", {})))
        if problems:
            raise ConfigError([f"--plugin {name}: {problem}" for problem in problems])
        for kind in found:
            for key, value in getattr(module, kind).items():
                if key in tables[kind] or (kind == "EVALUATORS" and key in PACKAGED_EVALUATORS):
                    raise ConfigError(f"--plugin {name}: {kind}[{key!r}] exists already")
                tables[kind][key] = value
        sources[name] = _source_hash(module)
    return Registry(
        blocks=tables["BLOCKS"],
        families=tables["FAMILIES"],
        datasets=tables["DATASETS"],
        trainers=tables["TRAINERS"],
        evaluators=tables["EVALUATORS"],
        sources=sources,
    )


def _source_hash(module: ModuleType) -> str:
    """The sha256 of the module's file, or of all files if it imports others from its folder or
    below (or from the folder of its package): their code decides results, too."""
    file = inspect.getsourcefile(module)
    if file is None:
        return ""
    root = Path(file).resolve().parents[module.__name__.count(".")]
    files = {Path(file).resolve()}
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        for found in _imported(waiting.pop()):
            source = getattr(found, "__file__", None)
            if found.__name__ in seen or source is None:
                continue
            seen.add(found.__name__)
            path = Path(source).resolve()
            if path.suffix == ".py" and _is_own(path, root):
                files.add(path)
                waiting.append(found)
    if len(files) == 1:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()
    every = hashlib.sha256()
    for path in sorted(files):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        every.update(f"{path.relative_to(root).as_posix()} {digest}\n".encode())
    return every.hexdigest()


def _imported(module: ModuleType) -> list[ModuleType]:
    """The modules that a module has names of, or names from."""
    found = []
    for value in vars(module).values():
        if isinstance(value, ModuleType):
            found.append(value)
        elif isinstance(origin := getattr(value, "__module__", None), str):
            other = sys.modules.get(origin)
            if isinstance(other, ModuleType) and other is not module:
                found.append(other)
    return found


def _is_own(path: Path, root: Path) -> bool:
    """Whether it is the user's: in the plugin's folder, and no installed package nor nasctl."""
    packaged = (Path(search_spaces.__file__).parent, Path(__file__).parent)
    if not path.is_relative_to(root) or any(path.is_relative_to(p.resolve()) for p in packaged):
        return False
    return not {"site-packages", "dist-packages"} & set(path.parts)


def _block_problems(blocks: Mapping[object, object]) -> Iterator[str]:
    """An op stands for its block in JSON and ledger, so it has to be the name it is known by."""
    for key, block in blocks.items():
        where = f"BLOCKS[{key!r}]"
        if not (isinstance(block, type) and issubclass(block, Block)):
            yield f"{where}: expected a subclass of nasctl.api.Block, got {block!r}"
        elif not dataclasses.is_dataclass(block) or "__dataclass_fields__" not in vars(block):
            yield f"{where}: {block.__name__} needs @dataclass(frozen=True, kw_only=True)"
        elif getattr(block, "op", None) != key:
            op = getattr(block, "op", None)
            yield f"{where}: {block.__name__}.op is {op!r}, expected {key!r}"


def _slip(module: object) -> str:
    for name in vars(module):
        if not name.startswith("_") and (guess := nearest(name.upper(), _KINDS)):
            return f"; it has {name!r}, did you mean {guess!r}?"
    return ""


def call_factory(
    factory: Callable[..., Any],
    options: Mapping[str, Any],
    *,
    key: str,
    extras: Mapping[str, Any] | None = None,
) -> Any:
    """Calls a registry entry with options from YAML, after checking them against its signature.

    Args:
        factory: the function.
        options: its keyword arguments, from the configuration.
        key: where the options stand in the configuration, for messages.
        extras: arguments that are passed only if the function takes them.

    Raises:
        ConfigError: unknown or missing options; all of them at once.
    """
    parameters = inspect.signature(factory).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    given = {k: v for k, v in (extras or {}).items() if k in parameters}
    valid = [
        n
        for n, p in parameters.items()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and n not in given
    ]
    strange = [] if open_ended else [k for k in options if k not in valid]
    problems = [f"{key}: {unknown('option', k, valid)}" for k in strange]
    problems += [
        f"{key}.{n}: missing"
        for n in valid
        if parameters[n].default is inspect.Parameter.empty and n not in options
    ]
    if problems:
        raise ConfigError(problems)
    return factory(**given, **options)
