"""The line before a pool, and the pause after a dial that failed; no server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from featurechaos.demo.servers import ValkeyServer
from featurechaos.errors import StoreUnavailable
from featurechaos_redis import AsyncRedisStore, RedisStore
from featurechaos_redis.apool import APool
from featurechaos_redis.pool import Pool, Ticket

if TYPE_CHECKING:
    from tests.redis.conftest import Kit

FOREVER_S = 20.0
PAUSE_S = 0.2


class Server:
    """What is dialled: down until told otherwise, at a time that stands still until moved."""

    def __init__(self) -> None:
        self.now, self.is_up = 0.0, False
        self.dialled_at: list[float] = []
        self.dialler_looked = threading.Event()

    def time(self) -> float:
        if threading.current_thread() is not threading.main_thread():
            self.dialler_looked.set()
        return self.now

    def open(self) -> None:
        self.dialled_at.append(self.now)
        if not self.is_up:
            raise ConnectionRefusedError(111, "Connection refused")


class Line:
    """A connection to it; both kinds."""

    is_proven = is_open = False

    def __init__(self, server: Server) -> None:
        self._server = server

    def open(self) -> None:
        self._server.open()
        self.is_open = True

    def close(self) -> None:
        self.is_open = False


class Linker:
    def __init__(self, server: Server) -> None:
        self._server = server

    async def open(self) -> Line:
        link = Line(self._server)
        link.open()
        return link


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def pool(server: Server) -> Iterator[Pool]:
    made = Pool(lambda: Line(server), source="primary", most=2, now=server.time)  # type: ignore[arg-type,return-value]
    yield made
    made.close(wait_s=FOREVER_S)


class Standing:
    """A ticket that says once it has got something."""

    def __init__(self, *, is_patient: bool) -> None:
        self.link: Any = None
        self.failure: Any = None
        self.is_patient = is_patient
        self.rung = threading.Event()

    def ring(self) -> None:
        self.rung.set()


def stands(pool: Pool, *, is_patient: bool) -> Standing:
    ticket = Standing(is_patient=is_patient)
    as_ticket: Ticket = ticket
    pool.queue(as_ticket)
    return ticket


def test_who_is_patient_is_dialled_for_once_the_pause_is_over(server: Server, pool: Pool) -> None:
    with pytest.raises(StoreUnavailable, match="refused"):
        pool.take(FOREVER_S)
    server.is_up = True

    server.dialler_looked.clear()

    patient = stands(pool, is_patient=True)
    hasty = stands(pool, is_patient=False)

    assert hasty.rung.is_set() and hasty.failure is not None
    assert server.dialler_looked.wait(FOREVER_S)
    assert not patient.rung.is_set()
    server.now = 1.0
    assert patient.rung.wait(FOREVER_S)
    assert patient.link is not None
    assert server.dialled_at == [0.0, 1.0]


def test_nobody_waits_for_a_dialler_to_begin_but_who_hired_it(
    server: Server, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, waited = threading.Thread.start, list[bool]()

    def start(thread: threading.Thread) -> None:
        waited.append(pool._lock.locked())
        begun(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    server.is_up = True

    pool.take(FOREVER_S)
    pool.take(FOREVER_S)

    assert waited in ([False], [False, False])


def test_pool_without_threads_says_so_and_dials_once_there_are_some(
    server: Server, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    server.is_up = True
    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(StoreUnavailable, match="can't start new thread"):
        pool.take(FOREVER_S)
    monkeypatch.undo()

    assert pool.take(FOREVER_S) is not None
    assert pool.stats()["dialling"] == 0


def test_patient_caller_hears_of_the_dial_after_the_pause_and_waits_for_no_third(server: Server, pool: Pool) -> None:
    with pytest.raises(StoreUnavailable, match="refused"):
        pool.take(FOREVER_S)

    server.dialler_looked.clear()
    patient = stands(pool, is_patient=True)
    assert server.dialler_looked.wait(FOREVER_S)
    server.now = 1.0

    assert patient.rung.wait(FOREVER_S)
    assert patient.failure is not None
    assert server.dialled_at == [0.0, 1.0]


def test_pool_that_is_closed_in_the_pause_says_so_to_who_is_patient(server: Server, pool: Pool) -> None:
    with pytest.raises(StoreUnavailable, match="refused"):
        pool.take(FOREVER_S)
    patient = stands(pool, is_patient=True)

    pool.close(wait_s=FOREVER_S)

    assert patient.failure is not None and "closed" in patient.failure.message
    assert not pool._threads, "no dialler is left waiting"


@pytest.mark.parametrize("is_back", [True, False])
def test_patient_task_is_dialled_for_once_the_pause_is_over(server: Server, is_back: bool) -> None:
    async def act() -> str:
        linker: Any = Linker(server)
        pool = APool(linker, source="primary", most=2, now=server.time, secrets=())
        with pytest.raises(StoreUnavailable, match="refused"):
            await pool.take(FOREVER_S)
        server.is_up = is_back
        patient = asyncio.ensure_future(pool.take(FOREVER_S, is_patient=True))
        with pytest.raises(StoreUnavailable, match="refused"):
            await pool.take(FOREVER_S)
        assert server.dialled_at == [0.0] and not patient.done()
        server.now = 1.0
        try:
            return "served" if (await patient).is_open else "not open"
        except StoreUnavailable:
            return "refused"
        finally:
            await pool.close()

    assert asyncio.run(act()) == ("served" if is_back else "refused")
    assert server.dialled_at == [0.0, 1.0]


@pytest.mark.live
def test_write_in_the_pause_after_a_failed_dial_is_taken(
    kit: Kit, valkey: ValkeyServer, opened: Callable[..., RedisStore]
) -> None:
    store = opened(valkey.url)
    just_failed(store._pool)

    counts = store.write(kit.batch(["a", "b"], 5), kit.now() + 5)

    assert counts.written == 2


@pytest.mark.live
def test_async_write_in_the_pause_after_a_failed_dial_is_taken(
    kit: Kit, valkey: ValkeyServer, aopened: Callable[..., AsyncRedisStore]
) -> None:
    store = aopened(valkey.url)

    async def act() -> int:
        just_failed(store._pool(asyncio.get_running_loop()))
        try:
            return (await store.write(kit.batch(["c", "d"], 5), kit.now() + 5)).written
        finally:
            await store.close()

    assert asyncio.run(act()) == 2


def just_failed(pool: Pool | APool) -> None:
    """As a reader leaves it that met the server while it was restarting."""
    pool._pause_s = PAUSE_S
    pool._fail(ConnectionRefusedError(111, "Connection refused"))
