"""Layer 4: the three formats: each is written to a folder, and read from there by nothing of us."""

from __future__ import annotations

import json
import keyword
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasctl.errors import ConfigError, EnvironmentProblemError
from nasctl.export.parity import Runner
from nasctl.export.source import to_source
from nasctl.onnx_runtime import INPUT, OUTPUT, export_onnx, session, with_metadata

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import fx

SUFFIXES = {"onnx": ".onnx", "pt2": ".pt2", "torch": ".py"}
METADATA = "nasctl"
"""The key under which a file holds the JSON of `Card`."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What goes along with the weights, as plain JSON.

    Attributes:
        title: one line.
        input_shape: channels, height, width.
        classes: names, in the order of the outputs.
        mean, std: of each channel, pixels in 0 .. 1.
        provenance: run, network, seed, commit, metrics.
    """

    title: str
    version: str
    input_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    provenance: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "nasctl": self.version,
            "preprocessing": {
                "input_shape": list(self.input_shape),
                "layout": "NCHW",
                "dtype": "float32",
                "resize": "bilinear, antialiased",
                "scale": "pixels 0 .. 255 divided by 255",
                "mean": list(self.mean),
                "std": list(self.std),
            },
            "classes": list(self.classes),
            "provenance": dict(self.provenance),
        }


Writer = Callable[["fx.GraphModule", Card, Path], Runner]
"""Writes the file at a path (and what belongs beside it), and reads it back."""


def write_onnx(traced: fx.GraphModule, card: Card, path: Path) -> Runner:
    """One ONNX file with a dynamic batch; metadata under `METADATA`."""
    model = export_onnx(traced, card.input_shape, dynamic_batch=True)
    path.write_bytes(with_metadata(model, {METADATA: json.dumps(card.to_json())}))
    opened = session(path.read_bytes(), threads=1)

    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        (logits,) = opened.run([OUTPUT], {INPUT: images})
        found: NDArray[np.float32] = logits
        return found

    return run


def write_pt2(traced: fx.GraphModule, card: Card, path: Path) -> Runner:
    """One file of torch.export with a dynamic batch; metadata as the extra file `METADATA`.json."""
    import torch

    example = torch.zeros(2, *card.input_shape)  # of one image the batch would become a constant
    try:
        program = torch.export.export(
            traced, (example,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},)
        )
    except Exception as error:  # torch's own kinds, of which there is no common one
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise EnvironmentProblemError(f"torch.export cannot take it: {reason}") from error
    name = f"{METADATA}.json"
    torch.export.save(program, path, extra_files={name: json.dumps(card.to_json())})
    return _runner(torch.export.load(path).module())


def write_torch(traced: fx.GraphModule, card: Card, path: Path) -> Runner:
    """A Python file that needs torch alone, and beside it its weights as safetensors."""
    from safetensors.torch import save_file

    source = to_source(
        traced,
        module=path.stem,
        title=card.title,
        version=card.version,
        input_shape=card.input_shape,
        classes=card.classes,
        mean=card.mean,
        std=card.std,
        provenance=card.provenance,
    )
    path.write_text(source, encoding="utf-8")
    state = {k: v.contiguous() for k, v in traced.state_dict().items()}
    save_file(state, path.with_suffix(".safetensors"), metadata={METADATA: card.title})
    module = types.ModuleType(path.stem)
    module.__file__ = str(path)
    exec(compile(source, path, "exec"), vars(module))  # an import would leave its byte code there
    return _runner(module.load())


def _runner(module: Any) -> Runner:
    import torch

    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            found: NDArray[np.float32] = module(torch.from_numpy(images)).numpy()
        return found

    return run


WRITERS: Mapping[str, Writer] = {"onnx": write_onnx, "pt2": write_pt2, "torch": write_torch}


def default_path(arch_id: str, kind: str, *, int8: bool = False) -> Path:
    """In the current directory; an id may begin with a digit, which no module's name does."""
    before, after = "net_" if kind == "torch" else "", "-int8" if int8 else ""
    return Path(f"{before}{arch_id}{after}{SUFFIXES[kind]}")


def files_of(path: Path, kind: str) -> tuple[Path, ...]:
    """What a format leaves behind at `path`, what others refer to first.

    Raises:
        ConfigError: the ending is that of another format; a Python file has to end in .py, and to
            be a module that can be imported.
    """
    if kind != "torch":
        other = next((k for k, suffix in SUFFIXES.items() if suffix == path.suffix), kind)
        if other != kind:
            raise ConfigError(
                f"-o {path}: {path.suffix} is the ending of --format {other}, and this is {kind}; "
                f"end it in {SUFFIXES[kind]}"
            )
        return (path,)
    if path.suffix != ".py":
        raise ConfigError(f"-o {path}: a PyTorch file ends in .py; its weights lie beside it")
    if not path.stem.isidentifier() or keyword.iskeyword(path.stem):
        raise ConfigError(f"-o {path}: {path.stem!r} is no name that Python can import")
    return (path.with_suffix(".safetensors"), path)
