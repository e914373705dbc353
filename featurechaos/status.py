"""What goes on in a serving process, in one look: who serves, what is kept from serving and why, what is exercised."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from featurechaos import config
from featurechaos.clock import Clock
from featurechaos.config import Settings
from featurechaos.incidents import Incidents, iso
from featurechaos.layers.breaker import State
from featurechaos.observing import Observer
from featurechaos.readings import Rules
from featurechaos.serving import Serving


@dataclass(slots=True)
class Status:
    """The status of one client under the policy in force. Nothing here asks a source anything."""

    serving: Serving
    observer: Observer
    snapshots: Mapping[str, Any]
    clock: Clock
    control: str | None
    """Where orders are taken from other processes, once they are."""
    models: Sequence[Callable[[], Mapping[str, Any]]] = ()
    """What says, model by model, how its decisions would differ on each tier."""

    @property
    def settings(self) -> Settings:
        """The config in force."""
        return self.serving.settings

    def told(self, *, requests: bool = True) -> dict[str, Any]:
        """All of it as plain values; without `requests`, what is safe to show to anybody on this machine."""
        incidents, rows = self.observer.incidents, self.observer.counters.rows()
        told: dict[str, Any] = {
            "project": self.settings.project,
            "config": self.settings.name,
            "pid": os.getpid(),
            "at": iso(self.clock.wall()),
            "bypass": self.settings.is_bypassed,
            "policy": self._policy(incidents),
            "sources": {name: self._source(name, incidents) for name in self.settings.sources},
            "views": {name: self._view(name, rules, rows.get(name, {})) for name, rules in self.serving.rules.items()},
            "faults": self._faults(),
            "incidents": incidents.told(),
            "shadow": self.shadow(),
            "control": self.control,
        }
        return {**told, "degraded_requests": incidents.requests()} if requests else told

    def shadow(self) -> dict[str, Any] | None:
        """What the tiers behind the first sources would cost, and the decisions of models on them."""
        if self.serving.shadow is None:
            return None
        models: dict[str, Any] = {}
        for told in self.models:
            models |= told()
        return {**self.serving.shadow.told(), "models": models}

    def _policy(self, incidents: Incidents) -> dict[str, Any]:
        """Which policy is in force and since when; what the one was refused for that was to follow."""
        refused = incidents.open.get(self.observer.policy)
        return {
            "version": config.version_of(self.settings),
            "loaded": iso(self.serving.loaded_at),
            "refused": None if refused is None else refused.reason,
            "incident": None if refused is None else refused.id,
        }

    def _source(self, name: str, incidents: Incidents) -> dict[str, Any]:
        source = self.settings.sources[name]
        told: dict[str, Any] = {"type": source.type, "role": source.role.name.lower()}
        if not source.is_online:
            return told
        state, since = self._state(name)
        incident, standing = incidents.open.get(name), self.serving.steer.standing.get(name)
        reason = incident.reason if incident is not None and state != "closed" else ""
        return {
            **told,
            "state": state,
            "since": None if since is None else self._date(since),
            "why": standing.reason if standing is not None else reason,
            "order": "auto" if standing is None else standing.order,
            "is_empty": self._is_empty(name),
            "incident": None if incident is None else incident.id,
            **self._shards(name, incidents),
        }

    def _shards(self, source: str, incidents: Incidents) -> dict[str, Any]:
        """The shards of a source of several servers that were asked so far, each with its breaker, by their names."""
        gates = self.serving.shards.get(source)
        if gates is None or not gates.gates:
            return {}
        told = {}
        for name, gate in list(gates.gates.items()):
            incident = incidents.open.get(name)
            told[name] = {
                "state": gate.state.name.lower(),
                "since": self._date(gate.since),
                "why": "" if incident is None else incident.reason,
                "incident": None if incident is None else incident.id,
            }
        return {"shards": told}

    def _state(self, name: str) -> tuple[str, float | None]:
        """drained, or what its breaker has decided; and since when (monotonic seconds), where that is known."""
        standing = self.serving.steer.standing.get(name)
        if standing is not None and standing.order == "drain":
            return "drained", standing.since
        if self.serving.breaker is None:
            return "closed", None
        gate = self.serving.breaker.gates[name]
        return gate.state.name.lower(), gate.since

    def _is_empty(self, name: str) -> bool:
        watches = {} if self.serving.empty is None else self.serving.empty.watches
        return name in watches and watches[name].is_empty

    def _view(self, name: str, rules: Rules, rows: Mapping[str, int]) -> dict[str, Any]:
        as_of_s = self._replica_s(name, rules)
        return {
            "order": [*rules.online, *rules.local],
            "serves": self._serves(rules, has_replica=as_of_s is not None),
            "rows": dict(rows),
            "replica_as_of": None if as_of_s is None else iso(as_of_s),
            "replica_age_s": None if as_of_s is None else round(max(0.0, self.clock.wall() - as_of_s), 3),
        }

    def _serves(self, rules: Rules, *, has_replica: bool) -> str:
        """Who answers a read now, as far as it is decided: a source, or what is left without one."""
        for name in rules.online:
            state, _ = self._state(name)
            if state in (State.CLOSED.name.lower(), State.RAMPING.name.lower()) and not self._is_empty(name):
                return name
        if has_replica:
            return next(name for name in rules.local if name in self.snapshots)
        return "last known rows and defaults" if rules.remembers else "defaults"

    def _replica_s(self, view: str, rules: Rules) -> float | None:
        base = self.settings.views[view].base
        dates = [self.snapshots[name].replica_as_of(base) for name in rules.local if name in self.snapshots]
        known = [date for date in dates if date is not None]
        return max(known) / 1e6 if known else None

    def _faults(self) -> list[dict[str, Any]]:
        from featurechaos.faults.orders import told_of

        return [told_of(lease, self.clock.monotonic()) for lease in self.serving.board.live()]

    def _date(self, since: float) -> str:
        return iso(self.clock.wall() - (self.clock.monotonic() - since))
