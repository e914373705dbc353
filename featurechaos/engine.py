"""The only place that performs effects: `run` for threads, `arun` for asyncio, side by side.

A plan that is left (an error, a cancel, a lost race) is closed: its layers' `finally` run, and a read
on its way is abandoned with its connection.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from featurechaos.branches import run_group
from featurechaos.codec import Layout
from featurechaos.effects import All, Describe, Effect, First, Note, Plan, Read, Sleep
from featurechaos.errors import DecodeError, StoreError, StoreUnavailable
from featurechaos.events import Listener
from featurechaos.stores import Answer, Ask, AsyncStore, Store

T = TypeVar("T")

log = logging.getLogger(__name__)

_PASSES = 3
"""Of the loop, from bytes on a socket to a task that is done."""


@dataclass(slots=True, eq=False)
class _Stranger:
    """Errors that no adapter has translated: a driver's own must cost its source, not the request."""

    _logged: set[tuple[str, str]] = field(default_factory=set, init=False, repr=False)

    def unavailable(self, source: str, error: Exception) -> StoreUnavailable:
        """What a plan is told instead; the error itself goes to the log, once for each source and type."""
        kind = type(error).__name__
        if (source, kind) not in self._logged:
            self._logged.add((source, kind))
            log.error("source %r raised what its adapter does not translate", source, exc_info=error)
        return StoreUnavailable(f"source {source!r}: {kind}: {error}")


@dataclass(slots=True, eq=False)
class World(_Stranger):
    """Where effects happen: the stores by name, who listens, how to wait."""

    stores: Mapping[str, Store]
    listeners: list[Listener] = field(default_factory=list)
    sleep: Callable[[float], None] = time.sleep
    monotonic: Callable[[], float] = time.monotonic

    def ask(self, source: str, asks: Sequence[Ask], until: float, as_of_us: int | None = None) -> list[Answer]:
        """Read a source; raises StoreErrors only."""
        store = self.stores[source]
        try:
            return store.read(asks, until, as_of_us=as_of_us)
        except StoreError:
            raise
        except Exception as error:
            raise self.unavailable(source, error) from error

    def describe(self, effect: Describe) -> dict[int, Layout]:
        """The layouts a source knows; raises StoreErrors only."""
        store = self.stores[effect.source]
        try:
            return readable(store.layouts(effect.project, effect.hashes, effect.until))
        except StoreError:
            raise
        except Exception as error:
            raise self.unavailable(effect.source, error) from error

    def tell(self, note: Note) -> None:
        for listener in self.listeners:
            listener(note.name, note.about, note.fields)


@dataclass(slots=True, eq=False)
class AsyncWorld(_Stranger):
    """The same for asyncio."""

    stores: Mapping[str, AsyncStore]
    listeners: list[Listener] = field(default_factory=list)
    sleep: Callable[[float], Any] = asyncio.sleep

    async def ask(self, source: str, asks: Sequence[Ask], until: float, as_of_us: int | None = None) -> list[Answer]:
        """Read a source; raises StoreErrors only."""
        store = self.stores[source]
        try:
            return await store.read(asks, until, as_of_us=as_of_us)
        except StoreError:
            raise
        except Exception as error:
            raise self.unavailable(source, error) from error

    async def describe(self, effect: Describe) -> dict[int, Layout]:
        """The layouts a source knows; raises StoreErrors only."""
        store = self.stores[effect.source]
        try:
            return readable(await store.layouts(effect.project, effect.hashes, effect.until))
        except StoreError:
            raise
        except Exception as error:
            raise self.unavailable(effect.source, error) from error

    def tell(self, note: Note) -> None:
        for listener in self.listeners:
            listener(note.name, note.about, note.fields)


def run(plan: Plan[T], world: World) -> T:
    """Play a plan to its end on this thread and return its result."""
    try:
        effect = next(plan)
        while True:
            try:
                result = perform(effect, world)
            except Exception as error:  # noqa: BLE001 - the plan decides what an error means
                effect = plan.throw(error)
            else:
                effect = plan.send(result)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    finally:
        plan.close()


def perform(effect: Effect, world: World) -> Any:
    """Do one thing a plan asked for."""
    if type(effect) is Read:
        return world.ask(effect.source, effect.asks, effect.until, effect.as_of_us)
    if type(effect) is Describe:
        return world.describe(effect)
    if type(effect) is Note:
        return world.tell(effect)
    if type(effect) is Sleep:
        return world.sleep(effect.seconds)
    assert type(effect) is All or type(effect) is First
    return run_group(effect, world, perform)


async def arun(plan: Plan[T], world: AsyncWorld) -> T:
    """Play a plan to its end on this event loop and return its result."""
    try:
        effect = next(plan)
        while True:
            try:
                result = await aperform(effect, world)
            except Exception as error:  # noqa: BLE001 - the plan decides what an error means
                effect = plan.throw(error)
            else:
                effect = plan.send(result)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    finally:
        plan.close()


async def aperform(effect: Effect, world: AsyncWorld) -> Any:
    """Do one thing a plan asked for."""
    if type(effect) is Read:
        return await world.ask(effect.source, effect.asks, effect.until, effect.as_of_us)
    if type(effect) is Describe:
        return await world.describe(effect)
    if type(effect) is Note:
        return world.tell(effect)
    if type(effect) is Sleep:
        return await world.sleep(effect.seconds)
    if type(effect) is All:
        return await _all(effect.plans, world)
    assert type(effect) is First
    return await _first(effect.plans, effect.after_s, world)


def readable(descriptions: Mapping[int, bytes]) -> dict[int, Layout]:
    """The layouts whose description is sound and describes the hash it is stored under."""
    layouts = {}
    for schema_hash, description in descriptions.items():
        try:
            layout = Layout.from_description(description)
        except DecodeError:
            continue
        if layout.hash == schema_hash:
            layouts[schema_hash] = layout
    return layouts


async def _all(plans: Sequence[Plan[T]], world: AsyncWorld) -> list[T]:
    tasks = [asyncio.create_task(arun(plan, world)) for plan in plans]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await _leave(tasks)


async def _first(plans: Sequence[Plan[T]], after_s: float, world: AsyncWorld) -> T:
    """The same turns as `branches.Race`: the next plan starts as soon as the latest has failed, or after `after_s`."""
    loop = asyncio.get_running_loop()
    waiting = list(plans)
    tasks: list[asyncio.Task[T]] = []
    due = loop.time()
    try:
        while waiting or not all(task.done() for task in tasks):
            if waiting and (not tasks or tasks[-1].done() or loop.time() >= due):
                tasks.append(asyncio.create_task(arun(waiting.pop(0), world)))
                due = loop.time() + after_s
            await asyncio.wait(
                [task for task in tasks if not task.done()],
                timeout=max(0.0, due - loop.time()) if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if waiting and not any(task.done() for task in tasks):
                await _caught_up(tasks[-1])
            for task in tasks:
                if task.done() and task.exception() is None:
                    return task.result()
        return tasks[-1].result()  # raises: the error of the last of them
    finally:
        for plan in waiting:
            plan.close()
        await _leave(tasks)


async def _caught_up(task: asyncio.Task[Any]) -> None:
    """Let a task take in what has come already: a loop that was held up must not find it late for that."""
    for _ in range(_PASSES):
        if task.done():
            return
        await asyncio.sleep(0)


async def _leave(tasks: Sequence[asyncio.Future[Any]]) -> None:
    """Cancel what still runs and see it end, so that no branch outlives its request."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
