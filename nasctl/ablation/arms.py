"""Layer 4: from the factors of a study to its arms: networks with the settings that train them."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from nasctl.ablation.baseline import Settings, build_network, changed, with_field
from nasctl.ablation.claims import level_name
from nasctl.arch import Architecture, Block, Cost, Scalar, Shape
from nasctl.errors import ConfigError, SpecError
from nasctl.fields import canonical_json
from nasctl.plugins import Registry
from search_spaces.widths import scaled

Role = Literal["baseline", "arm", "positive_control", "null_control"]
BASELINE = "baseline"
POSITIVE = "positive control"
SAME = "baseline again"
CONTROL_FACTOR = "control"

NARROWEST, WIDEST = 1 / 16, 16.0  # widths that are tried to match a cost


@dataclass(frozen=True, kw_only=True)
class Factor:
    """What is varied.

    Attributes:
        levels: by name, the baseline's first: dotted keys with their values, or for a `field` its
            value in the blocks of `scope`.
        field: of blocks; None where levels are dotted keys.
    """

    name: str
    levels: Mapping[str, Any]
    field: str | None = None
    scope: str = "all"


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One variant: a network, and everything that its trainings depend on but seed and rate.

    Attributes:
        name: unique in the study.
        levels: factor to the name of its level; empty for controls.
        settings: `recipe` and `data` as plain values.
        width_factor: what all channels were multiplied by to match the cost of the baseline.
        cost: before training.
    """

    name: str
    role: Role
    levels: Mapping[str, str]
    architecture: Architecture
    settings: Settings
    width_factor: float = 1.0
    cost: Cost = field(default_factory=Cost)

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` reads them back."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {**plain, "architecture": self.architecture.to_json(), "cost": dict(self.cost)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], block_types: Mapping[str, type[Block]]) -> Arm:
        """The inverse of `to_json`."""
        architecture = Architecture.from_json(data["architecture"], block_types)
        return cls(**{**data, "architecture": architecture, "cost": Cost(**data["cost"])})

    @property
    def variant(self) -> str:
        """What makes trainings alike: network, recipe and data, without seed and learning rate."""
        recipe = {k: v for k, v in self.settings["recipe"].items() if k != "lr"}
        rest = {"arch": self.architecture.id, "recipe": recipe, "data": self.settings["data"]}
        return hashlib.sha256(canonical_json(rest).encode()).hexdigest()[:12]

    @property
    def lr(self) -> float:
        """Peak learning rate before any search for a better one."""
        return float(self.settings["recipe"]["lr"])

    @property
    def epochs(self) -> int:
        return int(self.settings["recipe"]["epochs"])


def read_factor(
    name: str,
    levels: Sequence[Scalar] | Mapping[str, Mapping[str, Any]],
    *,
    field: str | None = None,
    key: str | None = None,
    scope: str = "all",
) -> Factor:
    """From a checked configuration; see `conf/ablate.yaml`."""
    if isinstance(levels, Mapping):
        return Factor(name=name, levels={str(k): dict(v) for k, v in levels.items()})
    if key is not None:
        return Factor(name=name, levels={level_name(v): {key: v} for v in levels})
    by_name = {level_name(v): v for v in levels}
    return Factor(name=name, levels=by_name, field=field or name, scope=scope)


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """What arms are made with.

    Attributes:
        settings: `baseline`, `recipe` and `data`, as configured.
        factors: in the order of the configuration.
        registry: with the plugins.
        shape_of: input shape and classes of a `data` section.
        price: of a network.
    """

    settings: Settings
    factors: Sequence[Factor]
    registry: Registry
    shape_of: Callable[[Mapping[str, Any]], tuple[Shape, int]]
    price: Callable[[Architecture], Cost]

    def make(self, name: str, role: Role, levels: Mapping[str, str]) -> Arm:
        """The arm with these levels of the factors.

        Raises:
            ConfigError: a level that leads nowhere or cannot be built; names factor and level.
        """
        settings = self.settings
        for factor in self.factors:
            if factor.field is None:
                where = f"factors.{factor.name}.levels.{levels[factor.name]}"
                settings = changed(settings, factor.levels[levels[factor.name]], where)
        shape, classes = self.shape_of(settings["data"])
        where = "baseline" if role == "baseline" else self._blame(levels)
        architecture = build_network(
            settings["baseline"],
            self.registry,
            input_shape=shape,
            num_classes=classes,
            where=where,
        )
        _check_fit(architecture, shape, classes, where)
        for factor in self.factors:
            if factor.field is not None:
                where = f"factors.{factor.name}"
                value = factor.levels[levels[factor.name]]
                architecture = with_field(architecture, factor.field, value, factor.scope, where)
        return self.finish(
            Arm(
                name=name,
                role=role,
                levels=levels,
                architecture=architecture,
                settings={k: settings[k] for k in ("recipe", "data")},
            )
        )

    def finish(self, arm: Arm) -> Arm:
        """With its price."""
        return dataclasses.replace(arm, cost=self.price(arm.architecture))

    def _blame(self, levels: Mapping[str, str]) -> str:
        own = [f for f in self.factors if levels[f.name] != next(iter(f.levels))]
        return ", ".join(f"factors.{f.name}.levels.{levels[f.name]}" for f in own) or "baseline"


def _check_fit(architecture: Architecture, shape: Shape, classes: int, where: str) -> None:
    """A network of an earlier run may have been made for other data."""
    if architecture.num_classes != classes:
        raise ConfigError(
            f"{where}: the network has {architecture.num_classes} classes, the data {classes}"
        )
    if architecture.input_shape[0] != shape[0] and len(architecture.input_shape) == len(shape):
        raise ConfigError(
            f"{where}: the network takes {architecture.input_shape[0]} channels, the data have "
            f"{shape[0]}"
        )


def name_of(levels: Mapping[str, str], first: Mapping[str, str]) -> str:
    """`bottleneck_activation=relu6`; the baseline has its own name."""
    different = [f"{k}={v}" for k, v in levels.items() if v != first[k]]
    return ", ".join(different) or BASELINE


def check_distinct(arms: Sequence[Arm]) -> None:
    """Whether every arm differs from every other.

    Raises:
        ConfigError: a factor that changes nothing; names the two arms.
    """
    seen: dict[tuple[str, float], Arm] = {}
    problems = []
    for arm in arms:
        if arm.role == "null_control":
            continue
        key = arm.variant, arm.lr
        if key in seen:
            problems.append(
                f"factors: {arm.name!r} and {seen[key].name!r} are the same network "
                f"({arm.architecture.id}) with the same settings: nothing is varied between them"
            )
        seen.setdefault(key, arm)
    if problems:
        raise ConfigError(problems)


def matched(arm: Arm, target: Cost, metric: str, tolerance: float, workshop: Workshop) -> Arm:
    """The arm with its channels scaled until it costs what the baseline costs.

    Args:
        arm: not matched yet.
        target: cost of the baseline.
        metric: `macs` or `params`.
        tolerance: relative difference that is allowed.
        workshop: for its prices.

    Raises:
        ConfigError: no width comes close enough; says how close it came.
    """
    if metric not in target:
        raise ConfigError(f"match: these networks have no {metric} before training; use none")
    wanted = target[metric]

    def cost_at(factor: float) -> tuple[float, Arm] | None:
        try:
            wider = scaled(arm.architecture, factor)
            made = workshop.finish(
                dataclasses.replace(arm, architecture=wider, width_factor=factor)
            )
        except SpecError:
            return None
        return made.cost[metric] / wanted, made

    best = cost_at(1.0)
    if best is not None and abs(best[0] - 1) <= tolerance:
        return best[1]
    low, high = math.log(NARROWEST), math.log(WIDEST)
    for _ in range(40):  # costs rise with the width, in small steps
        middle = (low + high) / 2
        found = cost_at(math.exp(middle))
        if found is None:  # too narrow for its groups
            low = middle
            continue
        if best is None or abs(found[0] - 1) < abs(best[0] - 1):
            best = found
        low, high = (middle, high) if found[0] < 1 else (low, middle)
    if best is None or abs(best[0] - 1) > tolerance:
        came = "cannot be scaled" if best is None else f"comes to {best[0]:.3f} times that at best"
        raise ConfigError(
            f"match: {arm.name!r} {came} ({metric} of the baseline: {wanted:,.0f}); "
            f"raise match_tolerance above {tolerance:g} or use match=none"
        )
    factor = round(best[1].width_factor, 6)
    return dataclasses.replace(best[1], width_factor=factor)


def narrowed(arm: Arm, width: float, workshop: Workshop) -> Arm:
    """The positive control: the baseline with `width` times the channels."""
    try:
        architecture = scaled(arm.architecture, width)
    except SpecError as error:
        raise ConfigError(
            [f"controls.positive.width: {p}; use {{set: {{key: value}}}}" for p in error.problems]
        ) from error
    if architecture.id == arm.architecture.id:
        raise ConfigError(
            f"controls.positive.width: {width:g} changes nothing in these blocks; use "
            "{set: {key: value}}, or null for no such control"
        )
    made = dataclasses.replace(
        arm, name=POSITIVE, role="positive_control", levels={}, architecture=architecture
    )
    return workshop.finish(made)


def same_again(arm: Arm) -> Arm:
    """The null control: the baseline under another name."""
    return dataclasses.replace(arm, name=SAME, role="null_control", levels={})
