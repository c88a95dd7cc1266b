"""What can be built: blocks, networks and families of networks."""

from __future__ import annotations

from collections.abc import Callable

from nasctl.space import Family
from search_spaces.staged import staged
from search_spaces.table import table

FAMILIES: dict[str, Callable[..., Family]] = {"staged": staged, "table": table}

__all__ = ["FAMILIES"]
