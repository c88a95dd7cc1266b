"""Layer 5: what a search configuration may say: keys, types and ranges, in pydantic.

Imported lazily (pydantic): `nasctl --help` never pays for it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from nasctl.config.guard import Key
from nasctl.fidelity import LONGEST_COOLDOWN, MOST_ETA, HalvingSettings
from nasctl.recipe import Recipe, Schedule
from nasctl.stop_settings import StopSettings
from nasctl.tracking import password_problem, uri_problem
from nasctl.trial import Direction

GROUPS = ("data", "recipe", "fidelity", "sampler", "latency", "executor", "tracking")
"""Sections that are chosen by name (`sampler=tpe`) from the packaged or the user's own files."""

OPEN_SECTIONS: tuple[Key, ...] = (
    ("data",),
    ("sampler",),
    ("space", "options"),
    ("objectives",),
    ("constraints",),
    ("reference_point",),
    ("init", "weights"),
)
"""Sections that hold keys the schema does not know: registries, families, plugins check them."""

_WINDOWS_DEVICES = {
    *("con", "prn", "aux", "nul"),
    *(f"{device}{i}" for device in ("com", "lpt") for i in range(10)),
}


def _number_to_text(value: object) -> object:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if is_number else value


def name_problem(name: str) -> str | None:
    """Why `name` cannot name a run and its folder on every file system."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name, flags=re.ASCII):
        return "use letters, digits, '.', '_' and '-', starting with a letter or digit"
    if len(name) > 100:
        return f"at most 100 characters, got {len(name)}"
    if ".." in name or name.endswith("."):
        return "'..' and a '.' at the end are not allowed"
    if name.split(".", maxsplit=1)[0].lower() in _WINDOWS_DEVICES:
        return f"{name.split('.', maxsplit=1)[0]!r} is the name of a device on Windows"
    return None


def _slug(name: str) -> str:
    if problem := name_problem(name):
        raise ValueError(problem)
    return name


def _node_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", name, flags=re.ASCII):
        raise ValueError("use letters, digits, '-' and '_', at most 100")
    return name


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty")
    return text


def _drop_nulls(value: object) -> object:
    return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value


Text = Annotated[str, BeforeValidator(_number_to_text), AfterValidator(_not_blank)]
Name = Annotated[str, AfterValidator(_not_blank)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
BelowOne = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=10**9)]
CountOrZero = Annotated[int, Field(ge=0, le=10**9)]
RunName = Annotated[str, BeforeValidator(_number_to_text), AfterValidator(_slug)]
NodeName = Annotated[str, BeforeValidator(_number_to_text), AfterValidator(_node_name)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Section(BaseModel):
    """Its keys are all there are."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Choice(BaseModel):
    """`name` of a registry entry, and beside it the options that the registry checks."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    name: Name

    @property
    def options(self) -> dict[str, Any]:
        """Everything beside `name`."""
        return dict(self.model_extra or {})


class SpaceConfig(Section):
    """Which family of networks, and its options (checked by the family)."""

    family: Name
    options: dict[str, Any]


class DataConfig(Choice):
    """A dataset: `name` in DATASETS, the rest are its arguments."""


class SamplerConfig(Choice):
    """A sampler: `name` in SAMPLERS, the rest are its arguments."""


class RecipeConfig(Section):
    """The fields of `nasctl.recipe.Recipe`, with their ranges."""

    epochs: Count
    batch_size: Annotated[int, Field(ge=2, le=10**6)]
    lr: Positive
    schedule: Schedule
    warmup: Fraction
    decay: Fraction
    momentum: BelowOne
    weight_decay: NonNegative
    label_smoothing: BelowOne
    grad_clip: NonNegative
    pad_crop: Annotated[int, Field(ge=0, le=1000)]
    flip: bool
    amp: Literal["auto", "bf16", "off"]
    channels_last: bool
    compile: bool
    threads: Annotated[int, Field(ge=1, le=1024)]
    trainer: Name

    def to_recipe(self) -> Recipe:
        """The value that training and cache keys use."""
        return Recipe(**{f.name: getattr(self, f.name) for f in dataclasses.fields(Recipe)})


class FidelityConfig(Section):
    """How much of the recipe each trial gets: `full`, all epochs for every trial, or `halving`,
    which alone reads what is below `checkpoint_s` (`nasctl.rungs`)."""

    name: Literal["full", "halving"]
    checkpoint_s: NonNegative | None = 60.0
    first: Count = 1
    eta: Annotated[int, Field(ge=2, le=MOST_ETA)] = 3
    cooldown: Annotated[float, Field(gt=0, le=LONGEST_COOLDOWN, allow_inf_nan=False)] = 0.3
    p_stop: BelowOne = 0.05
    min_pairs: Annotated[int, Field(ge=3, le=10**6)] = 6
    control_every: CountOrZero = 10
    min_correlation: Fraction = 0.5

    def to_halving(self) -> HalvingSettings | None:
        """The value that the rule uses; None with `full`."""
        return HalvingSettings.of(self.model_dump()) if self.name == "halving" else None


def _one_as_list(value: object) -> object:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return [value] if is_number else value


def _name_as_entry(value: object) -> object:
    if isinstance(value, str):
        return {"name": value}
    if not isinstance(value, Mapping | BaseModel):
        raise ValueError("expected the name of a network or {name: ..., width: ...}")
    return value


class ReferenceConfig(Section):
    """A published network to compare with (`nasctl profile --list`), at one or more widths."""

    name: Name
    width: Annotated[
        list[Annotated[float, Field(gt=0, le=16, allow_inf_nan=False)]],
        BeforeValidator(_one_as_list),
        Field(min_length=1),
    ] = [1.0]


class OrderConfig(Section):
    """The section `search`: `nasctl.engine` explains order, window and max_failures,
    `nasctl.candidates` the others."""

    order: Literal["deterministic", "async"]
    window: Count
    duplicates: Literal["replace", "repeat"]
    max_seeds: Count
    max_failures: CountOrZero


class LatencyConfig(Section):
    """Where the latency of a candidate comes from; `none`: there is no latency."""

    name: Literal["table", "none"]
    node: NodeName | None = None
    runtime: Literal["onnxruntime", "torch", "command"] = "onnxruntime"
    batch: Count = 1
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    layout: Literal["nchw", "channels_last"] = "nchw"
    device: Name = "cpu"
    compile: bool = False
    command: list[Text] = []
    timeout_s: Positive = 60.0
    calibration_networks: Annotated[int, Field(ge=5, le=1000)] = 10
    calls: Count = 4
    rounds: Count = 100
    precision: Positive = 0.01
    budget_s: Positive = 5.0


class ExecutorConfig(Section):
    """Where trainings run, and what each may use."""

    name: Literal["ray", "inline"]
    workers: Count | None
    cpus: Positive
    gpus: NonNegative
    retries: CountOrZero
    timeout_s: Positive | None
    address: Name | None
    wait_s: NonNegative = 60.0


class ReplayConfig(Section):
    """The run whose results `evaluator=replay` gives, and the simulated cluster."""

    run: Text | None
    workers: Count
    crash_rate: BelowOne


class StopConfig(Section):
    """When a search may end before all of its trials; see `nasctl.stopping`."""

    marginal_gain: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] | None = None
    window: Annotated[int, Field(ge=2, le=10**6)] = 8

    def to_settings(self) -> StopSettings | None:
        """The value that the rule uses; None: there is none."""
        if self.marginal_gain is None:
            return None
        return StopSettings(marginal_gain=self.marginal_gain, window=self.window)


class InitConfig(Section):
    """Reference networks that begin with weights from a file; see `nasctl.pretrained`."""

    weights: Name | dict[str, Name] | None = None
    lr: Positive = 0.04
    warmup: Fraction = 0.1


class PriceConfig(Section):
    """What an hour of computing costs; see `nasctl.compute`."""

    core_hour: NonNegative | None = None
    gpu_hour: NonNegative | None = None
    currency: Annotated[Name, Field(max_length=20)] = "EUR"


def _store(uri: str) -> str:
    if problem := password_problem(uri) or uri_problem(uri):
        raise ValueError(problem)
    return uri


class TrackingConfig(Section):
    """Where runs are shown beside the ledger."""

    name: Literal["mlflow", "none"]
    uri: Annotated[Name, AfterValidator(_store)] | None = None
    experiment: Text = "nasctl"
    artifacts: bool = True
    timeout_s: Annotated[int, Field(ge=1, le=3600)] = 5


class SearchConfig(Section):
    """A complete, valid `nasctl search` configuration."""

    name: RunName
    seed: Seed
    trials: Annotated[int, Field(ge=1, le=10**6)]
    output_dir: Text
    space: SpaceConfig
    objectives: Annotated[dict[str, Direction], BeforeValidator(_drop_nulls), Field(min_length=1)]
    constraints: Annotated[dict[str, float], BeforeValidator(_drop_nulls)]
    reference_point: Annotated[dict[str, float], BeforeValidator(_drop_nulls)]
    reference: list[Annotated[ReferenceConfig, BeforeValidator(_name_as_entry)]]
    search: OrderConfig
    data: DataConfig
    recipe: RecipeConfig
    fidelity: FidelityConfig
    sampler: SamplerConfig
    latency: LatencyConfig
    evaluator: Name
    replay: ReplayConfig
    executor: ExecutorConfig
    tracking: TrackingConfig
    # With defaults: configurations of runs that are older than these keys stay readable.
    init: InitConfig = InitConfig()
    stop: StopConfig = StopConfig()
    price: PriceConfig = PriceConfig()

    @property
    def bounds(self) -> dict[str, float]:
        """Cost metric to its upper bound: the constraints that are set."""
        return dict(self.constraints)
