"""The views of a config, checked one by one and against each other."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from featurechaos.codec import Layout
from featurechaos.config.defaults import default_of
from featurechaos.config.mistakes import Mistake, Path, near
from featurechaos.config.spec import FeatureSpec, ViewSpec
from featurechaos.errors import SpecError
from featurechaos.model import DType, Feature, JoinKey, View

# A view's name is part of stored keys, of paths and of metric labels.
_VIEW_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_COLUMN_NAME = re.compile(r"[^\s:\x00-\x1f](?:[^:\x00-\x1f]{0,126}[^\s:\x00-\x1f])?")


def make(project: str, specs: Sequence[ViewSpec]) -> dict[str, View]:
    """Every view by its name, in file order; aliases resolved, wherever in the file the other view stands."""
    if not specs:
        raise Mistake(("views",), "wanted at least one view, got none")
    _check_names(specs)
    stored = {
        spec.name: _stored(project, spec, ("views", index)) for index, spec in enumerate(specs) if spec.base is None
    }
    views = {
        spec.name: stored[spec.name] if spec.base is None else _alias(spec, stored, specs, ("views", index))
        for index, spec in enumerate(specs)
    }
    _check_full_names(views)
    return views


def services(written: Mapping[str, list[str]] | None, views: Mapping[str, View]) -> dict[str, tuple[str, ...]]:
    """Every service's references, each of which names a feature that exists."""
    for name, references in (written or {}).items():
        path: Path = ("services", name)
        if not references:
            raise Mistake(path, "wanted at least one reference such as view:feature, got an empty list")
        for index, reference in enumerate(references):
            _check_reference(reference, views, (*path, index))
            if reference in references[:index]:
                raise Mistake((*path, index), f"{reference!r} stands here twice")
    return {name: tuple(references) for name, references in (written or {}).items()}


def _check_reference(reference: str, views: Mapping[str, View], path: Path) -> None:
    view, colon, feature = reference.partition(":")
    if not colon:
        raise Mistake(path, f"wanted a reference such as view:feature, got {reference!r}")
    if view not in views:
        raise Mistake(path, f"there is no view {view!r}, {near(view, views)}")
    if feature not in views[view].feature:
        raise Mistake(path, f"view {view!r} has no feature {feature!r}, {near(feature, views[view].feature)}")


def _check_names(specs: Sequence[ViewSpec]) -> None:
    seen: set[str] = set()
    for index, spec in enumerate(specs):
        path = ("views", index, "name")
        if not _VIEW_NAME.fullmatch(spec.name):
            raise Mistake(path, f"wanted letters, digits, _ . and -, got {spec.name!r}")
        if spec.name == "service":
            raise Mistake(path, "'service' is taken: service:NAME in a request means a service")
        if spec.name in seen:
            raise Mistake(path, f"the view {spec.name!r} is there twice")
        seen.add(spec.name)


def _check_full_names(views: Mapping[str, View]) -> None:
    """`a__b` of `c` and `a` of `b__c` would be one name where full names are asked for."""
    seen: dict[str, str] = {}
    for view in views.values():
        for feature in view.features:
            full = f"{view.name}__{feature.name}"
            if full in seen:
                raise Mistake(("views",), f"{seen[full]} and {view.name}:{feature.name} have one full name, {full!r}")
            seen[full] = f"{view.name}:{feature.name}"


def _stored(project: str, spec: ViewSpec, path: Path) -> View:
    """A view that says itself what it stores."""
    if not spec.join_keys:
        raise Mistake((*path, "join_keys"), "wanted at least one join key, got none")
    if not spec.features:
        raise Mistake((*path, "features"), "wanted at least one feature, got none")
    keys = tuple(_join_key(name, dtype, (*path, "join_keys")) for name, dtype in spec.join_keys.items())
    features = tuple(_feature(name, each, (*path, "features")) for name, each in spec.features.items())
    _check_apart(features, keys, path)
    view = View(
        project=project,
        name=spec.name,
        base=spec.name,
        join_keys=keys,
        features=features,
        ttl_s=spec.ttl_s,
        max_age_s=spec.max_age_s,
    )
    # A row's length has a bound, which its fixed part may not pass.
    _placed((*path, "features"), lambda: Layout.of(view))
    return view


def _alias(spec: ViewSpec, stored: Mapping[str, View], specs: Sequence[ViewSpec], path: Path) -> View:
    """Another view under other columns; what it stores is that view's."""
    for own in ("features", "ttl_s", "max_age_s"):
        if own in spec.model_fields_set:
            raise Mistake((*path, own), f"is taken from view {spec.base!r}: leave it out here")
    if spec.base not in stored:
        if any(each.name == spec.base for each in specs):
            raise Mistake((*path, "from"), f"{spec.base!r} takes its features from another view too: name that one")
        raise Mistake((*path, "from"), f"there is no view {spec.base!r}, {near(str(spec.base), stored)}")
    base = stored[str(spec.base)]
    columns: dict[str, str] = {}
    for column, name in spec.join_keys.items():
        known = [key.name for key in base.join_keys]
        spot = (*path, "join_keys", column)
        _check_column(column, (*path, "join_keys"))
        if name not in known:
            raise Mistake(spot, f"view {base.name!r} has no join key {name!r}, {near(name, known)}")
        if name in columns:
            raise Mistake(spot, f"the join key {name!r} already comes from {columns[name]!r}")
        columns[name] = column
    keys = tuple(JoinKey(key.name, key.dtype, columns.get(key.name, key.column)) for key in base.join_keys)
    if len({key.column for key in keys}) < len(keys):
        raise Mistake((*path, "join_keys"), "two join keys would come from one column")
    _check_apart(base.features, keys, path)
    return View(
        project=base.project,
        name=spec.name,
        base=base.name,
        join_keys=keys,
        features=base.features,
        ttl_s=base.ttl_s,
        max_age_s=base.max_age_s,
    )


def _join_key(name: str, dtype: str, path: Path) -> JoinKey:
    _check_column(name, path)
    key: JoinKey = _placed((*path, name), lambda: JoinKey(name, DType.parse(dtype), name))
    return key


def _feature(name: str, spec: FeatureSpec, path: Path) -> Feature:
    _check_column(name, path)
    dtype: DType = _placed((*path, name, "dtype"), lambda: DType.parse(spec.dtype))
    if spec.default is None:
        return Feature(name, dtype)
    return Feature(name, dtype, _placed((*path, name, "default"), lambda: default_of(dtype, spec.default)))


def _placed(path: Path, make_it: Any) -> Any:
    """What `make_it` makes; what it refuses is told with its place."""
    try:
        return make_it()
    except (SpecError, ValueError) as error:
        reason = str(error)
    raise Mistake(path, reason)


def _check_column(name: str, path: Path) -> None:
    if not _COLUMN_NAME.fullmatch(name):
        raise Mistake(path, f"wanted a name of 1 to 128 characters without a colon, got {name!r:.60}")


def _check_apart(features: Iterable[Feature], keys: Iterable[JoinKey], path: Path) -> None:
    """An answer holds both, so one name may mean one thing only."""
    taken = {name for key in keys for name in (key.name, key.column)}
    for feature in features:
        if feature.name in taken:
            raise Mistake((*path, "features", feature.name), "is named like a join key")
