"""Who reads a source that is away: not users, where time goes by itself; and what is read of it."""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from featurechaos import AsyncFeatureClient, FeatureClient
from featurechaos.clock import SystemClock
from featurechaos.errors import StoreUnavailable
from featurechaos.layers.breaker import State
from featurechaos.model import Cause, Origin
from featurechaos.stores import Answer, Ask
from featurechaos.testing import AsyncMemoryStore, ManualClock, MemoryStore
from tests.serving.kit import CLOCK_S, CONFIG, NOW, write

BREAKER = {"min_calls": 5, "open_s": 0.05, "healthy_s": 0.05, "ramp_s": 0.0}
POLICY = {"retry": None, "last_known": None, "breaker": BREAKER}
KEYS = list(range(100))
PROBE = "featurechaos-probe"


class Watched(MemoryStore):
    """Keeps who asked it for what."""

    def __init__(self, source: str) -> None:
        super().__init__(source)
        self.asked: list[tuple[str, list[tuple[str, list[bytes]]]]] = []

    def read(self, asks: Sequence[Ask], until: float, *, as_of_us: int | None = None) -> list[Answer]:
        who = name_of_this()
        self.asked.append((who, [(ask.view.name, ask.keys.ids) for ask in asks]))
        return super().read(asks, until, as_of_us=as_of_us)


def name_of_this() -> str:
    """The task or thread that runs."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    return threading.current_thread().name if task is None else task.get_name()


def eventually(claim: Callable[[], bool], most_s: float = 20.0) -> None:
    """Wait for what another thread does."""
    clock = SystemClock()
    end = clock.monotonic() + most_s
    while not claim():
        assert clock.monotonic() < end
        threading.Event().wait(0.002)


@pytest.fixture
def client() -> Iterator[FeatureClient]:
    with FeatureClient.from_config(CONFIG | {"policy": POLICY}) as client:
        client._world.stores["primary"] = Watched("primary")  # type: ignore[index]
        write(
            client,
            k=KEYS,
            f=[float(key) for key in KEYS],
            g=KEYS,
            at=dt.datetime.fromtimestamp(SystemClock().wall(), dt.UTC),
        )
        yield client


def store(client: Any) -> Any:
    return client._world.stores["primary"]


def state(client: Any) -> State:
    return State(client._serving.breaker.gates["primary"].state)


def gone(client: FeatureClient) -> None:
    """Take the primary away and ask until it is left alone; for these keys, as the last of users did."""
    store(client).fail_with = StoreUnavailable("gone")
    while state(client) is State.CLOSED:
        client.get_online_features(["v:f"], {"k": [1]})
    client.get_online_features(["v:g", "w:f"], {"k": KEYS[10:90]})
    store(client).asked.clear()


def test_users_do_not_wait_on_a_source_that_is_away(client: FeatureClient) -> None:
    gone(client)

    eventually(lambda: len(store(client).asked) >= 5)
    for _ in range(200):
        response = client.get_online_features(["v:f"], {"k": [1]})
        assert response.provenance("v").cause.tolist() == [Cause.BREAKER_OPEN]

    assert {who for who, _ in store(client).asked} == {PROBE}


def test_what_is_read_of_it_is_some_of_what_users_last_wanted(client: FeatureClient) -> None:
    gone(client)

    eventually(lambda: len(store(client).asked) >= 2)

    ids = [b"%d" % key for key in KEYS[10:42]]
    assert store(client).asked[-1] == (PROBE, [("v", ids), ("w", ids)])


def test_it_comes_back_though_nobody_asks_and_the_thread_ends(client: FeatureClient) -> None:
    gone(client)

    store(client).fail_with = None
    eventually(lambda: state(client) is State.RAMPING)
    response = client.get_online_features(["v:f"], {"k": [1]})

    assert response.provenance("v").origin.tolist() == [Origin.PRIMARY]
    eventually(lambda: PROBE not in {thread.name for thread in threading.enumerate()})


def test_closing_ends_the_probes(client: FeatureClient) -> None:
    gone(client)
    eventually(lambda: len(store(client).asked) >= 1)

    client.close()

    assert PROBE not in {thread.name for thread in threading.enumerate()}


def test_a_second_outage_is_probed_too(client: FeatureClient) -> None:
    for _ in range(3):
        gone(client)
        store(client).fail_with = None
        eventually(lambda: state(client) is State.RAMPING)
        client.get_online_features(["v:f"], {"k": [1]})

    assert state(client) is State.CLOSED


def test_probes_do_not_stop_for_an_error_that_nobody_foresaw(
    client: FeatureClient, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featurechaos.keeping._AFTER_ERROR_S", 0.01)
    probe, errors = client._serving.probe, iter([ZeroDivisionError("odd")])

    def once_odd(source: str) -> Any:
        for error in errors:
            raise error
        return probe(source)

    monkeypatch.setattr(client._serving, "probe", once_odd)
    gone(client)
    store(client).fail_with = None

    eventually(lambda: state(client) is State.RAMPING)

    assert "featurechaos-probe failed; it goes on" in caplog.text


def test_on_a_clock_turned_by_hand_requests_probe() -> None:
    clock = ManualClock(CLOCK_S)
    client = FeatureClient.from_config(CONFIG | {"policy": POLICY}, clock=clock)
    write(client, k=[1], f=[1.0], g=[1], at=NOW)
    gone_by_hand: Any = client.store("primary")
    gone_by_hand.fail_with = StoreUnavailable("gone")
    for _ in range(6):
        client.get_online_features(["v:f"], {"k": [1]})
    gone_by_hand.fail_with = None
    states = []
    for _ in range(20):
        clock.advance(0.02)
        client.get_online_features(["v:f"], {"k": [1]})
        states.append(state(client))

    assert PROBE not in {thread.name for thread in threading.enumerate()}
    assert states[-1] is State.CLOSED


def test_tasks_of_a_loop_do_not_wait_on_it_either() -> None:
    async def asks(client: AsyncFeatureClient) -> int:
        response = await client.get_online_features(["v:f"], {"k": [1]})
        await asyncio.sleep(0)
        return int(response.provenance("v").cause[0])

    async def outage() -> tuple[list[int], Any, set[str]]:
        causes: list[int] = []
        async with AsyncFeatureClient.from_config(CONFIG | {"policy": POLICY}) as client:
            source = Watched("primary")
            client._world.stores["primary"] = AsyncMemoryStore(source)  # type: ignore[index]
            for _ in range(2):
                source.fail_with = StoreUnavailable("gone")
                while state(client) is State.CLOSED:
                    await asks(client)
                source.asked.clear()
                causes += [await asks(client) for _ in range(100)]
                source.fail_with = None
                clock = SystemClock()
                end = clock.monotonic() + 20
                while await asks(client) and clock.monotonic() < end:
                    pass
            back = list(source.asked)
            source.fail_with = StoreUnavailable("gone")
            while state(client) is State.CLOSED:
                await asks(client)
        return causes, back, {task.get_name() for task in asyncio.all_tasks()}

    causes, back, tasks = asyncio.run(outage())

    assert set(causes) == {Cause.BREAKER_OPEN}
    assert [who == PROBE for who, _ in back] == [True] * (len(back) - 1) + [False]
    assert PROBE not in tasks, "closing ended it"
