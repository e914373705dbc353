"""From one config to the next: what a process takes without a restart, and what it refuses to."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from featurechaos.config.loading import ARMED, BYPASS, TOKEN, load
from featurechaos.config.mistakes import Path, plain, spot
from featurechaos.config.settings import Settings
from featurechaos.errors import SpecError

_OF_A_VIEW = ("ttl_s", "max_age_s", "policy")
_ABSENT = object()
_DIGITS = 12

Difference = tuple[Path, Any, Any]


def follow(settings: Settings, source: str | os.PathLike[str] | Mapping[str, Any]) -> tuple[Settings, list[str]]:
    """The config that is to follow another in one process, and what it changes, one `place: old -> new` each.

    A view that only follows `policy` is left out. What the environment says of faults, and of stepping aside, is what
    it said when the process began; where a file is read anew is where the first one was.

    Raises SpecError, beginning with the file's name and the place, if it is wrong or wants a restart.
    """
    said = {BYPASS: "1" * settings.is_bypassed, ARMED: "armed" * settings.is_armed, TOKEN: settings.chaos_token or ""}
    new = load(source, environ={**os.environ, **said}, stores=settings.stores)
    return replace(new, path=settings.path or new.path), _changed(settings, new)


def version_of(settings: Settings) -> str:
    """What tells one policy in force from another: the first digits of a hash over all that may change."""
    movable = {spot(path): _number(value) for path, value in _leaves(_whole(settings)) if _may_change(path)}
    text = json.dumps(movable, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def _changed(old: Settings, new: Settings) -> list[str]:
    differences = list(_differences(_whole(old), _whole(new)))
    if fixed := [each for each in differences if not _may_change(each[0])]:
        more = f" (and {len(fixed) - 1} more)" if len(fixed) > 1 else ""
        msg = f"{new.name}: {_refused(fixed[0], old, new)}{more}"
        raise SpecError(msg)
    everywhere = [(path[1:], before, after) for path, before, after in differences if path[0] == "policy"]
    return [
        f"{spot(path)}: {_shown(before)} -> {_shown(after)}"
        for path, before, after in differences
        if path[0] != "views" or (path[3:], before, after) not in everywhere
    ]


def _whole(settings: Settings) -> dict[str, Any]:
    """All that is in force, by place, with what a source's store does not show."""
    told = _told(settings)
    for name, source in settings.sources.items():
        known = type(source.spec).model_fields
        own = {known[key].alias or key: value for key, value in source.spec if key in known.keys() - {"type", "role"}}
        told["sources"][name] = {"type": source.type, "role": source.role.name.lower(), **own}
    return told


def _told(settings: Settings) -> dict[str, Any]:
    """The same as it may be shown; views by their names."""
    told = settings.dump()
    return {"policy": told["policy"], **told, "views": {view["name"]: view for view in told["views"]}}


def _may_change(path: Path) -> bool:
    """Whether what stands at a place is looked at anew by every read, and nobody has built on it."""
    if path[0] == "views":
        return len(path) > 2 and path[2] in _OF_A_VIEW
    return path[0] == "policy" or path[:2] == ("chaos", "max_share")


def _differences(old: Any, new: Any, path: Path = ()) -> Iterator[Difference]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in {**old, **new}:
            yield from _differences(old.get(key, _ABSENT), new.get(key, _ABSENT), (*path, key))
    elif old != new:
        yield path, old, new


def _leaves(tree: Mapping[str, Any], path: Path = ()) -> Iterator[tuple[Path, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


def _number(value: Any) -> Any:
    """The same value where 900 and 900.0 are one."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _at(tree: Any, path: Path) -> Any:
    for step in path:
        tree = tree.get(step) if isinstance(tree, Mapping) else tree
    return tree


def _refused(difference: Difference, old: Settings, new: Settings) -> str:
    """Why a process has to be started anew, in one sentence without a secret."""
    path, before, after = difference
    if before is _ABSENT or after is _ABSENT:
        return f"{spot(path)}: is {'new' if before is _ABSENT else 'gone'}, which wants a restart"
    was, is_now = (_shown(_at(_told(settings), path)) for settings in (old, new))
    told = "another value, not shown," if was == is_now else f"{was} -> {is_now}"
    is_role = path[0] == "sources" and path[2:] == ("role",)
    hint = "; a `role` that is written does not follow policy.order" if is_role else ""
    return f"{spot(path)}: {told} wants a restart{hint}"


def _shown(value: Any) -> str:
    """A value in a few words, as YAML has it."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_shown(each)}" for key, each in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_shown, value)) + "]"
    return value if isinstance(value, str) and value.isprintable() else plain(value)
