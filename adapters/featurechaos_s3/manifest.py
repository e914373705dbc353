"""What lies in the bucket, and the small JSON files that describe it.

    snapshots/VIEW/v=ID/part-00000.parquet ..   one complete image, about a million rows a part
    snapshots/VIEW/v=ID/manifest.json           what the image is made of; written after its parts
    snapshots/VIEW/CURRENT                      which image is the newest; moved last, by conditional put
    snapshots/VIEW/deletions/*.json             rows deleted on purpose, whatever an image says

An ID sorts by date: 20130901T050000.000000Z-1f0c9a2b, the last eight digits from the content.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from featurechaos.errors import DecodeError

FORMAT = 1
MOST_MANIFEST_BYTES = 8 << 20
MOST_CURRENT_BYTES = 1 << 14
_ID = re.compile(r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{8}")
_PART = re.compile(r"part-\d{5}\.parquet")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_US, _LAST_US = -30_610_224_000_000_000, 253_402_300_799_999_999


def safe_name(name: str) -> str:
    """A name as one part of a path, whatever is in it."""
    quoted = quote(name, safe="")
    return "%2E" + quoted[1:] if quoted.startswith(".") else quoted


def home(view: str) -> str:
    """What every key of a view begins with."""
    return f"snapshots/{safe_name(view)}/"


def instant(time_us: int) -> str:
    """A date for people: 2013-09-01T05:00:00.000000Z."""
    return f"{_date(time_us):%Y-%m-%dT%H:%M:%S.%f}Z"


def snapshot_id(as_of_us: int, content: str) -> str:
    """The name of an image from its date and the hex digest of its content."""
    return f"{_date_part(as_of_us)}-{content[:8]}"


def is_snapshot_id(name: str) -> bool:
    return _ID.fullmatch(name) is not None


def is_at_or_before(name: str, as_of_us: int) -> bool:
    """Whether an image's date, as its id tells it, is not after an instant."""
    return name[:23] <= _date_part(as_of_us)


def _date_part(as_of_us: int) -> str:
    return f"{_date(as_of_us):%Y%m%dT%H%M%S.%f}Z"


def _date(time_us: int) -> datetime:
    """Within the years of four digits, so that names sort as dates do."""
    return _EPOCH + timedelta(microseconds=min(max(time_us, _FIRST_US), _LAST_US))


@dataclass(frozen=True, slots=True)
class Part:
    """One Parquet file of an image."""

    name: str
    size_bytes: int
    etag: str
    sha256: str
    rows: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """One complete image of a view.

    `schema` is `Layout.describe` as a mapping, `schema_hash` its hash in hex; times are int64 us UTC.
    Everything known at `as_of_us` is inside.
    """

    project: str
    view: str
    snapshot: str
    as_of_us: int
    newest_event_us: int
    created_us: int
    rows: int
    schema: Mapping[str, Any]
    schema_hash: str
    parts: tuple[Part, ...]
    format: int = FORMAT

    @property
    def key(self) -> str:
        return f"{home(self.view)}v={self.snapshot}/manifest.json"

    def part_key(self, part: Part) -> str:
        return f"{home(self.view)}v={self.snapshot}/{part.name}"

    @property
    def description(self) -> bytes:
        """The published layout's description, for `Layout.from_description`."""
        return json.dumps(self.schema).encode()

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), indent=1, sort_keys=True).encode()

    @classmethod
    def from_json(cls, content: bytes, *, place: str) -> Manifest:
        """Raises DecodeError naming the place on anything but a whole manifest of this format."""
        fields = _fields(content, place)
        try:
            parts = tuple(Part(**_typed(part, Part, place)) for part in fields.pop("parts"))
            manifest = cls(**_typed(fields, cls, place), parts=parts)
        except (TypeError, KeyError, AttributeError) as error:
            msg = f"{place} is not a manifest: {error}"
            raise DecodeError(msg) from error
        if not is_snapshot_id(manifest.snapshot) or not all(_PART.fullmatch(part.name) for part in parts):
            msg = f"{place} names an image or a part that no publish of ours would"
            raise DecodeError(msg)
        if sum(part.rows for part in parts) != manifest.rows:
            msg = f"{place} says {manifest.rows} rows, its parts have {sum(part.rows for part in parts)}"
            raise DecodeError(msg)
        return manifest


@dataclass(frozen=True, slots=True)
class Current:
    """Which image is the newest, and the digest its manifest must have."""

    snapshot: str
    as_of_us: int
    manifest_sha256: str
    format: int = FORMAT

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), sort_keys=True).encode()

    @classmethod
    def from_json(cls, content: bytes, *, place: str) -> Current:
        fields = _fields(content, place)
        try:
            current = cls(**_typed(fields, cls, place))
        except TypeError as error:
            msg = f"{place} does not say which image is current: {error}"
            raise DecodeError(msg) from error
        if not is_snapshot_id(current.snapshot):
            msg = f"{place} names no image: {current.snapshot[:60]!r}"
            raise DecodeError(msg)
        return current


def current_key(view: str) -> str:
    return f"{home(view)}CURRENT"


def manifest_key(view: str, snapshot: str) -> str:
    return f"{home(view)}v={snapshot}/manifest.json"


_COUNTS = {"rows", "size_bytes"}
_TYPES = {"str": str, "int": int, "Mapping[str, Any]": dict, "tuple[Part, ...]": list}


def _fields(content: bytes, place: str) -> dict[str, Any]:
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError) as error:
        msg = f"{place} is not JSON: {str(error)[:100]}"
        raise DecodeError(msg) from error
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        got = fields.get("format") if isinstance(fields, dict) else type(fields).__name__
        msg = f"{place} wants format {FORMAT}, has {str(got)[:40]!r}"
        raise DecodeError(msg)
    return fields


def _typed(fields: Mapping[str, Any], made: type, place: str) -> dict[str, Any]:
    """The fields a record wants, each of its type; unknown ones are a later version's and left out."""
    wanted = {name: kind for name, kind in made.__annotations__.items() if name in fields}
    for name, kind in wanted.items():
        if type(fields[name]) is not _TYPES[kind]:
            msg = f"{place}: {name} wants {kind}, has {type(fields[name]).__name__}"
            raise DecodeError(msg)
        least = 0 if name in _COUNTS else -(1 << 63)
        if kind == "int" and not least <= fields[name] < 1 << 63:
            msg = f"{place}: {name} wants an int from {least} to 2^63, has another"
            raise DecodeError(msg)
    return {name: fields[name] for name in wanted}
