"""The only place that performs effects: `run` for threads, `arun` for asyncio, side by side.

A plan that is left (an error, a cancel, a lost race) is closed: its layers' `finally` run, and a read
on its way is abandoned with its connection.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from featurechaos.branches import run_all, run_first
from featurechaos.codec import Layout
from featurechaos.effects import All, Describe, Effect, First, Note, Plan, Read, Sleep
from featurechaos.errors import DecodeError
from featurechaos.events import Listener
from featurechaos.stores import AsyncStore, Store

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class World:
    """Where effects happen: the stores by name, who listens, how to wait."""

    stores: Mapping[str, Store]
    listeners: list[Listener] = field(default_factory=list)
    sleep: Callable[[float], None] = time.sleep
    monotonic: Callable[[], float] = time.monotonic

    def tell(self, note: Note) -> None:
        for listener in self.listeners:
            listener(note.name, note.about, note.fields)


@dataclass(slots=True, eq=False)
class AsyncWorld:
    """The same for asyncio."""

    stores: Mapping[str, AsyncStore]
    listeners: list[Listener] = field(default_factory=list)
    sleep: Callable[[float], Any] = asyncio.sleep

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
        return world.stores[effect.source].read(effect.asks, effect.until, as_of_us=effect.as_of_us)
    if type(effect) is Note:
        return world.tell(effect)
    if type(effect) is Sleep:
        return world.sleep(effect.seconds)
    if type(effect) is Describe:
        store = world.stores[effect.source]
        return readable(store.layouts(effect.project, effect.hashes, effect.until))
    if type(effect) is All:
        return run_all(effect.plans, world, perform)
    assert type(effect) is First
    return run_first(effect.plans, effect.after_s, world, perform)


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
        return await world.stores[effect.source].read(effect.asks, effect.until, as_of_us=effect.as_of_us)
    if type(effect) is Note:
        return world.tell(effect)
    if type(effect) is Sleep:
        return await world.sleep(effect.seconds)
    if type(effect) is Describe:
        store = world.stores[effect.source]
        return readable(await store.layouts(effect.project, effect.hashes, effect.until))
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
    waiting = list(plans)
    tasks: list[asyncio.Task[T]] = []
    running: set[asyncio.Task[T]] = set()
    last: BaseException | None = None
    try:
        while waiting or running:
            if waiting:
                task = asyncio.create_task(arun(waiting.pop(0), world))
                tasks.append(task)
                running.add(task)
            done, running = await asyncio.wait(
                running, timeout=after_s if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                if (last := task.exception()) is None:
                    return task.result()
        assert last is not None
        raise last
    finally:
        for plan in waiting:
            plan.close()
        await _leave(tasks)


async def _leave(tasks: Sequence[asyncio.Future[Any]]) -> None:
    """Cancel what still runs and see it end, so that no branch outlives its request."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
