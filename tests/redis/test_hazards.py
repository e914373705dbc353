"""A read ends by its deadline, whatever the server does; eight threads at once."""

from __future__ import annotations

import gc
import select
import socket
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from redis import Redis

from featurechaos.codec import Packed
from featurechaos.demo.proxy import TrickleProxy
from featurechaos.demo.servers import ValkeyServer
from featurechaos.errors import FeatureError, StoreTimeout, StoreUnavailable
from featurechaos_redis import RedisStore

if TYPE_CHECKING:
    from tests.redis.conftest import Kit, Stalls

pytestmark = pytest.mark.live

IDS = [f"user-{at}" for at in range(20)]
TIMEOUT_S, SLACK_S, AMPLE_S = 0.05, 0.01, 10.0
THREADS = 8
UNEXPLAINED_SHARE = 0.01
FAR_LATE_S = 0.1


@dataclass(slots=True)
class Told:
    """What the reads of a run came to: kinds of ends, and when each was due and ended."""

    ends: Counter[str] = field(default_factory=Counter)
    times: list[tuple[float, float]] = field(default_factory=list)
    rows: set[tuple[bytes | None, ...]] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, end: str, until: float, ended: float, rows: tuple[bytes | None, ...] | None) -> None:
        with self.lock:
            self.ends[end] += 1
            self.times.append((until, ended))
            if rows is not None:
                self.rows.add(rows)

    def check_punctual(self, stalls: Stalls) -> None:
        """No end was late but where the machine itself stood still; one in a short run may be, by little."""
        late = [(until, ended) for until, ended in self.times if ended > until + SLACK_S]
        unexplained = [end - until for until, end in late if not stalls.excuse(until - TIMEOUT_S, end)]
        most = max(1, UNEXPLAINED_SHARE * len(self.times))
        assert len(unexplained) <= most, (sorted(unexplained), len(self.times))
        assert max(unexplained, default=0.0) < FAR_LATE_S, (sorted(unexplained), len(self.times))


def hammer(
    kit: Kit, store: RedisStore, stop: threading.Event, told: Told, *, timeout_s: float = TIMEOUT_S
) -> list[threading.Thread]:
    def read() -> None:
        ask = kit.ask(IDS)
        # A breath between two reads: eight threads that only fail would leave the diallers no interpreter.
        while not stop.wait(0.002):
            until = kit.now() + timeout_s
            rows, end = None, "answered"
            try:
                (answer,) = store.read([ask], until)
                assert isinstance(answer, list | Packed)
                rows = tuple(answer)
            except FeatureError as error:
                end = type(error).__name__
            told.add(end, until, kit.now(), rows)

    threads = [threading.Thread(target=read) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    return threads


def run_for(kit: Kit, store: RedisStore, seconds: float, *, timeout_s: float = TIMEOUT_S) -> Told:
    """Read with eight threads for a while."""
    told, stop = Told(), threading.Event()
    threads = hammer(kit, store, stop, told, timeout_s=timeout_s)
    stop.wait(seconds)
    stop.set()
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)
    return told


def run_healthy(kit: Kit, store: RedisStore, seconds: float) -> Told:
    """The same with time enough on any machine, for what must be answered or refused."""
    return run_for(kit, store, seconds, timeout_s=AMPLE_S)


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def filled(kit: Kit, server: ValkeyServer, opened: Callable[..., RedisStore]) -> RedisStore:
    store = opened(server.url)
    store.write(kit.batch(IDS, 5), kit.now() + 10)
    return store


def test_frozen_server_ends_reads_by_the_deadline_and_serves_again_when_thawed(
    kit: Kit, stalls: Stalls, server: ValkeyServer, filled: RedisStore
) -> None:
    healthy = run_healthy(kit, filled, 0.2)

    server.freeze()
    frozen = run_for(kit, filled, 0.4)
    server.thaw()
    wait_until_served(kit, filled)
    after = run_healthy(kit, filled, 0.2)

    assert healthy.ends.keys() == after.ends.keys() == {"answered"}
    assert healthy.rows == after.rows == {tuple(kit.batch(IDS, 5).blobs)}
    assert frozen.ends.keys() == {"StoreTimeout"}
    frozen.check_punctual(stalls)


def test_killed_server_is_reported_at_once_and_a_restarted_one_serves(
    kit: Kit, server: ValkeyServer, filled: RedisStore
) -> None:
    run_healthy(kit, filled, 0.1)
    dialled = filled.stats()["dialled"]

    server.kill()
    dead = run_healthy(kit, filled, 0.3)
    failures = filled.stats()["dial_failures"]
    server.restart()
    wait_until_served(kit, filled)
    after = run_healthy(kit, filled, 0.2)

    assert dead.ends.keys() == {"StoreUnavailable"}
    # A refused dial is told at once, and not at the deadline.
    assert max(ended - until for until, ended in dead.times) < -AMPLE_S / 2
    # Eight threads that spin on a dead server do not dial as fast as they can.
    assert 1 <= failures <= 20
    assert after.ends.keys() == {"answered"}
    assert after.rows == {(None,) * len(IDS)}
    assert filled.stats()["dialled"] > dialled


def test_server_killed_in_the_midst_of_reads_is_a_quick_failure_for_each(
    kit: Kit, server: ValkeyServer, filled: RedisStore
) -> None:
    told, stop = Told(), threading.Event()
    threads = hammer(kit, filled, stop, told, timeout_s=AMPLE_S)
    stop.wait(0.1)

    server.kill()
    stop.wait(0.1)
    stop.set()
    for thread in threads:
        thread.join(10)

    assert told.ends.keys() == {"answered", "StoreUnavailable"}
    assert told.rows == {tuple(kit.batch(IDS, 5).blobs)}
    assert max(ended - until for until, ended in told.times) < -AMPLE_S / 2


def test_restart_between_reads_costs_no_failure(kit: Kit, server: ValkeyServer, filled: RedisStore) -> None:
    run_healthy(kit, filled, 0.05)

    server.restart()
    told = run_healthy(kit, filled, 0.1)

    assert told.ends.keys() == {"answered"}


def test_paused_clients_end_by_the_deadline(kit: Kit, stalls: Stalls, server: ValkeyServer, filled: RedisStore) -> None:
    with Redis(port=server.port, protocol=2) as admin:
        admin.client_pause(1500, all=True)
        paused = run_for(kit, filled, 0.3)
    wait_until_served(kit, filled)

    assert paused.ends.keys() == {"StoreTimeout"}
    paused.check_punctual(stalls)
    assert run_healthy(kit, filled, 0.1).ends.keys() == {"answered"}


def test_server_that_sends_a_byte_every_5_ms_is_cut_at_the_deadline(
    kit: Kit, stalls: Stalls, server: ValkeyServer, filled: RedisStore, opened: Callable[..., RedisStore]
) -> None:
    with TrickleProxy(server.port) as proxy:
        store = opened(f"redis://127.0.0.1:{proxy.port}")
        assert run_healthy(kit, store, 0.2).ends.keys() == {"answered"}

        proxy.turn("trickle", every_s=0.005)
        slow = run_for(kit, store, 0.4)
        proxy.turn("pass")
        wait_until_served(kit, store)
        after = run_healthy(kit, store, 0.1)

    assert slow.ends.keys() == {"StoreTimeout"}
    slow.check_punctual(stalls)
    assert after.rows == {tuple(kit.batch(IDS, 5).blobs)}


def test_broken_network_fails_at_once(kit: Kit, server: ValkeyServer, opened: Callable[..., RedisStore]) -> None:
    with TrickleProxy(server.port) as proxy:
        store = opened(f"redis://127.0.0.1:{proxy.port}")
        assert run_healthy(kit, store, 0.1).ends.keys() == {"answered"}

        proxy.turn("reset")
        told = run_healthy(kit, store, 0.3)

    assert told.ends.keys() == {"StoreUnavailable"}
    assert max(ended - until for until, ended in told.times) < -AMPLE_S / 2
    # Connections that open and are then cut off are not dialled as fast as they fail.
    assert store.stats()["dialled"] < len(told.times) / 4


def test_silent_network_ends_reads_by_the_deadline(
    kit: Kit, stalls: Stalls, server: ValkeyServer, opened: Callable[..., RedisStore]
) -> None:
    with TrickleProxy(server.port) as proxy:
        store = opened(f"redis://127.0.0.1:{proxy.port}")
        assert run_healthy(kit, store, 0.1).ends.keys() == {"answered"}

        proxy.turn("hang")
        told = run_for(kit, store, 0.3)

    assert told.ends.keys() == {"StoreTimeout"}
    told.check_punctual(stalls)


def test_dial_that_hangs_costs_a_caller_its_deadline_and_no_more(
    kit: Kit, stalls: Stalls, opened: Callable[..., RedisStore]
) -> None:
    # A listener that never accepts, with its queue full: SYNs get no answer, as behind a firewall.
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        store = opened(f"redis://127.0.0.1:{port}", connect_timeout_s=0.2)

        told = run_for(kit, store, 0.3)

        store.close()
        for filler in fillers:
            filler.close()
    # A dial that itself ran into its limit tells so, which is a timeout too.
    assert told.ends.keys() == {"StoreTimeout"}
    told.check_punctual(stalls)


def test_late_connection_serves_the_next_caller(
    kit: Kit, server: ValkeyServer, opened: Callable[..., RedisStore]
) -> None:
    with TrickleProxy(server.port) as proxy:
        # With a database to select, so that connecting takes an answer.
        store = opened(f"redis://127.0.0.1:{proxy.port}/1")
        proxy.turn("hang")
        with pytest.raises(StoreTimeout, match="no connection in time"):
            store.read([kit.ask(IDS)], kit.now() + 0.02)
        proxy.turn("pass")

        store.read([kit.ask(IDS)], kit.now() + 5)

        assert store.stats()["dialled"] == 1


def test_exhausted_pool_ends_each_caller_by_its_deadline(
    kit: Kit, stalls: Stalls, server: ValkeyServer, opened: Callable[..., RedisStore]
) -> None:
    store = opened(server.url, max_connections=2)
    store.write(kit.batch(IDS, 5), kit.now() + 10)
    assert run_healthy(kit, store, 0.2).ends.keys() == {"answered"}
    assert store.stats()["open"] <= 2

    server.freeze()
    told = run_for(kit, store, 0.3)
    stats = store.stats()
    server.thaw()

    assert told.ends.keys() == {"StoreTimeout"}
    told.check_punctual(stalls)
    assert stats["open"] + stats["dialling"] <= 2
    assert stats["waiting"] == 0


def test_deadline_already_past_is_a_timeout_and_leaves_a_sound_pool(kit: Kit, filled: RedisStore) -> None:
    for _ in range(3):
        with pytest.raises(StoreTimeout):
            filled.read([kit.ask(IDS)], kit.now() - 1)

    assert kit.times(filled, IDS) == [5] * len(IDS)


def test_reply_given_up_is_never_the_next_readers(kit: Kit, server: ValkeyServer, filled: RedisStore) -> None:
    for at in range(30):
        server.freeze()
        with pytest.raises(StoreTimeout):
            filled.read([kit.ask([IDS[at % 20]])], kit.now() + 0.002)
        server.thaw()
        wanted = kit.batch(IDS, 5).blobs[(at + 1) % 20]

        (answer,) = filled.read([kit.ask([IDS[(at + 1) % 20]])], kit.now() + 5)

        assert answer == [wanted]


def test_close_ends_reads_under_way_and_leaves_no_thread_and_no_socket(
    kit: Kit, server: ValkeyServer, filled: RedisStore
) -> None:
    told, stop = Told(), threading.Event()
    others = set(threading.enumerate())
    threads = hammer(kit, filled, stop, told)
    stop.wait(0.1)
    server.freeze()
    stop.wait(0.01)

    filled.close()
    filled.close()

    stop.set()
    for thread in threads:
        thread.join(10)
    server.thaw()
    assert not [each for each in set(threading.enumerate()) - others if "dialler" in each.name]
    assert filled.stats()["open"] == filled.stats()["idle"] == filled.stats()["dialling"] == 0
    with Redis(port=server.port, protocol=2) as admin:
        wait_for(kit, lambda: len(admin.client_list()) == 1)
    with pytest.raises(StoreUnavailable, match="closed"):
        filled.read([kit.ask(IDS)], kit.now() + 1)


def test_diallers_end_when_nobody_needs_them(kit: Kit, filled: RedisStore) -> None:
    wait_for(kit, lambda: not [each for each in threading.enumerate() if "dialler" in each.name])

    assert kit.times(filled, IDS) == [5] * len(IDS)


def test_store_left_unclosed_is_collected_with_its_sockets(kit: Kit, server: ValkeyServer) -> None:
    store = RedisStore.open(RedisStore.spec.model_validate({"url": server.url}), kit.place)
    store.health(kit.now() + 5)
    seen = weakref.ref(store)
    gc.disable()
    try:
        del store

        # Without the cycle collector: nothing in a store refers back to it, once its dialler has ended.
        with Redis(port=server.port, protocol=2) as admin:
            wait_for(kit, lambda: seen() is None and len(admin.client_list()) == 1)
    finally:
        gc.enable()


def wait_until_served(kit: Kit, store: RedisStore) -> None:
    def is_served() -> bool:
        try:
            store.health(kit.now() + 0.5)
        except StoreUnavailable:
            return False
        return True

    wait_for(kit, is_served)


def wait_for(kit: Kit, is_true: Callable[[], bool], most_s: float = 20.0) -> None:
    until = kit.now() + most_s
    while not is_true():
        assert kit.now() < until
        select.select([], [], [], 0.01)
