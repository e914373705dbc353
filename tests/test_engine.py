"""Both drivers: the same history for the same plan, errors into plans, and plans closed whatever happens."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Generator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurechaos.clock import SystemClock
from featurechaos.codec import Layout
from featurechaos.effects import All, Describe, First, Note, Plan, Read, Sleep
from featurechaos.engine import AsyncWorld, World, arun, run
from featurechaos.errors import FeatureError, RequestError, StoreRefused, StoreTimeout, StoreUnavailable
from featurechaos.testing import AsyncMemoryStore, ManualClock, MemoryStore
from tests.layers.kit import VIEW, ask_of, rows_of
from tests.virtual import awaited

CLOCK = SystemClock()
History = list[tuple[Any, ...]]
Step = tuple[Any, ...]


class Both:
    """The same two stores for either driver: one that answers and one that is down."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        store, down = rows_of(self.clock, {1: 1.0, 2: 2.0}), MemoryStore()
        store.described[Layout.of(VIEW).hash] = Layout.of(VIEW).describe()
        down.fail_with = StoreUnavailable("down")
        self.stores = {"up": store, "down": down}
        self.heard: History = []

    def listen(self, name: str, about: str, fields: Any) -> None:
        self.heard.append((name, about, dict(fields)))

    def sync(self, plan: Plan[Any]) -> Any:
        return run(plan, World(self.stores, [self.listen], sleep=self._sleep, monotonic=self.clock.monotonic))

    def asynchronous(self, plan: Plan[Any]) -> Any:
        stores = {name: AsyncMemoryStore(store) for name, store in self.stores.items()}

        async def sleep(seconds: float) -> None:
            self._sleep(seconds)

        return asyncio.run(arun(plan, AsyncWorld(stores, [self.listen], sleep=sleep)))

    def _sleep(self, seconds: float) -> None:
        self.heard.append(("slept", seconds))
        self.clock.advance(seconds)


STEPS: st.SearchStrategy[Step] = st.one_of(
    st.tuples(st.just("read"), st.sampled_from(["up", "down"]), st.lists(st.integers(1, 4), max_size=3, unique=True)),
    st.tuples(st.just("describe"), st.sampled_from(["up", "down"])),
    st.tuples(st.just("sleep"), st.sampled_from([0.0, 0.001, 0.5])),
    st.tuples(st.just("note"), st.sampled_from(["a", "b"])),
    st.tuples(st.just("raise"), st.sampled_from([StoreTimeout, RequestError, ZeroDivisionError])),
)
PLANS: st.SearchStrategy[Any] = st.recursive(
    st.lists(STEPS, max_size=5),
    lambda inner: st.lists(
        st.one_of(STEPS, st.tuples(st.sampled_from(["all", "first"]), st.lists(inner, min_size=1, max_size=3))),
        max_size=4,
    ),
    max_leaves=12,
)


def play(steps: list[Step], told: History) -> Plan[Any]:
    """A plan that does what is written, catches the errors of the house, and tells all it sees."""
    got: list[Any] = []
    told.append(("begun",))
    try:
        for step in steps:
            try:
                got.append((yield from _one(step, told)))
            except FeatureError as error:
                got.append(type(error).__name__)
    finally:
        told.append(("over", len(got)))
    return got


def _one(step: Step, told: History) -> Generator[Any, Any, Any]:
    kind, *given_ = step
    if kind == "read":
        keys = ask_of(given_[1]) if given_[1] else ask_of([9])
        return (yield Read(given_[0], [keys], 1e9))
    if kind == "describe":
        layouts = yield Describe(given_[0], "t", [Layout.of(VIEW).hash, 7], 1e9)
        return sorted(layouts)
    if kind == "sleep":
        return (yield Sleep(given_[0]))
    if kind == "note":
        return (yield Note(given_[0], "x", {"n": 1}))
    if kind == "raise":
        raise given_[0]("on purpose")
    if kind == "all":
        return (yield All([play(each, told) for each in given_[0]]))
    return (yield First([play(each, told) for each in given_[0]], 9.0))


def outcome(drive: Callable[[Plan[Any]], Any], steps: list[Step]) -> tuple[Any, History]:
    told: History = []
    try:
        result = drive(play(steps, told))
    except ZeroDivisionError as error:
        result = repr(error)
    return result, told


@given(steps=st.lists(STEPS, max_size=12))
def test_both_drivers_give_one_plan_the_same_history(steps: list[Step]) -> None:
    sync, asynchronous = Both(), Both()

    assert outcome(sync.sync, steps) == outcome(asynchronous.asynchronous, steps)
    assert sync.heard == asynchronous.heard


@given(steps=PLANS)
def test_both_drivers_give_plans_of_plans_the_same_result(steps: list[Step]) -> None:
    sync, asynchronous = Both(), Both()

    first, told = outcome(sync.sync, steps)
    second, also_told = outcome(asynchronous.asynchronous, steps)

    assert first == second
    for history in (told, also_told):
        begun = history.count(("begun",))
        assert len(history) == 2 * begun, "every plan that began has ended"


@pytest.mark.parametrize("driver", ["sync", "asynchronous"])
def test_an_error_of_an_effect_is_the_plans_to_handle(driver: str) -> None:
    def plan() -> Plan[str]:
        try:
            yield Read("down", [ask_of([1])], 1e9)
        except StoreUnavailable as error:
            yield Note("seen", str(error))
        return "handled"

    both = Both()

    assert getattr(both, driver)(plan()) == "handled"
    assert both.heard == [("seen", "down", {})]


@pytest.mark.parametrize("driver", ["sync", "asynchronous"])
def test_an_effect_that_cannot_be_performed_is_an_error_in_the_plan(driver: str) -> None:
    def plan() -> Plan[str]:
        try:
            yield Read("nobody", [], 1e9)
        except KeyError as error:
            return str(error)
        return ""

    assert getattr(Both(), driver)(plan()) == "'nobody'"


@pytest.mark.parametrize("driver", ["sync", "asynchronous"])
def test_a_plan_is_closed_when_its_error_flies(driver: str) -> None:
    ended: list[str] = []

    def plan() -> Plan[None]:
        try:
            yield Read("down", [ask_of([1])], 1e9)
        finally:
            ended.append("finally")

    with pytest.raises(StoreUnavailable, match="down"):
        getattr(Both(), driver)(plan())

    assert ended == ["finally"]


@pytest.mark.parametrize("driver", ["sync", "asynchronous"])
def test_a_plan_is_closed_when_the_caller_is_interrupted(driver: str) -> None:
    ended: list[str] = []
    both = Both()

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    both._sleep = interrupt  # type: ignore[method-assign]

    def plan() -> Plan[None]:
        try:
            yield Sleep(1.0)
        finally:
            ended.append("finally")

    with pytest.raises(KeyboardInterrupt):
        getattr(both, driver)(plan())

    assert ended == ["finally"]


def test_a_cancelled_task_closes_its_plan_and_its_branches() -> None:
    ended: list[str] = []

    def waiting(name: str) -> Plan[None]:
        try:
            yield Sleep(60.0)
        finally:
            ended.append(name)

    def plan(effect: type[All] | type[First]) -> Plan[Any]:
        inner = [waiting("a"), waiting("b")]
        try:
            return (yield All(inner) if effect is All else First(inner, 0.0))
        finally:
            ended.append("outer")

    async def cancelled(effect: Any) -> None:
        task = asyncio.create_task(arun(plan(effect), AsyncWorld({})))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    for effect in (All, First):
        ended.clear()
        asyncio.run(cancelled(effect))

        assert sorted(ended) == ["a", "b", "outer"]


def test_a_storm_of_cancels_leaves_no_task_and_no_open_plan() -> None:
    opened, ended = [0], [0]

    def waiting(seconds: float) -> Plan[None]:
        opened[0] += 1
        try:
            yield Sleep(seconds)
        finally:
            ended[0] += 1

    def plan(number: int) -> Plan[Any]:
        effect = All if number % 2 else First
        inner = [waiting(0.001 * (number % 7)), waiting(0.003)]
        return (yield All(inner) if effect is All else First(inner, 0.001))

    async def storm() -> int:
        async def one(number: int) -> None:
            try:
                async with asyncio.timeout(0.0007 * (number % 9)):
                    await arun(plan(number), AsyncWorld({}))
            except TimeoutError:
                pass

        await asyncio.gather(*(one(number) for number in range(200)))
        return len(asyncio.all_tasks())

    assert asyncio.run(storm()) == 1, "the storm's own"
    assert opened == ended


def test_the_first_to_answer_wins_and_the_loser_is_left() -> None:
    ended: list[str] = []

    def racing(name: str, seconds: float) -> Plan[str]:
        try:
            yield Sleep(seconds)
        except GeneratorExit:
            ended.append(f"{name} left")
            raise
        return name

    def plan(after_s: float) -> Plan[Any]:
        return (yield First([racing("slow", 30.0), racing("quick", 0.01)], after_s))

    begun = CLOCK.monotonic()
    assert run(plan(0.02), World({})) == "quick"
    assert asyncio.run(arun(plan(0.02), AsyncWorld({}))) == "quick"

    assert 0.06 <= CLOCK.monotonic() - begun < 5
    assert ended[0] == "slow left"


def sleeping(seconds: float, result: str = "", act: Callable[[], Any] = lambda: None) -> Plan[str]:
    yield Sleep(seconds)
    act()
    return result


def test_who_wins_a_race_leaves_no_cancel_behind() -> None:
    def plan() -> Plan[Any]:
        return (yield First([sleeping(30.0), sleeping(0.01, "second")], 0.0))

    async def raced() -> tuple[str, int, bool]:
        async with asyncio.timeout(20) as limit:
            won = await arun(plan(), AsyncWorld({}))
            await asyncio.sleep(0.001)
        task = asyncio.current_task()
        assert task is not None
        return won, task.cancelling(), limit.expired()

    assert awaited(raced(), ManualClock()) == ("second", 0, False)


def test_a_cancel_from_outside_is_not_taken_for_the_end_of_a_race() -> None:
    async def raced() -> bool:
        outer: list[asyncio.Task[Any]] = []

        def cancelled() -> None:
            asyncio.get_running_loop().call_soon(outer[0].cancel)  # when it has been won, and nobody knows yet

        def plan() -> Plan[Any]:
            return (yield First([sleeping(30.0), sleeping(0.01, "second", cancelled)], 0.0))

        outer.append(asyncio.create_task(arun(plan(), AsyncWorld({}))))
        await asyncio.wait(outer)
        return outer[0].cancelled() and len(asyncio.all_tasks()) == 1

    assert awaited(raced(), ManualClock())


def test_a_loop_that_was_held_up_takes_in_what_has_come_before_it_hedges() -> None:
    clock = ManualClock()
    begun: list[str] = []

    def hedge() -> Plan[str]:
        begun.append("hedge")
        yield Sleep(0.0)
        return "hedge"

    def plan() -> Plan[Any]:
        return (yield First([sleeping(0.005, "first"), hedge()], 0.004))

    async def raced() -> str:
        asyncio.get_running_loop().call_later(0.001, clock.advance, 0.010)
        return await arun(plan(), AsyncWorld({}))

    assert awaited(raced(), clock) == "first"
    assert begun == []


@pytest.mark.parametrize("driver", ["sync", "asynchronous"])
def test_an_answer_in_time_starts_no_other(driver: str) -> None:
    begun: list[str] = []

    def racing(name: str) -> Plan[str]:
        begun.append(name)
        yield Sleep(0.001)
        return name

    def plan() -> Plan[Any]:
        return (yield First([racing("first"), racing("second")], 30.0))

    assert getattr(Both(), driver)(plan()) == "first"
    assert begun == ["first"]


def test_a_failed_one_starts_the_next_at_once() -> None:
    def failing() -> Plan[str]:
        yield Sleep(0.0)
        raise StoreUnavailable("no")

    def answering() -> Plan[str]:
        yield Sleep(0.0)
        return "yes"

    def plan() -> Plan[Any]:
        return (yield First([failing(), answering()], 30.0))

    begun = CLOCK.monotonic()
    assert run(plan(), World({})) == asyncio.run(arun(plan(), AsyncWorld({}))) == "yes"

    assert CLOCK.monotonic() - begun < 5


def test_when_all_of_a_race_fail_the_last_error_is_told() -> None:
    def failing(name: str) -> Plan[str]:
        yield Sleep(0.0)
        raise StoreUnavailable(name)

    def plan() -> Plan[Any]:
        return (yield First([failing("first"), failing("last")], 30.0))

    drives: list[Callable[[], Any]] = [
        lambda: run(plan(), World({})),
        lambda: asyncio.run(arun(plan(), AsyncWorld({}))),
    ]
    for drive in drives:
        with pytest.raises(StoreUnavailable, match="last"):
            drive()


class TurnedLoop(asyncio.SelectorEventLoop):
    """An event loop whose waits take no time: its clock is turned by as much as they would have."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        select = self._selector.select  # type: ignore[attr-defined]

        def turn(timeout: float | None = None) -> Any:
            self.now += timeout or 0.0
            return select(0)

        self._selector.select = turn  # type: ignore[attr-defined]

    def time(self) -> float:
        return self.now


RACES: list[tuple[list[tuple[float, str]], float, str, list[float], float]] = [
    # seconds and outcome of each plan, after_s -> the outcome, when each was started, when it was over
    ([(5, "a")], 2, "a", [0], 5),
    ([(1, "a"), (1, "b")], 2, "a", [0], 1),
    ([(5, "a"), (1, "b")], 2, "b", [0, 2], 3),
    ([(3, "a"), (9, "b")], 2, "a", [0, 2], 3),
    ([(1, "no a"), (1, "b")], 9, "b", [0, 1], 2),
    ([(9, "a"), (1, "no b"), (1, "c")], 2, "c", [0, 2, 3], 4),
    ([(3, "no a"), (9, "b"), (1, "c")], 2, "c", [0, 2, 4], 5),
    ([(3, "no a"), (9, "b")], 2, "b", [0, 2], 11),
    ([(1, "no a"), (1, "no b"), (1, "no c")], 9, "no c", [0, 1, 2], 3),
    ([(9, "no a"), (1, "no b")], 2, "no b", [0, 2], 9),
]


@pytest.mark.parametrize("driver", ["sync", "asynchronous"])
@pytest.mark.parametrize("case", RACES)
def test_both_drivers_run_a_race_alike(
    driver: str, case: tuple[list[tuple[float, str]], float, str, list[float], float]
) -> None:
    given_, after_s, wanted, starts, over = case
    clock = ManualClock()
    started: list[float] = []

    def now() -> float:
        return asyncio.get_running_loop().time() if driver == "asynchronous" else clock.monotonic() - 1000

    def racing(seconds: float, outcome: str) -> Plan[str]:
        started.append(now())
        yield Sleep(seconds)
        if outcome.startswith("no"):
            raise StoreUnavailable(outcome)
        return outcome

    def plan() -> Plan[tuple[str, float]]:
        try:
            won = yield First([racing(*each) for each in given_], after_s)
        except StoreUnavailable as error:
            won = str(error)
        return won, now()

    if driver == "sync":
        told = run(plan(), World({}, sleep=clock.advance, monotonic=clock.monotonic))
    else:
        with asyncio.Runner(loop_factory=TurnedLoop) as runner:
            told = runner.run(arun(plan(), AsyncWorld({})))

    assert told == (wanted, over)
    assert started == pytest.approx(starts)


def test_a_clock_that_stands_still_ends_no_wait_early_and_none_never() -> None:
    clock = ManualClock()
    slept: list[float] = []

    def waiting(name: str, seconds: float) -> Plan[str]:
        yield Sleep(seconds)
        return name

    def plan() -> Plan[Any]:
        return (yield All([waiting("a", 1), (yield from _raced(waiting))]))

    def _raced(make: Callable[[str, float], Plan[str]]) -> Plan[Plan[str]]:
        won = yield First([make("slow", 9), make("quick", 1)], 2)
        return make(won, 0.5)

    assert run(plan(), World({}, sleep=slept.append, monotonic=clock.monotonic)) == ["a", "quick"]
    assert min(slept) > 0


class Strange(MemoryStore):
    """A store whose driver raises what nobody translated."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.fail_with = error  # type: ignore[assignment]


class Begun(Strange):
    """The same over a socket."""

    def __init__(self, error: BaseException, *, at_begin: bool) -> None:
        super().__init__(error)
        self.at_begin, self.is_abandoned = at_begin, False
        self.ours, self.theirs = socket.socketpair()
        self.theirs.send(b"x")

    def begin(self, asks: Any, until: float) -> Begun:
        if self.at_begin:
            self._may_fail()
        return self

    def fileno(self) -> int:
        return self.ours.fileno()

    def advance(self) -> None:
        self._may_fail()

    def abandon(self) -> None:
        self.is_abandoned = True
        self.ours.close()
        self.theirs.close()


@pytest.mark.parametrize("driver", ["sync", "asynchronous"])
@pytest.mark.parametrize("how", ["read", "describe", "beside"])
def test_an_error_nobody_translated_is_a_source_that_gave_no_answer(
    driver: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    both, error = Both(), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad")
    both.stores["strange"] = Strange(error)

    def asking() -> Plan[Any]:
        if how == "describe":
            return (yield Describe("strange", "t", [7], 1e9))
        return (yield Read("strange", [ask_of([1])], 1e9))

    def plan() -> Plan[str]:
        told = []
        for _ in range(2):
            try:
                yield from asking() if how != "beside" else (each for each in [All([asking()])])
            except StoreUnavailable as failure:
                told.append(str(failure) if failure.__cause__ is error else "and nobody knows why")
        return "; ".join(told)

    wanted = f"source 'strange': UnicodeDecodeError: {error}"
    assert getattr(both, driver)(plan()) == f"{wanted}; {wanted}"
    assert len(caplog.records) == 1, "once, not at every read"
    assert "'strange'" in caplog.text


@pytest.mark.parametrize("at_begin", [True, False])
def test_so_it_is_over_a_socket_whose_connection_is_let_go(at_begin: bool) -> None:
    both, store = Both(), Begun(ValueError("what is this"), at_begin=at_begin)
    both.stores["strange"] = store

    def plan() -> Plan[Any]:
        return (yield All([_reading("strange")]))

    with pytest.raises(StoreUnavailable, match="source 'strange': ValueError: what is this"):
        both.sync(plan())

    assert store.is_abandoned is not at_begin
    store.abandon()


def _reading(source: str) -> Plan[Any]:
    return (yield Read(source, [ask_of([1])], 2000.0))


@pytest.mark.parametrize("driver", ["sync", "asynchronous"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), StoreRefused("no")])
def test_interrupts_and_errors_of_ours_come_as_they_are(driver: str, error: BaseException) -> None:
    both = Both()
    both.stores["strange"] = Strange(error)

    with pytest.raises(type(error)) as caught:
        getattr(both, driver)(_reading("strange"))

    assert caught.value is error


def test_the_first_error_of_several_ends_the_others() -> None:
    ended: list[str] = []

    def failing() -> Plan[None]:
        yield Sleep(0.0)
        raise StoreUnavailable("no")

    def waiting() -> Plan[None]:
        try:
            yield Sleep(30.0)
        finally:
            ended.append("left")

    def plan() -> Plan[Any]:
        return (yield All([failing(), waiting()]))

    begun = CLOCK.monotonic()
    drives: list[Callable[[], Any]] = [
        lambda: run(plan(), World({})),
        lambda: asyncio.run(arun(plan(), AsyncWorld({}))),
    ]
    for drive in drives:
        with pytest.raises(StoreUnavailable, match="no"):
            drive()

    assert ended == ["left", "left"]
    assert CLOCK.monotonic() - begun < 5


def test_nothing_side_by_side_is_a_list_of_nothing() -> None:
    def plan() -> Plan[Any]:
        return (yield All([]))

    assert run(plan(), World({})) == asyncio.run(arun(plan(), AsyncWorld({}))) == []


def test_a_layout_that_lies_about_its_hash_is_not_believed() -> None:
    both, layout = Both(), Layout.of(VIEW)
    both.stores["up"].described |= {7: layout.describe(), 8: b"junk"}

    def plan() -> Plan[Any]:
        return (yield Describe("up", "t", [7, 8, layout.hash], 1e9))

    assert both.sync(plan()) == both.asynchronous(plan()) == {layout.hash: layout}
