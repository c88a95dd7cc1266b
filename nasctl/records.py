"""Layer 3: everything known about a run, read from its folder. Never writes, never blocks it."""

from __future__ import annotations

import functools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nasctl import kept_files
from nasctl.compute import compute_json, read_verification
from nasctl.compute_study import study_compute
from nasctl.environment import head_runs
from nasctl.errors import EnvironmentProblemError, nearest
from nasctl.fidelity import HalvingSettings
from nasctl.front import (
    Entry,
    collect_entries,
    count_states,
    front_json,
    hypervolume_history,
    seed_spread,
)
from nasctl.halving_report import halving_json
from nasctl.kept_files import VERDICTS, VERIFIED, VERIFIED_JSON
from nasctl.ledger import Ledger
from nasctl.references import references_json
from nasctl.trial import Objectives, Rejection, Trial
from search_spaces.blocks import BLOCKS

LEDGER = "ledger.sqlite"


def find_run(run: str | Path) -> Path:
    """The folder of a run, from its path.

    Raises:
        EnvironmentProblemError: no ledger in it; names one beside it, or in the head's folder.
    """
    path = Path(run)
    path = path.parent if path.name == LEDGER else path
    try:
        if (path / LEDGER).is_file():
            return path
    except OSError as error:  # nobody may look into it, or it is no name at all
        raise EnvironmentProblemError(f"{str(run)[:200]}: {error.strerror}") from None
    runs = [p.parent for place in (path, path.parent) for p in sorted(place.glob(f"*/{LEDGER}"))]
    if not runs and Path("runs").is_dir():
        runs = [p.parent for p in sorted(Path("runs").glob(f"*/{LEDGER}"))]
    by_name = {p.name: p for p in runs}
    there = head_runs(os.environ) / path.name
    guess = by_name.get(path.name) or (there if os.path.isfile(there / LEDGER) else None)
    guess = guess or by_name.get(nearest(path.name, by_name) or "")
    listed = f"; runs: {', '.join(map(str, runs[:10]))}{', ...' * (len(runs) > 10)}" if runs else ""
    hint = f"; did you mean {guess}?" if guess else listed
    raise EnvironmentProblemError(f"{run}: no run here (no {LEDGER}){hint}")


@dataclass(frozen=True, kw_only=True)
class _Content:
    """What the ledger held when it was read."""

    meta: dict[str, Any]
    trials: list[Trial]
    references: list[Trial]
    rejections: list[Rejection]
    measurements: dict[str, Any]
    events: list[tuple[float, str, dict[str, Any]]]


@dataclass(frozen=True)
class RunRecords:
    """A snapshot of one run; open a new one to see later trials.

    Args:
        directory: the run's folder.

    Raises:
        EnvironmentProblemError: on first use, if there is no readable ledger in it.
    """

    directory: Path

    @functools.cached_property
    def _content(self) -> _Content:
        ledger = Ledger(self.directory / LEDGER, BLOCKS, readonly=True)
        try:
            meta = {k: ledger.meta(k) for k in _META}
            wrong = [k for k in _MAPPINGS if not isinstance(meta[k], dict | None)]
            if wrong:
                raise EnvironmentProblemError(f"{ledger.path}: damaged: {wrong[0]} is no mapping")
            return _Content(
                meta=meta,
                trials=ledger.trials(),
                references=ledger.references(),
                rejections=ledger.rejections(),
                measurements=ledger.measurements(),
                events=ledger.events(),
            )
        finally:
            ledger.close()

    def meta(self, key: str) -> Any:
        """A setting stored when the run was created; None if it got no further."""
        return self._content.meta[key]

    @property
    def uid(self) -> str:
        return str(self.meta("uid"))

    @property
    def name(self) -> str:
        own = str(self.config.get("name", self.directory.name))
        return f"{own} verified" if self.is_verification else own

    @property
    def config(self) -> dict[str, Any]:
        return dict(self.meta("config") or {})

    @property
    def environment(self) -> dict[str, str]:
        return dict(self.meta("environment") or {})

    @property
    def command(self) -> str:
        return str(self.meta("command") or "")

    @property
    def git_commit(self) -> str | None:
        commit: str | None = self.environment.get("git_commit")
        return commit

    @property
    def is_ablation(self) -> bool:
        """Whether it is a study of `nasctl ablate`, which has verdicts and no front."""
        return self.meta("study") is not None or "factors" in self.config

    @property
    def is_verification(self) -> bool:
        """Whether it is the folder `verify` of a search, with its finalists trained again."""
        return self.meta("verification") is not None

    @property
    def verification(self) -> dict[str, Any] | None:
        """Of a verification, as it was fixed before anything was trained; see
        `nasctl.verification`."""
        found: dict[str, Any] | None = self.meta("verification")
        return found

    @functools.cached_property
    def verified(self) -> dict[str, Any] | None:
        """Of a search that was verified, or of its verification: as `verified.json` has it; None
        before it has been interrupted or is finished."""
        try:
            found = json.loads((self.directory / VERIFIED_JSON).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None  # not there yet; `nasctl doctor` tells of damage
        return found if isinstance(found, dict) else None

    @property
    def home(self) -> Path:
        """The folder of the search: its own, or that around a verification."""
        return self.directory.parent if self.is_verification else self.directory

    @property
    def study(self) -> dict[str, Any]:
        """Of an ablation, as it was fixed before anything was trained; see `nasctl.ablation`."""
        return dict(self.meta("study") or {})

    @property
    def verdicts(self) -> list[dict[str, Any]]:
        """Of an ablation, as `verdicts.json` has them; none before it has been interrupted or is
        finished."""
        try:
            found = json.loads((self.directory / VERDICTS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return []  # not there yet; `nasctl doctor` tells of damage
        return found if isinstance(found, list) else []

    @property
    def objectives(self) -> Objectives:
        if self.is_ablation:
            return {str(self.config["decision"]["metric"]): "max"}
        found = self.config.get("objectives")
        if not isinstance(found, dict) or not found:
            raise EnvironmentProblemError(
                f"{self.directory / LEDGER}: it does not say what was searched for: its search was "
                "cut short at once, or the file is damaged"
            )
        return dict(found)

    @property
    def reference_point(self) -> dict[str, float]:
        return dict(self.meta("reference_point") or {})

    @property
    def status(self) -> str:
        """RUNNING, FINISHED, INTERRUPTED or FAILED."""
        return str(self.meta("status") or "RUNNING")

    @property
    def finished(self) -> bool:
        return self.status == "FINISHED"

    def trials(self) -> list[Trial]:
        return self._content.trials

    def references(self) -> list[Trial]:
        """The reference networks that have begun, in the order of the configuration."""
        return self._content.references

    def rejections(self) -> list[Rejection]:
        return self._content.rejections

    @property
    def rejected_count(self) -> int:
        return len(self.rejections())

    @property
    def trainings_avoided(self) -> dict[str, int]:
        """Proposals that were not trained: `rejected` for a constraint that they break, and
        `duplicates` of networks that were known already and replaced by others."""
        return {
            "rejected": sum(bool(r.violations) for r in self.rejections()),
            "duplicates": int(self.meta("duplicates") or 0),
        }

    @property
    def measurements(self) -> dict[str, Any]:
        return self._content.measurements

    @property
    def latency(self) -> dict[str, Any] | None:
        """The summary of the latency table, or None."""
        summary: dict[str, Any] | None = self.meta("latency_summary")
        return summary

    @property
    def latency_device(self) -> dict[str, str]:
        """The node of a cluster that measured: `node`, `device`, `runtime`; empty: the driver's
        machine did, or nothing was measured."""
        found = self.latency or {}
        return {k: found[k] for k in ("node", "device", "runtime")} if "node" in found else {}

    @property
    def _calibration_networks(self) -> int:
        return int((self.latency or {}).get("calibration_networks", 0))

    @functools.cached_property
    def entries(self) -> list[Entry]:
        """One per trained network."""
        return collect_entries(
            self.trials(),
            measured=self.measurements,
            validation_images=self.meta("validation_images"),
            calibration_networks=self._calibration_networks,
        )

    @functools.cached_property
    def front(self) -> dict[str, Any]:
        """The object of `front.json`, computed from the ledger."""
        front = front_json(
            self.entries,
            objectives=self.objectives,
            reference_point=self.reference_point,
            counts=count_states(self.trials(), self.rejected_count),
            avoided=self.trainings_avoided,
            spread=seed_spread(self.trials()),
            references=references_json(
                self.references(),
                self.entries,
                objectives=self.objectives,
                constraints=dict(self.config.get("constraints") or {}),
                measured=self.measurements,
                validation_images=self.meta("validation_images"),
                calibration_networks=self._calibration_networks,
            ),
        )
        fidelity = self.config.get("fidelity") or {}
        if fidelity.get("name") == "halving":
            front["halving"] = halving_json(
                HalvingSettings.of(fidelity),
                objectives=self.objectives,
                reference_point=self.reference_point,
                epochs=self.config["recipe"]["epochs"],
                trials=self.trials(),
                events=self._content.events,
                front_ids={m["arch_id"] for m in front["members"]},
            )
        if self.meta("stopped"):
            front["stopped"] = self.meta("stopped")
        if self.latency_device:
            front["latency_device"] = self.latency_device
        return front

    @functools.cached_property
    def compute(self) -> dict[str, Any] | None:
        """The compute ledger (`nasctl.compute`); that of a search has its verification's hours."""
        if self.is_verification:
            return None
        if self.is_ablation:
            return study_compute(self, self._content.events)
        return compute_json(
            config=self.config,
            trials=self.trials(),
            references=self.references(),
            events=self._content.events,
            history=self.hypervolume_history(),
            avoided=self.trainings_avoided,
            halving=self.front.get("halving"),
            has_table=self.meta("latency_table") is not None,
            measured=len(self.measurements),
            wall_seconds=float(self.meta("seconds") or 0.0),
            verification=read_verification(self.directory / VERIFIED / LEDGER),
        )

    def front_ids(self) -> frozenset[str]:
        return frozenset() if self.is_ablation else self._front_ids

    @functools.cached_property
    def _front_ids(self) -> frozenset[str]:
        if self.is_verification:
            return frozenset(m["arch_id"] for m in (self.verified or {}).get("members", ()))
        return frozenset(m["arch_id"] for m in self.front["members"])

    def hypervolume_history(self) -> list[tuple[int, float]]:
        return [] if self.is_ablation or self.is_verification else self._hypervolume_history

    @functools.cached_property
    def _hypervolume_history(self) -> list[tuple[int, float]]:
        return hypervolume_history(self.trials(), self.objectives, self.reference_point)

    def weights(self, arch_id: str) -> Path | None:
        """The weights of a network, if they were kept: of its first finished training; in a
        verification of the seed that is best on validation."""
        if self.is_verification:
            return kept_files.verified_weights(self.home, self.verified, arch_id)
        seeds = [t.seed for t in self._by_network.get(arch_id, ())]
        return kept_files.first_weights(self.directory, arch_id, seeds)

    def best_weights(self, arch_id: str) -> Path | None:
        """Those of the verification of a search, where there are some; else `weights`."""
        found = kept_files.verified_weights(self.home, self.verified, arch_id)
        return found or self.weights(arch_id)

    @functools.cached_property
    def _by_network(self) -> dict[str, list[Trial]]:
        found: dict[str, list[Trial]] = {}
        for trial in (*self.trials(), *self.references()):
            found.setdefault(trial.arch_id, []).append(trial)
        return found

    def artifacts(self) -> list[tuple[Path, str]]:
        """(file, folder in the tracking store); see `nasctl.kept_files`."""
        return kept_files.artifacts(self.directory, self.front_ids(), self.weights)

    def models(self) -> list[tuple[Path, Path]]:
        """(ONNX file, example of its input) of what is shown as models."""
        return kept_files.models(self.directory)

    def sealed(self) -> list[Path]:
        """Those artifacts that nobody but this run writes."""
        own = self.is_verification
        return [p for p, _ in self.artifacts() if kept_files.is_sealed(p, is_verification=own)]


_MAPPINGS = (
    "study",
    "verification",
    "config",
    "environment",
    "reference_point",
    "latency_summary",
    "artifacts",
    "init_weights",
    "stopped",
)
_META = (
    *_MAPPINGS,
    "uid",
    "duplicates",
    "command",
    "status",
    "validation_images",
    "block_costs",
    "latency_table",
    "plugins",
    "space_size",
    "seconds",
    "seeds_raised",
    "data",
)


def open_records(directory: str | Path) -> RunRecords:
    """A fresh snapshot of the run in `directory`; importable, for other processes."""
    return RunRecords(Path(directory))
