"""Layer 5: what `nasctl profile` does: finds the networks, looks at them, prints."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TextIO

from nasctl.arch import Block, Shape
from nasctl.errors import ConfigError
from nasctl.profile.compare import comparison_text
from nasctl.profile.figures import profile_network
from nasctl.profile.latency import measure
from nasctl.profile.table import profile_text, shape_text
from nasctl.profile.target import find_target, list_networks
from nasctl.terminal import aligned, paint_for, print_text


@dataclass(frozen=True, kw_only=True)
class ProfileRequest:
    """The command line, as given."""

    network: str
    width: float | None = None
    input_text: str | None = None
    num_classes: int | None = None
    latency: bool = False
    other: str | None = None
    plugins: tuple[str, ...] = ()


def run_profile(
    request: ProfileRequest, file: TextIO, *, as_json: bool, announce: Callable[[str], None]
) -> None:
    """Profiles one network, or compares two, and prints the result.

    Raises:
        ConfigError: see `find_target`; an input that is not three whole numbers.
        EnvironmentProblemError: no such run, or its latency cannot be measured.
        NasctlError: a block has an operation that cannot be counted.
    """
    shape = None if request.input_text is None else input_shape(request.input_text)
    block_types = _block_types(request.plugins)
    targets = [
        find_target(
            request.network,
            input_shape=shape,
            num_classes=request.num_classes,
            width=request.width,
            block_types=block_types,
        )
    ]
    if request.other is not None:
        # A network of a run is as it is; the settings are for names.
        named = ":" not in request.other
        targets.append(
            find_target(
                request.other,
                input_shape=shape if named else None,
                num_classes=request.num_classes if named else None,
                block_types=block_types,
            )
        )
    looked = [profile_network(t) for t in targets]  # what cannot be looked at is not measured
    if request.latency:
        # stdout carries the result: what an exporter or a plugin prints goes to stderr.
        with contextlib.redirect_stdout(sys.stderr):
            measured = measure([t.architecture for t in targets], progress=announce)
        looked = [profile_network(t, m) for t, m in zip(targets, measured, strict=True)]
    if as_json:
        answer = looked[0].to_json()
        if len(looked) > 1:
            answer["compare"] = looked[1].to_json()
        print(json.dumps(answer, indent=2, allow_nan=False), file=file)
        return
    width, paint = shutil.get_terminal_size((80, 24)).columns, paint_for(file)
    if len(looked) > 1:
        print_text(comparison_text(looked[0], looked[1], width=width, paint=paint), file)
    else:
        print_text(profile_text(looked[0], width=width, paint=paint), file)


def input_shape(text: str) -> Shape:
    """`3,224,224` -> (3, 224, 224).

    Raises:
        ConfigError: anything else than three whole numbers of at least 1.
    """
    parts = [p.strip() for p in text.split(",")]
    if len(parts) != 3 or not all(p.isascii() and p.isdigit() and int(p) > 0 for p in parts):
        raise ConfigError(
            f"--input {text}: expected channels,height,width, for example --input 3,224,224"
        )
    return tuple(int(p) for p in parts)


def _block_types(plugins: tuple[str, ...]) -> Mapping[str, type[Block]] | None:
    if not plugins:
        return None
    from nasctl.plugins import load_plugins

    return load_plugins(plugins).blocks


def show_list(file: TextIO, *, as_json: bool) -> None:
    """The networks that are known by name; nothing is computed."""
    networks = list_networks()
    if as_json:
        print(json.dumps(networks, indent=2), file=file)
        return
    columns = [
        ["network", *(n["name"] for n in networks)],
        ["input", *(shape_text(n["input_shape"]) for n in networks)],
        ["classes", *(str(n["num_classes"]) for n in networks)],
        ["--width", *("yes" if n["width"] else "–" for n in networks)],
    ]
    sources = ["source", *(n["source"] for n in networks)]
    paint = paint_for(file)
    lines = [
        f"{'  '.join(cells)}  {source}"
        for cells, source in zip(aligned(columns), sources, strict=True)
    ]
    if file.isatty():  # a pipe gets whole lines
        width = shutil.get_terminal_size((80, 24)).columns
        lines = [line if len(line) <= width else f"{line[: width - 1]}…" for line in lines]
    print_text("\n".join([paint(lines[0], "dim"), *lines[1:]]), file)
