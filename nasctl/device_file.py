"""Layer 3: `devices/NAME.json` in a run's folder: what was measured on another device, and the
front that came of it. The ledger knows nothing of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nasctl.errors import ConfigError, EnvironmentProblemError
from nasctl.files import cannot_be_written, write_json

DEVICES = "devices"
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class DeviceFile:
    """What is kept of one device.

    Attributes:
        latency: the section of the configuration that it was measured with.
        table: `LatencyTable.to_json`, or None so far.
        measurements: whole networks by architecture id, `WholeLatency.to_json`.
        front: issued last, or None.
    """

    path: Path
    latency: Mapping[str, Any]
    table: Mapping[str, Any] | None = None
    measurements: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    front: Mapping[str, Any] | None = None

    @classmethod
    def read(cls, run: Path, name: str, latency: Mapping[str, Any]) -> DeviceFile:
        """What is there of a device; empty where it is new.

        Args:
            run: the run's folder.
            name: of the device.
            latency: settings that it is to be measured with now.

        Raises:
            ConfigError: it was measured with others.
            EnvironmentProblemError: the file is damaged, or nothing could be written.
        """
        path = run / DEVICES / f"{name}.json"
        if (problem := cannot_be_written(path.parent)) is not None:
            raise EnvironmentProblemError(f"{path.parent}: cannot be written to: {problem}")
        if not path.is_file():
            return cls(path=path, latency=dict(latency))
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            kept = cls(
                path=path,
                latency=data["latency"],
                table=data["table"],
                measurements=data["measurements"],
                front=data["front"],
            )
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise EnvironmentProblemError(
                f"{path}: cannot be read ({error}); remove it to measure anew"
            ) from None
        differ = [
            f"latency.{key}: {kept.latency.get(key)} -> {value}"
            for key, value in latency.items()
            if kept.latency.get(key) != value
        ]
        if differ:
            raise ConfigError(
                f"--device {name}: {path} was measured with other settings ({'; '.join(differ)}); "
                "give this one another name, or remove the file to measure anew"
            )
        return kept

    def with_table(self, table: Mapping[str, Any]) -> DeviceFile:
        return dataclasses.replace(self, table=table)

    def with_measurements(self, found: Mapping[str, Mapping[str, Any]]) -> DeviceFile:
        return dataclasses.replace(self, measurements={**self.measurements, **found})

    def with_front(self, front: Mapping[str, Any]) -> DeviceFile:
        return dataclasses.replace(self, front=front)

    def write(self) -> None:
        """Replaces the file.

        Raises:
            EnvironmentProblemError: it cannot be written; an older one stays as it was.
        """
        self.path.parent.mkdir(exist_ok=True)
        data = {k: v for k, v in vars(self).items() if k != "path"}
        write_json(self.path, {"version": VERSION, **data})
