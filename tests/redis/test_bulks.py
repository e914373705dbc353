"""A reply cut up without a parser says what the parser would have said; no server but in the last test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from featurechaos import codec
from featurechaos.codec import Packed
from featurechaos.model import DType, Feature, View
from featurechaos.stores import Ask
from featurechaos_redis import AsyncRedisStore, RedisStore
from featurechaos_redis.bulks import LEAST, whole
from featurechaos_redis.errors import BadReply
from featurechaos_redis.resp3 import PushedReplies
from featurechaos_redis.wire import Replies, answers

if TYPE_CHECKING:
    from featurechaos.demo.servers import ValkeyServer
    from tests.redis.conftest import Kit

MANY = [f"u{at}" for at in range(LEAST + 4)]


def reply_of(values: Sequence[bytes | None]) -> bytes:
    bulks = [b"$-1\r\n" if each is None else b"$%d\r\n%b\r\n" % (len(each), each) for each in values]
    return b"*%d\r\n" % len(values) + b"".join(bulks)


def said(pieces: Sequence[bytes], asks: Sequence[Ask], *, is_cut: bool, kind: type[Replies] = Replies) -> Any:
    """What becomes of a reply that comes in these pieces; where it lies is written over after each."""
    count = sum(len(ask.keys) for ask in asks)
    replies = kind()
    replies.expect_rows(count, whole(asks, count) if is_cut else None)
    try:
        got = None
        for piece in filter(None, pieces):
            buffer = bytearray(piece + b"\r\n" * 40)
            got = replies.feed(buffer, len(piece))
            buffer[:] = bytes(len(buffer))
        return None if got is None else [list(rows) for rows in answers(got[0], count, asks)]  # type: ignore[arg-type]
    except BadReply:
        return BadReply


def wide(kit: Kit) -> View:
    """A view of another width than the kit's."""
    features = tuple(Feature(f"f{at}", DType.parse("float64")) for at in range(9))
    return View(kit.view.project, "wide", "wide", kit.view.join_keys, features)


@pytest.mark.parametrize("ids", [["u0"], MANY], ids=["one", "many"])
def test_whole_reply_is_not_parsed(kit: Kit, ids: list[str]) -> None:
    batch = kit.batch(ids, 5)
    data = reply_of(batch.blobs)
    replies = Replies()
    replies.expect_rows(len(ids), whole([batch.ask], len(ids)))
    replies._reader = None  # type: ignore[assignment]

    (reply,) = replies.feed(data, len(data)) or [None]

    (rows,) = answers(reply, len(ids), [batch.ask])
    assert rows == batch.blobs
    assert type(rows) is (list if len(ids) == 1 else Packed)


def test_views_of_several_widths_each_get_their_own(kit: Kit) -> None:
    first, other = kit.batch(MANY, 5), kit.batch(MANY[:LEAST], 6, view=kit.other)
    asks = [first.ask, kit.ask(MANY, wide(kit)), other.ask]
    layout = asks[1].layout
    columns = {feature.name: np.arange(len(MANY)) / 3 for feature in layout.features}
    between = codec.encode(layout, columns, np.full(len(MANY), 7), asks[1].keys.own)

    found = said([reply_of([*first.blobs, *between, *other.blobs])], asks, is_cut=True)

    assert found == [first.blobs, between, other.blobs]


@pytest.mark.parametrize("features", [{"s": "string"}, {"f": "float32"}], ids=["rows that vary", "few rows"])
def test_replies_nobody_knows_the_length_of_or_of_few_rows_are_parsed(kit: Kit, features: dict[str, str]) -> None:
    made = tuple(Feature(name, DType.parse(dtype)) for name, dtype in features.items())
    view = View(kit.view.project, "other", "other", kit.view.join_keys, made)
    ids = MANY if "s" in features else MANY[: LEAST - 1]

    assert whole([kit.ask(ids, view)], len(ids)) is None
    assert whole([kit.ask(MANY[:LEAST])], LEAST) is not None


def test_ask_of_no_rows_among_others_has_no_place_in_a_whole_reply(kit: Kit) -> None:
    batch = kit.batch([f"u{at}" for at in range(2 * LEAST)], 5)
    asks = [batch.ask, kit.ask([])]

    assert whole(asks, 2 * LEAST) is None
    assert said([reply_of(batch.blobs)], asks, is_cut=True) == [batch.blobs, []]


PUSH = b">1\r\n$1\r\na\r\n"
DAMAGE = st.one_of(
    st.just(("none",)),
    st.tuples(st.just("missing"), st.integers(0, 10_000)),
    st.tuples(st.just("flip"), st.integers(0, 10_000), st.integers(0, 7)),
    st.tuples(st.just("shift"), st.integers(0, 10_000)),
    st.tuples(st.just("longer"), st.integers(0, 10_000)),
    st.tuples(st.just("more"), st.sampled_from([b"\r\n", b"+OK\r\n", b"$1\r\na\r\n", PUSH, PUSH[:4]])),
    st.tuples(st.just("pushed"), st.integers(1, 2)),
    st.tuples(st.just("swap"), st.integers(0, 10_000)),
)


def damaged(values: list[bytes | None], damages: Sequence[tuple[Any, ...]]) -> bytes:
    """The reply of these rows, after that."""
    flips, first, rest = [], b"", b""
    for damage in damages:
        at = damage[1] % len(values) if len(damage) > 1 and isinstance(damage[1], int) else 0
        value = values[at] or b""
        match damage[0]:
            case "missing":
                values[at] = None
            case "shift":  # the next one is as much shorter: the whole is as long as it should be
                values[at], values[at - 1] = value + bytes(8), (values[at - 1] or b"")[:-8]
            case "longer":
                values[at] = value + bytes(8)
            case "swap":
                values[at], values[0] = values[0], values[at]
            case "more":
                rest = damage[1]
            case "pushed":
                first = PUSH * damage[1]
            case "flip":
                flips.append(damage[1:])
    data = bytearray(first + reply_of(values) + rest)
    for at, bit in flips:
        data[at % len(data)] ^= 1 << bit
    return bytes(data)


@example(1, False, [("more", b"\r\n")], [])
@example(LEAST, True, [("more", b"$1\r\na\r\n")], [])
@example(LEAST, True, [("shift", 5)], [])
@example(LEAST, False, [("missing", 3)], [900])
@example(LEAST, False, [("pushed", 1)], [])
@example(LEAST, False, [("more", PUSH[:4])], [900])
@given(
    st.sampled_from([1, LEAST, LEAST + 3]), st.booleans(), st.lists(DAMAGE, max_size=2), st.lists(st.integers(1, 2_000))
)
def test_reply_says_what_the_parser_makes_of_it(
    n: int, two: bool, damages: list[tuple[Any, ...]], sizes: list[int]
) -> None:
    kit = kit_of()
    batches = [kit.batch(MANY[:n], 5), *([kit.batch(MANY[:n], 6, view=kit.other)] if two else [])]
    data = damaged([blob for batch in batches for blob in batch.blobs], damages)
    pieces, begin = [], 0
    for size in sizes:
        pieces.append(data[begin : begin + size])
        begin += size
    pieces.append(data[begin:])
    asks = [batch.ask for batch in batches]

    for each in ([data], pieces):
        for kind in (Replies, PushedReplies):
            assert said(each, asks, is_cut=True, kind=kind) == said(each, asks, is_cut=False, kind=kind)


@pytest.mark.parametrize("n", [1, LEAST])
def test_every_byte_between_rows_counts(n: int, kit: Kit) -> None:
    batches = [kit.batch(MANY[:n], 5), *([kit.batch(MANY[:n], 6, view=kit.other)] if n > 1 else [])]
    asks = [batch.ask for batch in batches]
    data = bytearray(reply_of([blob for batch in batches for blob in batch.blobs]))
    width = len(batches[0].blobs[0])
    stride = width + len(b"$%d\r\n\r\n" % width)
    first = len(data) - stride * n * len(asks)
    between = [
        at for at in range(len(data)) if at < first or not stride - width - 2 <= (at - first) % stride < stride - 2
    ]
    assert len(between) == len(data) - width * n * len(asks)

    for at in between:
        data[at] ^= 1
        assert said([bytes(data)], asks, is_cut=True) == said([bytes(data)], asks, is_cut=False), at
        data[at] ^= 1


def test_what_comes_after_a_piece_is_no_whole_reply(kit: Kit) -> None:
    batch = kit.batch(MANY, 5)

    assert said([b"*", reply_of(batch.blobs)], [batch.ask], is_cut=True) is BadReply


@pytest.mark.parametrize("gone", [None, 0, 1, LEAST - 1, LEAST, 2 * LEAST - 1])
def test_reply_in_two_pieces_is_waited_for_where_more_must_come_and_only_there(gone: int | None, kit: Kit) -> None:
    batches = [kit.batch(MANY[:LEAST], 5), kit.batch(MANY[:LEAST], 6, view=kit.other)]
    asks = [batch.ask for batch in batches]
    values: list[bytes | None] = [blob for batch in batches for blob in batch.blobs]
    if gone is not None:
        values[gone] = None
    data = reply_of(values)
    wanted = said([data], asks, is_cut=False)

    for cut in range(1, len(data)):
        assert said([data[:cut], data[cut:]], asks, is_cut=True) == wanted, cut
        third = (cut + len(data)) // 2
        assert said([data[:cut], data[cut:third], data[third:]], asks, is_cut=True) == wanted, cut


def test_row_that_says_what_ought_to_stand_there_keeps_nobody_waiting(kit: Kit) -> None:
    """The reply has ended; eight bytes on, where the last row ought to begin, its own bytes say that it begins."""
    batch = kit.batch(MANY[:LEAST], 5)
    values: list[bytes | None] = [batch.blobs[0][8:], *batch.blobs[1:-1], bytes(3) + b"$%d\r\n" % len(batch.blobs[0])]
    values[-1] = (values[-1] or b"").ljust(len(batch.blobs[0]))

    assert said([reply_of(values)], [batch.ask], is_cut=True) == [values]


def test_reply_of_another_count_is_refused_at_once(kit: Kit) -> None:
    batch = kit.batch(MANY[:LEAST], 5)

    assert said([reply_of(batch.blobs[1:])], [batch.ask], is_cut=True) is BadReply


def test_reply_in_small_pieces_is_parsed_as_it_comes(kit: Kit) -> None:
    """Were they put together, each would be looked at again with every one that follows."""
    batch = kit.batch(MANY, 5)
    data = reply_of(batch.blobs)
    replies = Replies()
    replies.expect_rows(len(MANY), whole([batch.ask], len(MANY)))

    assert replies.feed(data, len(data) // 5) is None

    assert not replies._early
    assert replies._reader.has_data()


def test_whole_reply_in_large_pieces_is_not_parsed(kit: Kit) -> None:
    batch = kit.batch(MANY, 5)
    data = reply_of(batch.blobs)
    replies = Replies()
    replies.expect_rows(len(MANY), whole([batch.ask], len(MANY)))
    replies._reader = None  # type: ignore[assignment]
    half = len(data) // 2

    assert replies.feed(data[:half], half) is None
    ((rows,),) = replies.feed(data[half:], len(data) - half) or [None]

    assert type(rows) is Packed
    assert rows == batch.blobs


def kit_of() -> Kit:
    """The fixture `kit`, for a test that hypothesis runs many times."""
    from featurechaos.stores import Place
    from tests.redis.conftest import CLOCK, Kit, view

    alpha, beta = view("alpha"), view("beta")
    return Kit(alpha, beta, Place("primary", "proj", (alpha, beta), CLOCK))


def test_what_was_expected_of_one_reply_is_not_expected_of_the_next(kit: Kit) -> None:
    batch = kit.batch(MANY, 5)
    replies = Replies()
    replies.expect_rows(len(MANY), whole([batch.ask], len(MANY)))
    data = reply_of(batch.blobs)

    replies.expect(1, begin=b"*%d\r\n" % len(MANY))
    plain = replies.feed(data, len(data))

    assert plain == [batch.blobs]
    assert type(plain[0]) is list


@pytest.mark.live
def test_threads_and_tasks_read_rows_in_one_piece_and_others_row_by_row(
    kit: Kit, valkey: ValkeyServer, store: RedisStore, aopened: Callable[..., AsyncRedisStore]
) -> None:
    async def awaited(ask: Ask) -> Any:
        tasks = aopened(valkey.url)
        answers = await tasks.read([ask], kit.now() + 5)
        await tasks.close()
        return answers

    written = kit.batch(MANY, 5)
    store.write(written, kit.now() + 5)

    both = [store.read([written.ask], kit.now() + 5), asyncio.run(awaited(written.ask))]
    store.write(kit.batch(["u3"], 6, score=0.25), kit.now() + 5)
    asked = kit.ask([*MANY, "nobody"])
    gaps = [store.read([asked], kit.now() + 5), asyncio.run(awaited(asked))]

    for (rows,) in both:  # no later answer has written over them
        assert type(rows) is Packed
        assert rows == written.blobs
    for (rows,) in gaps:
        assert type(rows) is list
        assert [row is None for row in rows] == [False] * len(MANY) + [True]
