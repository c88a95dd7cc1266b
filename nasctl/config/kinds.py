"""Layer 5: what a configuration can be for, and which packaged files there are for it."""

from __future__ import annotations

from typing import Any, Literal

from nasctl.config import ablation, schema
from nasctl.config.type_errors import Schema

Kind = Literal["search", "ablate"]

SEARCH = Schema(
    name="search",
    model=schema.SearchConfig,
    groups=schema.GROUPS,
    open_sections=(*schema.OPEN_SECTIONS, ("reference",)),
    folder="",
    noun="search",
)
ABLATE = Schema(
    name="ablate",
    model=ablation.AblationConfig,
    groups=ablation.GROUPS,
    open_sections=ablation.OPEN_SECTIONS,
    folder="ablation",
    noun="ablation",
)
SCHEMAS: dict[Kind, Schema[Any]] = {"search": SEARCH, "ablate": ABLATE}
