"""A client's life: from a config to its end, over threads, pickles and forks, sync and async alike."""

from __future__ import annotations

import asyncio
import os
import pickle  # noqa: TID251 - that a client may be pickled is the claim
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from featurechaos import AsyncFeatureClient, Exhausted, FeatureClient, RequestError, SpecError
from featurechaos.errors import StoreUnavailable
from featurechaos.testing import ManualClock, MemoryStore
from tests.serving.kit import CLOCK_S, CONFIG, NOW, client_of, filled, store_of, write

TABLE = {"k": [1], "f": [1.0], "g": [1], "event_timestamp": [NOW]}


def value(client: Any, key: int = 1) -> Any:
    return client.get_online_features(["v:f"], {"k": [key]}).to_dict()["f"][0]


CALLS: dict[str, Callable[[Any], Any]] = {
    "get": lambda client: client.get_online_features(["v:f"], {"k": [1]}),
    "write": lambda client: client.write_to_online_store("v", TABLE),
    "delete": lambda client: client.delete("v", {"k": [1]}),
    "publish": lambda client: client.publish_snapshot("v", TABLE),
    "refresh": lambda client: client.refresh(),
    "ready": lambda client: client.ready(),
    "reference": lambda client: client.reference(None),
    "reload": lambda client: client.reload(CONFIG),
    "status": lambda client: client.status(),
    "steer": lambda client: client.steer("primary", "drain", reason="a test"),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_closed_client_says_so(call: str) -> None:
    client = client_of()
    client.close()
    client.close()

    with pytest.raises(RequestError, match="this client is closed"):
        CALLS[call](client)


@pytest.mark.parametrize("call", CALLS)
def test_a_closed_async_client_says_so(call: str) -> None:
    async def closed() -> None:
        client = AsyncFeatureClient.from_config(CONFIG)
        await client.close()
        await client.close()
        with pytest.raises(RequestError, match="this client is closed"):
            await CALLS[call](client)

    asyncio.run(closed())


def test_a_client_is_a_context_manager() -> None:
    with client_of() as client:
        write(client, k=[1], f=[1.0], g=[1])
        assert value(client) == 1.0

    with pytest.raises(RequestError):
        value(client)


def test_closing_that_is_interrupted_closes_the_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    client = client_of()

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(client, "_stop", interrupted)
    for name in CONFIG["sources"]:
        monkeypatch.setattr(client.store(name), "close", lambda name=name: closed.append(name))
    with pytest.raises(KeyboardInterrupt):
        client.close()

    assert sorted(closed) == sorted(CONFIG["sources"])


def test_closing_that_is_cancelled_closes_the_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    is_in, gate = threading.Event(), threading.Event()

    def stop() -> None:
        is_in.set()
        gate.wait(10)

    async def cancelled() -> None:
        client = AsyncFeatureClient.from_config(CONFIG, clock=ManualClock(CLOCK_S))
        monkeypatch.setattr(client, "_stop", stop)
        for name, store in client._world.stores.items():

            async def close(name: str = name) -> None:
                closed.append(name)

            monkeypatch.setattr(store, "close", close)
        closing = asyncio.create_task(client.close())
        assert await asyncio.to_thread(is_in.wait, 10)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        gate.set()

    asyncio.run(cancelled())

    assert sorted(closed) == sorted(CONFIG["sources"])


def test_closing_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    with filled() as client:
        value(client)

    assert set(threading.enumerate()) <= before


def test_a_wrong_config_names_its_place() -> None:
    with pytest.raises(SpecError, match=r"^config: views\[0\]\.ttl_s:"):
        client_of(
            views=[{"name": "v", "join_keys": {"k": "int64"}, "features": {"f": {"dtype": "bool"}}, "ttl_s": "x"}]
        )


@pytest.mark.parametrize("client_class", [FeatureClient, AsyncFeatureClient])
@pytest.mark.parametrize(("given", "name"), [("shop.yaml", "str"), (CONFIG, "dict")])
def test_a_path_or_a_mapping_is_for_from_config(client_class: Any, given: Any, name: str) -> None:
    ours = client_class.__name__

    with pytest.raises(RequestError) as refused:
        client_class(given)

    assert str(refused.value) == f"{ours} wants Settings, got {name}; {ours}.from_config takes a path or a mapping"


@pytest.mark.parametrize("client_class", [FeatureClient, AsyncFeatureClient])
def test_a_client_pickles_as_its_config(client_class: Any) -> None:
    client = client_class.from_config(CONFIG, clock=ManualClock(CLOCK_S))

    copy = pickle.loads(pickle.dumps(client))

    assert type(copy) is client_class
    assert copy.settings == client.settings
    assert copy.clock.wall() == CLOCK_S
    assert repr(copy) == repr(client) == f"{client_class.__name__}(t: primary (memory), standby (memory))"


def test_a_pickled_client_has_stores_of_its_own() -> None:
    client = filled()

    with pickle.loads(pickle.dumps(client)) as copy:
        assert value(copy) is None
        assert value(client) == 1.5


def forked(work: Callable[[], bool]) -> bool:
    """Whether work succeeded in a child process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        code = 1
        try:
            code = 0 if work() else 2
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_client_survives_a_fork_under_load() -> None:
    """Other threads hold its locks at the moment of the fork; the child must not wait for them."""
    client = client_of(policy={"last_known": {"keep_s": 60}})
    write(client, k=[1, 2], f=[1.0, 2.0], g=[1, 2])
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            assert value(client, 2) == 2.0

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        done = [forked(lambda: all(value(client) == 1.0 for _ in range(20))) for _ in range(8)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()

    assert done == [True] * 8
    assert value(client) == 1.0


def test_what_a_child_writes_in_memory_stays_in_the_child() -> None:
    client = filled()

    def writes() -> bool:
        write(client, k=[1], f=[9.0], g=[9])
        return bool(value(client) == 9.0)

    assert forked(writes)
    assert value(client) == 1.5


def test_eight_threads_read_and_write_one_client() -> None:
    client = client_of(policy={"retry": None, "breaker": None, "last_known": {"keep_s": 60}})
    wrong: list[Any] = []

    def work(number: int) -> None:
        try:
            for turn in range(25):
                write(client, k=[number], f=[float(turn)], g=[turn])
                got = client.get_online_features(["v:f", "v:g"], {"k": [number, 99]}).to_dict()
                if (got["f"], got["g"]) != ([float(turn), None], [turn, None]):
                    wrong.append(got)
        except Exception as error:  # noqa: BLE001 - told by the thread that waits
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not wrong


def test_ready_asks_each_source_once() -> None:
    client = client_of()
    asked: list[str] = []
    store = store_of(client)
    store.layouts = lambda *_: asked.append("primary") or {}  # type: ignore[method-assign, func-returns-value]

    assert client.ready()
    assert asked == ["primary"], "and not once for each view"


def test_ready_is_any_and_full_is_all() -> None:
    sources = {name: {"type": "memory"} for name in ("a", "b")}
    client = client_of(sources=sources)
    assert client.ready(full=True)

    store_of(client, "a").fail_with = StoreUnavailable("gone")

    assert (client.ready(), client.ready(full=True)) == (True, False)
    store_of(client, "b").fail_with = StoreUnavailable("gone")
    assert not client.ready()


def test_the_first_call_works_with_everything_down() -> None:
    client = client_of()
    for name in ("primary", "standby"):
        store_of(client, name).fail_with = StoreUnavailable("gone")

    response = client.get_online_features(["v:f"], {"k": [1]})

    assert response.to_dict() == {"k": [1], "f": [None]}
    assert response.any_degraded


def test_explain_says_what_a_read_may_cost() -> None:
    client = FeatureClient.from_config({key: CONFIG[key] for key in ("project", "sources", "views")})

    told = client.explain()

    assert set(told) == {"v", "w", "text", "all", "other_v"}
    assert told["v"]["order"] == ["primary", "standby"]
    assert told["v"]["worst_case_calls"] == 2
    assert told["v"]["worst_case_s"] == pytest.approx(0.032)
    assert told["v"]["worst_case_s"] <= told["v"]["deadline_s"]
    assert told["v"]["load_factor"] == pytest.approx(1.1)


Script = list[tuple[str, Any]]
SCRIPT: Script = [
    ("get", (["v:f"], {"k": [1, 2, None]})),
    ("write", ("v", TABLE)),
    ("get", (["v:f", "v:g"], [{"k": 1}, {"k": 2}])),
    ("down", StoreUnavailable("gone")),
    ("get", (["v:f"], {"k": [1, 2]})),
    ("get", (["v:f"], {"k": [3]}, False, "raise")),
    ("write", ("v", TABLE)),
    ("ready", ()),
    ("down", None),
    ("ready", ()),
    ("write", ("v", TABLE | {"f": ["x"]})),
    ("get", (["v:x"], {"k": [1]})),
    ("get", (["v:f"], {"k": ["x"]})),
    ("delete", ("v", {"k": [1]})),
    ("get", (["v:f"], {"k": [1]})),
    ("get", ("service:both", {"k": [1]}, True)),
    ("refresh", ()),
    ("get", (["v:f"], [])),
]


def _done(client: Any, verb: str, given: tuple[Any, ...]) -> Any:
    if verb != "get":
        return getattr(client, {"write": "write_to_online_store"}.get(verb, verb))(*given)
    features, rows, full, exhausted = (given + (False, None)[len(given) - 2 :])[:4]
    return client.get_online_features(features, rows, full, on_exhausted=exhausted, request_id="r")


async def played(client: Any) -> list[Any]:
    """What each line of the script gives, errors told by their words."""
    told: list[Any] = []
    for verb, given in SCRIPT:
        if verb == "down":
            store = client._world.stores["primary"]
            getattr(store, "store", store).fail_with = given
            continue
        try:
            result = _done(client, verb, given)
            result = await result if asyncio.iscoroutine(result) else result
        except Exhausted as error:
            told.append((str(error), error.causes, error.response.to_dict(include_provenance=True)))
        except Exception as error:  # noqa: BLE001 - what is told is compared
            told.append((type(error).__name__, str(error)))
        else:
            told.append(result.to_dict(include_provenance=True) if hasattr(result, "to_dict") else result)
    return told


def test_the_async_client_does_the_same_as_the_other() -> None:
    policy = {"retry": None, "breaker": None, "last_known": {"keep_s": 60}}

    async def both() -> tuple[list[Any], list[Any]]:
        made = [
            cls.from_config(CONFIG | {"policy": policy}, clock=ManualClock(CLOCK_S))
            for cls in (FeatureClient, AsyncFeatureClient)
        ]
        told = [await played(client) for client in made]
        made[0].close()
        await made[1].close()  # type: ignore[misc]
        return told[0], told[1]

    sync, asynchronous = asyncio.run(both())

    assert repr(sync) == repr(asynchronous)
    assert len(sync) == len([verb for verb, _ in SCRIPT if verb != "down"])
    assert "LAST_KNOWN" in repr(sync[2:4]), "the script goes where it should"


def test_an_async_client_reads_for_many_tasks_at_once() -> None:
    async def many() -> list[Any]:
        async with AsyncFeatureClient.from_config(CONFIG, clock=ManualClock(CLOCK_S)) as client:
            n = 100
            await client.write_to_online_store(
                "v",
                {"k": list(range(n)), "f": [float(k) for k in range(n)], "g": [0] * n, "event_timestamp": [NOW] * n},
            )
            got = await asyncio.gather(*(client.get_online_features(["v:f"], {"k": [k]}) for k in range(n)))
            return [each.to_dict()["f"][0] for each in got]

    assert asyncio.run(many()) == [float(k) for k in range(100)]


def test_a_memory_store_is_its_clients_own() -> None:
    first, second = filled(), client_of()

    assert (value(first), value(second)) == (1.5, None)
    assert isinstance(store_of(first), MemoryStore)
