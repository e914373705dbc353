"""A config in force: everything checked, every default filled in, nothing that can change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from featurechaos.model import Origin, View

if TYPE_CHECKING:
    from pydantic import BaseModel

    from featurechaos.config.secrets import Secrets
    from featurechaos.config.spec import (
        Chaos,
        Impact,
        LastKnown,
        Metrics,
        OnExhausted,
        OnExpired,
        OnMissing,
        Policy,
    )
    from featurechaos.stores import Store

DEFAULT_TIMEOUT_S = 0.015


@dataclass(frozen=True, slots=True)
class Source:
    """A named store in the serving path.

    `role` is the origin its rows have: PRIMARY, REPLICA or SNAPSHOT. `timeout_s` bounds one attempt of a
    read; None for a snapshot, which is read from a local replica.
    """

    name: str
    role: Origin
    store_class: type[Store]
    spec: BaseModel = field(repr=False)
    timeout_s: float | None
    type: str

    @property
    def is_online(self) -> bool:
        """Whether it is asked during a request, and may say NOT_FOUND."""
        return self.role is not Origin.SNAPSHOT


@dataclass(frozen=True, slots=True)
class ViewPolicy:
    """What is done for one view. `online` and `local` split `order` by the kind of source."""

    view: str
    order: tuple[str, ...]
    online: tuple[str, ...]
    local: tuple[str, ...]
    on_missing: OnMissing
    on_expired: OnExpired
    on_exhausted: OnExhausted
    last_known: LastKnown | None


@dataclass(frozen=True, slots=True)
class Settings:
    """What a client is made from; `load` makes it.

    Attributes:
        name: the file's name, or `config`; messages begin with it.
        sources, views: by name, in file order.
        policies: one for each view, by its name.
        policy: what holds for all views; its `order` is filled in.
        services: name -> references `view:feature`.
        is_armed: whether the environment allowed faults when this was loaded.
        is_bypassed: whether the environment wanted plain reads of the first source and nothing else; the policies are
            those then.
        chaos_token: what another process must show to inject here, from the environment; never shown.
        source_text: the config as given, before any `${...}` was filled in; loads to the same settings
            where the environment is the same. May hold a secret written into it: show `dump()` instead.
        path: the file it was read from, absolute; None for a mapping.

    Pickles as `source_text`, and is loaded again with the environment of the process that unpickles it.
    """

    name: str
    project: str
    sources: Mapping[str, Source]
    views: Mapping[str, View]
    policies: Mapping[str, ViewPolicy]
    policy: Policy
    services: Mapping[str, tuple[str, ...]]
    chaos: Chaos
    impact: Impact
    metrics: Metrics
    is_armed: bool
    source_text: Mapping[str, Any] = field(repr=False, compare=False)
    secrets: Secrets = field(repr=False, compare=False)
    stores: Mapping[str, type[Store]] | None = field(repr=False, compare=False, default=None)
    chaos_token: str | None = field(repr=False, compare=False, default=None)
    is_bypassed: bool = False
    path: str | None = field(compare=False, default=None)

    def dump(self) -> dict[str, Any]:
        """What is really in force, in the shape of a config, as plain values and without secrets."""
        sections = {
            "policy": self.policy,
            "chaos": self.chaos,
            "impact": self.impact,
            "metrics": self.metrics,
        }
        return {
            "project": self.project,
            "sources": {name: self._source(source) for name, source in self.sources.items()},
            "views": [_view(view, self.policies[view.name]) for view in self.views.values()],
            "services": {name: list(references) for name, references in self.services.items()},
            **{name: section.model_dump(mode="json") for name, section in sections.items()},
        }

    def _source(self, source: Source) -> dict[str, Any]:
        own = source.spec.model_dump(by_alias=True, exclude={"type", "role"})
        redacted = self.secrets.redacted(own, ("sources", source.name))
        return {"type": source.type, "role": source.role.name.lower(), **redacted}

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self.source_text, self.name, dict(self.stores) if self.stores else None, self.path)

    def __repr__(self) -> str:
        names = f"sources={list(self.sources)}, views={list(self.views)}"
        return f"Settings({self.name!r}, project={self.project!r}, {names})"


def hedged_orders(
    policies: Mapping[str, ViewPolicy], sources: Mapping[str, Source]
) -> dict[tuple[str, ...], tuple[str, str]]:
    """The orders whose second online source is a replica: the first source of each, and that replica."""
    orders = {policy.online for policy in policies.values()}
    return {
        order: (order[0], order[1])
        for order in sorted(orders)
        if len(order) > 1 and sources[order[1]].role is Origin.REPLICA
    }


def _again(text: Mapping[str, Any], name: str, stores: Mapping[str, type[Store]] | None, path: str | None) -> Settings:
    from featurechaos.config.loading import load

    return replace(load(text, name=name, stores=stores), path=path)


def _view(view: View, policy: ViewPolicy) -> dict[str, Any]:
    own = {
        "order": list(policy.order),
        "on_missing": policy.on_missing,
        "on_expired": policy.on_expired,
        "on_exhausted": policy.on_exhausted,
        "last_known": policy.last_known.model_dump() if policy.last_known else None,
    }
    if view.name != view.base:
        joins = {key.column: key.name for key in view.join_keys}
        return {"name": view.name, "from": view.base, "join_keys": joins, "policy": own}
    return {
        "name": view.name,
        "join_keys": {key.name: str(key.dtype) for key in view.join_keys},
        "features": {each.name: _feature(each.dtype.name, each.default) for each in view.features},
        "ttl_s": view.ttl_s,
        "max_age_s": view.max_age_s,
        "policy": own,
    }


def _feature(dtype: str, default: Any) -> dict[str, Any]:
    if default is None:
        return {"dtype": dtype}
    return {"dtype": dtype, "default": _plain(default)}


def _plain(value: Any) -> Any:
    """A default as it would be written."""
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return value if isinstance(value, (bool, int, float, str)) else str(value)
