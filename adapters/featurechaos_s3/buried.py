"""Rows deleted on purpose. They are laid over every image: one may still hold a row deleted since.

A tombstone hides what is not newer than it, here and, since it is answered as a tombstone, in the
last-known rows too. It stays for good: an image made elsewhere may bring the row back.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featurechaos.errors import DecodeError
from featurechaos_s3.manifest import FORMAT

if TYPE_CHECKING:
    from featurechaos.codec import Keys

MOST_DELETIONS_BYTES = 64 << 20

Tombstone = tuple[int, int]
"""A row's slot, and the event time (int64 us) up to which it is deleted."""


class Buried:
    """Tombstones of one view, never changed once made."""

    __slots__ = ("_slots", "_times")

    def __init__(self, tombstones: Iterable[Tombstone] = ()) -> None:
        newest: dict[int, int] = {}
        for slot, time_us in tombstones:
            newest[slot] = max(time_us, newest.get(slot, time_us))
        slots = np.fromiter(newest, np.uint64, len(newest))
        order = np.argsort(slots)
        self._slots = slots[order]
        self._times = np.fromiter(newest.values(), np.int64, len(newest))[order]

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[Tombstone]:
        return iter(zip(self._slots.tolist(), self._times.tolist(), strict=True))

    def with_more(self, tombstones: Iterable[Tombstone]) -> Buried:
        return Buried((*self, *tombstones))

    def times(self, slots: NDArray[np.uint64]) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
        """Which of some slots have a tombstone, and up to when each is deleted."""
        if not len(self._slots):
            return np.empty(0, np.intp), self._times
        at = np.minimum(np.searchsorted(self._slots, slots), len(self._slots) - 1)
        hit = np.flatnonzero(self._slots[at] == slots)
        return hit, self._times[at[hit]]


def to_json(project: str, view: str, keys: Keys, event_time: NDArray[np.int64]) -> bytes:
    """One deletions object. `id` is for people; readers go by `slot`."""
    rows = [
        {"id": key.decode("utf-8", "replace"), "slot": f"{slot:016x}", "event_us": time_us}
        for key, slot, time_us in zip(keys.ids, keys.slots.tolist(), event_time.tolist(), strict=True)
    ]
    return json.dumps({"format": FORMAT, "project": project, "view": view, "rows": rows}).encode()


def from_json(content: bytes, *, place: str) -> list[Tombstone]:
    """The tombstones of a deletions object, or DecodeError: better no refresh than a deleted person back."""
    try:
        fields = json.loads(content)
        if fields["format"] != FORMAT:
            msg = f"{place} wants format {FORMAT}, has {str(fields['format'])[:40]!r}"
            raise DecodeError(msg)
        return [_tombstone(int(row["slot"], 16), int(row["event_us"])) for row in fields["rows"]]
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        msg = f"{place} is no list of deletions: {str(error)[:100]}"
        raise DecodeError(msg) from error


def _tombstone(slot: int, time_us: int) -> Tombstone:
    if not (0 <= slot < 1 << 64 and -(1 << 63) <= time_us < 1 << 63):
        msg = f"slot {slot} or time {time_us} is beyond 64 bits"
        raise ValueError(msg)
    return slot, time_us


def to_cache(objects: Sequence[tuple[str, str]], buried: Buried) -> bytes:
    """What a view's folder keeps: the (key, ETag) of the objects read so far, their tombstones, and a checksum."""
    told, rows = list(objects), list(buried)
    return json.dumps({"format": FORMAT, "objects": told, "rows": rows, "checksum": _checksum(told, rows)}).encode()


def from_cache(content: bytes) -> tuple[dict[str, str], Buried]:
    """The reverse; DecodeError on a damaged file. An older one has no checksum."""
    try:
        fields = json.loads(content)
        if "checksum" in fields:
            _check(fields)
        objects = {str(key): str(etag) for key, etag in fields["objects"]}
        return objects, Buried(_tombstone(int(slot), int(time_us)) for slot, time_us in fields["rows"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        msg = f"the kept deletions are damaged: {str(error)[:100]}"
        raise DecodeError(msg) from error


def _check(fields: dict[str, Any]) -> None:
    if fields["checksum"] != _checksum(fields["objects"], fields["rows"]):
        msg = "they have another checksum than is written there"
        raise ValueError(msg)


def _checksum(objects: Any, rows: Any) -> int:
    """Of what is said and not of how: one slot with another digit would bring a deleted row back."""
    return zlib.crc32(json.dumps([objects, rows]).encode())
