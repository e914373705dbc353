"""Both drivers on a clock that is turned by their own waits: hours pass in no time, and the same way for either."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from featurechaos.effects import Plan
from featurechaos.engine import AsyncWorld, World, arun, run
from featurechaos.events import Listener
from featurechaos.testing import AsyncMemoryStore, ManualClock, MemoryStore

T = TypeVar("T")


class _Selector(selectors.SelectSelector):
    """Waits by turning the clock."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "everything waits, and for nothing"
            self._clock.advance(timeout)
        return ready


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, clock: ManualClock) -> None:
        self._turned = clock
        super().__init__(_Selector(clock))

    def time(self) -> float:
        return self._turned.monotonic()


def awaited(coroutine: Coroutine[Any, Any, T], clock: ManualClock) -> T:
    """Run a coroutine to its end on a loop whose time is the clock's."""
    with asyncio.Runner(loop_factory=lambda: _Loop(clock)) as runner:
        return runner.run(coroutine)


def drive(driver: str, plan: Plan[T], clock: ManualClock, stores: Mapping[str, MemoryStore], *listeners: Listener) -> T:
    """Play a plan by one of the two drivers, `sync` or `async`."""
    if driver == "sync":
        world = World(stores, [*listeners], sleep=clock.advance, monotonic=clock.monotonic)
        return run(plan, world)
    asynchronous = {name: AsyncMemoryStore(store) for name, store in stores.items()}
    return awaited(arun(plan, AsyncWorld(asynchronous, [*listeners])), clock)
