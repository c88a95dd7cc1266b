"""Layer 5: who set a value, and where it can be mended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nasctl.config.guard import Key, dotted

if TYPE_CHECKING:
    from nasctl.config.compose import Composed


def strength(key: Key, composed: Composed) -> int:
    """Who set `key`: 2 the command line or a profile, 1 a file of the user, 0 a packaged file or
    nobody."""
    if any(key[: len(k)] == k for k in (*composed.applied, *composed.profile)):
        return 2
    user = [layer for layer in composed.layers if not layer.is_packaged]
    return int(any(_given(key, layer.prefix, layer.file.data) for layer in user))


def _given(key: Key, prefix: Key, data: Mapping[str, Any]) -> bool:
    if key[: len(prefix)] != prefix:
        return False
    for entry in data.get("defaults") or ():
        if isinstance(entry, dict) and any(g.split()[-1] == key[0] for g in entry):
            return True
    value: Any = data
    for part in key[len(prefix) :]:
        if not isinstance(value, dict) or value.get(part) is None:
            return False
        value = value[part]
    return True


def blamed(key: Key, composed: Composed) -> str:
    """`PLACE: KEY`: what to change when the value at `key` is wrong."""
    origin = _origin(key, composed)
    if origin is not None:  # a profile has set it, and the command line has not
        return f"{where(origin, composed)}: {dotted(origin)}"
    return f"{where(key, composed)}: {dotted(key)}"


def _origin(key: Key, composed: Composed) -> Key | None:
    """The key of the profile that has set `key` or the section around it."""
    if any(key[: len(k)] == k or k[: len(key)] == key for k in composed.applied):
        return None
    for set_key, origin in composed.profile.items():
        if key[: len(set_key)] != set_key:
            continue
        whole = (*origin, *key[len(set_key) :])
        if any(layer.prefix == () and whole in layer.file.lines for layer in composed.layers):
            return whole
        is_group = len(set_key) == 1 and set_key[0] in composed.groups
        if not (is_group and _is_users(key, composed)):
            return origin
    return None


def _is_users(key: Key, composed: Composed) -> bool:
    user = [layer for layer in composed.layers if not layer.is_packaged]
    return any(_given(key, layer.prefix, layer.file.data) for layer in user)


def where(key: Key, composed: Composed) -> str:
    """`file:line` of what set the key or the section around it, or `command line`."""
    groups = {k for k in composed.applied if len(k) == 1 and k[0] in composed.groups}
    groups = {k for k in groups if key[:1] == k}
    if any(key[: len(k)] == k or k[: len(key)] == key for k in composed.applied.keys() - groups):
        return "command line"
    best, place = (False, 0), composed.layers[0].file.path
    for layer in composed.layers:
        inner = key[len(layer.prefix) :] if key[: len(layer.prefix)] == layer.prefix else ()
        while inner and inner not in layer.file.lines:
            inner = inner[:-1]
        # A file of the user is where it can be mended, however far up the closest key is.
        rank = (not layer.is_packaged, len(layer.prefix) + len(inner))
        is_unset = layer.is_packaged and layer.file.data.get(key[0]) in (None, {}, [])
        if inner and rank > best and not (layer.prefix == () and is_unset):
            best, place = rank, layer.file.where(inner)
    return "command line" if groups and not best[0] else place
