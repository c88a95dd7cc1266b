"""Layer 5: the configuration that is stored with a run, and what may differ when it continues."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nasctl.config import guard
from nasctl.config.guard import Key, dotted
from nasctl.config.paths import is_compared_by_content, is_path, same_place
from nasctl.config.values import leaves
from nasctl.errors import EnvironmentProblemError

if TYPE_CHECKING:
    from nasctl.config.ablation import AblationConfig
    from nasctl.config.schema import SearchConfig

_FREE_ON_RESUME = ("executor", "tracking", "output_dir")
_FREE_IN_SEARCHES = (*_FREE_ON_RESUME, "stop", "price")
_FREE_IN_ABLATIONS = (*_FREE_ON_RESUME, "budget_s", "profiles")
"""What is resolved has the values of its profile in it already: `profiles` decides nothing."""


def resolved_yaml(config: SearchConfig | AblationConfig) -> str:
    """The whole configuration as YAML, keys in the schema's order; loads to an equal one."""
    done = "searched" if "trials" in type(config).model_fields else "run"
    header = f"# The resolved configuration of this run; it can be {done} again as it is.\n"
    return header + guard.dump(config.model_dump(mode="json"))


def stored_config(stored: Mapping[str, Any], *, source: str) -> SearchConfig:
    """The configuration of a search, from the values that its ledger holds.

    Args:
        source: the run, for messages.

    Raises:
        EnvironmentProblemError: it was stored by another version of nasctl.
    """
    from nasctl.config.schema import SearchConfig
    from nasctl.config.type_errors import value_problems

    problems = value_problems(SearchConfig, stored)
    if problems:
        key, message = problems[0]
        raise EnvironmentProblemError(
            f"{source}: its configuration is of another version of nasctl: {key}: {message}"
        )
    return SearchConfig(**stored)


def config_diff(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What keeps a run with the resolved config `old` from being continued with `new`.

    `trials` may be raised; executor, tracking, the output folder, the stop rule and prices may
    change, and where data, weights to begin with, a table or a recording lie, whose content is
    compared.

    Returns:
        `key: old -> new`, one line per key, in the order of `new`.
    """
    return diff(old, new, free=_FREE_IN_SEARCHES, rising=("trials",))


def ablation_diff(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """`config_diff` for ablations.

    `seeds.max` may be raised; executor, tracking, the budget and the output folder may change.
    """
    return diff(old, new, free=_FREE_IN_ABLATIONS, rising=("seeds", "max"))


def diff(
    old: Mapping[str, Any], new: Mapping[str, Any], *, free: tuple[str, ...], rising: Key
) -> list[str]:
    """What keeps a run from being continued.

    Args:
        free: sections that may differ.
        rising: a number that may be raised.
    """
    if ("factors" in old) != ("factors" in new):
        kind = "an ablation study" if "factors" in old else "a search"
        return [f"name: the run of this name is {kind}"]
    before, after = dict(leaves(old)), dict(leaves(new))
    lines = []
    for key in dict.fromkeys((*after, *before)):
        was, now = before.get(key, "absent"), after.get(key, "absent")
        if (was == now and type(was) is type(now)) or key[0] in free:
            continue
        both = isinstance(was, str) and isinstance(now, str)
        is_compared = all(is_compared_by_content(key, config) for config in (old, new))
        if is_path(key, old) and both and (is_compared or same_place(was, now)):
            continue
        unused = key[0] == "init" and after.get(("init", "weights"), 0) is None
        if key not in before and (now is None or unused):
            continue  # the run is of a time before this key; null is what it was like then
        if key == rising:
            if isinstance(was, int) and isinstance(now, int) and now > was:
                continue
            lines.append(f"{dotted(key)}: {was} -> {now} (may be raised, not lowered)")
        else:
            lines.append(f"{dotted(key)}: {was} -> {now}")
    return lines
