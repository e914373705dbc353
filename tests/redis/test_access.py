"""Passwords, ACL users and TLS; what a refusal says, and what it never says."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from redis import Redis

from featurechaos.demo.servers import ValkeyServer
from featurechaos.errors import SpecError, StoreError, StoreRefused, StoreTimeout, StoreUnavailable
from featurechaos_redis import AsyncRedisStore, RedisStore

if TYPE_CHECKING:
    from tests.redis.conftest import Kit, TlsFront

pytestmark = pytest.mark.live

PASSWORD, WRONG = "right-Pass%word", "wr0ng-s3cret"
Opener = Callable[..., RedisStore]
AsyncOpener = Callable[..., AsyncRedisStore]


@pytest.fixture(scope="module")
def guarded() -> Iterator[ValkeyServer]:
    acl = [
        "reader on >reads ~fc:* +mget +get +ping",
        "writer on >writes ~fc:proj:* +@all -@dangerous",
        "elsewhere on >other ~zz:* +@all",
    ]
    with ValkeyServer(password=PASSWORD, acl=acl) as server:
        yield server


def everything_said(error: BaseException, caplog: pytest.LogCaptureFixture) -> str:
    return "".join(traceback.format_exception(error)) + repr(error) + caplog.text


def test_password_of_the_url_opens(kit: Kit, guarded: ValkeyServer, opened: Opener) -> None:
    store = opened(guarded.url)

    store.write(kit.batch(["opens"], 5), kit.now() + 5)

    assert kit.times(store, ["opens"]) == [5]


@pytest.mark.parametrize("who", [f":{WRONG}@", f"reader:{WRONG}@", f"nobody:{WRONG}@"])
def test_wrong_password_is_a_refusal_that_does_not_say_it(
    kit: Kit, guarded: ValkeyServer, opened: Opener, who: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    store = opened(f"redis://{who}127.0.0.1:{guarded.port}")

    with pytest.raises(StoreRefused) as caught:
        store.read([kit.ask(["a"])], kit.now() + 5)

    assert WRONG not in everything_said(caught.value, caplog)
    assert "primary" in str(caught.value)


def test_wrong_password_is_refused_to_async_callers_too(
    kit: Kit, guarded: ValkeyServer, aopened: AsyncOpener, caplog: pytest.LogCaptureFixture
) -> None:
    async def read() -> None:
        store = aopened(f"redis://:{WRONG}@127.0.0.1:{guarded.port}")
        try:
            await store.read([kit.ask(["a"])], kit.now() + 5)
        finally:
            await store.close()

    with pytest.raises(StoreRefused) as caught:
        asyncio.run(read())

    assert WRONG not in everything_said(caught.value, caplog)


def test_no_password_where_one_is_wanted_is_a_refusal(kit: Kit, guarded: ValkeyServer, opened: Opener) -> None:
    store = opened(f"redis://127.0.0.1:{guarded.port}")

    with pytest.raises(StoreRefused, match="NOAUTH"):
        store.read([kit.ask(["a"])], kit.now() + 5)


def test_server_that_repeats_the_password_is_not_repeated(
    kit: Kit, opened: Opener, impostor: Callable[[bytes], str], caplog: pytest.LogCaptureFixture
) -> None:
    url = impostor(f"-ERR unknown command 'AUTH', with args beginning with: '{WRONG}'\r\n".encode())
    store = opened(url.replace("://", f"://:{WRONG}@"))

    with pytest.raises(StoreError) as caught:
        store.read([kit.ask(["a"])], kit.now() + 5)

    assert "unknown command 'AUTH'" in str(caught.value)
    assert WRONG not in everything_said(caught.value, caplog)


def test_user_who_may_only_read_reads_and_is_refused_to_write(kit: Kit, guarded: ValkeyServer, opened: Opener) -> None:
    opened(guarded.url).write(kit.batch(["a"], 7), kit.now() + 5)
    reader = opened(f"redis://reader:reads@127.0.0.1:{guarded.port}")

    assert kit.times(reader, ["a"]) == [7]
    with pytest.raises(StoreRefused, match="NOPERM"):
        reader.write(kit.batch(["a"], 8), kit.now() + 5)
    assert kit.times(reader, ["a"]) == [7]


def test_user_without_dangerous_commands_can_do_all_a_source_does(
    kit: Kit, guarded: ValkeyServer, opened: Opener
) -> None:
    writer = opened(f"redis://writer:writes@127.0.0.1:{guarded.port}")

    writer.write(kit.batch(["acl"], 7), kit.now() + 5)

    assert kit.times(writer, ["acl"]) == [7]
    assert writer.watermark(kit.view, kit.now() + 5)
    assert dict(zip(*next(iter(writer.rows(kit.view))), strict=True))[b"acl"]


def test_user_of_other_keys_is_refused(kit: Kit, guarded: ValkeyServer, opened: Opener) -> None:
    store = opened(f"redis://elsewhere:other@127.0.0.1:{guarded.port}")

    with pytest.raises(StoreRefused, match="NOPERM"):
        store.read([kit.ask(["a"])], kit.now() + 5)


def test_refusal_ends_when_the_right_is_given(kit: Kit, guarded: ValkeyServer, opened: Opener) -> None:
    store = opened(f"redis://late:comes@127.0.0.1:{guarded.port}")
    with pytest.raises(StoreRefused):
        store.read([kit.ask(["a"])], kit.now() + 5)

    with Redis(port=guarded.port, password=PASSWORD, protocol=2) as admin:
        admin.execute_command("ACL", "SETUSER", "late", "on", ">comes", "~fc:*", "+mget")
    while kit.now():
        try:
            answer = store.read([kit.ask(["nobody-there"])], kit.now() + 5)
            break
        except StoreRefused:
            continue

    assert answer == [[None]]


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (b"-LOADING Redis is loading the dataset in memory\r\n", StoreUnavailable),
        (b"-MASTERDOWN Link with MASTER is down\r\n", StoreUnavailable),
        (b"-CLUSTERDOWN The cluster is down\r\n", StoreUnavailable),
        (b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n", StoreUnavailable),
        (b"-MOVED 1 127.0.0.1:1\r\n", StoreUnavailable),
        (b"-NOAUTH Authentication required.\r\n", StoreRefused),
        (b"-NOPERM no permissions\r\n", StoreRefused),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", StoreUnavailable),
        (b"*2\r\n$1\r\na\r\n$1\r\nb\r\n", StoreUnavailable),
        (b"*1\r\n$1\r\na\r\n+surplus\r\n", StoreUnavailable),
        (b"*1\r\n$1000\r\nhalf of it", StoreTimeout),
        (b"*1\r\n", StoreTimeout),
    ],
)
def test_answer_that_is_no_rows_is_told_apart(
    kit: Kit, opened: Opener, impostor: Callable[[bytes], str], line: bytes, kind: type[StoreError]
) -> None:
    store = opened(impostor(line))

    for _ in range(3):
        with pytest.raises(StoreError) as caught:
            store.read([kit.ask(["a"])], kit.now() + (0.1 if kind is StoreTimeout else 20))
        assert caught.type is kind


def test_error_reply_keeps_the_connection_and_a_wrong_one_does_not(
    kit: Kit, opened: Opener, impostor: Callable[[bytes], str]
) -> None:
    loading, lost = opened(impostor(b"-LOADING x\r\n")), opened(impostor(b"-READONLY x\r\n"))

    for store in (loading, lost):
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                store.read([kit.ask(["a"])], kit.now() + 5)

    assert loading.stats()["dialled"] == 1
    assert lost.stats()["dialled"] == 3


def test_options_the_driver_does_not_know_are_refused_before_any_call(opened: Opener, aopened: AsyncOpener) -> None:
    for opener in (opened, aopened):
        with pytest.raises(SpecError, match=r"sources.primary.options: .*'no_such'"):
            opener("redis://127.0.0.1:1", options={"no_such": 1})


def test_options_reach_the_driver(kit: Kit, opened: Opener, guarded: ValkeyServer) -> None:
    opened(guarded.url, options={"client_name": "ours"}).health(kit.now() + 5)

    with Redis(port=guarded.port, password=PASSWORD, protocol=2) as admin:
        assert "ours" in [client["name"] for client in admin.client_list()]


def test_tls_is_checked_against_the_given_authority(kit: Kit, opened: Opener, tls: TlsFront) -> None:
    store = opened(tls.url, options={"ssl_ca_certs": str(tls.certificate)})

    store.write(kit.batch(["a", "b"], 5), kit.now() + 5)

    assert kit.times(store, ["a", "b"]) == [5, 5]
    pending = store.begin([kit.ask(["a"])], kit.now() + 5)
    assert kit.finished(pending) == [kit.blobs(store, ["a"])[0]]


def test_stranger_certificate_is_not_trusted(kit: Kit, opened: Opener, tls: TlsFront) -> None:
    store = opened(tls.url)

    with pytest.raises(StoreUnavailable, match="certificate verify failed"):
        store.read([kit.ask(["a"])], kit.now() + 5)


def test_connections_of_a_store_share_one_tls_context(kit: Kit, opened: Opener, tls: TlsFront) -> None:
    store = opened(tls.url, options={"ssl_ca_certs": str(tls.certificate)})
    pool = store._pool

    links = [pool.take(kit.now() + 5) for _ in range(4)]

    assert len({id(link) for link in links}) == 4
    assert len({id(link.sock.context) for link in links}) == 1
    for link in links:
        pool.give(link)


def test_async_tls_is_checked_too(kit: Kit, aopened: AsyncOpener, tls: TlsFront) -> None:
    async def read(**settings: object) -> list[object]:
        store = aopened(tls.url, **settings)
        try:
            await store.write(kit.batch(["a"], 5), kit.now() + 5)
            return list(await store.read([kit.ask(["a"])], kit.now() + 5))
        finally:
            await store.close()

    assert asyncio.run(read(options={"ssl_ca_certs": str(tls.certificate)})) == [kit.batch(["a"], 5).blobs]
    with pytest.raises(StoreUnavailable, match="certificate verify failed"):
        asyncio.run(read())


def test_peer_that_never_shakes_hands_costs_the_deadline_only(
    kit: Kit, opened: Opener, silent: Callable[[], int]
) -> None:
    store = opened(f"rediss://127.0.0.1:{silent()}", connect_timeout_s=0.3)
    begun = kit.now()

    with pytest.raises(StoreTimeout, match="no connection in time"):
        store.read([kit.ask(["a"])], begun + 0.05)

    assert 0.05 <= kit.now() - begun < 0.3
    # The dial itself ends at its own limit.
    with pytest.raises(StoreTimeout, match="no connection: "):
        store.read([kit.ask(["a"])], kit.now() + 5)
    assert kit.now() - begun < 5
