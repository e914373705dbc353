"""The only place that performs effects: `run` for threads, `arun` for asyncio, side by side.

A plan that is left (an error, a cancel, a lost race) is closed: its layers' `finally` run, and a read
on its way is abandoned with its connection.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

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
    """The same turns as `branches.Race`: the next plan starts as soon as the latest has failed, or after `after_s`.

    The first runs in the task it was asked in: one that answers in time costs a timer and no task of its own.
    """
    others = _Others(plans[1:], after_s, world)
    try:
        try:
            return await others.beside(arun(plans[0], world))
        except Exception:
            if len(plans) == 1:
                raise
        return await others.settled()
    finally:
        await others.leave()


class _Others(Generic[T]):
    """The plans of a race but the first: each started as a task once it is its turn."""

    def __init__(self, plans: Sequence[Plan[T]], after_s: float, world: AsyncWorld) -> None:
        self._waiting, self._after_s, self._world = list(plans), after_s, world
        self._loop = asyncio.get_running_loop()
        self._tasks: list[asyncio.Task[T]] = []
        self._due = self._loop.time() + after_s
        self._timer: asyncio.Handle | None = None
        self._first: asyncio.Task[Any] | None = None
        self._winner: asyncio.Task[T] | None = None

    async def beside(self, first: Coroutine[Any, Any, T]) -> T:
        """What the first gives, or another that has overtaken it: then it is cancelled where it waits."""
        self._first = asyncio.current_task()
        assert self._first is not None
        cancels = self._first.cancelling()
        self._set()
        try:
            return await first
        except asyncio.CancelledError:
            if self._winner is None or self._first.uncancel() > cancels:
                raise  # by somebody else
            return self._winner.result()
        finally:
            self._first = None
            self._unset()

    async def settled(self) -> T:
        """The first result of the others, now that the first has failed; else the last error."""
        while self._waiting or not all(task.done() for task in self._tasks):
            if self._waiting and (not self._tasks or self._tasks[-1].done() or self._loop.time() >= self._due):
                self._start()
            await asyncio.wait(
                [task for task in self._tasks if not task.done()],
                timeout=max(0.0, self._due - self._loop.time()) if self._waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in self._tasks:
                if task.done() and task.exception() is None:
                    return task.result()
        return self._tasks[-1].result()  # raises: the error of the last of them

    async def leave(self) -> None:
        """Close what has not begun, cancel what runs."""
        for plan in self._waiting:
            plan.close()
        if self._tasks:
            await _leave(self._tasks)

    def _start(self) -> None:
        task = asyncio.create_task(arun(self._waiting.pop(0), self._world))
        self._tasks.append(task)
        self._due = self._loop.time() + self._after_s
        if self._first is not None:
            task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[T]) -> None:
        """One of the others has ended while the first is waited for."""
        if self._first is None or self._winner is not None or task.cancelled():
            return
        if task.exception() is None:
            self._winner = task
            self._first.cancel()
        elif self._waiting and task is self._tasks[-1]:
            self._unset()
            self._start()
            self._set()

    def _set(self) -> None:
        if self._waiting:
            self._timer = self._loop.call_at(self._due, self._on_time, _PASSES)

    def _unset(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_time(self, passes: int) -> None:
        """A turn has come; but what has come already is taken in first, however late the loop is to see it."""
        if passes:
            self._timer = self._loop.call_soon(self._on_time, passes - 1)
            return
        self._start()
        self._set()


async def _leave(tasks: Sequence[asyncio.Future[Any]]) -> None:
    """Cancel what still runs and see it end, so that no branch outlives its request."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
