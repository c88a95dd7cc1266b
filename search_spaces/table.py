"""A table of known results as a family: `space.family=table`, a CSV file, one row per training.

Columns are decisions, costs, which are known before training, and results, which training gives.
Rows with equal decisions are trainings of one network with different seeds.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nasctl.arch import Architecture, Cost, Opaque, Scalar
from nasctl.errors import ConfigError, SpecError, unknown
from nasctl.space import Choices, Decision, Family, SearchSpace

Columns = Sequence[str] | Mapping[str, str]
"""Metric names, or from a metric to the column that it is in."""
Key = tuple[Scalar, ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """What a file holds.

    Attributes:
        decisions: column to its values, in the order of their first appearance; numbers sorted.
        costs: by the values of the decisions.
        results: likewise, one for each seed, in the order of the rows.
    """

    decisions: Mapping[str, tuple[Scalar, ...]]
    costs: Mapping[Key, Mapping[str, float]]
    results: Mapping[Key, Sequence[Mapping[str, float]]]

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of all that is used of the file, as hexadecimal SHA-256."""
        content = repr((dict(self.decisions), dict(self.costs), dict(self.results)))
        return hashlib.sha256(content.encode()).hexdigest()

    def key(self, architecture: Architecture) -> Key:
        """Of one of its networks."""
        block = architecture.blocks[0]
        assert isinstance(block, Opaque), "not a network of a table"
        values = dict(block.values)
        return tuple(values[name] for name in self.decisions)

    def trained(self, architecture: Architecture, seed: int) -> Mapping[str, float]:
        """What a training gave; the seeds of a network follow each other in a circle."""
        rows = self.results[self.key(architecture)]
        return rows[seed % len(rows)]


def table(  # the options of `space.options`
    *,
    file: str,
    decisions: Sequence[str],
    costs: Columns = (),
    results: Columns = ("accuracy",),
    percent: Sequence[str] = (),
    missing: str = "reject",
) -> Family:
    """The networks of a table.

    Args:
        file: a CSV file with a heading.
        decisions: columns that are chosen from.
        costs: metrics known before training; `[params]` or `{latency_ms: column}`.
        results: metrics that training gives, likewise.
        percent: metrics that the file has in percent: divided by 100.
        missing: `reject` configurations that are not in the file, or take the `nearest` that is
            (`search_spaces.nearest`).

    Raises:
        ConfigError: names file, line and column.
    """
    if missing not in ("reject", "nearest"):
        raise ConfigError(f"missing: {unknown('value', missing, ('reject', 'nearest'))}")
    known = read_table(
        file=file, decisions=decisions, costs=costs, results=results, percent=percent
    )
    space = SearchSpace(tuple(Decision(n, values) for n, values in known.decisions.items()))
    rows = [dict(zip(known.decisions, key, strict=True)) for key in known.costs]
    nearest = None
    if missing == "nearest":
        from search_spaces.nearest import Nearest  # NumPy, which reading a configuration can spare

        nearest = Nearest(space, rows)

    def decode(choices: Choices) -> Architecture:
        key = tuple(choices[name] for name in known.decisions)
        if key not in known.costs:
            if nearest is None:
                raise SpecError("not in the table (space.options.missing: nearest takes another)")
            choices = rows[nearest(choices)]
        block = Opaque("table", **choices)
        return Architecture(input_shape=(1, 1, 1), blocks=(block,), num_classes=1)

    return Family(
        space=space,
        decode=decode,
        cost=lambda architecture: Cost(**known.costs[known.key(architecture)]),
        count_networks=lambda: len(rows),
    )


def read_table(
    *,
    file: str,
    decisions: Sequence[str],
    costs: Columns = (),
    results: Columns = ("accuracy",),
    percent: Sequence[str] = (),
    missing: str = "reject",
) -> Table:
    """Reads the file; the arguments are those of `table`."""
    del missing
    if not isinstance(file, str):
        raise ConfigError(f"file: expected the path of a CSV file, got {file!r}")
    path = Path(file).expanduser()
    try:
        modified = path.stat().st_mtime_ns
    except OSError as error:
        raise ConfigError(f"file: {file}: {error.strerror}") from None
    wanted = _Wanted(
        decisions=_columns("decisions", decisions),
        costs=_columns("costs", costs),
        results=_columns("results", results),
        percent=tuple(column for column, _ in _columns("percent", percent)),
    )
    return _read(path, modified, wanted)


def result_metrics(options: Mapping[str, Any]) -> tuple[str, ...]:
    """What the trainings of a table give, by the options of its family."""
    return tuple(metric for metric, _ in _columns("results", options.get("results", ("accuracy",))))


def _columns(option: str, given: Columns) -> tuple[tuple[str, str], ...]:
    """(metric, column)."""
    is_names = isinstance(given, Sequence | Mapping) and not isinstance(given, str)
    if not is_names or not all(isinstance(c, str) for c in given):
        what = "metrics" if option == "percent" else "columns"
        raise ConfigError(f"{option}: expected a list of {what}, got {given!r}")
    pairs = dict(given) if isinstance(given, Mapping) else {c: c for c in given}
    if not pairs and option not in ("costs", "percent"):
        raise ConfigError(f"{option}: at least one column is needed")
    return tuple((metric, str(column)) for metric, column in pairs.items())


Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """What to look for: (metric, column), and the metrics that are in percent."""

    decisions: Pairs
    costs: Pairs
    results: Pairs
    percent: tuple[str, ...]


@functools.lru_cache(maxsize=4)
def _read(path: Path, modified: int, wanted: _Wanted) -> Table:
    """Cached: the family and the evaluator read the same file."""
    del modified
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, strict=True)
            rows = [(reader.line_num, row) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"file: {path}: cannot be read as CSV: {error}") from None
    if len(rows) < 2:
        raise ConfigError(f"file: {path}: a heading and at least one row are needed")
    (_, heading), *rows = rows
    problems = list(_heading_problems(path, heading, wanted))
    problems += [
        f"file: {path}:{line}: {len(row)} cells, the heading has {len(heading)}"
        for line, row in rows
        if len(row) != len(heading)
    ][:1]
    if problems:
        raise ConfigError(problems)
    at = {name: i for i, name in enumerate(heading)}
    values = {
        column: _choices(path, column, [(line, row[at[column]]) for line, row in rows])
        for _, column in wanted.decisions
    }
    priced: dict[Key, Mapping[str, float]] = {}
    trained: dict[Key, list[Mapping[str, float]]] = {}
    seen: dict[Key, int] = {}
    for line, row in rows:
        key = tuple(values[c][row[at[c]]] for _, c in wanted.decisions)
        cells = {
            metric: _number(
                f"{path}:{line}: {column}", row[at[column]], metric, metric in wanted.percent
            )
            for metric, column in (*wanted.costs, *wanted.results)
        }
        cost = {metric: cells[metric] for metric, _ in wanted.costs}
        if priced.setdefault(key, cost) != cost:
            differ = ", ".join(m for m in cost if cost[m] != priced[key][m])
            raise ConfigError(
                f"file: {path}:{line}: {differ} not as in line {seen[key]}, which has the same "
                "decisions; is a decision missing?"
            )
        seen.setdefault(key, line)
        trained.setdefault(key, []).append({metric: cells[metric] for metric, _ in wanted.results})
    distinct = {c: dict.fromkeys(texts.values()) for c, texts in values.items()}
    return Table(
        decisions={
            c: tuple(vs if any(isinstance(v, str) for v in vs) else sorted(vs))
            for c, vs in distinct.items()
        },
        costs=priced,
        results=trained,
    )


def _heading_problems(path: Path, heading: Sequence[str], wanted: _Wanted) -> Iterator[str]:
    doubled = {name for name in heading if heading.count(name) > 1}
    for option in ("decisions", "costs", "results"):
        for _, column in getattr(wanted, option):
            if column not in heading:
                yield f"{option}: {path}:1: {unknown('column', column, heading)}"
            elif column in doubled:
                yield f"{option}: {path}:1: there are several columns {column!r}"
    used = [column for column, _ in wanted.decisions]
    for name in ("op", "self"):
        if name in used:
            yield f"decisions: {name!r} means something else; rename the column"
    metrics = [metric for metric, _ in (*wanted.costs, *wanted.results)]
    for name in dict.fromkeys(metrics):
        if metrics.count(name) > 1:
            yield f"results: {name} is a cost already"
    for name in wanted.percent:
        if name not in metrics:
            yield f"percent: {unknown('metric', name, metrics)}"


def _choices(path: Path, column: str, cells: Sequence[tuple[int, str]]) -> dict[str, Scalar]:
    """From the text of a cell to the choice: numbers, if all of the column are."""
    for line, text in cells:
        if not text.strip():
            raise ConfigError(f"file: {path}:{line}: {column}: empty; give the choice a name")
    texts = dict.fromkeys(text for _, text in cells)
    for kind in (int, float):
        try:
            numbers = {text: kind(text) for text in texts}
        except ValueError:
            continue
        if all(map(math.isfinite, numbers.values())):
            return dict(numbers)
    return {text: text for text in texts}


def _number(place: str, text: str, metric: str, in_percent: bool) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(f"file: {place}: expected a finite number, got {text!r}")
    if in_percent:
        value /= 100
    if metric == "accuracy" and not 0 <= value <= 1:
        hint = (
            "" if in_percent else "; if it is in percent, say so: space.options.percent=[accuracy]"
        )
        raise ConfigError(f"file: {place}: an accuracy is a fraction, 0 to 1, got {text}{hint}")
    return value
