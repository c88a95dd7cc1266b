"""Layer 5: the latency settings of another device, from those of a run and what was typed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import yaml

from nasctl.config.consistency import latency_problems
from nasctl.errors import ConfigError, unknown
from nasctl.latency_settings import RUNTIMES

if TYPE_CHECKING:
    from nasctl.config.schema import LatencyConfig


def device_latency(latency: LatencyConfig, name: str, changes: Sequence[str]) -> LatencyConfig:
    """The section `latency` for a device.

    A runtime's name is that runtime on this machine. Any other name is that of a node of the
    cluster, unless `changes` say what the device is: then it is only a name.

    Args:
        latency: of the run.
        name: of the device.
        changes: `KEY=VALUE` within the section.

    Raises:
        ConfigError: a name that cannot be a file's or a node's, an unknown key, a bad value.
    """
    from nasctl.config.schema import LatencyConfig, name_problem
    from nasctl.config.type_errors import value_problems

    if problem := name_problem(name):
        raise ConfigError(f"--device {name}: {problem}")
    given = _parsed(changes)
    values = {**latency.model_dump(), "name": "table", "node": None}
    if name in RUNTIMES:
        values["runtime"] = name
    elif not given:
        values["node"] = name
    values |= given
    if values["runtime"] != "command" and "command" not in given:
        values["command"] = []
    problems = [f"--latency {k}: {text}" for k, text in value_problems(LatencyConfig, values)]
    problems = problems or [f"{'.'.join(k)}: {t}" for k, t in latency_problems(values)]
    if problems:
        raise ConfigError(problems)
    return LatencyConfig(**values)


def _parsed(changes: Sequence[str]) -> Mapping[str, object]:
    from nasctl.config.schema import LatencyConfig

    known = [k for k in LatencyConfig.model_fields if k != "name"]
    found: dict[str, object] = {}
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise ConfigError(f"--latency {change}: expected KEY=VALUE, such as threads=4")
        if key not in known:
            raise ConfigError(f"--latency {change}: {unknown('setting', key, known)}")
        try:
            found[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            reason = " ".join(str(error).split())[:100]
            raise ConfigError(f"--latency {change}: cannot be read: {reason}") from None
    return found
