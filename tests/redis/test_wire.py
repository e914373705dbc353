"""Commands and replies as bytes; no server."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import hiredis
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from featurechaos.stores import Ask
from featurechaos_redis.errors import BadReply, ErrorReply, MisplacedReply, RefusedReply, error_reply
from featurechaos_redis.resp3 import PushedReplies
from featurechaos_redis.wire import Encoder, Replies, check_rows, command, split

if TYPE_CHECKING:
    from tests.redis.conftest import Kit


def parsed(data: bytes) -> list[bytes]:
    """A command as a server reads it."""
    reader = hiredis.Reader()
    reader.feed(data)
    arguments: list[bytes] = reader.gets()
    assert not reader.has_data()
    return arguments


@pytest.mark.parametrize(
    "ids",
    [["a"], ["a1", "b2", "c3"], ["a", "bb", "ccc"], ["}", "\r\n", "|%"], [f"u{at}" for at in range(300)]],
    ids=["one", "one length", "several lengths", "odd signs", "many"],
)
def test_every_id_becomes_its_key_in_the_order_asked(kit: Kit, ids: list[str]) -> None:
    asks = [kit.ask(ids), kit.ask(ids, kit.other), kit.ask(["last"])]

    data, count = Encoder().mget(asks)

    wanted = [ask.view.head + id_ + b"}" for ask in asks for id_ in ask.keys.ids]
    assert parsed(data) == [b"MGET", *wanted]
    assert count == len(wanted)


def test_key_has_the_published_form(kit: Kit) -> None:
    data, _ = Encoder().mget([kit.ask(["JFK"])])

    assert data == b"*2\r\n$4\r\nMGET\r\n$21\r\nfc:proj:alpha:{JFK}\r\n".replace(b"$21", b"$19")


def test_views_that_share_an_entity_list_and_views_that_do_not_keep_their_own_lengths(kit: Kit) -> None:
    long, short = kit.ask(["user-1000", "user-2000"]), kit.ask(["x", "y"])

    data, _ = Encoder().mget([long, short, long])

    assert [len(key) for key in parsed(data)[1:]] == [25, 25, 17, 17, 25, 25]


@pytest.mark.parametrize("ids", [["a"], ["a1", "b2"], ["a", "bb", "alpha", "alphb:{"]])
def test_views_of_one_entity_list_each_ask_for_their_own_rows(kit: Kit, ids: list[str]) -> None:
    first = kit.ask(ids)
    same_length = replace(first.view, name="alphb", base="alphb")
    longer = replace(first.view, name="longer", base="longer")
    asks = [Ask(view, first.layout, first.keys) for view in (first.view, same_length, longer, same_length)]

    data, _ = Encoder().mget(asks)

    assert parsed(data)[1:] == [ask.view.head + id_ + b"}" for ask in asks for id_ in first.keys.ids]


def test_ask_of_no_rows_takes_no_room(kit: Kit) -> None:
    asks = [kit.ask([]), kit.ask(["a"]), kit.ask([])]

    data, count = Encoder().mget(asks)

    assert (len(parsed(data)), count) == (2, 1)
    assert split([b"row"], asks) == [[], [b"row"], []]


@given(pieces=st.lists(st.integers(1, 40), max_size=12))
def test_reply_is_the_same_however_it_is_cut(pieces: list[int]) -> None:
    data = b"*3\r\n$5\r\nhello\r\n$-1\r\n$0\r\n\r\n"
    replies = Replies()
    replies.expect_rows(3)

    got, begin = None, 0
    for size in [*pieces, len(data)]:
        piece = data[begin : begin + size]
        begin += len(piece)
        if piece:
            assert got is None
            got = replies.feed(piece, len(piece))

    assert got == [[b"hello", None, b""]]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"*2\r\n$1\r\na\r\n$1\r\nb\r\n", "another request's reply"),
        (b"*99999999999\r\n", "gigabytes promised"),
        (b"*30\r\n", "begins alike"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "a web server"),
        (b"$3\r\nabc\r\n", "one value"),
        (b"+OK\r\n", "a status"),
        (b"*3\r\n:1\r\n$1\r\na\r\n$-1\r\n", "a number among the values"),
        (b"*3\r\n*0\r\n$1\r\na\r\n$-1\r\n", "a list among the values"),
        (b"*3\r\n$1\r\na\r\n$-1\r\n$-1\r\n+", "more than was asked"),
        (b"*3\r\n$1\r\na\r\nXX-1\r\n$-1\r\n", "broken framing"),
    ],
)
def test_wrong_reply_is_refused(data: bytes, why: str) -> None:
    replies = Replies()
    replies.expect_rows(3)

    with pytest.raises(BadReply):
        check_rows((replies.feed(data, len(data)) or [None])[0], 3)


PIECES = [
    *[b"*3\r\n", b"$1\r\na\r\n", b"$-1\r\n", b":1\r\n", b"-ERR x\r\n", b"\r\n", b"#t\r\n", b"_\r\n"],
    *[b",1.5\r\n", b"~1\r\n", b"%1\r\n", b">1\r\n", b"=7\r\ntxt:abc\r\n", b"|1\r\n"],
]
REPLY_LIKE = st.lists(st.sampled_from(PIECES), max_size=12).map(lambda parts: b"*3\r\n" + b"".join(parts))


@example(b"*3\r\n~1\r\n*0\r\n$1\r\na\r\n$1\r\nb\r\n")
@example(b"*3\r\n%1\r\n*0\r\n+a\r\n$1\r\na\r\n$1\r\nb\r\n")
@example(b"*3\r\n,abc\r\n")
@example(b"*3\r\n(12345678901234567890123456789\r\n")
@example(b"*3\r\n" + b"*1\r\n" * 20)
@example(b"*3\r\n$-5\r\n")
@example(b"*3\r\n$99999999999999999999\r\n")
@given(st.one_of(st.binary(max_size=200), REPLY_LIKE))
def test_any_bytes_give_rows_or_one_of_our_errors_or_wait_for_more(data: bytes) -> None:
    replies = Replies()
    replies.expect_rows(3)

    try:
        got = replies.feed(data, len(data)) if data else None
        rows: Any = None if got is None else check_rows(got[0], 3)
    except (BadReply, ErrorReply):
        return

    assert rows is None or (len(rows) == 3 and {type(row) for row in rows} <= {bytes, type(None)})


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("NOAUTH Authentication required.", RefusedReply),
        ("NOPERM User x has no permissions", RefusedReply),
        ("WRONGPASS invalid username-password pair", RefusedReply),
        ("DENIED Redis is running in protected mode", RefusedReply),
        ("READONLY You can't write against a read only replica.", MisplacedReply),
        ("MOVED 3999 127.0.0.1:6381", MisplacedReply),
        ("LOADING Redis is loading the dataset in memory", ErrorReply),
        ("MASTERDOWN Link with MASTER is down", ErrorReply),
        ("ERR something new", ErrorReply),
        ("", ErrorReply),
    ],
)
def test_error_line_is_told_apart_by_its_first_word(text: str, kind: type[ErrorReply]) -> None:
    replies = Replies()
    replies.expect_rows(3)
    line = f"-{text}\r\n".encode()

    got = replies.feed(line, len(line))

    assert got is not None
    assert type(got[0]) is kind
    with pytest.raises(kind):
        check_rows(got[0], 3)
    assert type(error_reply(text)) is kind


def test_error_that_comes_byte_by_byte_is_still_an_error() -> None:
    replies = Replies()
    replies.expect_rows(3)

    got = [replies.feed(bytes([byte]), 1) for byte in b"-LOADING x\r\n"]

    assert got[:-1] == [None] * 11
    assert str(got[-1][0]) == "LOADING x"  # type: ignore[index]


@pytest.mark.parametrize("replies", [Replies(), PushedReplies()], ids=["RESP2", "RESP3"])
def test_parsed_reply_is_its_readers_alone(replies: Replies) -> None:
    data = b"*2\r\n$1\r\na\r\n$1\r\nb\r\n"
    replies.expect_rows(2)

    got = replies.feed(data, len(data))

    assert got == [[b"a", b"b"]]
    assert sys.getrefcount(got) == 2  # `got` and the argument: an idle connection holds no rows


def test_command_counts_bytes_and_not_signs() -> None:
    assert command(b"SET", "ü".encode()) == b"*2\r\n$3\r\nSET\r\n$2\r\n\xc3\xbc\r\n"
