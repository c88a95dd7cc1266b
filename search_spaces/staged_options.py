"""The options of a staged space, read from plain data; every problem is reported, with its key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from nasctl.arch import Scalar, Shape
from nasctl.errors import ConfigError, unknown
from search_spaces.staged_reader import Reader
from search_spaces.staged_types import Alternative, BlockTypes, block_types

Scope = Literal["network", "stage", "block"]

SCOPES: tuple[Scope, ...] = ("network", "stage", "block")

DEFAULTS: Mapping[str, Scalar] = {"width_multiplier": 1, "block_type": "inverted_residual"}
"""Of dimensions that every block has; the others have the block type's own."""

NETWORK_LISTS = ("width_multiplier", "bottleneck_activation")
"""A plain list of these is one choice for the network; of others one per stage, as in MnasNet."""

MAX_STAGES, MAX_DEPTH, MAX_CHANNELS, MAX_SIDE = 32, 64, 65_536, 4_096


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """A property of blocks: its alternatives and over how much of the network they agree."""

    choices: tuple[Scalar | None, ...]
    scope: Scope

    @property
    def fixed(self) -> bool:
        """Whether there is nothing to choose."""
        return len(self.choices) == 1


@dataclass(frozen=True, kw_only=True)
class Stage:
    """`depth` blocks of one width; the first one strides."""

    channels: int
    depths: tuple[int, ...]
    stride: int
    dimensions: Mapping[str, Dimension]


@dataclass(frozen=True, kw_only=True)
class StagedOptions:
    """What `staged` was asked for, checked.

    Attributes:
        input_shapes: one per resolution, in the order of choice.
        stem: channels, kernel_size, stride, activation; and the stride of a 3x3 max pool after it.
        dimensions: of the network; a stage has these too unless it overrides them.
        alternatives: what the choices of `block_type` stand for.
        names: of the dimensions, in the order in which they are decided.
        head_channels: of the final 1x1 convolution; 0 is none.
        head_hidden: of a linear layer after the pooling (MobileNetV3's head); 0 is none.
    """

    input_shapes: tuple[Shape, ...]
    num_classes: int
    stem_channels: int
    stem_kernel_size: int
    stem_stride: int
    stem_activation: str
    stem_pool: int
    stages: tuple[Stage, ...]
    head_channels: int
    head_hidden: int
    head_activation: str
    dropout: float
    dimensions: Mapping[str, Dimension]
    alternatives: Mapping[str, Alternative]
    names: tuple[str, ...]


class _Options(Reader):
    """Reads dimensions and stages."""

    def __init__(self, types: BlockTypes) -> None:
        super().__init__()
        self.types = types
        self.alternatives: dict[str, Alternative] = {}

    def dimension(self, name: str, value: Any, path: str, scope: Scope) -> Dimension:
        """A fixed value, a list of choices, or `{choices, scope}`."""
        if isinstance(value, Mapping) and not (name == "block_type" and "block_type" in value):
            given = self.mapping(value, path, ("choices", "scope"))
            if "scope" in given:
                read = self.name(given["scope"], f"{path}.scope", "scope", SCOPES)
                scope = cast(Scope, read)
            value, path = self.required(given, "choices", path), f"{path}.choices"
            if value is None:
                return Dimension(choices=(DEFAULTS.get(name),), scope=scope)
        if value is None:  # the block type's own
            return Dimension(choices=(None,), scope="network")
        return Dimension(choices=self.choices(value, path, self._one(name)), scope=scope)

    def _one(self, name: str) -> Callable[[Any, str], Scalar]:
        readers: dict[str, Callable[[Any, str], Scalar]] = {
            "width_multiplier": lambda v, p: self.number(v, p, 0.01, 16),
            "block_type": self.block_type,
            "expand_ratio": lambda v, p: self.number(v, p, 0.1, 64),
            "kernel_size": self.odd,
            "bottleneck_activation": self.activation,
            "activation": self.activation,
            "se_ratio": lambda v, p: self.number(v, p, 0, 1),
            "residual": self.truth,
            "shortcut": lambda v, p: self.name(v, p, "shortcut", ("A", "B", "C", "none")),
            "reduction": lambda v, p: self.number(v, p, 0.1, 64),
            "cardinality": lambda v, p: self.whole(v, p, 1, MAX_CHANNELS),
            "groups": lambda v, p: self.whole(v, p, 1, MAX_CHANNELS),
            "reduce": self.truth,
            "growth_rate": lambda v, p: self.whole(v, p, 1, MAX_CHANNELS),
            "layers": lambda v, p: self.whole(v, p, 1, MAX_DEPTH),
            "combine": lambda v, p: self.name(v, p, "way to combine", ("concat", "add")),
            "depthwise_activation": self.activation,
        }
        if name in readers:
            return readers[name]
        kinds = self.types.kinds.values()
        example = next(kind.dimensions[name] for kind in kinds if name in kind.dimensions)
        return lambda v, p: self.like(v, p, example)

    def block_type(self, value: Any, path: str) -> str:
        """A type by name, or a whole alternative: `{block_type: NAME, dimension: value, ...}`."""
        settled: Mapping[str, Any] = {}
        named = True
        if isinstance(value, Mapping):
            settled = {name: v for name, v in value.items() if name != "block_type"}
            named = "block_type" in value
            if not named:
                self.problems.append(f"{path}.block_type: missing")
            value, path_of_type = value.get("block_type", "skip"), f"{path}.block_type"
        else:
            path_of_type = path
        name = self.name(value, path_of_type, "block type", tuple(self.types.kinds))
        kind = self.types.kinds[name]
        fixed: dict[str, Scalar] = {}
        for dimension, given in settled.items() if name == value and named else ():
            if dimension in kind.dimensions:
                fixed[dimension] = self._one(dimension)(given, f"{path}.{dimension}")
            else:
                what = unknown(f"dimension of {name}", dimension, kind.dimensions)
                self.problems.append(f"{path}.{dimension}: {what}")
        alternative = Alternative(block_type=name, kind=kind, fixed=fixed)
        self.alternatives[alternative.label] = alternative
        return alternative.label

    def kind_of(self, label: Scalar | None) -> str:
        """The block type behind a choice."""
        return self.alternatives[cast(str, label)].block_type

    def stage(self, value: Any, path: str, shared: Mapping[str, Dimension]) -> Stage:
        """One entry of `stages`; dimensions that it does not name are the network's."""
        names = self.types.dimensions
        given = self.mapping(value, path, ("channels", "depth", "stride", *names))
        own: dict[str, Dimension] = {}
        for name in (n for n in names if n in given):
            # A list here cannot be one choice for the whole network.
            outer = shared[name].scope
            scope: Scope = "stage" if outer == "network" else outer
            own[name] = self.dimension(name, given[name], f"{path}.{name}", scope)
            if own[name].scope == "network":
                self.problems.append(
                    f"{path}.{name}.scope: a stage's own choices have the scope stage or block"
                )
        types = own.get("block_type", shared["block_type"]).choices
        known = {n for t in types for n in self.types.kinds[self.kind_of(t)].dimensions}
        for name in own:
            if name in ("width_multiplier", "block_type") or name in known or self.problems:
                continue
            listed = ", ".join(n for n in names if n in known) or "none"
            kinds = ", ".join(dict.fromkeys(self.kind_of(t) for t in types))
            self.problems.append(
                f"{path}.{name}: no block type of this stage has it ({kinds}); their dimensions: "
                f"{listed}"
            )
        channels = self.required(given, "channels", path) if given else 1
        return Stage(
            channels=self.whole(channels, f"{path}.channels", 1, MAX_CHANNELS),
            depths=tuple(
                sorted(
                    self.choices(
                        given.get("depth", 1),
                        f"{path}.depth",
                        lambda v, p: self.whole(v, p, 1, MAX_DEPTH),
                    )
                )
            ),
            stride=self.whole(given.get("stride", 1), f"{path}.stride", 1, MAX_SIDE),
            dimensions={**shared, **own},
        )


def read_options(
    input_shape: Shape,
    num_classes: int,
    options: Mapping[str, Any],
    types: BlockTypes | None = None,
) -> StagedOptions:
    """Checks the options of a staged space, of the packaged block types if none are given.

    Raises:
        ConfigError: everything that is wrong with them, a line each, the key path first.
    """
    types = block_types({}) if types is None else types
    reader = _Options(types)
    known = ("resolution", "stem", "stages", "head", *types.dimensions)
    given = reader.mapping(options, "", known)
    dimensions = {
        name: reader.dimension(
            name,
            given.get(name, DEFAULTS.get(name)),
            name,
            "network" if name in NETWORK_LISTS else "stage",
        )
        for name in types.dimensions
    }
    stem = reader.mapping(
        given.get("stem", {}), "stem", ("channels", "kernel_size", "stride", "activation", "pool")
    )
    head = reader.mapping(
        given.get("head", {}), "head", ("channels", "hidden", "activation", "dropout")
    )
    listed = given.get("stages")
    if not isinstance(listed, list | tuple) or not 1 <= len(listed) <= MAX_STAGES:
        reader.problems.append(f"stages: expected a list of 1 to {MAX_STAGES} stages")
        listed = ()
    read = StagedOptions(
        input_shapes=_input_shapes(reader, input_shape, given),
        num_classes=reader.whole(num_classes, "num_classes", 1, 10**6),
        stem_channels=reader.whole(stem.get("channels", 16), "stem.channels", 1, MAX_CHANNELS),
        stem_kernel_size=reader.odd(stem.get("kernel_size", 3), "stem.kernel_size"),
        stem_stride=reader.whole(stem.get("stride", 1), "stem.stride", 1, MAX_SIDE),
        stem_activation=reader.activation(stem.get("activation", "relu6"), "stem.activation"),
        stem_pool=reader.whole(stem.get("pool", 1), "stem.pool", 1, MAX_SIDE),
        stages=tuple(
            reader.stage(stage, f"stages.{i}", dimensions) for i, stage in enumerate(listed)
        ),
        head_channels=reader.whole(head.get("channels", 0), "head.channels", 0, MAX_CHANNELS),
        head_hidden=reader.whole(head.get("hidden", 0), "head.hidden", 0, MAX_CHANNELS),
        head_activation=reader.activation(head.get("activation", "relu6"), "head.activation"),
        dropout=reader.number(head.get("dropout", 0), "head.dropout", 0, 0.99),
        dimensions=dimensions,
        alternatives=reader.alternatives,
        names=types.dimensions,
    )
    if reader.problems:
        raise ConfigError(reader.problems)
    return read


def _input_shapes(
    reader: Reader, input_shape: Shape, options: Mapping[str, Any]
) -> tuple[Shape, ...]:
    if len(input_shape) != 3:
        reader.problems.append(
            f"input_shape: a staged space needs (channels, height, width), got {input_shape}"
        )
        return ((1, 1, 1),)
    if options.get("resolution") is None:
        return (tuple(int(n) for n in input_shape),)
    sides = reader.choices(
        options["resolution"], "resolution", lambda v, p: reader.whole(v, p, 1, MAX_SIDE)
    )
    return tuple((int(input_shape[0]), side, side) for side in sides)
