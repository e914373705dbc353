"""What a client tells of itself: notes and answers turned into counters, and the state of its parts."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from featurechaos.config import Settings
from featurechaos.errors import SpecError
from featurechaos.incidents import CHANGES, Incidents
from featurechaos.metrics import Counters, Seen
from featurechaos.model import Cause, Status, View
from featurechaos.response import Response, ViewAnswer

if TYPE_CHECKING:
    from featurechaos.clock import Clock
    from featurechaos.events import Listener
    from featurechaos.layers.breaker import Gate
    from featurechaos.metrics import Endpoint
    from featurechaos.serving import Serving

log = logging.getLogger("featurechaos")

_LOOK_S = 0.05
_NO_CAUSE, _KEY_NULL = np.uint8(Cause.NONE), np.uint8(Cause.KEY_NULL)
_LOGGED = {"schema.learned": logging.INFO}

_EXTRA = {
    "retry.scheduled": "retries_total",
    "retry.answered": "retries_won_total",
    "retry.denied": "retries_denied_total",
    "hedge.started": "hedges_total",
    "hedge.used": "hedges_won_total",
    "hedge.denied": "hedges_denied_total",
}


class Observer:
    """Hears attempts, notes and answers; counts each once; logs changes of state, never requests."""

    def __init__(self, settings: Settings, wall: Callable[[], float]) -> None:
        self._settings = settings
        self.policy = f"policy:{settings.project}"
        """What notes of a reload are about; no source can have this name."""
        self.incidents = Incidents(wall)
        self.counters = Counters()
        self.listeners: list[Listener] = [self._note]
        self.opened: Callable[[], None] = _nothing
        """Called when a breaker has opened."""
        self._endpoint: Endpoint | None = None
        self._served_by = 0
        self._watched: set[tuple[str, tuple[tuple[str, str], ...]]] = set()
        """The gauges of the policy in force."""
        if settings.metrics.port is not None:
            with suppress(ImportError):  # `serve` says so; here, because a request would wait for the import
                import_module("prometheus_client")
            import_module("featurechaos.metrics.export")

    def watch(
        self, serving: Serving, snapshots: Mapping[str, Any], clock: Clock, stores: Mapping[str, Any] | None = None
    ) -> None:
        """Take the gauges from these, and no others; how far each view is written from the `stores` that say.

        These are asked when somebody looks, for at most `_LOOK_S` each, past every layer.
        """
        before, self._watched = self._watched, set()
        loaded_at = serving.loaded_at
        self._add("policy_loaded_timestamp_seconds", {}, lambda: loaded_at)
        self._add("policy_refused", {}, lambda: float(self.policy in self.incidents.open))
        if serving.breaker is not None:
            for source, gate in serving.breaker.gates.items():
                self._add("breaker_state", {"source": source}, lambda gate=gate: float(gate.state))  # type: ignore[misc]
        if serving.empty is not None:
            for source, watch in serving.empty.watches.items():
                self._add("source_empty", {"source": source}, lambda watch=watch: float(watch.is_empty))  # type: ignore[misc]
        self._watch_extra(serving)
        self.counters.shadow_from(dict if serving.shadow is None else serving.shadow.metrics)
        self._watch_ages(serving, snapshots, clock, stores or {})
        for name, labels in before - self._watched:
            self.counters.gauges.drop(name, dict(labels))

    def _watch_ages(
        self, serving: Serving, snapshots: Mapping[str, Any], clock: Clock, stores: Mapping[str, Any]
    ) -> None:
        """Take how old each view's image is, and the newest event written."""
        for name, rules in serving.rules.items():
            view = self._settings.views[name]
            for source in rules.local:
                if source in snapshots:
                    self._add("snapshot_age_seconds", {"view": name}, _age(snapshots[source], view.base, clock.wall))
            for source in rules.online:
                if hasattr(stores.get(source), "watermark"):
                    behind = _behind(stores[source], view, clock)
                    self._add("view_watermark_age_seconds", {"view": name, "source": source}, behind)

    def _add(self, name: str, labels: Mapping[str, str], fn: Callable[[], float | None]) -> None:
        self.counters.gauges.add(name, labels, fn)
        self._watched.add((name, tuple(labels.items())))

    def watch_shard(self, name: str, gate: Gate | None) -> None:
        """Take the state of a shard's breaker too, until it is forgotten (None)."""
        gauges, labels = self.counters.gauges, {"source": name}
        if gate is None:
            gauges.drop("breaker_state", labels)
        else:
            gauges.add("breaker_state", labels, lambda: float(gate.state))

    def _watch_extra(self, serving: Serving) -> None:
        """Take what calls beside the first may still be made, and when."""
        if (budget := serving.budget) is not None:
            self._add("retry_budget_tokens", {}, lambda: budget.tokens)
        if (hedge := serving.hedge) is not None:
            for source in {pair.source for pair in hedge.pairs.values()}:
                self._add("hedge_after_seconds", {"source": source}, partial(hedge.after_s, source))

    def attempt(self, source: str, outcome: str, seconds: float) -> None:
        """One attempt at a source ended."""
        if outcome != "injected":  # a fault stood in for the source: it was not called
            self.counters.source_call(source, outcome, seconds)
        self._tell_attempt(source, outcome, seconds)

    def _tell_attempt(self, source: str, outcome: str, seconds: float) -> None:
        for listener in self.listeners[1:]:
            listener("source.answered", source, {"outcome": outcome, "seconds": seconds})

    def tell(self, name: str, about: str, fields: Mapping[str, Any]) -> None:
        """One thing happened off the way of a read."""
        for listener in self.listeners:
            listener(name, about, fields)

    def answered(self, response: Response) -> None:
        """One request was answered."""
        request, read = response.request, None
        if (started := request.started) is not None and started.seconds is not None:
            read = started.source, started.seconds
            if len(self.listeners) > 1:
                self._tell_attempt(started.source, "ok", started.seconds)
        if response.is_plain:
            assert read is not None
            plain: list[Any] = []
            for view, answer in response.answers.items():
                plain.append((view, answer.part.origin, answer.rows.times))  # in a comprehension it would be a call
            n = answer.fan.n
            self.counters.answered_plainly(response.elapsed_s, request.wall_us, n, plain, read)
            return
        if read is not None:
            self.counters.source_call(read[0], "ok", read[1])
        degraded = any(map(_is_degraded, response.answers.values()))
        if degraded:
            self.incidents.degraded(response.request_id, response.wall_us)
        rows = [_seen(answer) for answer in response.answers.values()]
        self.counters.answered(response.elapsed_s, degraded=degraded, wall_us=response.wall_us, rows=rows)
        for view, answer in response.answers.items():
            if answer.fan.nulls is not None:
                self.counters.keys_null(view, int(answer.fan.nulls.sum()))
            if not answer.part.is_healthy:
                self._fell_back(view, answer)

    def _fell_back(self, view: str, answer: ViewAnswer) -> None:
        """Count the rows that are not simply the primary's, as their provenance has them."""
        left = answer.rules.online[0] if answer.rules.online else ""
        if answer.is_plain:
            if answer.part.cause:
                n, injected = answer.fan.n, answer.part.injected
                self.counters.fallbacks(view, left, answer.part.cause, injected=injected, n=n)
            return
        truth = answer.provenance
        cause = truth.cause
        if answer.fan.nulls is not None:
            cause = np.where(cause == _KEY_NULL, _NO_CAUSE, cause)
        if cause.any():
            self.counters.fallbacks(view, left, cause, injected=truth.injected)
        if answer.part.exhausted is not None:
            lost = answer.spread(answer.part.exhausted, False, bool)
            for injected in (False, True):
                if n := int((lost & (truth.injected == injected)).sum()):
                    self.counters.exhausted(view, n, injected=injected)

    def serve(self, pages: Mapping[str, Callable[[], tuple[bool, Any]]]) -> None:
        """Start the metrics endpoint if the config wants one, with these pages beside; once in each process.

        Where it can't be had (of several workers the first has the port) the log says so, and serving goes on.
        """
        port = self._settings.metrics.port
        if port is None or self._served_by == os.getpid():
            return
        from featurechaos.metrics import serve

        self._served_by = os.getpid()
        try:
            self._endpoint = serve(self.counters, port, pages=pages)
        except SpecError as error:
            log.warning("%s: %s; no metrics are told from here", self._settings.name, error)

    def stats(self) -> dict[str, Any]:
        """Everything counted so far, the incidents and the last requests served degraded, as plain values."""
        told: dict[str, Any] = dict(self.counters.stats())
        return {**told, "incidents": self.incidents.told(), "degraded_requests": self.incidents.requests()}

    def close(self) -> None:
        """Stop the endpoint."""
        if self._endpoint is not None and self._served_by == os.getpid():
            self._endpoint.close()
        self._endpoint = None

    def _note(self, name: str, about: str, fields: Mapping[str, Any]) -> None:
        if name in CHANGES:
            self.incidents.hear(name, about, fields)
        elif name in _LOGGED:
            log.log(_LOGGED[name], "%s: %s %s", name, about, fields.get("reason", ""))
        if name == "breaker.opened":
            self.opened()
        elif name in _EXTRA:
            self.counters.one_more(_EXTRA[name], about)
        elif name in ("fault.applied", "fault.not_applied"):
            self.counters.fault(about.partition(":")[0], applied=name == "fault.applied", n=fields["rows"])


def _nothing() -> None:
    """Nobody wants to know."""


def _is_degraded(answer: ViewAnswer) -> bool:
    return not answer.part.is_healthy and (answer.is_plain or bool(answer.degraded.any()))


def _seen(answer: ViewAnswer) -> Seen:
    part, view = answer.part, answer.view.name
    if (
        part.is_fresh
        and answer.fan.inverse is None
        and isinstance(part.origin, int)
        and isinstance(part.injected, bool)
    ):
        return Seen(view, part.origin, Status.PRESENT, part.injected, answer.fan.n, part.rows.event_time)
    truth = answer.provenance
    return Seen(view, truth.origin, truth.status, truth.injected, answer.fan.n, truth.event_time)


def _behind(store: Any, view: View, clock: Clock) -> Callable[[], float | None]:
    """How old the newest event written of a view is; None where nobody can say."""

    def age_s() -> float | None:
        found = store.watermark(view, clock.monotonic() + _LOOK_S)
        return None if found is None else max(0.0, clock.wall() - found[0] / 1e6)

    return age_s


def _age(store: Any, base: str, wall: Callable[[], float]) -> Callable[[], float | None]:
    def age_s() -> float | None:
        as_of_us = store.replica_as_of(base)
        return None if as_of_us is None else max(0.0, wall() - as_of_us / 1e6)

    return age_s
