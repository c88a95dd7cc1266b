"""Layer 4: a flat graph as Python source that needs torch and nothing else."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from nasctl.errors import EnvironmentProblemError

if TYPE_CHECKING:
    from torch import fx, nn

MADE_BY = "Made by nasctl "
"""By this a file is known as ours."""

_TEMPLATE = '''\
"""{title}

    from {module} import load, preprocess
    model = load()
    logits = model(preprocess(images))  # images: uint8, (N, {shape})

{made_by}{version}; needs PyTorch alone. Batch norms are folded into convolutions.
"""

import json
import math
import pathlib

import torch
from torch import nn
from torch.nn import functional

PROVENANCE = json.loads(r"""
{provenance}
""")
CLASSES = {classes}
INPUT_SHAPE = {input_shape}  # channels, height, width
MEAN = {mean}  # of each channel, pixels in 0 .. 1
STD = {std}


class Network(nn.Module):
    """(N, {shape}), as `preprocess` gives them -> (N, {outputs}) logits."""

    def __init__(self):
        super().__init__()
{layers}

    def forward(self, {argument}):
{forward}


def preprocess(images):
    """Images of the right size, uint8 (N, {shape}), as the network wants them."""
    mean = torch.tensor(MEAN).view(1, -1, 1, 1)
    std = torch.tensor(STD).view(1, -1, 1, 1)
    return (images.float() / 255 - mean) / std


def load(weights=pathlib.Path(__file__).with_suffix(".safetensors")):
    """The trained network, in evaluation mode."""
    model = Network()
    model.load_state_dict(read_safetensors(weights))
    return model.eval()


def read_safetensors(path):
    """Tensors by name: https://github.com/huggingface/safetensors, float32 and int64 only."""
    data = bytearray(pathlib.Path(path).read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    types = {{"F32": torch.float32, "I64": torch.int64}}
    found = {{}}
    for name, entry in header.items():
        dtype, (begin, _) = types[entry["dtype"]], entry["data_offsets"]
        flat = torch.frombuffer(
            data, dtype=dtype, count=math.prod(entry["shape"]), offset=start + begin
        )
        found[name] = flat.view(entry["shape"]).clone()
    return found
'''

_SKIPPED = {"self", "device", "dtype", "inplace"}


def to_source(
    traced: fx.GraphModule,
    *,
    module: str,
    title: str,
    version: str,
    input_shape: tuple[int, int, int],
    classes: tuple[str, ...],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    provenance: Mapping[str, Any],
) -> str:
    """A Python module with the class `Network`, and `load`, `preprocess`, `PROVENANCE`.

    Args:
        traced: from `flatten`.
        module: the name of the file, without `.py`.
        title: the first line.
        classes: names, in the order of the outputs.
        mean, std: see `Dataset.normalisation`.
        provenance: plain JSON.

    Raises:
        EnvironmentProblemError: a layer that is not of torch.
    """
    argument, forward = _forward(traced)
    # No three quotes in a row: inside of JSON's texts each has a backslash before it.
    text = json.dumps(provenance, indent=4, allow_nan=False)
    return _TEMPLATE.format(
        title=title.replace("\\", "/").replace('"""', "'''"),
        module=module,
        made_by=MADE_BY,
        version=version,
        shape=", ".join(map(str, input_shape)),
        provenance=text,
        classes=_tuple(classes),
        input_shape=input_shape,
        mean=_tuple(mean),
        std=_tuple(std),
        outputs=len(classes),
        layers="\n".join(f"        {line}" for line in _layers(traced)),
        argument=argument,
        forward=forward,
    )


def _tuple(values: tuple[Any, ...]) -> str:
    lines = ["("]
    for value in values:
        lines.append(f"    {value!r},")
    one = f"({', '.join(map(repr, values))}{',' if len(values) == 1 else ''})"
    return one if len(one) < 80 else "\n".join([*lines, ")"])


def _layers(traced: fx.GraphModule) -> Iterator[str]:
    for name, layer in traced.named_children():
        yield f"self.{name} = {_constructor(name, layer)}"
    for name, parameter in traced.named_parameters(recurse=False):
        yield f"self.{name} = nn.Parameter(torch.empty({tuple(parameter.shape)}))"
    for name, buffer in traced.named_buffers(recurse=False):
        kind = "" if buffer.is_floating_point() else f", dtype={buffer.dtype}"
        yield f'self.register_buffer("{name}", torch.empty({tuple(buffer.shape)}{kind}))'


def _constructor(name: str, layer: nn.Module) -> str:
    kind = type(layer)
    if not kind.__module__.startswith("torch.nn.modules."):
        raise EnvironmentProblemError(
            f"{name}: {kind.__name__} is not a layer of PyTorch's own; use --format onnx or pt2"
        )
    given = []
    for key, parameter in inspect.signature(kind.__init__).parameters.items():
        if key in _SKIPPED or not hasattr(layer, key):
            continue
        value = getattr(layer, key)
        if key == "bias":
            value = value is not None
        if value == parameter.default or value == _pair(parameter.default):
            continue
        if not _is_plain(value):
            raise EnvironmentProblemError(
                f"{name}: {kind.__name__}({key}={value!r}) cannot be written down; use --format "
                "onnx or pt2"
            )
        required = parameter.default is inspect.Parameter.empty
        given.append(f"{_one(value)!r}" if required else f"{key}={_one(value)!r}")
    return f"nn.{kind.__name__}({', '.join(given)})"


def _pair(value: object) -> object:
    return (value, value) if isinstance(value, int) and not isinstance(value, bool) else value


def _one(value: Any) -> Any:
    """3 for (3, 3), as people write it."""
    if isinstance(value, tuple):
        return value[0] if len(value) == 2 and value[0] == value[1] else tuple(value)
    return value


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, int | float | str)


def _forward(traced: fx.GraphModule) -> tuple[str, str]:
    """The name of the argument, and the body, from the code that torch.fx makes."""
    code = traced.graph.python_code("self").src
    header, *lines = [line for line in code.splitlines() if line.strip()]
    match = re.search(r"forward\(self, (\w+)", header)
    assert match is not None, header
    body = []
    for line in lines:
        plain = re.sub(r";\s*(\w+ = )+None$", "", re.sub(r"\s+#.*$", "", line))
        plain = re.sub(r"^(\s*\w+) : \S+ = ", r"\1 = ", plain)
        plain = re.sub(r"torch(\._C\._nn|\.nn\.functional|\._nn)\.", "functional.", plain)
        body.append(f"    {plain}")
    return match[1], "\n".join(body)
