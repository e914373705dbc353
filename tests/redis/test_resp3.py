"""RESP3, over TCP and a unix socket: the same rows, whatever the server pushes among its replies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from redis import Redis

from featurechaos_redis import AsyncRedisStore, RedisStore
from featurechaos_redis.alinks import ALink
from featurechaos_redis.errors import BadReply, ErrorReply
from featurechaos_redis.resp3 import PushedReplies
from featurechaos_redis.wire import Replies, check_rows

if TYPE_CHECKING:
    from featurechaos.demo.servers import ValkeyServer
    from tests.redis.conftest import Kit

PUSH, ROWS = b">2\r\n+invalidate\r\n*1\r\n$1\r\na\r\n", b"*2\r\n$1\r\nx\r\n_\r\n"
IDS = [f"user-{at}" for at in range(20)]
RESP3 = {"protocol": 3}


def fed(replies: PushedReplies, data: bytes, cuts: list[int]) -> list[Any]:
    """Every answer to bytes that come in pieces."""
    edges = [0, *sorted(cut % len(data) for cut in cuts), len(data)]
    pieces = [data[begin:end] for begin, end in pairwise(edges) if end > begin]
    return [got for piece in pieces if (got := replies.feed(piece, len(piece))) is not None]


@given(cuts=st.lists(st.integers(0, 10_000), max_size=5), before=st.integers(0, 2), between=st.integers(0, 2))
def test_push_messages_are_skipped_wherever_they_stand(cuts: list[int], before: int, between: int) -> None:
    replies = PushedReplies()
    replies.expect(2)

    (got,) = fed(replies, PUSH * before + ROWS + PUSH * between + ROWS, cuts)

    assert got == [[b"x", None], [b"x", None]]


@pytest.mark.parametrize("size", range(1, len(PUSH) + 1))
def test_push_message_that_follows_in_part_is_ended_by_the_next_read_or_while_idle(size: int) -> None:
    for idle in (False, True):
        replies = PushedReplies()
        replies.expect_rows(2)
        assert replies.feed(ROWS + PUSH[:size], len(ROWS) + size) == [[b"x", None]]

        rest = PUSH[size:]
        if idle:
            assert replies.idle(rest)
            rest = b""
        replies.expect_rows(2)

        assert replies.feed(rest + ROWS, len(rest + ROWS)) == [[b"x", None]]


@pytest.mark.parametrize("data", [b"*2147483647\r\n", b"*3\r\n", b"%1\r\n", b"$1\r\nx\r\n"])
def test_reply_of_another_count_is_refused_before_it_is_parsed(data: bytes) -> None:
    replies = PushedReplies()
    replies.expect_rows(2)

    with pytest.raises(BadReply, match="wants to begin with"):
        replies.feed(data, len(data))


@pytest.mark.parametrize("stray", [ROWS, ROWS[:9], b"*2\r\n", b"+OK\r\n", b"$3\r\na", b"-ERR x\r\n"])
def test_reply_nobody_asked_for_is_never_the_next_readers(stray: bytes) -> None:
    replies = PushedReplies()
    replies.expect_rows(2)

    with pytest.raises(BadReply):  # noqa: PT012 - in which of the two it is seen depends on how much there is of it
        replies.feed(ROWS + stray, len(ROWS + stray))
        replies.expect_rows(2)
        rest = b"\r\n$1\r\nx\r\n$1\r\ny\r\n" + ROWS
        replies.feed(rest, len(rest))


def test_whole_reply_while_idle_makes_a_connection_unfit() -> None:
    assert not PushedReplies().idle(b"+OK\r\n")
    assert not PushedReplies().idle(PUSH + ROWS)
    assert PushedReplies().idle(PUSH * 2)


PIECES = [
    *[b"*3\r\n", b"$1\r\na\r\n", b"_\r\n", b"$-1\r\n", b">1\r\n", b">0\r\n", b"-ERR x\r\n", b":1\r\n", b"%1\r\n"],
    *[b"~1\r\n", b"=7\r\ntxt:abc\r\n", b"|1\r\n", b",abc\r\n", b"(1\r\n", b"#x\r\n", b"\xff", b"*0\r\n"],
]
ANY = st.one_of(st.binary(max_size=60), st.lists(st.sampled_from(PIECES), max_size=8).map(b"".join))


@example(first=b"XX\r\n", then=b"*3\r\n")
@example(first=b"*4294967295\r\n", then=b"")
@example(first=b"%1\r\n*0\r\n+a\r\n", then=ROWS)
@given(first=ANY, then=ANY)
def test_any_bytes_idle_or_asked_give_rows_or_our_errors(first: bytes, then: bytes) -> None:
    for idle in (False, True):
        replies = PushedReplies()
        if idle and not replies.idle(first):
            continue
        replies.expect_rows(3)
        try:
            got = replies.feed(then if idle else first + then, len(then if idle else first + then))
            rows: Any = None if got is None else check_rows(got[0], 3)
        except (BadReply, ErrorReply):
            continue
        assert rows is None or {type(row) for row in rows} <= {bytes, type(None)}


class Opened:
    """What redis-py's asyncio connection would be: a transport that keeps what it is told."""

    def __init__(self) -> None:
        self._writer: Any = self
        self._reader: Any = None
        self.transport = self
        self.said: list[str] = []

    def get_extra_info(self, _: str) -> int:
        return 0  # nobody looks at it

    def set_protocol(self, _: object) -> None:
        self.said.append("protocol")

    def write(self, _: bytes) -> None:
        self.said.append("write")

    def abort(self) -> None:
        self.said.append("abort")


@example(pieces=[b"XX\r\n"], is_asked=False, is_pushed=True)
@example(pieces=[b"$0\r\n\r\nX", b"\r\n"], is_asked=True, is_pushed=True)
@given(pieces=st.lists(ANY, max_size=4), is_asked=st.booleans(), is_pushed=st.booleans())
def test_any_bytes_on_an_async_link_answer_fail_or_close_it_and_raise_nothing(
    pieces: list[bytes], is_asked: bool, is_pushed: bool
) -> None:
    async def act() -> None:
        opened = Opened()
        link = ALink(opened, asyncio.get_running_loop(), PushedReplies() if is_pushed else Replies())
        reply = None
        if is_asked:
            link.replies.expect_rows(3)
            reply = link.ask(b"?")

        for piece in filter(None, pieces):
            link.data_received(piece)

        if reply is None:
            assert link.is_open == ("abort" not in opened.said)
            assert is_pushed or link.is_open == (not any(pieces))
        elif reply.done():
            error = reply.exception()
            assert error is None or (isinstance(error, BadReply) and link.is_busy and not link.is_open)
            assert error is not None or len(reply.result()) == 1

    asyncio.run(act())


@pytest.mark.live
@pytest.mark.parametrize("way", ["tcp", "unix"])
def test_rows_are_the_same_in_resp3(
    kit: Kit, valkey: ValkeyServer, admin: Redis, opened: Callable[..., RedisStore], way: str
) -> None:
    url = valkey.url if way == "tcp" else f"unix://{valkey.unixsocket_path}"
    store = opened(url, options=RESP3)
    written = kit.batch(IDS, 5)

    counts = store.write(written, kit.now() + 5)

    assert (counts.written, store.write(kit.batch(IDS, 4), kit.now() + 5).older) == (20, 20)
    assert store.read([kit.ask([*IDS, "nobody"])], kit.now() + 5) == [[*written.blobs, None]]
    assert kit.finished(store.begin([kit.ask(["nobody"])], kit.now() + 5)) == [[None]]
    mark = store.watermark(kit.view, kit.now() + 5)
    assert mark is not None
    assert mark[0] == 5
    assert sorted(id_ for ids, _ in store.rows(kit.view) for id_ in ids) == sorted(each.encode() for each in IDS)
    assert {each["resp"] for each in admin.client_list() if each["cmd"] != "client|list"} == {"3"}


@pytest.mark.live
def test_pushes_of_a_real_server_cost_no_read(
    kit: Kit, valkey: ValkeyServer, admin: Redis, opened: Callable[..., RedisStore]
) -> None:
    store = opened(valkey.url, options=RESP3, max_connections=1)
    written = kit.batch(IDS, 5)
    store.write(written, kit.now() + 5)
    link = store._pool.take(kit.now() + 5)
    link.replies.expect(1)
    link.ask(b"*4\r\n$6\r\nCLIENT\r\n$8\r\nTRACKING\r\n$2\r\nON\r\n$5\r\nBCAST\r\n", kit.now() + 5)
    store._pool.give(link)

    for turn in range(50):
        admin.set("elsewhere", turn)  # each a push to our connection
        assert store.read([kit.ask(IDS)], kit.now() + 5) == [written.blobs]
        admin.set("elsewhere", -turn)
        assert kit.finished(store.begin([kit.ask(IDS)], kit.now() + 5)) == [written.blobs]

    assert store.stats()["dialled"] == 1


@pytest.mark.live
def test_pushes_cost_no_async_read_and_no_idle_connection(
    kit: Kit, valkey: ValkeyServer, admin: Redis, aopened: Callable[..., AsyncRedisStore]
) -> None:
    written = kit.batch(IDS, 5)

    async def act() -> dict[str, int]:
        store = aopened(valkey.url, options=RESP3, max_connections=1)
        await store.write(written, kit.now() + 5)
        pool = store._pool(asyncio.get_running_loop())
        link = pool.poll()
        assert link is not None
        link.replies.expect(1)
        await link.ask(b"*4\r\n$6\r\nCLIENT\r\n$8\r\nTRACKING\r\n$2\r\nON\r\n$5\r\nBCAST\r\n")
        pool.give(link)
        for turn in range(50):
            admin.set("elsewhere", turn)
            await asyncio.sleep(0)
            assert await store.read([kit.ask(IDS)], kit.now() + 5) == [written.blobs]
        stats = store.stats()
        await store.close()
        return stats

    assert asyncio.run(act())["dialled"] == 1
