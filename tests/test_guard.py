"""The guarded reader: what it lets through unchanged, what it refuses and with which line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nasctl.config import guard
from nasctl.errors import ConfigError


def load(tmp_path: Path, text: str | bytes) -> guard.GuardedFile:
    path = tmp_path / "c.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return guard.load(path, shown_as="c.yaml")


def refused(tmp_path: Path, text: str | bytes) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    return str(caught.value)


def test_scalars_are_read_as_omegaconf_reads_them(tmp_path: Path) -> None:
    text = "a: 1e-3\nb: 0.5\nc: 7\nd: yes\ne: 2024-01-01\nf: null\ng: 'x: y'\nh: 1_000\ni: 1.5e3\n"
    assert load(tmp_path, text).data == {
        "a": 0.001,
        "b": 0.5,
        "c": 7,
        "d": True,
        "e": "2024-01-01",
        "f": None,
        "g": "x: y",
        "h": 1000,
        "i": 1500.0,
    }


def test_lines_of_keys_and_list_entries(tmp_path: Path) -> None:
    file = load(tmp_path, "a:\n  b:\n    - 1\n    - c: 2\n# comment\nd: 3\n")
    assert file.where(("a", "b")) == "c.yaml:2"
    assert file.where(("a", "b", "1", "c")) == "c.yaml:4"
    assert file.where(("d",)) == "c.yaml:6"
    assert file.where(("a", "b", "7")) == "c.yaml:2", "the closest key around it"


def test_references_are_marked_and_not_resolved(tmp_path: Path) -> None:
    data = load(tmp_path, 'a: "${seed}"\nb: "x-${a.b}-${c}"\n').data
    assert data == {"a": "\0{seed}", "b": "x-\0{a.b}-\0{c}"}


def test_aliases_and_merge_keys_work_within_the_limits(tmp_path: Path) -> None:
    text = "base: &b {x: 1, y: [1, 2]}\nuse: *b\nmore: {<<: *b, x: 3}\n"
    data = load(tmp_path, text).data
    assert data["use"] == {"x": 1, "y": [1, 2]}
    assert data["more"] == {"x": 3, "y": [1, 2]}


def test_package_header(tmp_path: Path) -> None:
    assert load(tmp_path, "# @package _global_\na: 1\n").package == "_global_"
    assert load(tmp_path, "# about\n# @package x\na: 1\n").package is None
    assert "c.yaml:1: expected `# @package NAME`" in refused(tmp_path, "# @package\na: 1\n")


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    assert load(tmp_path, b"\xef\xbb\xbfa: 1\n").data == {"a": 1}


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
)
MERGE_BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i}\n  <<: [*a{i - 1}, *a{i - 1}, *a{i - 1}, *a{i - 1}]\n" for i in range(1, 20)
)

REFUSED = {
    "alias bomb": (LAUGHS, "more than 5000 values once aliases are expanded"),
    "merge bomb": (MERGE_BOMB, "more than 5000 values once aliases are expanded"),
    "many aliases": ("a: &a 1\nb: [" + ", ".join(["*a"] * 101) + "]", "more than 100 aliases"),
    "many values": ("a: [" + "1, " * 6000 + "]", "c.yaml:1: more than 5000 values"),
    "deep flow": ("a: " + "[" * 5000 + "]" * 5000, "nested deeper than 50 levels"),
    "deep unclosed": ("a: " + "{a: " * 20_000, "nested deeper than 50 levels"),
    "deep block": ("\n".join(" " * i + f"k{i}:" for i in range(60)), "nested deeper than 50"),
    "cycle": ("a: &a\n  b: *a\n", "c.yaml:1: a.b: an alias to something that contains it"),
    "undefined alias": ("a: *nope\n", "c.yaml:1: not valid YAML: found undefined alias"),
    "huge integer": ("a: " + "9" * 5000, "c.yaml:1: a: a number with 5000 digits"),
    "huge hex": ("a: 0x" + "f" * 5000, "a: a number with 5002 digits"),
    "python tag": ("a: !!python/object/apply:os.system [id]", "c.yaml:1: tags are not allowed"),
    "own tag": ("a: 1\nb: !mine 2", "c.yaml:2: tags are not allowed: '!mine'"),
    "standard tag": ("a: !!binary aGk=", "tags are not allowed"),
    "duplicate key": ("a: 1\nb: 2\na: 3\n", "c.yaml:3: a: already given in line 1"),
    "duplicate nested": ("r:\n  a: 1\n  a: 3\n", "c.yaml:3: r.a: already given in line 2"),
    "two documents": ("a: 1\n---\nb: 2\n", "c.yaml:2: a second document"),
    "empty": ("", "c.yaml: empty"),
    "only comments": ("# nothing\n", "c.yaml: empty"),
    "null": ("~\n", "c.yaml: empty"),
    "a list": ("- a\n- b\n", "c.yaml:1: expected `key: value` lines, found a list"),
    "a text": ("hello\n", "c.yaml:1: expected `key: value` lines, found a single value"),
    "nul byte": (b"a: 1\nb: \x00\n", "c.yaml:2: control character '\\x00'"),
    "escaped nul": ('a: "\\0{oc.env:HOME}"', "c.yaml:1: a: '\\x00{oc.env:HOME}': control"),
    "latin 1": (b"a: 1\nb: caf\xe9\n", "c.yaml:2: not UTF-8 text"),
    "utf 16": ("a: 1".encode("utf-16"), "not UTF-8 text"),
    "boolean key": ("on: 1\n", "c.yaml:1: on: YAML reads this key as bool; quote it"),
    "number key": ("a: {1: 2}\n", "c.yaml:1: a.1: YAML reads this key as int; quote it"),
    "list as key": ("? [a, b]\n: 1\n", "c.yaml:1: top level: a key must be text, not a list"),
    "target": ("a:\n  _target_: os.system\n", "c.yaml:2: a._target_: a configuration names things"),
    "target in list": ("a: [{_target_: x}]\n", "a.0._target_: a configuration names things"),
    "partial": ("_partial_: true\n", "c.yaml:1: _partial_: a configuration names things"),
    "args": ("a: {_args_: [1]}\n", "a._args_: a configuration names things"),
    "environment": ("a: ${oc.env:HOME}\n", "c.yaml:1: a: '${oc.env:HOME}': only ${key}"),
    "now": ("a: x${now:%Y}\n", "only ${key} with the path of another key"),
    "nested resolver": ("a: ${oc.${b}}\n", "only ${key}"),
    "escaped": ("a: \\${b}\n", "only ${key}"),
    "unclosed": ("a: ${b\n", "only ${key}"),
    "relative": ("a: ${..b}\n", "only ${key}"),
    "in a key": ('"${a}": 1\n', "a key must be plain text"),
    "bad indentation": (
        "a: 1\n b: 2\n",
        "c.yaml:2: not valid YAML: mapping values are not allowed",
    ),
    "tab": ("a:\n\tb: 1\n", "c.yaml:2: not valid YAML"),
    "unclosed list": ("a: [1, 2\nb: 3\n", "c.yaml:2: not valid YAML"),
    "unclosed quote": ('a: "x\n', "not valid YAML"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(tmp_path: Path, case: str) -> None:
    text, message = REFUSED[case]
    found = refused(tmp_path, text)
    assert message in found
    assert len(found) < 400, "one line, whatever the file holds"


def test_all_problems_of_a_file_at_once(tmp_path: Path) -> None:
    text = "a: ${oc.env:X}\nb: {_target_: x}\na: 1\n"
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    lines = [problem.split(": ")[0] for problem in caught.value.problems]
    assert lines == ["c.yaml:1", "c.yaml:2", "c.yaml:3"]


def test_size_limit(tmp_path: Path) -> None:
    comment = "# " + "x" * 1000 + "\n"
    assert load(tmp_path, comment * 1000 + "a: 1\n").data == {"a": 1}
    assert "larger than 1024 KiB" in refused(tmp_path, comment * 1100 + "a: 1\n")


def test_what_is_not_a_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    with pytest.raises(ConfigError, match="not a regular file"):
        guard.load(pipe)
    with pytest.raises(ConfigError, match="No such file"):
        guard.load(tmp_path / "absent.yaml")


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**60), 2**60),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(
        st.characters(
            max_codepoint=0x2FF, categories=["L", "N", "P", "S", "Zs"], exclude_characters="$"
        )
    ),
    st.text("a b\n\t'\"#:-", max_size=8),
    st.sampled_from(["1e-3", "on", "2024-01-01", "010", "~", "=", "<<", "1_0", "- a", "a: b", "?"]),
)
TREES = st.dictionaries(
    st.text("abcdefgh_", min_size=1, max_size=6).filter(lambda k: not k.startswith("_")),
    st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4), max_leaves=8),
    min_size=1,
    max_size=6,
)


@given(TREES)
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_what_is_dumped_loads_as_it_was(tmp_path: Path, tree: dict[str, Any]) -> None:
    data = load(tmp_path, guard.dump(tree)).data
    assert data == tree
    assert repr(data) == repr(tree), "types too"


PIECES = st.lists(
    st.sampled_from(
        [
            *(": ", "\n", "  ", "- ", "&x ", "!t ", "|\n", "%YAML 1.1\n", "---\n", "...\n", "\t"),
            *[
                "a",
                "[",
                "]",
                "{",
                "}",
                "*x",
                "!!",
                "'",
                '"',
                ">",
                "?",
                "#",
                "<<",
                "${",
                "}",
                "1",
                ",",
                "é",
                "_target_",
                "0x",
                ".inf",
                "~",
                "@",
                "`",
                "=",
                "\\",
            ],
            *("\x07", "\x85", "\ufeff", "9" * 30),
        ]
    ),
    max_size=40,
).map("".join)


@given(st.one_of(PIECES, st.binary(max_size=60)))
@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_fuzz_either_loads_or_explains(tmp_path: Path, text: str | bytes) -> None:
    data: object = {}
    problems: tuple[str, ...] = ()
    try:
        data = load(tmp_path, text).data
    except ConfigError as error:
        problems = error.problems
    assert [p for p in problems if not p.startswith("c.yaml") or "\n" in p] == []
    assert isinstance(data, dict)
    assert "${" not in repr(data), "nothing is left for OmegaConf to resolve"


def test_the_c_parser_is_used_where_there_is_one() -> None:
    base = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    assert issubclass(guard._loader(), base)
