"""Entity rows as they are typed or kept in a file -> what a client takes."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from featurechaos.errors import RequestError
from featurechaos.model import JoinKey

MOST_BYTES = 256 << 20


def entity_columns(pairs: Sequence[str]) -> dict[str, Any]:
    """`key=value` pairs as a dict of columns: a key given once is one value for all rows."""
    columns: dict[str, list[str]] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            msg = f"--entity wants KEY=VALUE, got {pair!r}"
            raise RequestError(msg)
        columns.setdefault(key, []).append(value)
    return {key: values[0] if len(values) == 1 else values for key, values in columns.items()}


def rows_from(path: str, option: str = "--rows") -> Any:
    """Entity rows from a JSON file, or from stdin where the path is `-`; `option` is what named it."""
    name = "stdin" if path == "-" else path
    try:
        content = sys.stdin.buffer.read(MOST_BYTES) if path == "-" else Path(path).read_bytes()
    except OSError as error:
        msg = f"{option}: {path!r} cannot be read: {error.strerror or error}"
        raise RequestError(msg) from None
    try:
        rows = json.loads(content)
    except ValueError as error:
        msg = f"{option}: {name} is not JSON: {error}"
        raise RequestError(msg) from None
    if not isinstance(rows, (list, dict)) or (isinstance(rows, list) and not all(isinstance(r, dict) for r in rows)):
        msg = f'{option}: {name} wants a list of entity rows such as [{{"tailnum": "N14228"}}]'
        raise RequestError(msg)
    return rows


def typed(rows: Any, keys: Mapping[str, JoinKey]) -> Any:
    """The same rows with text turned into what the keys' types want beyond text and numbers."""
    if isinstance(rows, list):
        return [{name: _one(keys.get(name), value) for name, value in row.items()} for row in rows]
    return {
        name: [_one(keys.get(name), value) for value in values]
        if isinstance(values, list)
        else _one(keys.get(name), values)
        for name, values in rows.items()
    }


def _one(key: JoinKey | None, value: Any) -> Any:
    if key is None or not isinstance(value, str):
        return value
    if key.dtype.base == "bytes":
        # What the system could not read as text it hands on as lone surrogates.
        return value.encode("utf-8", "surrogateescape")
    return moment(value, f"join key {key.column!r}") if key.dtype.base == "timestamp" else value


def moment(text: str, place: str) -> datetime:
    """A date as ISO 8601 writes it; one without a zone is UTC."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        msg = f"{place} wants a date such as 2024-06-01T05:00:00Z, got {text!r}"
        raise RequestError(msg) from None
