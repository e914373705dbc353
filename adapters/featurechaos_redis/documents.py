"""`layout: json`: a row is a string that holds a JSON object, a feature one of its names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from featurechaos.stores import Columns
from featurechaos_redis.cells import JSON, loads
from featurechaos_redis.layouts import Gathered, Look, Stored, bad_reply, is_of_row


class Documents:
    """One GET a row: an MGET would call a key of another type missing, where this says that it is not ours."""

    def commands(self, stored: Stored, keys: Sequence[bytes]) -> bytes:
        return b"".join([b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(key), key) for key in keys])

    def begins(self, stored: Stored) -> bytes:
        return b""

    def nothing(self, stored: Stored) -> Any:
        return None

    def columns(self, stored: Stored, replies: Sequence[Any], look: Look) -> Columns:
        rows = Gathered(stored, len(replies))
        documents: list[dict[str, Any]] = [{}] * len(replies)
        for at, reply in enumerate(replies):
            if reply is None:
                rows.miss(at)
            elif type(reply) is bytes:
                look()
                document = _document(reply)
                if document is None:
                    rows.spoil(at)
                else:
                    documents[at] = document
            elif is_of_row(reply):
                rows.spoil(at)
            else:
                raise bad_reply("GET wants a value")
        names = [*stored.names, *([] if stored.time_field is None else [stored.time_field])]
        cells = [[document.get(name) for document in documents] for name in names]
        return rows.read(cells, JSON, look)


def _document(text: bytes) -> dict[str, Any] | None:
    try:
        found = loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
