"""RESP3, for whom a server or a proxy wants it: the same replies, with push messages among them."""

from __future__ import annotations

from typing import Any

import hiredis

from featurechaos_redis.errors import BadReply
from featurechaos_redis.wire import MORE, UNPARSED, Replies


class PushedReplies(Replies):
    """Replies of a connection on which the server may also say what nobody asked: push messages are skipped.

    Where a push message comes first, the reply's beginning is not looked at before parsing.
    """

    __slots__ = ("_owes_push",)

    def __init__(self) -> None:
        super().__init__()
        # Whether the bytes left over after the last reply must turn out to be a push message.
        self._owes_push = False

    def feed(self, data: bytes | bytearray, size: int) -> list[Any] | None:
        if self._begin and not self._early and (self._owes_push or data[:1] == b">"):
            self._begin = b""
        return super().feed(data, size)

    def expect(self, count: int, begin: bytes = b"") -> None:
        super().expect(count)

    def idle(self, data: bytes) -> bool:
        try:
            self._reader.feed(data)
            return self._is_clean()
        except (BadReply, *UNPARSED):
            return False

    def _parse(self, data: bytes | bytearray, size: int) -> list[Any] | None:
        reader, got = self._reader, self._got
        reader.feed(data, 0, size)  # type: ignore[arg-type] # Any buffer serves.
        while len(got) < self._count:
            reply = reader.gets()
            if reply is MORE:
                return None
            if isinstance(reply, hiredis.PushNotification):
                self._owes_push = False
            elif self._owes_push:
                break
            else:
                got.append(reply)
        if self._owes_push or not self._is_clean():
            msg = "more bytes came than were asked for"
            raise BadReply(msg)
        self._got = []
        return got

    def _is_clean(self) -> bool:
        """Whether nothing but push messages is left, the last of them perhaps in part."""
        while self._reader.has_data():
            reply = self._reader.gets()
            if reply is MORE:
                self._owes_push = True
                break
            if not isinstance(reply, hiredis.PushNotification):
                return False
            self._owes_push = False
        return True


def replies(options: dict[str, Any]) -> Replies:
    """What parses a connection made with these driver options."""
    return PushedReplies() if options.get("protocol") == 3 else Replies()
