"""Layer 3: exported networks of a run as MLflow models, which load where there is no nasctl.

A model is what `records.models()` has: an ONNX file and an example of its input. It appears among
the models of the experiment and of its network's run, and is found again by tags, so that nothing
is logged twice and what a store has lost comes back.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasctl.onnx_runtime import load_model, metadata_of
from nasctl.tracking.text import value_text

if TYPE_CHECKING:
    from nasctl.tracking.store import Sent, Store

LAYOUT = 1
"""Of what is logged; a higher one replaces the models that are there."""

_UID, _DIGEST = "nasctl.run_uid", "nasctl.model_digest"
_NAMES_LENGTH = 250


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """A model as it should be in the store.

    Attributes:
        run_key: of the run that it belongs to.
        path: an ONNX file of `nasctl export`; its name without the suffix is the model's.
        example: an `.npy` file, float32 (1, C, H, W), as the network takes it.
        digest: of both files.
    """

    run_key: str
    path: Path
    example: Path
    digest: str

    @property
    def name(self) -> str:
        return self.path.stem


@dataclass(frozen=True, kw_only=True)
class LoggedModel:
    """A model of the store: complete if it is `ready`."""

    model_id: str
    name: str
    digest: str
    run_id: str
    ready: bool

    @property
    def uri(self) -> str:
        """What `mlflow.pyfunc.load_model` takes."""
        return f"models:/{self.model_id}"

    def is_of(self, file: ModelFile, run_id: str) -> bool:
        """Whether it is this one, whole, and of that run."""
        return self.ready and (self.digest, self.run_id) == (file.digest, run_id)


def log_missing(
    store: Store, uid: str, files: Sequence[tuple[ModelFile, Sent]]
) -> Iterator[tuple[LoggedModel, bool]]:
    """Logs the models that are not there, each into its run.

    Copies, those of other weights, of runs that are gone and those that were cut short are deleted
    once the right one is there.

    Yields:
        Each model, and whether it was logged now.
    """
    found = _find(store, uid)
    for file, run in files:
        there = [m for m in found if m.name == file.name]
        whole = next((m for m in there if m.is_of(file, run.run_id)), None)
        model = whole or _log(store, run, uid, file)
        for other in there:
            if other.model_id != model.model_id:
                store.client.delete_logged_model(other.model_id)
        yield model, whole is None


def _find(store: Store, uid: str) -> list[LoggedModel]:
    """Every model that was logged for a run of nasctl."""
    quoted = uid.replace("'", "")
    found: list[LoggedModel] = []
    token: str | None = None
    while True:
        page: Any = store.client.search_logged_models(
            [store.experiment_id], f"tags.`{_UID}` = '{quoted}'", page_token=token
        )
        found += [
            LoggedModel(
                model_id=m.model_id,
                name=m.name,
                digest=m.tags.get(_DIGEST, ""),
                run_id=m.source_run_id or "",
                ready=str(m.status) == "READY",
            )
            for m in page
        ]
        token = page.token
        if not token:
            return found


def _log(store: Store, sent: Sent, uid: str, file: ModelFile) -> LoggedModel:
    """Logs a model with signature, input example and the metadata of its file.

    Raises:
        GoneError: the run is not there any more.
    """
    from mlflow.entities import LoggedModelOutput

    content = file.path.read_bytes()
    card = json.loads(metadata_of(content)["nasctl"])
    client = store.client
    with store.noticing_loss():
        made = client.create_logged_model(
            store.experiment_id,
            name=file.name,
            source_run_id=sent.run_id,
            tags={_UID: uid, _DIGEST: file.digest},
            params=_params(card),
            model_type="onnx",
        )
        about = {"artifact_path": made.artifact_location, "metadata": {"nasctl": card}}
        ids = {"model_id": made.model_id, "model_uuid": made.model_id, "run_id": sent.run_id}
        with tempfile.TemporaryDirectory(prefix="nasctl-model-") as folder:
            whole = str(Path(folder) / "model")
            _save(whole, content, file.example, about | ids)
            client.log_model_artifacts(made.model_id, whole)
        client.log_outputs(sent.run_id, [LoggedModelOutput(made.model_id, step=0)])
        client.finalize_logged_model(made.model_id, "READY")  # last: else it is made anew
    store.writes += 1
    return LoggedModel(
        model_id=made.model_id,
        name=file.name,
        digest=file.digest,
        run_id=sent.run_id,
        ready=True,
    )


def _params(card: Mapping[str, Any]) -> dict[str, str]:
    """What the table of models shows of it."""
    provenance = card["provenance"]
    values = {
        "arch_id": provenance["arch_id"],
        "precision": "int8" if "quantisation" in card else "float32",
        "seed": provenance.get("seed"),
        "run": provenance["run"],
        "data": provenance["data"],
        "classes": ", ".join(card["classes"]),
    }
    return {k: value_text(v, _NAMES_LENGTH) for k, v in values.items()}


def _save(folder: str, content: bytes, example: Path, about: Mapping[str, Any]) -> None:
    """A folder that `mlflow.pyfunc.load_model` reads; nothing is inferred or looked up.

    Args:
        about: what `mlflow.models.Model` is made with.
    """
    import numpy as np

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow's own type hints
        import mlflow.onnx
        from mlflow.models import Model, ModelSignature
        from mlflow.types import Schema, TensorSpec

        graph = load_model(content)
        (given,), (answer,) = graph.graph.input, graph.graph.output
        dtype = np.dtype(np.float32)
        signature = ModelSignature(
            # Without a name, a plain array is taken as well as a dict.
            inputs=Schema([TensorSpec(dtype, _shape(given))]),
            outputs=Schema([TensorSpec(dtype, _shape(answer), answer.name)]),
        )
        mlflow.onnx.save_model(
            graph,
            folder,
            mlflow_model=Model(**about),
            signature=signature,
            input_example=np.load(example),
            # Given, or MLflow would load the model in another process to find out.
            pip_requirements=[f"{p}=={metadata.version(p)}" for p in ("onnx", "onnxruntime")],
            onnx_execution_providers=["CPUExecutionProvider"],
            save_as_external_data=False,
        )


def _shape(value: Any) -> tuple[int, ...]:
    """Of a graph's input or output; -1 for the open batch."""
    return tuple(d.dim_value or -1 for d in value.type.tensor_type.shape.dim)
