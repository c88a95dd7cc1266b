"""Layer 2: the weights of a trained network on disk, as safetensors."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from nasctl.errors import EnvironmentProblemError

if TYPE_CHECKING:
    from torch import nn


def save_weights(path: Path, module: nn.Module, metadata: Mapping[str, str]) -> None:
    """Writes parameters and buffers as safetensors; a crash leaves the old file or the new one.

    Args:
        path: its directory is created.
        module: any memory format and device; stored contiguous, under the state dict's names.
        metadata: texts, stored in the file's header.

    Raises:
        EnvironmentProblemError: the file cannot be written.
    """
    from safetensors.torch import save

    state = {k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(save(state, metadata=dict(metadata)))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise EnvironmentProblemError(f"cannot write {path}: {error.strerror}") from None


def load_weights(path: Path, module: nn.Module) -> dict[str, str]:
    """Loads what `save_weights` wrote into a freshly built module, strictly; gives the metadata.

    Raises:
        EnvironmentProblemError: missing or damaged file, or weights of another architecture.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        module.load_state_dict(state, strict=True)
    except (OSError, SafetensorError) as error:
        raise EnvironmentProblemError(f"cannot read the weights {path}: {error}") from None
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise EnvironmentProblemError(
            f"{path} has the weights of another network: {reason}"
        ) from None
    return metadata
