"""Layer 5: what `nasctl verify` may be told: the section `verify`, and what may differ.

The configuration of a verification is that of its search, with these sections in place of its own
and `verify` beside them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field

from nasctl.config import guard
from nasctl.config.blame import blamed
from nasctl.config.compose import Composed, compose
from nasctl.config.packaged import packaged_folder
from nasctl.config.resume import diff, stored_config
from nasctl.config.schema import (
    CountOrZero,
    ExecutorConfig,
    LatencyConfig,
    RecipeConfig,
    SearchConfig,
    Section,
    Text,
    TrackingConfig,
)
from nasctl.config.type_errors import Schema, type_problems
from nasctl.config.values import plain
from nasctl.errors import ConfigError, unknown
from nasctl.verification.settings import VerifySettings

if TYPE_CHECKING:
    from nasctl.config.guard import Key

GROUPS = ("recipe", "executor", "tracking")
_MEASURING = ("calls", "rounds", "precision", "budget_s", "timeout_s")
"""Of `latency`: how long is measured, not what."""
_FREE = ("executor", "tracking", "output_dir", "trials", "stop", "price")

_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


def _in_order(value: list[float]) -> list[float]:
    if value[0] > value[1]:
        raise ValueError("the first number must not be above the second")
    return value


class VerifySection(Section):
    """See `conf/verify.yaml` and `nasctl.verification.settings`."""

    seeds: Annotated[int, Field(ge=2, le=1000)]
    max_seeds: Annotated[int, Field(ge=2, le=1000)]
    open: Annotated[list[_Share], Field(min_length=2, max_length=2), AfterValidator(_in_order)]
    near: CountOrZero
    references: bool
    at: Text | None
    confidence: Annotated[float, Field(ge=0.5, lt=1, allow_inf_nan=False)]
    latency: Literal["measure", "search"]
    sessions: Annotated[int, Field(ge=1, le=100)]
    export: bool
    front: Literal["trained", "int8"]


class VerifyConfig(Section):
    """What may be said on the command line."""

    verify: VerifySection
    recipe: RecipeConfig
    executor: ExecutorConfig
    tracking: TrackingConfig
    latency: LatencyConfig


VERIFY = Schema(
    name="verify",
    model=VerifyConfig,
    groups=GROUPS,
    open_sections=(),
    folder="",
    noun="verification",
)


@dataclass(frozen=True, kw_only=True)
class LoadedVerification:
    """What a verification goes by.

    Attributes:
        config: of the search, with what was changed.
        settings: the section `verify`.
        resolved: both as plain values: what is stored.
        same_recipe: whether it trains as the search did.
    """

    config: SearchConfig
    settings: VerifySettings
    resolved: dict[str, Any]
    same_recipe: bool


def load_verification(
    stored: Mapping[str, Any], overrides: Sequence[str], *, at: str | None, source: str
) -> LoadedVerification:
    """The configuration of a verification.

    Args:
        stored: the configuration in the ledger of the search.
        overrides: `KEY=VALUE`.
        at: of `--at`; it says the same as `verify.at`.
        source: the run, for messages.

    Raises:
        ConfigError: every problem that could be found at once, a line each.
        EnvironmentProblemError: the run is of another version of nasctl.
    """
    before = stored_config(stored, source=source)
    given = [*overrides, *([f"verify.at='{at}'"] if at is not None else [])]
    problems = [p for text in overrides if (p := _not_allowed(text))]
    if problems:
        raise ConfigError(problems)
    checked = _checked(before.model_dump(mode="json"), given)
    section = checked.verify
    if not any(text.lstrip("+").startswith("verify.max_seeds=") for text in overrides):
        section = section.model_copy(update={"max_seeds": max(section.max_seeds, section.seeds)})
    if section.max_seeds < section.seeds:
        raise ConfigError(
            f"command line: verify.max_seeds: must be at least verify.seeds={section.seeds}, got "
            f"{section.max_seeds}"
        )
    changed = {
        "recipe": checked.recipe,
        "executor": checked.executor,
        "tracking": checked.tracking,
        "latency": checked.latency,
        # Finalists are trained to the end, also where the search stopped others early.
        "fidelity": before.fidelity.model_copy(update={"name": "full"}),
    }
    config = before.model_copy(update=changed)
    return LoadedVerification(
        config=config,
        settings=VerifySettings.of(section.model_dump()),
        resolved={**config.model_dump(mode="json"), "verify": section.model_dump(mode="json")},
        same_recipe=checked.recipe == before.recipe,
    )


def _not_allowed(text: str) -> str | None:
    """Why an override changes what was searched, with what may be changed; None if it does not."""
    key = text.partition("=")[0].strip().lstrip("+~")
    parts = key.split(".")
    known = list(VerifyConfig.model_fields)
    if parts[0] in known and (parts[0] != "latency" or (len(parts) > 1 and parts[1] in _MEASURING)):
        return None
    if parts[0] == "latency":
        keys = ", ".join(f"latency.{k}" for k in _MEASURING)
        return (
            f"command line: {key}: a verification measures what the search did; {keys} may change, "
            "and verify.latency=search measures nothing"
        )
    if parts[0] in SearchConfig.model_fields:
        return (
            f"command line: {key}: is as the search had it; nasctl verify takes verify.*, "
            "recipe.*, executor.*, tracking.* and some of latency.*"
        )
    return f"command line: {unknown('key', key, (*known, *_own_keys()))}"


def _own_keys() -> list[str]:
    return [f"verify.{name}" for name in VerifySection.model_fields]


def _checked(stored: Mapping[str, Any], overrides: Sequence[str]) -> VerifyConfig:
    chosen = {text.partition("=")[0].strip() for text in overrides}
    sections = {
        key: stored[key]
        for key in ("recipe", "executor", "tracking", "latency")
        if key not in chosen
    }
    with tempfile.TemporaryDirectory(prefix="nasctl-verify-") as folder:
        primary = Path(folder) / "run.yaml"
        text = guard.dump({"defaults": ["verify", "_self_"], **sections})
        primary.write_text(text, encoding="utf-8")
        composed = compose(primary, packaged_folder(), overrides, VERIFY)
    data, found = plain(composed)
    checked, more = type_problems(VERIFY, data)
    problems: dict[Key, str] = dict(reversed([*found, *more]))
    lines = [f"command line: {text}" for _, text in composed.problems]
    lines += [f"{_place(key, composed)}: {text}" for key, text in problems.items()]
    if lines or checked is None:
        raise ConfigError(lines)
    return checked


def _place(key: Key, composed: Composed) -> str:
    """The file was made here, and is gone: its name would say nothing."""
    place = blamed(key, composed)
    return place if place.startswith("command line") else f"command line: {guard.dotted(key)}"


def verification_yaml(loaded: LoadedVerification) -> str:
    """What a verification goes by, for its folder."""
    header = (
        "# The resolved configuration of this verification: that of its search, and `verify`.\n"
    )
    return header + guard.dump(loaded.resolved)


def verification_diff(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """`config_diff` for verifications: `verify.max_seeds` may be raised; executor and tracking may
    change."""
    if isinstance(old.get("verify"), dict):  # perhaps of a time before that key
        old = {**old, "verify": {"front": "trained", **old["verify"]}}
    return diff(old, new, free=_FREE, rising=("verify", "max_seeds"))
