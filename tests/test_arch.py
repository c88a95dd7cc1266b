"""Values of layer 0: normal forms, identity, JSON, pickling and errors."""

from __future__ import annotations

import hashlib
import json
import pickle
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasctl.arch import Architecture, Block, Cost, Opaque, Shape
from nasctl.errors import SpecError
from nasctl.fields import canonical_json, normal_number


@dataclass(frozen=True, kw_only=True)
class Layer(Block):
    """A block with every kind of field."""

    op: ClassVar[str] = "layer"
    out: int
    ratio: float = 2.0
    mode: Literal["a", "b"] = "a"
    flag: bool = False
    sizes: tuple[int, ...] = ()
    limit: int | None = None

    def out_shape(self, in_shape: Shape) -> Shape:
        if self.out < 0:
            raise SpecError(f"out {self.out} is negative")
        return (self.out,)

    def canonical(self, in_shape: Shape) -> tuple[Block, ...]:
        return () if in_shape == (self.out,) else (self,)


TYPES: dict[str, type[Block]] = {"layer": Layer}


def network(*blocks: Block, classes: int = 4) -> Architecture:
    return Architecture(input_shape=(3,), blocks=(*blocks, Layer(out=classes)), num_classes=classes)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(6.0, 6), (6, 6), (0.5, 0.5), (True, True), ("6.0", "6.0"), ([1.0, [2.0]], (1, (2,)))],
)
def test_normal_number(value: object, expected: object) -> None:
    got = normal_number(value)
    assert got == expected
    assert type(got) is type(expected)


def test_six_and_six_point_zero_are_one_block() -> None:
    a, b = Layer(out=6, ratio=6.0), Layer(out=6.0, ratio=6)  # type: ignore[arg-type]
    assert a == b
    assert hash(a) == hash(b)
    assert a.text == b.text == '{"op":"layer","out":6,"ratio":6}'


def test_default_fields_are_left_out_so_that_fields_can_be_added_later() -> None:
    assert Layer(out=1, ratio=2).to_json() == {"op": "layer", "out": 1}
    assert Layer(out=1, sizes=(1, 2)).to_json()["sizes"] == [1, 2]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"out": "6"}, "layer.out: expected int, got '6'"),
        ({"out": 6.5}, "layer.out: expected int, got 6.5"),
        ({"out": True}, "layer.out: expected int, got True"),
        ({"out": (1, 2)}, "layer.out: expected int"),
        ({"out": None}, "layer.out: expected int, got None"),
        ({"out": 1, "ratio": float("inf")}, "layer.ratio: expected float, got inf"),
        ({"out": 1, "flag": 1}, "layer.flag: expected bool, got 1"),
        ({"out": 1, "mode": "c"}, "layer.mode: expected .*'a', 'b'.*, got 'c'"),
        ({"out": 1, "sizes": 3}, "layer.sizes: expected tuple.*, got 3"),
        ({"out": 1, "sizes": ("x",)}, "layer.sizes: expected tuple"),
        ({"out": 1, "limit": "x"}, "layer.limit: expected int or NoneType, got 'x'"),
        ({"out": "x", "ratio": "y"}, "2 problems"),
    ],
)
def test_wrong_types_are_errors(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Layer(**fields)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"op": "layer", "out": 1, "rato": 2},
            "unknown field of layer 'rato'; did you mean 'ratio'",
        ),
        ({"op": "layer"}, "layer.out: missing"),
    ],
)
def test_unknown_and_missing_fields_are_errors(data: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Layer.from_json(data)


@given(
    st.builds(
        Layer,
        out=st.integers(0, 9),
        ratio=st.floats(-9, 9),
        mode=st.sampled_from(["a", "b"]),
        flag=st.booleans(),
        sizes=st.lists(st.integers(0, 3), max_size=3).map(tuple),
        limit=st.none() | st.integers(0, 3),
    )
)
def test_blocks_survive_json_and_pickle(layer: Layer) -> None:
    assert Layer.from_json(json.loads(layer.text)) == layer
    assert pickle.loads(pickle.dumps(layer)) == layer


def test_identities_vanish_and_shapes_are_threaded() -> None:
    plain = network(Layer(out=5))
    assert network(Layer(out=3), Layer(out=5), Layer(out=5)) == plain
    assert plain.shapes == ((3,), (5,), (4,))
    assert [(b.fields()["out"], s) for b, s in plain.placed()] == [(5, (3,)), (4, (5,))]


def test_id_is_the_hash_of_the_canonical_json() -> None:
    a = network(Layer(out=5, ratio=0.5))
    text = json.dumps(a.to_json(), sort_keys=True, separators=(",", ":"))
    assert a.text == text
    assert a.id == hashlib.sha256(text.encode()).hexdigest()[:12]
    assert a.id == "873b4faf6769"
    assert len({a.id, network(Layer(out=5)).id, network(Layer(out=5), classes=2).id}) == 3


def test_whole_numbers_in_shapes_are_normalised() -> None:
    a = Architecture(input_shape=(3.0,), blocks=(Layer(out=4),), num_classes=4.0)  # type: ignore[arg-type]
    assert a.id == network().id


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_shape": (3.5,)}, "input_shape: expected whole numbers"),
        ({"input_shape": ()}, "input_shape: expected whole numbers"),
        ({"input_shape": (0,)}, "input_shape: expected whole numbers"),
        ({"num_classes": 2.5}, "num_classes: expected a whole number, got 2.5"),
        ({"num_classes": 7}, r"gives shape \(4,\), expected \(7,\) for 7 classes"),
        ({"blocks": (Layer(out=5), Layer(out=-1))}, r"block 1 \(layer\) on input \(5,\): out -1"),
        ({"blocks": ()}, r"gives shape \(3,\), expected"),
    ],
)
def test_architectures_that_cannot_exist(change: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"input_shape": (3,), "blocks": (Layer(out=4),), "num_classes": 4}
    with pytest.raises(SpecError, match=message):
        Architecture(**{**good, **change})


def test_architecture_round_trips() -> None:
    a = network(Layer(out=5, sizes=(1,)), Layer(out=7, mode="b"))
    for b in (Architecture.from_json(json.loads(a.text), TYPES), pickle.loads(pickle.dumps(a))):
        assert b == a
        assert (b.id, b.shapes, hash(b)) == (a.id, a.shapes, hash(a))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "3 problems"),
        ({"input_shape": [3], "blocks": [], "num_clases": 4}, "did you mean 'num_classes'"),
        ({"input_shape": [3], "blocks": ["x"], "num_classes": 4}, "blocks.0: expected an object"),
        ({"input_shape": [3], "blocks": [{"out": 1}], "num_classes": 4}, "blocks.0: expected"),
    ],
)
def test_broken_architecture_json(data: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Architecture.from_json(data, TYPES)


def test_unknown_ops_are_opaque_or_refused() -> None:
    data = {"input_shape": [3], "blocks": [{"op": "lair", "edge": 2.0}], "num_classes": 10}
    a = Architecture.from_json(data, TYPES)
    assert a.blocks == (Opaque("lair", edge=2),)
    with pytest.raises(SpecError, match=r"unknown block 'lair'.*did you mean 'layer'"):
        Architecture.from_json(data, TYPES, opaque=False)


def test_opaque_blocks_are_values() -> None:
    a, b = Opaque("cell", edges="0|1", n=2.0), Opaque("cell", n=2, edges="0|1")
    assert a == b
    assert hash(a) == hash(b)
    assert a.text == '{"edges":"0|1","n":2,"op":"cell"}'
    assert pickle.loads(pickle.dumps(a)) == a != Opaque("cell", n=3)
    assert a.out_shape((3, 2, 2)) == (3, 2, 2)
    assert a != Layer(out=1)
    with pytest.raises(SpecError, match="has no module to build"):
        a.build((3,))
    with pytest.raises(SpecError, match=r"cell.n: expected .*nan"):
        Opaque("cell", n=float("nan"))


def test_cost_is_an_open_immutable_mapping() -> None:
    cost = Cost(params=3, energy_mj=0.5)
    assert dict(cost) == {"params": 3, "energy_mj": 0.5}
    assert len(cost) == 2
    assert pickle.loads(pickle.dumps(cost)) == cost == Cost(energy_mj=0.5, params=3)
    with pytest.raises(SpecError, match="cost macs is not finite: nan"):
        Cost(macs=float("nan"))
    with pytest.raises(TypeError):
        cost["params"] = 4  # type: ignore[index]


def test_canonical_json_has_one_form_and_no_nan() -> None:
    assert canonical_json({"b": 1, "a": [1, 0.5]}) == '{"a":[1,0.5],"b":1}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))
