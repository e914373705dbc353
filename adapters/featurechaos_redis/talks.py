"""What is said to a server beside a plain read, step by step; the sync and the async store both speak it.

A talk is a generator: it yields a pipeline's bytes with the number of replies due, is sent those
replies, and returns what came of it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from featurechaos.model import View
from featurechaos.stores import Batch, WriteCounts, chunks
from featurechaos_redis.errors import BadReply
from featurechaos_redis.scripts import KEEP_NEWEST, RAISE_WATERMARK, Script
from featurechaos_redis.wire import check_rows, command

_ROWS_A_CALL = 500
_HASH_BITS = (1 << 64) - 1
_GLOB_SIGNS = b"\\*?[]^"

Said = TypeVar("Said")


@dataclass(frozen=True, slots=True)
class Say:
    """One pipeline: its bytes, and how many replies it brings."""

    data: bytes
    replies: int


Talk = Generator[Say, list[Any], Said]


def say(commands: Sequence[bytes]) -> Talk[list[Any]]:
    """Send some commands at once; their replies, or the first error among them."""
    return _checked((yield Say(b"".join(commands), len(commands))))


Call = tuple[list[bytes], list[bytes]]
"""The keys and the arguments of one call of a script."""


def call(script: Script, calls: Sequence[Call], *, before: Sequence[bytes] = ()) -> Talk[list[Any]]:
    """Send some commands and then the calls of a script, at once; what the calls gave.

    Where the server does not know the script, those calls go once more by its text.
    """
    data = b"".join([*before, *[script.by_hash(*each) for each in calls]])
    replies = yield Say(data, len(before) + len(calls))
    _checked(replies[: len(before)])
    given = replies[len(before) :]
    unknown = [at for at, reply in enumerate(given) if getattr(reply, "code", None) == "NOSCRIPT"]
    if unknown:
        again = yield Say(b"".join([script.by_text(*calls[at]) for at in unknown]), len(unknown))
        for at, reply in zip(unknown, again, strict=True):
            given[at] = reply
    return _checked(given)


def _checked(replies: list[Any]) -> list[Any]:
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


def write(batch: Batch, *, expire_s: float | None, now_us: int) -> Talk[WriteCounts]:
    """The layout's description, then the rows, each unless a newer one is stored; last the watermark."""
    ask = batch.ask
    if not batch.blobs:
        return WriteCounts()
    head, ids, blobs = ask.view.head, ask.keys.ids, batch.blobs
    # With every batch: a server that lost its data has lost this too.
    layout = command(b"SET", layout_key(ask.view.project, ask.layout.hash), ask.layout.describe(), b"NX")
    keep = keep_ms(expire_s)
    calls: list[Call] = [
        ([head + id_ + b"}" for id_ in ids[part]], [keep, *blobs[part]]) for part in chunks(len(ids), _ROWS_A_CALL)
    ]
    older = sum((yield from call(KEEP_NEWEST, calls, before=[layout])))
    newest = b"%d" % int(batch.event_time.max())
    yield from call(RAISE_WATERMARK, [([watermark_key(ask.view)], [newest, b"%d" % now_us])])
    return WriteCounts(written=len(ids) - older, older=older)


def keep_ms(expire_s: float | None) -> bytes:
    """How long rows are kept, as the script takes it; 0: for ever."""
    return b"%d" % (0 if expire_s is None else max(1, round(expire_s * 1000)))


def layouts(project: str, hashes: Sequence[int]) -> Talk[dict[int, bytes]]:
    """The stored descriptions of some schema hashes."""
    if not hashes:
        return {}
    (reply,) = yield from say([command(b"MGET", *[layout_key(project, each) for each in hashes])])
    rows = check_rows(reply, len(hashes))
    return {each: row for each, row in zip(hashes, rows, strict=True) if row is not None}


def watermark(view: View) -> Talk[tuple[int, int] | None]:
    """How far a view is written: newest event time and when it was written, int64 us; None if never."""
    (reply,) = yield from say([command(b"GET", watermark_key(view))])
    return watermark_of(view, reply)


def watermark_of(view: View, reply: Any) -> tuple[int, int] | None:
    """A stored watermark, read."""
    if reply is None:
        return None
    try:
        event, written = reply.split()
        return int(event), int(written)
    except (AttributeError, ValueError):
        msg = f"the watermark of view {view.base!r} wants two integers, got {reply[:60]!r}"
        raise BadReply(msg) from None


def ping() -> Talk[None]:
    (reply,) = yield from say([command(b"PING")])
    if reply != b"PONG":
        msg = f"PING wants PONG, got {reply!r:.60}"
        raise BadReply(msg)


def server_time() -> Talk[float]:
    """The server's wall clock, seconds since the epoch."""
    (reply,) = yield from say([command(b"TIME")])
    try:
        seconds, microseconds = map(int, reply)
    except (TypeError, ValueError):
        msg = f"TIME wants seconds and microseconds, got {reply!r:.60}"
        raise BadReply(msg) from None
    return seconds + microseconds / 1e6


Page = tuple[bytes, list[bytes], list[bytes | None]]
"""One step of a walk: the next cursor, ids, and the blob of each."""


def scan(view: View, cursor: bytes, count: int) -> Talk[Page]:
    """One step of a walk over every stored row of a view."""
    (reply,) = yield from say([scan_command(pattern_of(view), cursor, count)])
    following, keys = scanned(reply)
    if not keys:
        return following, [], []
    (rows,) = yield from say([command(b"MGET", *keys)])
    size = len(view.head)
    return following, [key[size:-1] for key in keys], check_rows(rows, len(keys))


def pattern_of(view: View) -> bytes:
    """What the keys of a view's packed rows match, and no others."""
    return glob_escaped(view.head) + b"*}"


def scan_command(pattern: bytes, cursor: bytes, count: int) -> bytes:
    return command(b"SCAN", cursor, b"MATCH", pattern, b"COUNT", b"%d" % count)


def scanned(reply: Any) -> tuple[bytes, list[bytes]]:
    """What SCAN answered: the next cursor, and keys."""
    try:
        (following, keys) = reply
    except (TypeError, ValueError):
        following, keys = None, []
    if type(following) is not bytes or type(keys) is not list or not all(type(key) is bytes for key in keys):
        msg = "SCAN wants a cursor and keys, got another reply"
        raise BadReply(msg)
    return following, keys


def layout_key(project: str, schema_hash: int) -> bytes:
    return f"fc:{project}:layout:{int(schema_hash) & _HASH_BITS:016x}".encode()


def watermark_key(view: View) -> bytes:
    return f"fc:{view.project}:watermark:{view.base}".encode()


def glob_escaped(text: bytes) -> bytes:
    """A pattern that matches this text alone."""
    return b"".join(_escaped(text))


def _escaped(text: bytes) -> Iterable[bytes]:
    for at in range(len(text)):
        sign = text[at : at + 1]
        yield b"\\" + sign if sign in _GLOB_SIGNS else sign
