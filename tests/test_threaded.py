"""Blocking stores where more is wanted of them: a deadline they do not keep, and asyncio."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest

from featurechaos.clock import SystemClock
from featurechaos.codec import Layout
from featurechaos.errors import StoreRefused, StoreTimeout
from featurechaos.stores import Answer, Ask, Batch, WriteCounts
from featurechaos.testing import ManualClock, MemoryStore
from featurechaos.threaded import MOST_THREADS, Bounded, Threaded
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


def stuck_threads(source: str) -> int:
    """Of a source of one test's own: threads of another test may still be ending."""
    return sum(thread.name == f"featurechaos-{source}" for thread in threading.enumerate())


def test_a_source_that_hangs_costs_eight_threads_and_then_no_time(hanging: Hanging) -> None:
    bounded = Bounded(hanging, "eight")

    def ask() -> str:
        with pytest.raises(StoreTimeout) as caught:
            bounded.read([ask_of([1])], CLOCK.monotonic() + 0.01)
        return str(caught.value)

    told = [ask() for _ in range(MOST_THREADS)]
    assert told == ["source 'eight' gave no answer in time"] * MOST_THREADS
    with pytest.raises(StoreTimeout, match="source 'eight' was not asked: 8 calls are late and still under way"):
        bounded.read([ask_of([1])], CLOCK.monotonic() + 30)
    assert stuck_threads("eight") == MOST_THREADS

    hanging.go_on.set()
    eventually(lambda: stuck_threads("eight") == 0)
    assert bounded.read([ask_of([1])], CLOCK.monotonic() + 30) == [[None]]


def test_a_crowd_at_once_is_eight_threads_too(hanging: Hanging) -> None:
    threaded = Threaded(hanging, "crowd")

    async def crowd() -> tuple[int, list[Any]]:
        tasks = [threaded.read([ask_of([1])], CLOCK.monotonic() + SOON_S) for _ in range(100)]
        told = asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(SOON_S / 2)
        return stuck_threads("crowd"), await told

    stuck, told = asyncio.run(crowd())

    assert stuck == MOST_THREADS
    assert [type(each) for each in told] == [StoreTimeout] * 100


def test_a_crowd_waits_for_its_turn_while_there_is_time(hanging: Hanging) -> None:
    """More callers than threads are no failure of a source that answers."""
    threaded = Threaded(hanging, "it")
    threading.Timer(0.02, hanging.go_on.set).start()

    async def crowd() -> list[Any]:
        return await asyncio.gather(*(threaded.read([ask_of([1])], CLOCK.monotonic() + 30) for _ in range(100)))

    assert asyncio.run(crowd()) == [[[None]]] * 100


def test_what_was_left_before_its_turn_is_never_begun(hanging: Hanging) -> None:
    bounded = Bounded(hanging, "it")
    stuck = [threading.Thread(target=lambda: bounded.read([ask_of([1])], CLOCK.monotonic() + 30)) for _ in range(8)]
    for thread in stuck:
        thread.start()
    eventually(lambda: len(bounded._lane._waiting) == 0)

    with pytest.raises(StoreTimeout, match="gave no answer in time"):
        bounded.read([ask_of([1])], CLOCK.monotonic() + 0.01)
    hanging.go_on.set()
    for thread in stuck:
        thread.join()

    eventually(lambda: bounded._lane._threads == 0)
    assert hanging.reads == 8


def test_time_is_that_of_the_clock_given() -> None:
    clock = ManualClock()
    store = rows_of(clock, {1: 1.0})
    until = clock.monotonic() + 5

    assert Bounded(store, "it", clock.monotonic).read([ask_of([1])], until) == store.read([ask_of([1])], 0)
    assert asyncio.run(Threaded(store, "it", clock.monotonic).read([ask_of([1])], until)) == store.read(
        [ask_of([1])], 0
    )


def test_a_timeout_of_the_drivers_own_is_not_ours() -> None:
    store = MemoryStore()
    store.fail_with = TimeoutError("connect")  # type: ignore[assignment]

    with pytest.raises(TimeoutError, match="connect"):
        Bounded(store, "it").read([ask_of([1])], CLOCK.monotonic() + 5)
    with pytest.raises(TimeoutError, match="connect"):
        asyncio.run(Threaded(store, "it").read([ask_of([1])], CLOCK.monotonic() + 5))


def eventually(claim: Callable[[], bool]) -> None:
    until = CLOCK.monotonic() + 10
    while not claim():
        assert CLOCK.monotonic() < until
        threading.Event().wait(0.001)


def test_both_are_the_store_in_all_else() -> None:
    store = rows_of(ManualClock(), {1: 1.0})
    bounded, threaded = Bounded(store, "it"), Threaded(store, "it")

    assert bounded.bounded is threaded.bounded is bounded.writable is threaded.writable is True
    assert bounded.rows is threaded.rows is store.rows
    assert bounded.read([ask_of([1])], CLOCK.monotonic() + 5) == store.read([ask_of([1])], 0)
    asyncio.run(threaded.close())
    bounded.close()
