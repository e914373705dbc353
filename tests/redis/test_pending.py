"""A read that is advanced, for several on one thread: it never blocks, and can be given up at any moment."""

from __future__ import annotations

import select
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from redis import Redis

from featurechaos.demo.servers import ValkeyServer
from featurechaos.errors import StoreTimeout, StoreUnavailable
from featurechaos_redis import RedisStore

if TYPE_CHECKING:
    from tests.redis.conftest import Kit

pytestmark = pytest.mark.live

IDS = [f"user-{at}" for at in range(50)]
Opener = Callable[..., RedisStore]


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def filled(kit: Kit, server: ValkeyServer, opened: Opener) -> RedisStore:
    store = opened(server.url)
    store.write(kit.batch(IDS, 5), kit.now() + 10)
    return store


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0


def test_pending_read_gives_what_a_read_gives(kit: Kit, filled: RedisStore) -> None:
    asks = [kit.ask([*IDS, "nobody"]), kit.ask(IDS, kit.other)]

    answers = kit.finished(filled.begin(asks, kit.now() + 5))

    assert answers == filled.read(asks, kit.now() + 5)
    assert filled.stats()["idle"] == filled.stats()["open"] == 1


def test_first_read_of_all_is_dialled_without_blocking(kit: Kit, server: ValkeyServer, opened: Opener) -> None:
    store = opened(server.url)

    pending = store.begin([kit.ask(IDS)], kit.now() + 5)
    waits_on = pending.fileno()
    answers = kit.finished(pending)

    assert answers == [[None] * len(IDS)]
    assert waits_on >= 0
    with pytest.raises(ValueError, match="ended"):
        pending.fileno()


def test_read_of_no_rows_ends_at_once(kit: Kit, opened: Opener) -> None:
    store = opened("redis://127.0.0.1:1")
    before = open_files()

    assert kit.finished(store.begin([kit.ask([]), kit.ask([])], kit.now() + 5)) == [[], []]
    store.begin([kit.ask([])], kit.now() + 5).abandon()

    assert open_files() == before


def test_several_under_way_at_once_answer_in_any_order(kit: Kit, filled: RedisStore) -> None:
    pendings = [filled.begin([kit.ask([id_])], kit.now() + 5) for id_ in IDS[:10]]

    answers = [kit.finished(pending) for pending in reversed(pendings)]

    assert answers == [[[blob]] for blob in reversed(kit.batch(IDS, 5).blobs[:10])]
    assert filled.stats()["waiting"] == 0


def test_command_larger_than_the_socket_takes_is_sent_in_parts(
    kit: Kit, server: ValkeyServer, filled: RedisStore
) -> None:
    ids = [f"{'x' * 900}{at}" for at in range(9000)]
    server.freeze()
    pending = filled.begin([kit.ask(ids)], kit.now() + 20)
    assert pending.advance() is None
    assert not select.select([pending.fileno()], [], [], 0.02)[0], "there is no room, so nothing to do"
    server.thaw()

    assert kit.finished(pending) == [[None] * len(ids)]


def test_abandoned_read_closes_its_connection(kit: Kit, server: ValkeyServer, filled: RedisStore) -> None:
    before = filled.stats()["dialled"]
    pending = filled.begin([kit.ask(IDS)], kit.now() + 5)

    pending.abandon()
    pending.abandon()

    assert filled.stats()["open"] == 0
    assert kit.times(filled, IDS[:3]) == [5, 5, 5]
    assert filled.stats()["dialled"] == before + 1


def test_read_abandoned_while_it_waits_for_a_connection_leaves_it_to_the_next(
    kit: Kit, server: ValkeyServer, opened: Opener
) -> None:
    store = opened(server.url)
    before = open_files()

    store.begin([kit.ask(IDS)], kit.now() + 5).abandon()
    store.read([kit.ask(IDS)], kit.now() + 5)

    assert store.stats()["dialled"] == 1
    assert open_files() == before + 1


def test_connection_handed_over_and_not_looked_at_goes_back(kit: Kit, server: ValkeyServer, opened: Opener) -> None:
    store = opened(server.url, max_connections=1)
    pending = store.begin([kit.ask(IDS)], kit.now() + 5)
    assert select.select([pending.fileno()], [], [], 5)[0]

    pending.abandon()

    assert store.stats() | {"dialled": 1} == store.stats()
    assert store.read([kit.ask(IDS)], kit.now() + 5) == [[None] * len(IDS)]


def test_frozen_server_times_out_by_the_deadline_and_is_not_dialled_on_the_callers_thread(
    kit: Kit, server: ValkeyServer, filled: RedisStore
) -> None:
    server.freeze()

    for _ in range(5):
        begun = kit.now()
        pending = filled.begin([kit.ask(IDS)], begun + 0.03)
        assert kit.now() - begun < 0.02
        with pytest.raises(StoreTimeout):
            kit.finished(pending)
        assert 0.03 <= kit.now() - begun < 0.2

    server.thaw()


def test_dead_server_is_told_to_a_waiting_read(kit: Kit, server: ValkeyServer, filled: RedisStore) -> None:
    server.kill()

    with pytest.raises(StoreUnavailable):
        kit.finished(filled.begin([kit.ask(IDS)], kit.now() + 10))
    with pytest.raises(StoreUnavailable):
        kit.finished(filled.begin([kit.ask(IDS)], kit.now() + 10))


def test_connection_dead_in_the_pool_is_replaced(kit: Kit, server: ValkeyServer, filled: RedisStore) -> None:
    for _ in range(3):
        server.restart()

        assert kit.finished(filled.begin([kit.ask(IDS)], kit.now() + 10)) == [[None] * len(IDS)]


def test_abandoning_leaves_no_file_open(kit: Kit, server: ValkeyServer, opened: Opener) -> None:
    store = opened(server.url)
    store.health(kit.now() + 5)
    before = open_files()

    for at in range(50):
        pending = store.begin([kit.ask(IDS)], kit.now() + 5)
        if at % 2:
            pending.advance()
        pending.abandon()
    store.close()

    assert open_files() <= before
    with Redis(port=server.port, protocol=2) as admin:
        assert admin.ping()
