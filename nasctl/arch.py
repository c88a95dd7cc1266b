"""Layer 0: what a network *is*. Blocks, architectures, identity; plain arithmetic, no torch.

An `Architecture` is a chain of blocks with shapes threaded through. It is canonical by
construction: whatever builds the same network has the same `id`, however it was asked for.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from nasctl.errors import SpecError, unknown
from nasctl.fields import as_tuples, canonical_json, field_types, fits, normal_number, type_problem

if TYPE_CHECKING:
    from torch import nn

Shape = tuple[int, ...]
"""Without the batch: (channels, height, width) of a feature map, (features,) of a vector."""

Scalar = str | int | float | bool

DEFAULT_INIT = "he_normal"
"""Of the weights of an architecture that does not say otherwise."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """One link of the chain: a light, hashable description that can build its module.

    Subclasses are `@dataclass(frozen=True, kw_only=True)` with scalar (or tuple-of-scalar) fields
    and a unique class variable `op`. Fields equal to their default are left out of the JSON form,
    so that a field added later does not change the identity of the networks of today.

    Raises:
        SpecError: a field has the wrong type; subclasses raise it for values that cannot be built.
    """

    op: ClassVar[str]
    training_only: ClassVar[bool] = False
    """Whether it is the identity in the network that is deployed (an auxiliary classifier)."""

    def __post_init__(self) -> None:
        problems = []
        for name, types in field_types(type(self)).items():
            value = normal_number(getattr(self, name))
            object.__setattr__(self, name, value)
            if problem := type_problem(name, value, types):
                problems.append(f"{self.op}.{problem}")
        if problems:
            raise SpecError(problems)
        key = tuple(getattr(self, name) for name in field_types(type(self)))
        object.__setattr__(self, "_hash", hash((self.op, key)))

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        # Dataclasses would generate a field-by-field hash; pricing hashes blocks by the million.
        setattr(cls, "__hash__", Block.__hash__)  # noqa: B010 - mypy refuses the plain assignment

    def __hash__(self) -> int:
        return self._hash  # type: ignore[attr-defined,no-any-return]  # set once, at the start

    def __reduce__(self) -> tuple[Any, ...]:
        # Text hashes differ between processes, so a pickled block is rebuilt, not restored.
        return _rebuild_block, (type(self), self.fields())

    def fields(self) -> dict[str, Any]:
        """Every field with its value, in declaration order."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    def out_shape(self, in_shape: Shape) -> Shape:
        """The shape after this block, without the batch.

        Raises:
            SpecError: the block cannot be applied to `in_shape`.
        """
        raise NotImplementedError  # every block has its own

    def build(self, in_shape: Shape) -> nn.Module:
        """The module for inputs of shape (N, *in_shape); the only place that imports torch."""
        raise NotImplementedError  # every block has its own

    def canonical(self, in_shape: Shape) -> tuple[Block, ...]:
        """The blocks that build the same network: `()` for an identity, by default itself."""
        del in_shape
        return (self,)

    def to_json(self) -> dict[str, Any]:
        """`{"op": ..., field: value, ...}` without the fields that have their default value."""
        data: dict[str, Any] = {"op": self.op}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.default is dataclasses.MISSING or value != normal_number(field.default):
                data[field.name] = list(value) if isinstance(value, tuple) else value
        return data

    @functools.cached_property
    def text(self) -> str:
        """The canonical JSON, made once: ids and cache keys of many networks share their blocks."""
        return canonical_json(self.to_json())

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json` for one block type.

        Raises:
            SpecError: unknown, missing or wrong fields.
        """
        given = {k: v for k, v in data.items() if k != "op"}
        cls_any: Any = cls  # mypy takes the instance's __hash__ for the class's
        known = {f.name: f for f in dataclasses.fields(cls_any)}
        problems = [unknown(f"field of {cls.op}", k, known) for k in given if k not in known]
        problems += [
            f"{cls.op}.{name}: missing"
            for name, f in known.items()
            if f.default is dataclasses.MISSING and name not in given
        ]
        if problems:
            raise SpecError(problems)
        return cls(**{k: as_tuples(v) for k, v in given.items()})


def _rebuild_block(cls: type[Block], fields: dict[str, Any]) -> Block:
    if issubclass(cls, Opaque):
        return cls(fields["op"], **dict(fields["values"]))
    return cls(**fields)


class Opaque(Block):
    """A ready block for tables: a name and fields, priced by the family's `cost`, never built."""

    op: str  # type: ignore[misc]  # a class attribute of other blocks
    values: tuple[tuple[str, Scalar], ...]

    def __init__(self, op: str, **fields: Scalar) -> None:
        problems = [
            f"{op}.{name}: expected a text, finite number or bool, got {value!r}"
            for name, value in fields.items()
            if not isinstance(value, str | int)  # bool is an int
            and not (isinstance(value, float) and math.isfinite(value))
        ]
        if problems:
            raise SpecError(problems)
        values = tuple(sorted((k, normal_number(v)) for k, v in fields.items()))
        object.__setattr__(self, "op", op)
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "_hash", hash((op, values)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Opaque) and (self.op, self.values) == (other.op, other.values)

    __hash__ = Block.__hash__

    def __repr__(self) -> str:
        return f"Opaque({self.op!r}, {', '.join(f'{k}={v!r}' for k, v in self.values)})"

    def fields(self) -> dict[str, Any]:
        return {"op": self.op, "values": self.values}

    def out_shape(self, in_shape: Shape) -> Shape:
        return in_shape

    def build(self, in_shape: Shape) -> nn.Module:
        del in_shape
        raise SpecError(f"{self.op}: an opaque block of a table has no module to build")

    def to_json(self) -> dict[str, Any]:
        return {"op": self.op, **dict(self.values)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        return cls(str(data["op"]), **{k: v for k, v in data.items() if k != "op"})


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A network as a value: equal, hashed and identified by its canonical form.

    Args:
        input_shape: (channels, height, width) that the network is fed; data is resized to it.
        blocks: the chain; identities are dropped and equivalent spellings unified on construction.
        num_classes: length of the output vector.
        init: how weights begin, a name of `search_spaces.initial.INITS`; reference networks begin
            as their papers say. Part of the identity where it is not the default.

    Raises:
        SpecError: a block does not fit the shape it is given, or the output is not `num_classes`.
    """

    input_shape: Shape
    blocks: tuple[Block, ...]
    num_classes: int
    init: str = DEFAULT_INIT

    def __post_init__(self) -> None:
        shape: Shape = normal_number(tuple(self.input_shape))  # type: ignore[assignment]  # checked below
        num_classes = normal_number(self.num_classes)
        if not shape or not all(fits(n, int) and n >= 1 for n in shape):
            raise SpecError(f"input_shape: expected whole numbers of at least 1, got {shape}")
        if not fits(num_classes, int) or self.num_classes < 1:
            raise SpecError(f"num_classes: expected a whole number, got {num_classes!r}")
        object.__setattr__(self, "input_shape", shape)
        object.__setattr__(self, "num_classes", num_classes)
        chain: list[Block] = []
        shapes = [shape]
        opaque = False
        for index, block in enumerate(self.blocks):
            try:
                for b in block.canonical(shape):
                    shape = b.out_shape(shape)
                    chain.append(b)
                    shapes.append(shape)
            except SpecError as error:
                raise SpecError(
                    [f"block {index} ({block.op}) on input {shape}: {p}" for p in error.problems]
                ) from None
            opaque = opaque or isinstance(block, Opaque)
        if not opaque and shape != (self.num_classes,):
            raise SpecError(
                f"the last block gives shape {shape}, expected ({self.num_classes},) for "
                f"{self.num_classes} classes"
            )
        object.__setattr__(self, "blocks", tuple(chain))
        object.__setattr__(self, "_shapes", tuple(shapes))

    @classmethod
    def of_canonical(
        cls, *, blocks: tuple[Block, ...], shapes: tuple[Shape, ...], num_classes: int
    ) -> Architecture:
        """For decoders that thread the shapes themselves; nothing is checked, so it is fast.

        `blocks` are as their own `canonical` gives them, `shapes` as the property is.
        """
        architecture = object.__new__(cls)
        architecture.__dict__.update(
            input_shape=shapes[0],
            blocks=blocks,
            num_classes=num_classes,
            init=DEFAULT_INIT,
            _shapes=shapes,
        )
        return architecture

    def __reduce__(self) -> tuple[Any, ...]:
        fields = (self.input_shape, self.blocks, self.num_classes, self.init)
        return _rebuild_architecture, fields

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """The input shape of every block, then the output shape: `len(blocks) + 1` entries."""
        return self._shapes  # type: ignore[attr-defined,no-any-return]  # set at the start

    def placed(self) -> Iterator[tuple[Block, Shape]]:
        """(block, input shape) in order: what costs are looked up by."""
        return zip(self.blocks, self.shapes, strict=False)

    def deployed(self) -> Iterator[tuple[Block, Shape]]:
        """`placed()` without what is there in training only: what latency consists of."""
        return (pair for pair in self.placed() if not pair[0].training_only)

    def to_json(self) -> dict[str, Any]:
        """A plain dict; `from_json` reads it back to an equal value."""
        return {
            "blocks": [block.to_json() for block in self.blocks],
            **({} if self.init == DEFAULT_INIT else {"init": self.init}),
            "input_shape": list(self.input_shape),
            "num_classes": self.num_classes,
        }

    @functools.cached_property
    def id(self) -> str:
        """First 12 hex digits of the sha256 of the canonical JSON."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:12]

    @property
    def text(self) -> str:
        """The canonical JSON, put together from that of the blocks."""
        blocks = ",".join([block.text for block in self.blocks])
        shape = ",".join(map(str, self.input_shape))
        init = "" if self.init == DEFAULT_INIT else f'"init":{canonical_json(self.init)},'
        sizes = f'"input_shape":[{shape}],"num_classes":{self.num_classes}'
        return f'{{"blocks":[{blocks}],{init}{sizes}}}'

    @classmethod
    def from_json(
        cls, data: Mapping[str, Any], block_types: Mapping[str, type[Block]], *, opaque: bool = True
    ) -> Architecture:
        """Reads `to_json` back.

        Args:
            data: the dict.
            block_types: op name to class.
            opaque: with unknown ops, read all blocks as `Opaque` instead of refusing; same id.

        Raises:
            SpecError: unknown ops or fields, wrong values.
        """
        keys = ("input_shape", "blocks", "num_classes")
        problems = [f"architecture.{k}: missing" for k in keys if k not in data]
        known = (*keys, "init")
        problems += [unknown("field of architecture", k, known) for k in data if k not in known]
        if not isinstance(data.get("init", ""), str):
            problems.append(f"architecture.init: expected a name, got {data['init']!r}")
        problems += [
            f"architecture.blocks.{i}: expected an object with an op, got {b!r}"
            for i, b in enumerate(data.get("blocks", ()))
            if not isinstance(b, Mapping) or not isinstance(b.get("op"), str)
        ]
        if problems:
            raise SpecError(problems)
        strange = [b["op"] for b in data["blocks"] if b["op"] not in block_types]
        if strange and not opaque:
            raise SpecError([unknown("block", op, block_types) for op in strange])
        # All or none: an opaque block among built ones could not pass its shape on.
        kinds: Mapping[str, type[Block]] = {} if strange else block_types
        blocks = [kinds.get(b["op"], Opaque).from_json(b) for b in data["blocks"]]
        return cls(
            input_shape=tuple(data["input_shape"]),
            blocks=tuple(blocks),
            num_classes=data["num_classes"],
            init=data.get("init", DEFAULT_INIT),
        )


def _rebuild_architecture(
    input_shape: Shape, blocks: tuple[Block, ...], num_classes: int, init: str
) -> Architecture:
    return Architecture(input_shape=input_shape, blocks=blocks, num_classes=num_classes, init=init)


class Cost(Mapping[str, float]):
    """What a network costs: an open, immutable mapping from metric name to a finite number.

    Built-in names: `params`, `macs`, `activations`, `model_bytes` (exact) and `latency_ms`.
    Any other name may be an objective or a constraint.
    """

    __slots__ = ("_values",)

    def __init__(self, **metrics: float) -> None:
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise SpecError(f"cost {name} is not finite: {value!r}")
        self._values = MappingProxyType(dict(metrics))

    def __getitem__(self, name: str) -> float:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Cost({', '.join(f'{k}={v!r}' for k, v in self._values.items())})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_cost, (dict(self._values),)


def _rebuild_cost(values: dict[str, float]) -> Cost:
    return Cost(**values)
