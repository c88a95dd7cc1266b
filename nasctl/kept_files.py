"""Layer 3: what lies in a run's folder beside its ledger, and who wrote it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nasctl.evaluate import weights_name

VERDICTS = "verdicts.json"
VERIFIED = "verify"
"""The folder of a run's verification, with a ledger of its own."""
VERIFIED_JSON = "verified.json"
PROMISED_CSV = "promised.csv"
MODELS = "models"
"""The folder of exported networks that are shown as models in the tracking store."""
TEST = "test_accuracy"
"""The metric that a finished training of a verification has besides those of validation."""
INT8 = "accuracy_int8"
"""Of a verification whose front is that of int8 files: through the file, on validation images."""
TEST_INT8 = "test_accuracy_int8"
"""The same on test images."""
OF_VERIFICATION = (VERIFIED_JSON, PROMISED_CSV)
"""In the folder of a search these are copies, which its verification replaces."""

_NAMES = (
    "front.json",
    VERDICTS,
    *OF_VERIFICATION,
    "ablation.json",
    "report.html",
    "config.yaml",
    "report.md",
    "report.png",
    "report.csv",
    "report.compute.json",
)


def artifacts(
    directory: Path, members: Iterable[str], weights: Callable[[str], Path | None]
) -> list[tuple[Path, str]]:
    """(file, folder in the tracking store): reports, the config, weights of front members.

    Args:
        members: ids.
        weights: of a network, by its id.
    """
    found = [(path, "") for name in _NAMES if (path := directory / name).is_file()]
    for arch_id in sorted(members):
        path = directory / "weights" / f"{arch_id}.json"
        if (kept := weights(arch_id)) is not None:
            found.append((kept, "models"))
        if path.is_file():
            found.append((path, "models"))
    return found


def models(directory: Path) -> list[tuple[Path, Path]]:
    """(ONNX file, example of its input) of each network that is shown as a model."""
    return [
        (path, example)
        for path in sorted((directory / MODELS).glob("*.onnx"))
        if (example := path.with_suffix(".npy")).is_file()
    ]


def is_sealed(path: Path, *, is_verification: bool) -> bool:
    """Whether nobody but the run itself writes an artifact: not reports, which may be made anew at
    any time, and in a search not what its verification has found."""
    copied = path.name in OF_VERIFICATION and not is_verification
    return not path.name.startswith("report.") and not copied


def first_weights(directory: Path, arch_id: str, seeds: Sequence[int]) -> Path | None:
    """The weights of the first of these trainings of a network that were kept."""
    for seed in seeds:
        path = directory / "weights" / weights_name(arch_id, seed)
        if path.is_file():
            return path
    return None


def verified_weights(home: Path, verified: Mapping[str, Any] | None, arch_id: str) -> Path | None:
    """The weights that a verification hands out: of the fresh seed that is best on validation.

    Args:
        home: the folder of the search.
        verified: the object of `verified.json`, or None.
    """
    named = named_weights(verified, arch_id)
    path = home / named if named is not None else None
    return path if path is not None and path.is_file() else None


def named_weights(verified: Mapping[str, Any] | None, arch_id: str) -> str | None:
    """What a verification hands out, by its name in the folder of the search, there or not."""
    for entry in _entries(verified):
        if entry.get("arch_id") == arch_id and isinstance(entry.get("weights"), str):
            return str(entry["weights"])
    return None


def _entries(verified: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    parts = ("members", "candidates", "references")
    return [entry for part in parts for entry in (verified or {}).get(part, ())]


def verified_training(
    verified: Mapping[str, Any] | None, arch_id: str, seed: int
) -> dict[str, Any] | None:
    """What is known of one training of a verification, and of its network; None: it has none.

    Returns:
        `metrics` of the training (`accuracy` on validation, `test_accuracy`, both in int8 where
        that was judged), and `verified`: what the verification says of the network over all its
        seeds.
    """
    for entry in _entries(verified):
        training = next((t for t in entry.get("trainings", ()) if t.get("seed") == seed), None)
        if entry.get("arch_id") == arch_id and training is not None:
            found = {"accuracy": training.get("accuracy_val")}
            found |= {name: training.get(name) for name in (TEST, INT8, TEST_INT8)}
            kept = ("status", "on_front", "probability", "metrics", "uncertainty")
            return {
                "metrics": {k: v for k, v in found.items() if v is not None},
                "verified": {k: entry.get(k) for k in kept},
            }
    return None
