"""The same for asyncio: nothing here waits but at an `await`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from types import TracebackType
from typing import Any, Self

from featurechaos.base import BATCH_ROWS, READY_MOST_S, WRITE_S, BaseClient, add_up, is_ahead, is_real, suffices
from featurechaos.clock import Clock
from featurechaos.config import Settings
from featurechaos.engine import AsyncWorld, arun
from featurechaos.entities import EntityRows
from featurechaos.errors import FeatureError, StoreError, StoreTimeout
from featurechaos.keeping import AsyncKeeper
from featurechaos.response import Response
from featurechaos.serving import Call, Serving
from featurechaos.stores import Ask, AsyncStore, Batch, Refreshed, WriteCounts, WriteReport
from featurechaos.tables import FUTURE_US, parts_of
from featurechaos.threaded import Threaded


class AsyncFeatureClient(BaseClient):
    """The same client for asyncio: the same calls with `await`, and `async with`."""

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        super().__init__(settings, clock)
        stores = {name: self._aopen(name) for name in settings.sources}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._world = AsyncWorld(stores, self.observer.listeners)
        self._keeper = AsyncKeeper(self._probe, name="featurechaos-probe")
        self._comparer = AsyncKeeper(self._compare, name="featurechaos-shadow")
        if is_real(self.clock):
            self.observer.opened = self._left_alone
        self._watch()

    def _aopen(self, name: str) -> AsyncStore:
        if name in self._snapshots:
            return Inline(self._snapshots[name])
        source = self.settings.sources[name]
        place = self._place(name)
        if hasattr(source.store_class, "aopen"):
            return source.store_class.aopen(source.spec, place)
        return Threaded(source.store_class.open(source.spec, place), name, self.clock.monotonic)

    async def get_online_features(
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
        """As `FeatureClient.get_online_features`."""
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
        response = await self._read(serving, call)
        self.observer.answered(response)
        if remembered is not None:
            self._keep(response, remembered)
        if not response.is_plain and (error := serving.exhausted(call, response)) is not None:
            raise error
        return response

    async def _read(self, serving: Serving, call: Call) -> Response:
        if (started := serving.shortcut.begin(call, call.compiled.source)) is not None:
            try:
                started.answers = await self._world.ask(started.source, call.asks, started.until)
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
                    answers = await self._world.ask(source, call.asks, call.until)
                if (response := serving.end_local(call, answers, refusals, self._world.tell)) is not None:
                    return response
        return serving.response(call, await arun(serving.asked(call), self._world))

    async def reference(self, response: Response) -> Response:
        """As `FeatureClient.reference`."""
        self._check_open()
        return await arun(self._reference_plan(response), self._world)

    async def reload(self, source: str | os.PathLike[str] | Mapping[str, Any] | None = None) -> dict[str, Any]:
        """As `FeatureClient.reload`, on a thread."""
        return await asyncio.to_thread(self._reload, source)

    async def write_to_online_store(self, view: str, table: Any) -> WriteReport:
        """As `FeatureClient.write_to_online_store`."""
        self._check_open()
        return await self._write(self._batch(view, table))

    async def delete(self, view: str, entity_rows: EntityRows) -> WriteReport:
        """As `FeatureClient.delete`."""
        self._check_open()
        batch = self._tombstones(view, entity_rows)
        report = await self._write(batch, await asyncio.to_thread(self._buried, batch))
        if not is_ahead(report):
            return report
        batch = self._tombstones(view, entity_rows, ahead_us=FUTURE_US)
        return await self._write(batch, await asyncio.to_thread(self._buried, batch))

    async def publish_snapshot(self, view: str, table: Any, as_of: Any = None, allow_shrink: bool = False) -> Any:
        """As `FeatureClient.publish_snapshot`, on a thread."""
        return await asyncio.to_thread(super().publish_snapshot, view, table, as_of, allow_shrink)

    async def refresh(self, timeout_s: float = 60) -> dict[str, list[Refreshed]]:
        """As `FeatureClient.refresh`, on a thread."""
        self._check_open()
        return await asyncio.to_thread(self._refresh, timeout_s)

    async def close(self) -> None:
        """Let go of every task, thread and socket; idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        async with AsyncExitStack() as rest:  # the last first, and each whatever became of the others
            for store in self._world.stores.values():
                rest.push_async_callback(store.close)
            rest.push_async_callback(asyncio.to_thread, self._stop)
            rest.push_async_callback(self._keeper.close)
            rest.push_async_callback(self._comparer.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _write(self, batch: Batch, done: Mapping[str, WriteCounts] | None = None) -> WriteReport:
        totals = {name: WriteCounts() for name in self._writers()}
        for name, counts in totals.items():
            for part in parts_of(batch, BATCH_ROWS):
                try:
                    took = await self._world.stores[name].write(part, self.clock.monotonic() + WRITE_S)
                    add_up(counts, took)
                    if took.is_late:
                        break  # as for a source that is late as a whole
                except FeatureError as error:
                    counts.error = counts.error or str(error)
                    if isinstance(error, StoreTimeout):
                        break  # the other batches would wait for it as long, one after another
            counts.failed = len(batch.blobs) - counts.written - counts.older
        return self._report(batch, {**totals, **(done or {})})

    async def ready(self, full: bool = False, freeze: bool = False) -> bool:  # type: ignore[override]
        """As `FeatureClient.ready`."""
        self._check_open()
        self._loop = asyncio.get_running_loop()
        serving = self._serving
        names = self._worth_asking(serving, full=full)
        answers = await asyncio.gather(*[self._answers(name, full=full) for name in names])
        return self._is_ready(serving, dict(zip(names, answers, strict=True)), full=full, freeze=freeze)

    def _readyz(self) -> tuple[bool, Any]:
        """Asked on the endpoint's thread; the answer comes from the loop that the client is used in."""
        if self._loop is None or self._loop.is_closed():
            return False, {"ready": False, "reason": "the client's event loop is over"}
        is_ready = asyncio.run_coroutine_threadsafe(self.ready(), self._loop).result(READY_MOST_S)
        return is_ready, {"ready": is_ready}

    def _start(self) -> None:
        with suppress(RuntimeError):  # on a thread there is none
            self._loop = asyncio.get_running_loop()
        super()._start()

    def _begin_probes(self) -> None:
        self._keeper.start()

    async def _probe(self) -> float | None:
        serving = self._serving
        for source in serving.to_probe():
            await arun(serving.probe(source), self._world)
        return self._serving.probe_in_s()

    def _begin_comparing(self) -> None:
        self._comparer.start()

    async def _compare(self) -> float | None:
        """The same; what is read is compared on a thread, since it may take milliseconds."""
        if (shadow := self._serving.shadow) is None:
            return None
        if (sample := shadow.next()) is not None:
            try:
                found = await arun(shadow.tiers(sample), self._world)
            except Exception as error:  # noqa: BLE001 - `failed` logs it
                shadow.failed(error)
            else:
                await asyncio.to_thread(self._counted, shadow, sample, found)
        return shadow.wait_s()

    async def _answers(self, name: str, *, full: bool) -> bool:
        store: Any = self._world.stores[name]
        until = self.clock.monotonic() + 1.0
        try:
            if hasattr(store, "shards_up"):
                return suffices(await store.shards_up(until), full=full)
            await store.layouts(self.settings.project, [0], until)
        except FeatureError:
            return False
        return True

    def _takes_writes(self, name: str) -> bool:
        writable: bool = getattr(self._world.stores[name], "writable", self.settings.sources[name].store_class.writable)
        return writable


class Inline:
    """The async form of a store that answers from memory: its calls as they are."""

    bounded = True

    def __init__(self, store: Any) -> None:
        self._store = store
        self.writable = store.writable

    async def read(self, asks: Sequence[Ask], until: float, *, as_of_us: int | None = None) -> Any:
        return self._store.read(asks, until, as_of_us=as_of_us)

    async def layouts(self, project: str, hashes: Sequence[int], until: float) -> dict[int, bytes]:
        return self._store.layouts(project, hashes, until)  # type: ignore[no-any-return]

    async def write(self, batch: Batch, until: float) -> WriteCounts:
        return self._store.write(batch, until)  # type: ignore[no-any-return]

    async def close(self) -> None:
        await asyncio.to_thread(self._store.close)
