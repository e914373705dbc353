"""What the clients for threads and for asyncio share: a config, its stores, the brain.

All thinking is in `serving.py`; here stores are opened and closed, and operators answered.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from featurechaos import config
from featurechaos.clock import Clock, ShiftedClock, SystemClock
from featurechaos.codec import encode_keys, encode_tombstones
from featurechaos.config import Settings
from featurechaos.effects import Plan
from featurechaos.entities import Entities, EntityRows
from featurechaos.errors import FeatureError, PartialWrite, RequestError, SpecError, StoreError
from featurechaos.events import Listener
from featurechaos.faults.board import Board
from featurechaos.faults.stale import Stale
from featurechaos.keeping import Keeper
from featurechaos.keepsakes import Keepsakes
from featurechaos.layers.steer import TOLD, Order
from featurechaos.locks import Locked
from featurechaos.model import Origin, View
from featurechaos.observing import Observer
from featurechaos.readings import Rules
from featurechaos.references import reference
from featurechaos.response import Response
from featurechaos.serving import Serving
from featurechaos.shadow import Found, Remembered, Sample, Shadow
from featurechaos.shadow import Listener as ShadowListener
from featurechaos.status import Status
from featurechaos.stores import Ask, Batch, Place, Refreshed, WriteCounts, WriteReport
from featurechaos.tables import batch_of, event_times

if TYPE_CHECKING:
    from featurechaos.faults.control import Control

log = logging.getLogger(__name__)

WRITE_S = 5.0
"""The bound of one batch of a write."""
BATCH_ROWS = 1000
_KEPT_IN = ".last-known"
_PREPARE_S = 60.0
READY_MOST_S = 2.0


class BaseClient(Locked):
    """What both clients are: a config, its stores, the brain."""

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        super().__init__()
        if not isinstance(settings, Settings):
            name, came = type(self).__name__, type(settings).__name__
            msg = f"{name} wants Settings, got {came}; {name}.from_config takes a path or a mapping"
            raise RequestError(msg)
        self.clock = SystemClock() if clock is None else clock
        self.observer = Observer(settings, self.clock.wall)
        self._serving = Serving(settings, self.clock, self.observer.attempt, prepare=self._prepare)
        """The policy in force, and all that is known of the sources: a reload puts another in its place."""
        self._snapshots = self._open_snapshots()
        self._keepsakes: Keepsakes | None = None
        self._saver = Keeper(_step_of(weakref.ref(self)), name="featurechaos-last-known")
        self._is_closed = False
        self._is_started = False
        self._control: Control | None = None
        self._listener = _listener(settings)
        self._shadow_listeners: list[ShadowListener] = []
        self._models: list[Callable[[], Mapping[str, Any]]] = []

    @classmethod
    def from_config(cls, source: str | os.PathLike[str] | Mapping[str, Any], *, clock: Clock | None = None) -> Self:
        """Make a client from a YAML file or a mapping of the same shape. No network I/O.

        Raises SpecError, beginning with the path of the mistake.
        """
        return cls(config.load(source), clock)

    @property
    def settings(self) -> Settings:
        """The config in force."""
        return self._serving.settings

    @property
    def chaos(self) -> Board:
        """Where faults are injected: `with client.chaos.inject(Outage("primary"), share=..., ...)`."""
        return self._serving.board

    def __reduce__(self) -> tuple[Any, ...]:
        clock = None if isinstance(self.clock, SystemClock) else self.clock
        return type(self), (self.settings, clock)

    def __repr__(self) -> str:
        sources = ", ".join(f"{name} ({source.type})" for name, source in self.settings.sources.items())
        return f"{type(self).__name__}({self.settings.project}: {sources})"

    def ready(self, full: bool = False, freeze: bool = False) -> bool:
        """Whether every view can be answered by at least one of its sources (this is /readyz).

        Args:
            full: whether each source of each view alone could carry all traffic (a gate for drills, never for pods).
            freeze: move what is alive now out of the garbage collector's sight (`gc.freeze()`).
        """
        self._check_open()
        serving = self._serving
        up = {name: self._is_up(name, full=full) for name in self._worth_asking(serving, full=full)}
        return self._is_ready(serving, up, full=full, freeze=freeze)

    def _is_ready(self, serving: Serving, up: Mapping[str, bool], *, full: bool, freeze: bool) -> bool:
        """The same, of online sources that were asked."""
        if freeze:
            import gc

            gc.collect()
            gc.freeze()
        enough = all if full else any
        return all(
            enough([*(up.get(name, False) for name in rules.online), *self._replicas(view, rules)])
            for view, rules in serving.rules.items()
        )

    def _worth_asking(self, serving: Serving, *, full: bool) -> list[str]:
        """The online sources that readiness hangs on: no drained one, none of a view that a replica can answer.

        One without its data answers, but could not carry all traffic.
        """
        hangs = [
            name
            for view, rules in serving.rules.items()
            if full or not any(self._replicas(view, rules))
            for name in rules.online
        ]
        watches = serving.empty.watches if full and serving.empty is not None else {}
        emptied = {name for name, watch in watches.items() if watch.is_empty}
        return [name for name in dict.fromkeys(hangs) if name not in serving.steer.drained | emptied]

    def _replicas(self, view: str, rules: Rules) -> list[bool]:
        """Whether each snapshot source of a view can answer for it."""
        base = self.settings.views[view].base
        return [
            self._snapshots[name].replica_as_of(base) is not None for name in rules.local if name in self._snapshots
        ]

    def stats(self) -> dict[str, Any]:
        """Counters, breaker states, replica dates and pools, as plain values."""
        return {**self.observer.stats(), "shadow": self._status().shadow()}

    def status(self) -> dict[str, Any]:
        """Who serves each view now, what each source's state is, since when and why, what is exercised; plain values.

        No source is asked for it. `featurechaos status` shows it from outside.
        """
        self._refuse_closed()
        return self._status().told()

    def _status(self) -> Status:
        control = None if self._control is None else self._control.url
        return Status(self._serving, self.observer, self._snapshots, self.clock, control, self._models)

    def _reload(self, source: str | os.PathLike[str] | Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What `reload` does, at once, on the thread that asks; one after another where several ask."""
        with self._lock:
            if self._is_closed:
                raise RequestError("this client is closed")
            before = self._serving
            if source is None and (source := before.settings.path) is None:
                raise RequestError(
                    "reload wants the path of a config or a mapping: this client was made from a mapping"
                )
            try:
                settings, changes = config.follow(before.settings, source)
            except SpecError as error:
                self.observer.tell("policy.refused", self.observer.policy, {"reason": str(error)})
                raise
            self._serving = Serving(settings, self.clock, self.observer.attempt, prepare=self._prepare, since=before)
            self._serving.enforce()
            before.retire(self._serving, self.observer.tell)
            self._watch()
            if self._is_started:
                self._open_keepsakes()
            told = {"changed": changes, "version": config.version_of(settings)}
            reason = f"{'; '.join(changes) or 'nothing has changed'} (version {told['version']})"
            self.observer.tell("policy.reloaded", self.observer.policy, {"reason": reason, "version": told["version"]})
            return told

    def _watch(self) -> None:
        """Take the gauges from the policy in force."""
        self.observer.watch(self._serving, self._snapshots, self.clock)

    def steer(self, source: str, order: Order, *, reason: str) -> dict[str, Any]:
        """Order what is done with an online source, until another order or the end of this process.

        Args:
            order: `drain`: do not ask it; `hold`: keep what its breaker has decided; `auto`: decide again.
            reason: why, in words; kept with it and logged.

        Returns: `views`: those that no online source is left for.
        Raises: RequestError for a source, an order or a reason that is none.
        """
        self._refuse_closed()
        if not (isinstance(order, str) and order in TOLD and isinstance(reason, str) and reason.strip()):
            msg = f"steer wants drain, hold or auto and a reason, got {order!r} and {reason!r}"
            raise RequestError(msg)
        steer = self._serving.steer
        steer.order(source, order, reason)
        self.observer.tell(TOLD[order], source, {"reason": reason})
        left = [view for view, rules in self._serving.rules.items() if set(rules.online) <= steer.drained]
        return {"source": source, "order": order, "views": left}

    def explain(self) -> dict[str, Any]:
        """What a read may cost at worst: calls, load factor and latency, by view; and whom it is hedged to, and when.

        A hedge takes a token as a retry does, so `load_factor` bounds both together.
        """
        serving = self._serving
        policy, hedge, budget = serving.settings.policy, serving.hedge, serving.budget
        attempts = policy.retry.attempts if policy.retry else 1
        waits_s = sum(policy.retry.wait_first_s * 2**k for k in range(attempts - 1)) if policy.retry else 0.0
        pairs = {} if hedge is None else hedge.pairs
        return {
            view: {
                "order": [*rules.online, *rules.local],
                "deadline_s": policy.deadline_s,
                "worst_case_calls": attempts * len(rules.online) + (rules.online in pairs),
                "load_factor": 1 + (0.0 if budget is None else budget.ratio),
                "worst_case_s": sum(attempts * serving.timeouts[name] + waits_s for name in rules.online),
                "hedge": hedge.told(rules.online) if hedge is not None and rules.online in pairs else None,
            }
            for view, rules in serving.rules.items()
        }

    def count_pairs(self, pairs: Callable[[], Mapping[Any, tuple[int, int]]]) -> None:
        """Tell these pairs and flips among the metrics; an `ImpactMonitor` does this by itself."""
        self.observer.counters.pairs_from(pairs)

    def listen(self, listener: Listener) -> None:
        """Hear every note of every read: `listener(name, about, fields)`, quick and without raising."""
        self.observer.listeners.append(listener)

    def _open_snapshots(self) -> dict[str, Any]:
        """The sources that keep images, in their blocking form; both clients manage them alike."""
        return {
            name: source.store_class.open(source.spec, self._place(name))
            for name, source in self.settings.sources.items()
            if hasattr(source.store_class, "publish")
        }

    def _place(self, name: str) -> Place:
        gates = self._serving.gates(name, tell=self.observer.tell, watch=self.observer.watch_shard)
        return Place(name, self.settings.project, tuple(self.settings.views.values()), self.clock, gates)

    def _start(self) -> None:
        """On the first use: what runs in the background may begin. Again in a forked child."""
        with self._lock:
            if self._is_started or self._is_closed:
                return
            if self.settings.is_bypassed:
                log.warning(
                    "%s: FEATURECHAOS_BYPASS=1: plain reads of the first source, nothing else", self.settings.name
                )
            for store in () if self.settings.is_bypassed else self._snapshots.values():
                if hasattr(store, "start"):
                    store.start()
            self._open_keepsakes()
            self.observer.serve({"/livez": _alive, "/readyz": self._readyz, "/status": self._shown})
            self._listen()
            self._is_started = True

    def _open_keepsakes(self) -> None:
        """Keep last-known rows beside a source's replicas, for the next process; a thread writes them."""
        memory = self._serving.memory
        kept = {name: layout.hash for name, layout in self._serving.layouts.items() if memory.keeps(name)}
        if self._keepsakes is None and kept and is_real(self.clock) and not self.settings.is_bypassed:
            for store in self._snapshots.values():
                if hasattr(store, "private_folder"):
                    try:
                        folder = store.private_folder(_KEPT_IN)
                    except StoreError as error:
                        log.warning("last-known rows will not survive a restart: %s", error)
                    else:
                        self._keepsakes = Keepsakes(folder, memory, self.clock, kept)
                        break
        if self._keepsakes is not None:
            self._keepsakes.follow(memory, kept)
            self._saver.start()

    def _readyz(self) -> tuple[bool, Any]:
        """What `/readyz` answers: `ready()`."""
        is_ready = self.ready()
        return is_ready, {"ready": is_ready}

    def _shown(self) -> tuple[bool, Any]:
        """What `/status` shows to anybody on this machine."""
        return True, self._status().told(requests=False)

    def _listen(self) -> None:
        """Take orders from other processes, if this installation does: faults only where it may inject."""
        at, token = self.settings.chaos.listen, self.settings.chaos_token
        if self._listener is not None and at is not None and token is not None:
            from featurechaos.faults.control import Desk

            desk = Desk(self.status, self.steer, self._reload)
            self._control = self._listener(self.chaos, at, token, self.clock.monotonic, desk)
        elif at is not None:
            log.warning("chaos.listen: FEATURECHAOS_TOKEN is not set; no orders are taken from other processes here")

    def forked(self) -> None:
        """In a child nothing runs in the background yet."""
        self._is_started, self._control = False, None
        self._serving.enforce()  # a reload may have been half-way through

    def _stop(self) -> None:
        """End what takes faults and what tells metrics; before the stores go."""
        with self._lock:
            control, self._control = self._control, None
        if control is not None:
            control.close()
        self._serving.board.clear_all()
        self._saver.close()
        if self._keepsakes is not None:
            self._keepsakes.close()
        self.observer.close()

    def _refuse_closed(self) -> None:
        if self._is_closed:
            raise RequestError("this client is closed")

    def _check_open(self) -> None:
        self._refuse_closed()
        if not self._is_started:
            self._start()

    def _view(self, name: str) -> View:
        view = self.settings.views.get(name)
        if view is None:
            msg = f"there is no view {name!r}; the config has {', '.join(self.settings.views)}"
            raise RequestError(msg)
        if view.base != view.name:
            msg = f"view {name!r} is another name of {view.base!r}; write to that"
            raise RequestError(msg)
        return view

    def _batch(self, view_name: str, table: Any) -> Batch:
        view = self._written(view_name)  # First: where nobody takes rows there is no table to find fault with.
        return batch_of(view, self._serving.layouts[view_name], table, wall_us=int(self.clock.wall() * 1e6))

    def _tombstones(self, view_name: str, entity_rows: EntityRows, *, ahead_us: int = 0) -> Batch:
        view = self._written(view_name)  # First: tombstones in the snapshots alone would delete nothing.
        layout = self._serving.layouts[view_name]
        entities = Entities(entity_rows)
        keys, _, nulls = encode_keys(view.join_keys, [entities.column(key.column, view) for key in view.join_keys])
        if nulls is not None:
            msg = f"view {view_name!r} wants a join key in every row to delete, got a null one"
            raise RequestError(msg)
        event_time = np.full(len(keys), int(self.clock.wall() * 1e6) + ahead_us, np.int64)
        blobs = encode_tombstones(layout, event_time, keys.own)
        return Batch(Ask(view, layout, keys), blobs, event_time, is_burial=True)

    def _buried(self, batch: Batch) -> dict[str, WriteCounts]:
        """Keep tombstones in every snapshot source; one that is down does not stop the others."""
        counts = {}
        for name, store in self._snapshots.items():
            try:
                store.bury(batch)
                counts[name] = WriteCounts(written=len(batch.blobs))
            except FeatureError as error:
                counts[name] = WriteCounts(failed=len(batch.blobs), error=str(error))
        return counts

    def _writers(self) -> list[str]:
        """The primaries that take writes; RequestError if there is none."""
        primaries = [name for name, source in self.settings.sources.items() if source.role is Origin.PRIMARY]
        named = [name for name in primaries if self._takes_writes(name)]
        if not named:
            raise RequestError(f"there is no source to write to: {self._why_none(primaries)}")
        return named

    def _written(self, name: str) -> View:
        """The view of that name, where what is written of it is read too; RequestError if nobody would."""
        self._writers()
        view, rules = self._view(name), self._serving.rules
        names = [each.name for each in self.settings.views.values() if each.base == name]
        online = [source for each in names for source in rules[each].online]
        if online and not any(map(self._takes_writes, online)):
            raise RequestError(f"view {name!r} has no source to write to: {self._why_none(online)}")
        return view

    def _takes_writes(self, name: str) -> bool:
        raise NotImplementedError

    def _why_none(self, primaries: Sequence[str]) -> str:
        if not primaries:
            return "none has the role primary"
        name, spec = primaries[0], self.settings.sources[primaries[0]].spec
        layout = f" (layout {spec.layout}: whoever writes it goes on writing it)" if hasattr(spec, "layout") else ""
        return f"{name!r} is only read{layout}"

    def _forget(self, batch: Batch) -> None:
        """What was remembered of rows just written is old now; of deleted ones it must not come back."""
        memory, base, keys = self._serving.memory, batch.ask.view.base, batch.ask.keys
        if not memory.keeps(base):
            return
        if batch.is_burial:
            memory.bury(base, keys.ids, batch.event_time.tolist(), keys.own)
            if self._keepsakes is not None:
                try:
                    self._keepsakes.bury(base, keys.ids, batch.event_time.tolist())
                except OSError as error:
                    log.warning("deleted rows of %r may be remembered after a restart: %s", base, error)
        else:
            memory.forget(base, keys.ids, keys.own)

    def _report(self, batch: Batch, counts: Mapping[str, WriteCounts]) -> WriteReport:
        """What became of a write; raises PartialWrite if a source did not take it."""
        self._forget(batch)
        newest = int(batch.event_time.max()) if len(batch.event_time) else None
        report = WriteReport(batch.ask.view.name, len(batch.blobs), dict(counts), newest)
        for name, each in counts.items():
            if each.error:
                self.observer.tell("write.failed", name, {"view": report.view, "error": each.error})
        if not report.is_complete:
            failed = "; ".join(f"{name}: {c.failed} rows failed, {c.error}" for name, c in counts.items() if c.error)
            raise PartialWrite(f"view {report.view!r} was not written everywhere: {failed}", report=report)
        return report

    def publish_snapshot(self, view: str, table: Any, as_of: Any = None, allow_shrink: bool = False) -> Any:
        """Publish a complete image of a view to every snapshot source; blocking, off the request path.

        Args:
            table: pandas, pyarrow, a dict of columns with event_timestamp, or the path of Parquet.
            as_of: "everything known at this instant is inside"; default the newest event.
            allow_shrink: let it have fewer than half the rows of the one before.

        Returns: the manifest.
        Raises: RequestError if it may not be published; the one before goes on serving.
        """
        self._check_open()
        if not self._snapshots:
            raise RequestError("there is no snapshot source to publish to; the config has none of type s3")
        as_of_us = None if as_of is None else _microseconds(as_of)
        target = self._view(view)
        manifests = [
            store.publish(target, self._serving.layouts[view], table, as_of_us=as_of_us, allow_shrink=allow_shrink)
            for store in self._snapshots.values()
        ]
        return manifests[0]

    def snapshot_store(self, name: str | None = None) -> Any:
        """The snapshot source of that name, or the only one; for listing, verifying and collecting images."""
        if name is None and self._snapshots:
            return next(iter(self._snapshots.values()))
        if name not in self._snapshots:
            raise RequestError(
                f"there is no snapshot source {name!r}; the config has {list(self._snapshots) or 'none'}"
            )
        return self._snapshots[name]

    def _refresh(self, timeout_s: float) -> dict[str, list[Refreshed]]:
        if self._keepsakes is not None:
            self._keepsakes.load()
        return {name: store.refresh(timeout_s) for name, store in self._snapshots.items()}

    def _prepare(self, fault: Stale) -> None:
        """Make the rows a fault needs readable, off the request path; a fault without them is `not_applied`."""
        as_of_us = int((self.clock.wall() - fault.age_s) * 1e6)
        view = self.settings.views[fault.view]
        for name in self._serving.rules[fault.view].local:
            if name in self._snapshots:
                try:
                    self._snapshots[name].prepare(view.base, as_of_us, _PREPARE_S)
                except StoreError as error:
                    log.warning("no rows for %s: %s", fault.name, error)

    def _keep(self, response: Response, remembered: Remembered) -> None:
        """Have a drawn answer compared with the tiers behind it, off the request path."""
        shadow = self._serving.shadow
        if shadow is not None and shadow.take(response, remembered) and is_real(self.clock):
            self._begin_comparing()

    def on_shadow(self, listener: ShadowListener, told: Callable[[], Mapping[str, Any]] | None = None) -> None:
        """Hear what each tier would have answered instead of a drawn answer; an `ImpactMonitor` does this by itself.

        Args:
            listener: `listener(request_id, priced)`, off the request path; must not raise.
            told: what it makes of that, by the model's name, for `status()`.
        """
        self._shadow_listeners.append(listener)
        if told is not None:
            self._models.append(told)

    def _counted(self, shadow: Shadow, sample: Sample, found: Found) -> None:
        priced = shadow.count(sample, found)
        for listener in self._shadow_listeners if priced else ():
            listener(sample.response.request_id, priced)

    def _left_alone(self) -> None:
        """A source is not asked any more: from now on it is read off the request path, to see."""
        self._serving.probe_in_s()
        self._begin_probes()

    def _begin_probes(self) -> None:
        raise NotImplementedError

    def _begin_comparing(self) -> None:
        raise NotImplementedError

    def _is_up(self, name: str, *, full: bool) -> bool:
        raise NotImplementedError

    def _reference_plan(self, response: Response) -> Plan[Response]:
        return reference(
            response,
            self._serving.fetch,
            witness=self.settings.impact.reference_source,
            now=self.clock.monotonic(),
        )


def _step_of(client: weakref.ref[BaseClient]) -> Callable[[], float | None]:
    """What keeps a client's rows on disk as long as somebody holds the client."""

    def step() -> float | None:
        held = client()
        return None if held is None or held._keepsakes is None else held._keepsakes.step()  # noqa: SLF001 - its own

    return step


def is_real(clock: Clock) -> bool:
    """Whether its time goes by itself: on a clock turned by hand nothing may happen beside the requests."""
    return isinstance(clock, SystemClock | ShiftedClock)


def suffices(shards: tuple[int, int], *, full: bool) -> bool:
    """Whether so many shards that answer, of so many, will do."""
    up, all_ = shards
    return up == all_ if full else up > 0


def is_ahead(report: WriteReport) -> bool:
    """Whether some row outlived its tombstone: writes may be dated a little ahead of the clock."""
    return any(counts.older for counts in report.sources.values())


def _alive() -> tuple[bool, Any]:
    return True, {"alive": True}


def _listener(settings: Settings) -> Callable[[Board, str, str, Callable[[], float], Any], Control | None] | None:
    """What takes orders from other processes, where this installation does; imported before a request waits for it."""
    if settings.chaos.listen is None or settings.chaos_token is None:
        return None
    from featurechaos.faults.control import listen

    return listen


def add_up(total: WriteCounts, more: WriteCounts) -> None:
    total.written += more.written
    total.older += more.older
    total.failed += more.failed
    total.error = total.error or more.error


def _microseconds(when: Any) -> int:
    return int(event_times([when], 1, "as_of")[0])
