"""Layer 5: what an ablation's configuration may say: keys, types and ranges, in pydantic.

`conf/ablate.yaml` explains every key; what is wrong with values that are valid each by itself is
found in `nasctl.config.ablation_checks`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from nasctl.config.guard import Key
from nasctl.config.schema import (
    Count,
    DataConfig,
    ExecutorConfig,
    LatencyConfig,
    Name,
    NonNegative,
    Positive,
    RecipeConfig,
    RunName,
    Section,
    Seed,
    Text,
    TrackingConfig,
)

GROUPS = ("data", "recipe", "latency", "executor", "tracking")
"""Sections that are chosen by name, as those of a search."""

OPEN_SECTIONS: tuple[Key, ...] = (
    ("baseline", "options"),
    ("baseline", "blocks"),
    ("factors",),
    ("claims",),
    ("controls", "positive", "set"),
    ("learning_rate", "factors"),
    ("profiles",),
    ("data",),
)
"""Sections that hold names and keys of the user's, or entries of a list."""

MOST_SEEDS = 1000


def _nothing_changes(value: object) -> object:
    """A level with nothing after its name changes nothing."""
    return (
        {k: {} if v is None else v for k, v in value.items()} if isinstance(value, dict) else value
    )


class BaselineConfig(Section):
    """One network, in one of four forms; see `nasctl.ablation.baseline`."""

    family: Name | None = None
    network: Name | None = None
    width: Annotated[float, Field(gt=0, le=16, allow_inf_nan=False)] | None = None
    options: Annotated[dict[str, Any], BeforeValidator(lambda value: value or {})] = Field(
        default_factory=dict
    )
    run: Text | None = None
    arch_id: Text | None = None
    blocks: list[dict[str, Any]] | None = None


class FactorConfig(Section):
    """What is varied. The first level is the baseline's."""

    # A list of scalars or a mapping of mappings: `ablation_checks` says so in one line.
    levels: Annotated[Any, AfterValidator(_nothing_changes)]
    field: Name | None = None
    key: Name | None = None
    scope: Name = "all"


class DecisionConfig(Section):
    """When a difference counts; see `nasctl.effects`."""

    metric: Name
    smallest_effect: NonNegative
    alpha: Annotated[float, Field(gt=0, lt=0.5, allow_inf_nan=False)]


class SeedsConfig(Section):
    """Trainings of each arm: at the first look, and at most."""

    min: Annotated[int, Field(ge=2, le=MOST_SEEDS)]
    max: Annotated[int, Field(ge=2, le=MOST_SEEDS)]


class PositiveControlConfig(Section):
    """A change that is known to matter: fewer channels, or other keys."""

    width: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] | None = None
    set: dict[str, Any] | None = None


class ControlsConfig(Section):
    """Arms whose answers are known; they tell whether the study could have found anything."""

    positive: PositiveControlConfig | None
    same: bool


class LearningRateConfig(Section):
    """Whether every arm gets the best of several multiples of its learning rate."""

    policy: Literal["tuned", "shared"]
    factors: Annotated[list[Positive], Field(min_length=1)]
    seeds: Count


class PilotConfig(Section):
    """What is assumed about noise before there are results."""

    sd: Positive
    correlation: Annotated[float, Field(gt=-1, lt=1, allow_inf_nan=False)]


def as_factor(value: object) -> object:
    """`[linear, relu6]` is short for `{levels: [linear, relu6]}`."""
    return {"levels": value} if isinstance(value, list) else value


def as_seeds(value: object) -> object:
    """`5` is short for `{min: 5, max: 5}`.

    Raises:
        ValueError: a number that neither could be.
    """
    if value is None or isinstance(value, dict | list):
        return value
    if type(value) is not int or not 2 <= value <= MOST_SEEDS:
        raise ValueError(f"expected a whole number from 2 to {MOST_SEEDS}, or min and max")
    return {"min": value, "max": value}


class AblationConfig(Section):
    """A complete, valid `nasctl ablate` configuration."""

    name: RunName
    seed: Seed
    output_dir: Text
    question: Text | None
    baseline: BaselineConfig
    factors: dict[str, Annotated[FactorConfig, BeforeValidator(as_factor)]]
    design: Literal["one_at_a_time", "factorial", "fractional"]
    claims: list[Name]
    decision: DecisionConfig
    seeds: Annotated[SeedsConfig, BeforeValidator(as_seeds)]
    splits: Count
    match: Literal["none", "macs", "params"]
    match_tolerance: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
    controls: ControlsConfig
    learning_rate: LearningRateConfig
    pilot: PilotConfig
    budget_s: Positive | None
    profile: Name
    profiles: dict[str, Annotated[dict[str, Any], BeforeValidator(lambda value: value or {})]]
    data: DataConfig
    recipe: RecipeConfig
    latency: LatencyConfig
    evaluator: Name
    executor: ExecutorConfig
    tracking: TrackingConfig
