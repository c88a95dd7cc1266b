"""Layer 4: which exported networks of a run are shown as MLflow models: those in its `models/`."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from nasctl.export.int8 import normalised, read_exported
from nasctl.files import replacing
from nasctl.kept_files import MODELS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def keep_model(run: Path, onnx_path: Path, image: NDArray[np.uint8]) -> str:
    """Puts an exported file into a run's folder, where the tracking store's projection finds it:
    at once while the run is being searched or verified, else with `nasctl sync`.

    Args:
        run: the run's folder.
        onnx_path: written by `nasctl export`, float or int8.
        image: the example of its input, (C, H, W), of the size that it takes.

    Returns:
        The model's name: the network's id, with `-int8` if it is quantised. A model of that name
        is replaced.

    Raises:
        ConfigError: an image of another shape than the network takes.
        EnvironmentProblemError: no file of `nasctl export`, or the folder cannot be written.
    """
    import numpy as np

    content, card = read_exported(onnx_path)
    (example,) = normalised(image[None], card, onnx_path)
    suffix = "-int8" if "quantisation" in card else ""
    name = f"{card['provenance']['arch_id']}{suffix}"
    buffer = io.BytesIO()
    np.save(buffer, example)
    # The graph last: a model is there once its graph is.
    for kind, data in ((".npy", buffer.getvalue()), (".onnx", content)):
        with replacing(run / MODELS / f"{name}{kind}") as temporary:
            temporary.write_bytes(data)
    return name
