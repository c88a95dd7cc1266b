"""Layer 3: `evaluator=table`, the results of `space.family=table` in the place of training."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nasctl.trial import EpochMetrics, Work
from search_spaces.table import Table, read_table


@dataclass(frozen=True, kw_only=True)
class TableJob:
    """Looks a training up; picklable, each worker reads the file for itself.

    Attributes:
        options: of the family.
    """

    options: Mapping[str, Any]

    @property
    def payload(self) -> None:
        """There is no data."""

    def with_payload(self, payload: object) -> TableJob:
        """The same job: there is no data to bind."""
        del payload
        return self

    def prepare(self) -> None:
        """Reads the file, once per process."""
        assert self._table is not None

    def __call__(self, work: Work) -> Iterator[EpochMetrics]:
        """The result of the whole training: a table knows no epochs."""
        yield EpochMetrics(self._table.trained(work.architecture, work.seed), work.epochs)

    @functools.cached_property
    def _table(self) -> Table:
        return read_table(**self.options)
