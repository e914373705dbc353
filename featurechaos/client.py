"""The feature-store client for threads: what serving code holds. Plans are run, stores asked."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any, Self

from featurechaos.base import BATCH_ROWS, WRITE_S, BaseClient, add_up, is_ahead, is_real, suffices
from featurechaos.clock import Clock
from featurechaos.config import Settings
from featurechaos.engine import World, run
from featurechaos.entities import EntityRows
from featurechaos.errors import FeatureError, StoreError, StoreTimeout
from featurechaos.keeping import Keeper
from featurechaos.response import Response
from featurechaos.serving import Call, Serving
from featurechaos.stores import Batch, Refreshed, Store, WriteCounts, WriteReport
from featurechaos.tables import FUTURE_US, parts_of
from featurechaos.threaded import Bounded


class FeatureClient(BaseClient):
    """Reads features from the best source there is, inside a deadline, and says where each row came from.

    Thread-safe; survives `fork()`; pickles as its config. Use as a context manager or `close()` it.
    """

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        super().__init__(settings, clock)
        stores = {name: self._open(name) for name in settings.sources}
        self._world = World(stores, self.observer.listeners, monotonic=self.clock.monotonic)
        self._keeper = Keeper(self._probe, name="featurechaos-probe")
        self._comparer = Keeper(self._compare, name="featurechaos-shadow")
        if is_real(self.clock):
            self.observer.opened = self._left_alone
        self._watch()

    def _watch(self) -> None:
        self.observer.watch(self._serving, self._snapshots, self.clock, self._world.stores)

    def _open(self, name: str) -> Store:
        if name in self._snapshots:
            return self._snapshots[name]  # type: ignore[no-any-return]
        source = self.settings.sources[name]
        store = source.store_class.open(source.spec, self._place(name))
        return store if store.bounded else Bounded(store, name, self.clock.monotonic)  # type: ignore[return-value]

    def get_online_features(
        self,
        features: Sequence[str] | str,
        entity_rows: EntityRows,
        full_feature_names: bool = False,
        *,
        deadline_s: float | None = None,
        max_age_s: float | None = None,
        on_exhausted: str | None = None,
        request_id: str | None = None,
    ) -> Response:
        """Read features for entity rows, by the deadline, from the best source there is.

        Args:
            features: references `view:feature`, or `service:NAME`.
            entity_rows: a list of dicts, or a dict of columns whose scalars are broadcast; with every join key.
            full_feature_names: name columns `view__feature`.
            deadline_s: seconds from entry to return; 0 or less asks local tiers only. Default: the config's.
            max_age_s: never serve a row older than this; only tightens a view's own limit.
            on_exhausted: `default` or `raise`; default: the config's.
            request_id: what faults and sampling draw by; default 128 random bits.

        Raises:
            RequestError: the call is wrong.
            Exhausted: a row got no value and `on_exhausted` is `raise`; `.response` has the rest.
        """
        if self._is_closed or not self._is_started:
            self._check_open()
        serving = self._serving
        call = serving.call(
            features,
            entity_rows,
            full_feature_names=full_feature_names,
            deadline_s=deadline_s,
            max_age_s=max_age_s,
            on_exhausted=on_exhausted,
            request_id=request_id,
        )
        shadow = serving.shadow
        remembered = None if shadow is None else shadow.before(call)
        response = self._read(serving, call)
        self.observer.answered(response)
        if remembered is not None:
            self._keep(response, remembered)
        if not response.is_plain and (error := serving.exhausted(call, response)) is not None:
            raise error
        return response

    def _read(self, serving: Serving, call: Call) -> Response:
        if (started := serving.shortcut.begin(call, call.compiled.source)) is not None:
            try:
                started.answers = self._world.ask(started.source, call.asks, started.until)
            except StoreError as error:
                started.error = error
            except BaseException:
                serving.shortcut.left(started)
                raise
            if (response := serving.end(call, started)) is not None:
                return response
        elif (refusals := serving.refusals(call)) is not None:
            with suppress(StoreError):  # the plan says what it means
                source, answers = call.compiled.way.local, None  # type: ignore[union-attr] # there is one
                if source is not None:
                    answers = self._world.ask(source, call.asks, call.until)
                if (response := serving.end_local(call, answers, refusals, self._world.tell)) is not None:
                    return response
        return serving.response(call, run(serving.asked(call), self._world))

    def reference(self, response: Response) -> Response:
        """The same request on clean features; `response` itself if what was served is clean.

        Rows that are still `degraded` in it have no reference. Off the request path: may take a second.
        """
        self._check_open()
        return run(self._reference_plan(response), self._world)

    def reload(self, source: str | os.PathLike[str] | Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Serve under the policy of a changed config, without a restart; reads under way end under the one before.

        What may change: all of `policy`, a view's `ttl_s`, `max_age_s` and `policy`, and `chaos.max_share`. What is
        known of the sources goes on: counters, last-known rows, breakers, orders, faults that are on.

        Args:
            source: the path of a YAML file or a mapping; default: the file this client was made from.

        Returns: `changed`, one `place: old -> new` each, and `version`, which `status()` tells too.

        Raises:
            SpecError: it is wrong, or changes what wants a restart; nothing was changed.
            RequestError: there is no file to read anew, or the client is closed.
        """
        return self._reload(source)

    def write_to_online_store(self, view: str, table: Any) -> WriteReport:
        """Write rows to every primary; of each row the newest event time stays.

        Args:
            table: pandas, pyarrow or a dict of columns: the view's join keys, features and `event_timestamp`.

        Raises:
            RequestError: the table is wrong; nothing was written.
            PartialWrite: a source did not take all of it; `.report` says which.
        """
        self._check_open()
        return self._write(self._batch(view, table))

    def delete(self, view: str, entity_rows: EntityRows) -> WriteReport:
        """Bury rows: a tombstone that every tier honours."""
        self._check_open()
        batch = self._tombstones(view, entity_rows)
        report = self._write(batch, self._buried(batch))
        if not is_ahead(report):
            return report
        batch = self._tombstones(view, entity_rows, ahead_us=FUTURE_US)
        return self._write(batch, self._buried(batch))

    def refresh(self, timeout_s: float = 60) -> dict[str, list[Refreshed]]:
        """Bring every local replica up to date now; never raises for an absent source, a state for each view."""
        self._check_open()
        return self._refresh(timeout_s)

    def close(self) -> None:
        """Let go of every thread and socket; idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        stores = {id(store): store for store in (*self._world.stores.values(), *self._snapshots.values())}
        with ExitStack() as rest:  # the last first, and each whatever became of the others
            for store in stores.values():
                rest.callback(store.close)
            rest.callback(self._stop)
            rest.callback(self._keeper.close)
            rest.callback(self._comparer.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def store(self, name: str) -> Store:
        """The open store behind a source; for tools, not for serving code."""
        return self._world.stores[name]

    def _write(self, batch: Batch, done: Mapping[str, WriteCounts] | None = None) -> WriteReport:
        totals = {name: WriteCounts() for name in self._writers()}
        for name, counts in totals.items():
            for part in parts_of(batch, BATCH_ROWS):
                try:
                    took = self._world.stores[name].write(part, self.clock.monotonic() + WRITE_S)
                    add_up(counts, took)
                    if took.is_late:
                        break  # as for a source that is late as a whole
                except FeatureError as error:
                    counts.error = counts.error or str(error)
                    if isinstance(error, StoreTimeout):
                        break  # the other batches would wait for it as long, one after another
            counts.failed = len(batch.blobs) - counts.written - counts.older
        return self._report(batch, {**totals, **(done or {})})

    def _begin_probes(self) -> None:
        self._keeper.start()

    def _probe(self) -> float | None:
        """Read from sources that are away, where that is due."""
        serving = self._serving
        for source in serving.to_probe():
            run(serving.probe(source), self._world)
        return self._serving.probe_in_s()

    def _begin_comparing(self) -> None:
        self._comparer.start()

    def _compare(self) -> float | None:
        """Read one drawn answer again from the tiers behind it, if one waits."""
        if (shadow := self._serving.shadow) is None:
            return None
        if (sample := shadow.next()) is not None:
            try:
                found = run(shadow.tiers(sample), self._world)
            except Exception as error:  # noqa: BLE001 - `failed` logs it
                shadow.failed(error)
            else:
                self._counted(shadow, sample, found)
        return shadow.wait_s()

    def _takes_writes(self, name: str) -> bool:
        return self._world.stores[name].writable

    def _is_up(self, name: str, *, full: bool) -> bool:
        store: Any = self._world.stores[name]
        until = self.clock.monotonic() + 1.0
        try:
            if hasattr(store, "shards_up"):
                return suffices(store.shards_up(until), full=full)
            store.layouts(self.settings.project, [0], until)
        except FeatureError:
            return False
        return True
