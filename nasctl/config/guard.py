"""Layer 1: reads a configuration file that nobody vouched for, before anything interprets it.

Size, depth, number of nodes, anchors, tags, number lengths, keys and references are checked here,
so that what follows (Hydra, OmegaConf, pydantic) only ever sees a small tree of plain values.
Nothing is resolved and nothing can run: `${key}` is recognised, every other `${...}` is refused.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nasctl.errors import ConfigError
from nasctl.tracking.text import redact

MAX_BYTES = 1 << 20
MAX_DEPTH = 50
MAX_ALIASES = 100
MAX_NODES = 5_000
"""Values in one file, aliases expanded; a search configuration has a few hundred."""
MAX_DIGITS = 40

CODE_KEYS = ("_target_", "_partial_", "_args_", "_recursive_", "_convert_")
"""Keys with which Hydra's `instantiate` names code; nasctl has no use for them."""

REFERENCE = re.compile(r"\$\{([A-Za-z_]\w*(?:\.\w+)*)\}")
"""The one form of interpolation there is: the whole path of another key."""
MARK = "\0{"
"""Stands for `${` in values on their way through OmegaConf, which therefore resolves nothing."""

# YAML's exotic line breaks are among them: it would fold them away when a value is written back.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029]")
_SCIENTIFIC: tuple[str, re.Pattern[str], list[str]] = (
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)
Key = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class GuardedFile:
    """A configuration file as plain values.

    Attributes:
        path: as it is shown to the user.
        text: the file's content.
        data: the mapping in it, strings holding `MARK` where the file has `${`.
        lines: from key path (list positions as text) to line, counted from 1.
        package: of a leading `# @package NAME` line (Hydra), else None.
    """

    path: str
    text: str
    data: dict[str, Any]
    lines: Mapping[Key, int]
    package: str | None

    def where(self, key: Key) -> str:
        """`file:line` of the key or of the closest mapping around it."""
        while key and key not in self.lines:
            key = key[:-1]
        return f"{self.path}:{self.lines[key]}" if key in self.lines else self.path


def dotted(key: Key) -> str:
    """`('recipe', 'epochs')` as people write it."""
    return ".".join(key)


def shown(value: object, *, limit: int = 60) -> str:
    """A value in an error message: repr without passwords, cut to `limit` characters."""
    try:
        text = redact(repr(value))
    except ValueError:  # int to text conversion is limited by the interpreter
        return "a number with thousands of digits"
    return text if len(text) <= limit else text[: limit - 3] + "..."


def text_problem(text: str) -> str | None:
    """What is wrong with a text value: control characters, references to anything but a key."""
    if _CONTROL.search(text):
        return f"{shown(text)}: control characters are not allowed"
    plain = REFERENCE.sub("", text)
    if "${" in plain or "\\${" in text:
        return f"{shown(text)}: only ${{key}} with the path of another key may be referred to"
    return None


def key_problem(key: str) -> str | None:
    """What is wrong with a key, whatever the schema says."""
    if key.startswith(CODE_KEYS):
        return "a configuration names things, it cannot run code; use --plugin for your own parts"
    if "${" in key or _CONTROL.search(key):
        return "a key must be plain text"
    return None


def load(
    path: Path, *, shown_as: str | None = None, start: str = "defaults: [search, _self_]"
) -> GuardedFile:
    """Reads and checks one file.

    Args:
        path: of the file.
        shown_as: its path in messages.
        start: the line that an empty file lacks.

    Raises:
        ConfigError: with every problem of the stage that failed, each as `file:line: ...`.
    """
    name = shown_as or str(path)
    text = _read(path, name)
    _check_events(text, name)
    node = _compose(text, name, start)
    lines: dict[Key, int] = {}
    problems = [f"{name}:{line}: {message}" for line, message in _Walk(lines).problems(node)]
    if problems:
        raise ConfigError(problems)
    data = _construct(node, name)
    package = _package(text, name)
    return GuardedFile(path=name, text=text, data=data, lines=lines, package=package)


def _read(path: Path, name: str) -> str:
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            if not path.is_file():
                raise ConfigError(f"{name}: not a regular file")
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read: {error.strerror or error}") from error
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{name}: larger than {MAX_BYTES // 1024} KiB; not a configuration")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{name}:{line}: not UTF-8 text") from error
    if found := _CONTROL.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise ConfigError(f"{name}:{line}: control character {found.group()!r}")
    return text


def _open_without_waiting(path: str, flags: int) -> int:
    # A named pipe would otherwise block until somebody writes to it.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


@functools.cache
def _loader() -> Any:
    """PyYAML's safe loader (in C where there is one) with OmegaConf's reading of scalars."""
    import yaml

    base = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(base):  # type: ignore[misc,valid-type] # which base is known at run time
        pass

    # YAML 1.1 as PyYAML has it reads 1e-3 as text and 2024-01-01 as a date object.
    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in known if not tag.endswith(":timestamp")]
        for first, known in base.yaml_implicit_resolvers.items()
    }
    Loader.add_implicit_resolver(*_SCIENTIFIC)
    return Loader


def dump(values: Mapping[str, Any]) -> str:
    """The values as YAML that `load` reads back as they are; keys in the order given."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: object) -> bool:
            del data
            return True

    Dumper.yaml_implicit_resolvers = {k: list(v) for k, v in Dumper.yaml_implicit_resolvers.items()}
    Dumper.add_implicit_resolver(*_SCIENTIFIC)
    text: str = yaml.dump(
        dict(values), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100
    )
    return text


def _yaml_error(error: Any, name: str) -> ConfigError:
    mark = getattr(error, "problem_mark", None)
    where = f"{name}:{mark.line + 1}" if mark is not None else name
    message = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    message = " ".join(str(message).split())
    if "mapping values are not allowed" in message:
        message += " (quote a text that contains ': ', and check the indentation)"
    elif "cannot start any token" in message and "\\t" in message:
        message += " (indent with spaces)"
    return ConfigError(f"{where}: not valid YAML: {message}")


def _check_events(text: str, name: str) -> None:
    """Streams over the syntax before any tree is built: bombs never get that far."""
    import yaml

    depth = aliases = nodes = documents = 0
    try:
        for event in yaml.parse(text, Loader=_loader()):
            documents += isinstance(event, yaml.DocumentStartEvent)
            nodes += isinstance(event, yaml.NodeEvent)
            aliases += isinstance(event, yaml.AliasEvent)
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            tag = getattr(event, "tag", None)
            refusals = {
                "a second document (`---`); a file holds one": documents > 1,
                f"more than {MAX_NODES} values": nodes > MAX_NODES,
                f"more than {MAX_ALIASES} aliases": aliases > MAX_ALIASES,
                f"nested deeper than {MAX_DEPTH} levels": depth > MAX_DEPTH,
                f"tags are not allowed: {shown(tag)}": tag is not None,
            }
            for message, refused in refusals.items():
                if refused:
                    line = getattr(event.start_mark, "line", 0) + 1
                    raise ConfigError(f"{name}:{line}: {message}")
    except (yaml.YAMLError, ValueError) as error:
        raise _yaml_error(error, name) from error


def _compose(text: str, name: str, start: str) -> Any:
    import yaml

    try:
        node = yaml.compose(text, Loader=_loader())
    except (yaml.YAMLError, ValueError) as error:
        raise _yaml_error(error, name) from error
    if node is None or (isinstance(node, yaml.ScalarNode) and node.tag.endswith(":null")):
        raise ConfigError(f"{name}: empty; start with `{start}`")
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{name}:1: expected `key: value` lines, found {_kind(node)}")
    return node


def _kind(node: Any) -> str:
    return {"sequence": "a list", "scalar": "a single value"}.get(node.id, "a mapping")


class _Walk:
    """Visits the composed tree with aliases expanded; fills `lines`."""

    def __init__(self, lines: dict[Key, int]) -> None:
        self._lines = lines
        self._count = 0
        self._open: list[int] = []

    def problems(self, node: Any, key: Key = ()) -> Iterator[tuple[int, str]]:
        line = node.start_mark.line + 1
        self._lines.setdefault(key, line)
        self._count += 1
        if self._count > MAX_NODES:
            if self._count == MAX_NODES + 1:
                yield line, f"more than {MAX_NODES} values once aliases are expanded"
            return
        if id(node) in self._open:
            yield line, f"{dotted(key)}: an alias to something that contains it"
        elif len(self._open) > MAX_DEPTH:
            yield line, f"{dotted(key)}: nested deeper than {MAX_DEPTH} levels"
        elif node.id == "scalar":
            yield from self._scalar(node, key)
        else:
            self._open.append(id(node))
            visit = self._mapping if node.id == "mapping" else self._sequence
            yield from visit(node, key)
            self._open.pop()

    def _scalar(self, node: Any, key: Key) -> Iterator[tuple[int, str]]:
        line = node.start_mark.line + 1
        if node.tag.endswith(":int") and len(node.value) > MAX_DIGITS:
            yield line, f"{dotted(key)}: a number with {len(node.value)} digits"
        elif node.tag.endswith(":str") and (problem := text_problem(node.value)):
            yield line, f"{dotted(key)}: {problem}"

    def _sequence(self, node: Any, key: Key) -> Iterator[tuple[int, str]]:
        for position, item in enumerate(node.value):
            yield from self.problems(item, (*key, str(position)))

    def _mapping(self, node: Any, key: Key) -> Iterator[tuple[int, str]]:
        seen: dict[str, int] = {}
        for key_node, value in node.value:
            line = key_node.start_mark.line + 1
            if key_node.id != "scalar":
                yield (
                    line,
                    f"{dotted(key) or 'top level'}: a key must be text, not {_kind(key_node)}",
                )
                continue
            name = key_node.value
            inner = (*key, name)
            if key_node.tag.endswith(":merge"):
                yield from self.problems(value, inner)
                continue
            if not key_node.tag.endswith(":str"):
                kind = key_node.tag.rpartition(":")[2]
                yield line, f"{dotted(inner)}: YAML reads this key as {kind}; quote it"
            elif problem := key_problem(name):
                yield line, f"{dotted(inner)}: {problem}"
            if name in seen:
                yield line, f"{dotted(inner)}: already given in line {seen[name]}"
            seen.setdefault(name, line)
            self._lines[inner] = line
            yield from self.problems(value, inner)


def _construct(node: Any, name: str) -> dict[str, Any]:
    import yaml

    try:
        data = _loader()("").construct_document(node)
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise _yaml_error(error, name) from error
    marked = _marked(data)
    assert isinstance(marked, dict)
    return marked


def _marked(value: object) -> object:
    if isinstance(value, str):
        return value.replace("${", MARK)
    if isinstance(value, dict):
        return {k: _marked(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_marked(v) for v in value]
    return value


def _package(text: str, name: str) -> str | None:
    """Hydra's header: `# @package NAME` before anything else in the file."""
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.strip().lstrip("#").split()
        if not words:
            continue
        if not line.lstrip().startswith("#") or not words[0].startswith("@"):
            return None
        if words[0] != "@package" or len(words) != 2:
            raise ConfigError(f"{name}:{number}: expected `# @package NAME`, got {shown(line)}")
        return words[1]
    return None
