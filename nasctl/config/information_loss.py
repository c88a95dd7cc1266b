"""Layer 5: the settings of the one study that has no arms, `relu_information_loss`.

A flat file, so that it needs neither Hydra nor a schema: the fields are those of
`InformationLossSettings`, and a run's `name` and `output_dir`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasctl.config import guard
from nasctl.config.packaged import locate
from nasctl.config.schema import name_problem
from nasctl.errors import ConfigError, unknown
from nasctl.fields import field_types, type_problem

if TYPE_CHECKING:
    from nasctl.ablation.information_loss import InformationLossSettings

STUDY = "relu_information_loss"


@dataclass(frozen=True, kw_only=True)
class LoadedInformationLoss:
    """What to measure, and where the result goes.

    Attributes:
        resolved: every setting as plain values.
    """

    settings: InformationLossSettings
    directory: Path
    resolved: Mapping[str, Any]


def load_information_loss(
    config: str, overrides: Sequence[str] = ()
) -> LoadedInformationLoss | None:
    """The settings, if CONFIG is a file of this study; None for any other file.

    Raises:
        ConfigError: no such file; an unknown key or a wrong value, all of them at once.
    """
    path = locate(config, "ablate")
    data = dict(guard.load(path, start="defaults: [ablate, _self_]").data)
    if "study" not in data:
        return None
    if (name := data.pop("study")) != STUDY:
        raise ConfigError(f"{path.name}: study: {unknown('study', name, [STUDY])}")
    return _checked({**data, **_overrides(overrides, data)}, path.name)


def _overrides(texts: Sequence[str], known: Mapping[str, Any]) -> dict[str, Any]:
    import yaml

    found: dict[str, Any] = {}
    problems = []
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or key not in known:
            problems.append(f"command line: {unknown('key', key, known)}")
            continue
        try:
            found[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            problems.append(f"command line: {key}: cannot be read: {value!r}")
    if problems:
        raise ConfigError(problems)
    return found


def _checked(data: Mapping[str, Any], source: str) -> LoadedInformationLoss:
    from nasctl.ablation.information_loss import InformationLossSettings

    types = field_types(InformationLossSettings)
    names = [f.name for f in dataclasses.fields(InformationLossSettings)]
    problems = []
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key in ("name", "output_dir"):
            if not isinstance(value, str) or not value.strip():
                problems.append(f"{key}: expected text, got {value!r}")
            elif key == "name" and (problem := name_problem(value)):
                problems.append(f"{key}: {problem}, got {value!r}")
        elif key not in names:
            problems.append(unknown("key", key, [*names, "name", "output_dir"]))
        else:
            values[key] = tuple(value) if isinstance(value, list) else value
            if problem := type_problem(key, values[key], types[key]):
                problems.append(problem)
    if problems:
        raise ConfigError(problems, source=source)
    return LoadedInformationLoss(
        settings=InformationLossSettings(**values),
        directory=Path(data["output_dir"]) / data["name"],
        resolved={"study": STUDY, **data},
    )
