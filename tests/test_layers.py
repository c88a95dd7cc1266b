"""The architecture as a test: layers import downwards, each heavy library has one home."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

LAYERS: list[set[str]] = [
    {"errors", "fields", "arch", "files"},
    {"space", "recipe", "fidelity", "stop_settings", "trial", "environment"},
    {"search_spaces"},
    {"blocktable", "opcount", "latency*", "onnx_*", "data*", "train", "train_setup", "sgd",
     "augment", "precision", "pareto", "membership", "stats", "effects", "schedule", "weights",
     "torchvision_names", "checkpoints"},
    {"samplers", "halving*", "engine", "observer", "trainings", "candidates", "ledger*", "rundir",
     "runlock", "rungs", "records", "references", "front", "budget", "history", "plugins",
     "evaluate", "tables", "kept_files", "compute*", "resources", "stopping", "device_file",
     "device_bounds", "pretrained", "interrupt", "tracking", "run_network"},
    {"executors", "prepare", "pricing", "replay", "running", "runflow", "search", "dryrun",
     "device_front", "device_gap", "device_lines", "measured_front",
     "planned", "ablation", "ablate", "verification", "verify", "export"},
    {"config", "report", "profile", "doctor*", "progress*", "terminal*", "outputs", "cluster*"},
    {"api", "cli*", "__main__"},
]  # fmt: skip

HOMES: dict[str, set[str]] = {
    "hydra": {"config"},
    "omegaconf": {"config"},
    "pydantic": {"config"},
    "ray": {"executors.ray*", "cluster*"},
    "optuna": {"samplers.optuna_*", "samplers.known_cost.optuna_sampler"},
    "mlflow": {"tracking"},
    "click": {"cli*"},
    "rich": {"progress", "progress_console"},
    "matplotlib": {"report"},
    "onnx": {"onnx_runtime", "onnx_int8"},
    "onnxruntime": {"onnx_runtime", "onnx_int8"},
    "moocore": {"pareto"},
}


def sources() -> list[tuple[str, Path]]:
    found = []
    for package in ("nasctl", "search_spaces"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found.append((".".join(p for p in parts if p != "__init__"), path))
    return found


def short(module: str) -> str:
    return "search_spaces" if module.startswith("search_spaces") else module.removeprefix("nasctl.")


def matches(name: str, patterns: set[str]) -> bool:
    return any(
        name == p or (p.endswith("*") and name.startswith(p[:-1])) or name.startswith(p + ".")
        for p in patterns
    )


def layer(module: str) -> int:
    found = [i for i, names in enumerate(LAYERS) if matches(short(module), names)]
    assert len(found) == 1, f"{module} must be in one layer of tests/test_layers.py, is in {found}"
    return found[0]


def imports(path: Path) -> list[tuple[str, bool]]:
    """(imported module, whether only for types)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(a.name, id(node) in for_types) for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == "nasctl":
                names = [f"nasctl.{a.name}" for a in node.names]
            found += [(n, id(node) in for_types) for n in names]
    return found


@pytest.mark.parametrize(
    ("module", "path"), [s for s in sources() if s[0] not in {"nasctl", "nasctl.assets"}]
)
def test_a_module_imports_only_from_its_layer_and_below(module: str, path: Path) -> None:
    for imported, for_types in imports(path):
        if re.match(r"(nasctl|search_spaces)\b", imported) and not for_types:
            if imported in {"nasctl.conf", "nasctl.assets"}:
                continue
            assert layer(imported) <= layer(module), f"{module} imports {imported}"


@pytest.mark.parametrize(("module", "path"), sources())
def test_each_heavy_library_has_one_home(module: str, path: Path) -> None:
    for imported, for_types in imports(path):
        library = imported.split(".")[0]
        if library in HOMES and not for_types:
            assert matches(short(module), HOMES[library]), f"{module} imports {imported}"


@pytest.mark.parametrize(("module", "path"), sources())
def test_files_stay_readable(module: str, path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= 400, f"{module} has {lines} lines"


def test_every_package_is_installed() -> None:
    """A wheel has what pyproject lists; an editable install has everything, and hides a gap."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = set(settings["tool"]["setuptools"]["packages"])
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for name in ("nasctl", "search_spaces", "conf")
        for path in (ROOT / name).rglob("__init__.py")
    }
    assert listed == {name if name.split(".")[0] != "conf" else f"nasctl.{name}" for name in found}


def test_search_spaces_need_only_values_of_nasctl() -> None:
    allowed = {"nasctl.errors", "nasctl.fields", "nasctl.arch", "nasctl.space"}
    for module, path in sources():
        if module.startswith("search_spaces"):
            used = {i for i, _ in imports(path) if i.startswith("nasctl")}
            assert used <= allowed, f"{module} imports {used - allowed}"


def test_help_and_values_load_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "import nasctl.cli, nasctl.arch, nasctl.space, nasctl.trial\n"
        "heavy = {'torch','ray','optuna','mlflow','hydra','omegaconf','pydantic','rich','plotly',"
        "'matplotlib','onnx','onnxruntime','numpy','scipy','sklearn','moocore'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
