"""Blocking stores where more is wanted of them: a deadline they do not keep, and asyncio."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest

from featurechaos.clock import SystemClock
from featurechaos.codec import Layout
from featurechaos.errors import StoreRefused, StoreTimeout
from featurechaos.stores import Answer, Ask, Batch, WriteCounts
from featurechaos.testing import ManualClock, MemoryStore
from featurechaos.threaded import Bounded, Threaded
from tests.layers.kit import VIEW, ask_of, rows_of

CLOCK = SystemClock()
SOON_S, SLACK_S = 0.05, 0.5


class Hanging(MemoryStore):
    """A store whose driver waits as long as its server likes."""

    bounded: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()

    def read(self, asks: Sequence[Ask], until: float, *, as_of_us: int | None = None) -> list[Answer]:
        self.go_on.wait(30)
        return super().read(asks, until, as_of_us=as_of_us)

    def layouts(self, project: str, hashes: Sequence[int], until: float) -> dict[int, bytes]:
        self.go_on.wait(30)
        return super().layouts(project, hashes, until)

    def write(self, batch: Batch, until: float) -> WriteCounts:
        self.go_on.wait(30)
        return super().write(batch, until)


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    store = Hanging()
    yield store
    store.go_on.set()


def calls(store: Any) -> list[Any]:
    """Each call that a server can hold up."""
    layout = Layout.of(VIEW)
    batch = Batch(ask_of([]), [], np.empty(0, np.int64))
    return [
        lambda until: store.read([ask_of([1])], until),
        lambda until: store.layouts("t", [layout.hash], until),
        lambda until: store.write(batch, until),
    ]


@pytest.mark.parametrize("which", [0, 1, 2], ids=["read", "layouts", "write"])
def test_a_store_that_keeps_no_deadline_is_left_behind_at_it(hanging: Hanging, which: int) -> None:
    until = CLOCK.monotonic() + SOON_S

    with pytest.raises(StoreTimeout, match="source 'it' gave no answer in time"):
        calls(Bounded(hanging, "it"))[which](until)

    assert -0.01 < CLOCK.monotonic() - until < SLACK_S


@pytest.mark.parametrize("which", [0, 1, 2], ids=["read", "layouts", "write"])
def test_its_async_form_is_left_behind_too_and_holds_no_loop(hanging: Hanging, which: int) -> None:
    async def late() -> None:
        with pytest.raises(StoreTimeout, match="source 'it' gave no answer in time"):
            await calls(Threaded(hanging, "it"))[which](CLOCK.monotonic() + SOON_S)

    begun = CLOCK.monotonic()
    asyncio.run(late())

    assert CLOCK.monotonic() - begun < SOON_S + SLACK_S, "the loop ends while the driver still hangs"


def test_many_hanging_reads_do_not_hold_up_another_store(hanging: Hanging) -> None:
    good = Threaded(rows_of(ManualClock(), {1: 1.0}), "good")

    async def both() -> float:
        stuck = [asyncio.create_task(calls(Threaded(hanging, "it"))[0](CLOCK.monotonic() + 1)) for _ in range(40)]
        await asyncio.sleep(0.02)
        begun = CLOCK.monotonic()
        assert await good.read([ask_of([1])], CLOCK.monotonic() + 1)
        took_s = CLOCK.monotonic() - begun
        for task in stuck:
            task.cancel()
        await asyncio.gather(*stuck, return_exceptions=True)
        return took_s

    assert asyncio.run(both()) < SLACK_S


@pytest.mark.parametrize("error", [StoreRefused("no"), ZeroDivisionError("x")])
def test_errors_come_as_they_are(error: Exception) -> None:
    store = MemoryStore()
    store.fail_with = error  # type: ignore[assignment]

    with pytest.raises(type(error)):
        Bounded(store, "it").read([ask_of([1])], CLOCK.monotonic() + 5)
    with pytest.raises(type(error)):
        asyncio.run(Threaded(store, "it").read([ask_of([1])], CLOCK.monotonic() + 5))


def test_a_cancelled_call_is_left_behind(hanging: Hanging) -> None:
    async def cancelled() -> bool:
        task = asyncio.create_task(Threaded(hanging, "it").read([ask_of([1])], CLOCK.monotonic() + 30))
        await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        hanging.go_on.set()
        await asyncio.sleep(0.02)  # its answer comes to nobody
        return task.cancelled()

    assert asyncio.run(cancelled())


def test_both_are_the_store_in_all_else() -> None:
    store = rows_of(ManualClock(), {1: 1.0})
    bounded, threaded = Bounded(store, "it"), Threaded(store, "it")

    assert bounded.bounded is threaded.bounded is bounded.writable is threaded.writable is True
    assert bounded.rows is threaded.rows is store.rows
    assert bounded.read([ask_of([1])], CLOCK.monotonic() + 5) == store.read([ask_of([1])], 0)
    asyncio.run(threaded.close())
    bounded.close()
