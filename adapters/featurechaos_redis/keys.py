"""Keys that other people chose, as a template: `{view}:{tailnum}`.

`{project}`, `{view}`, the name of a join key, or `{keys}`: all of them in the order of their names, with colons
between. A brace that means itself is written twice. Values stand in a key as they are: integers in decimal, strings in
UTF-8, timestamps as unix numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from string import Formatter
from typing import Any, Final

import numpy as np

from featurechaos.codec import encode_keys
from featurechaos.errors import RequestError, SpecError
from featurechaos.model import JoinKey, View
from featurechaos_redis.talks import glob_escaped
from featurechaos_redis.times import Unit

DEFAULT_KEY: Final = "{view}:{keys}"

_ESCAPE: Final = re.compile(rb"%([0-9A-F]{2})")
_WHOLE: Final = re.compile(rb"-?[0-9]{1,20}")
_STAMP: Final = re.compile(rb"-?[0-9]{1,22}(?:\.[0-9]{1,6})?")
_TEXTUAL: Final = ("string", "bytes")
_UNIT_US: Final = {
    "auto": Decimal(10**6),
    "s": Decimal(10**6),
    "ms": Decimal(1000),
    "us": Decimal(1),
    "ns": Decimal("0.001"),
}
"""Microseconds a unit of the timestamps in a key; seconds where the unit of cells is guessed."""


class KeyForm:
    """How the stored keys of one view are written, and how they are read again; `pattern` is what SCAN matches.

    SpecError for a template that is none, or by which two rows could have one key; `place` names it in the message.
    """

    def __init__(self, template: str, view: View, unit: Unit, *, place: str = "key") -> None:
        self._joins, self._unit = view.join_keys, unit
        self._literals, self._slots = _parsed(template, view, place)
        self._format = b"%b".join(literal.replace(b"%", b"%%") for literal in self._literals)
        self.pattern = b"*".join(map(glob_escaped, self._literals))

    def keys(self, ids: Sequence[bytes]) -> list[bytes]:
        """The stored keys of some ids."""
        if len(self._joins) == 1:
            columns = [self._shown(0, ids)]
            if len(self._slots) == 1:
                first, last = self._literals
                return [first + value + last for value in columns[0]]
        else:
            parts = [each.split(b"|") for each in ids]
            columns = [self._shown(at, [part[at] for part in parts]) for at in range(len(self._joins))]
        return [self._format % row for row in zip(*[columns[at] for at in self._slots], strict=True)]

    def ids(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The ids of some stored keys; None for one that is no key of this view, or could be two of them."""
        return list(map(self._id, keys))

    def _shown(self, at: int, parts: Sequence[bytes]) -> Sequence[bytes]:
        """One join key's part of some ids, as it stands in a stored key."""
        base = self._joins[at].dtype.base
        if base in _TEXTUAL and b"%" in b"".join(parts):
            return [_ESCAPE.sub(lambda found: bytes([int(found[1], 16)]), part) for part in parts]
        if base == "timestamp":
            return [f"{Decimal(int(part)) / _UNIT_US[self._unit]:f}".encode() for part in parts]
        return parts

    def _id(self, key: bytes) -> bytes | None:
        values = _cut(key, self._literals)
        backwards = _cut(key[::-1], [literal[::-1] for literal in self._literals[::-1]])
        # From the left values are as short as can be, from the right as long: alike, there is one way to read them.
        if values is None or backwards is None or values != [value[::-1] for value in backwards[::-1]]:
            return None
        by_join = dict(zip(self._slots, values, strict=True))
        try:
            columns = [[self._value(join, by_join[at])] for at, join in enumerate(self._joins)]
            (known,) = encode_keys(self._joins, columns)[0].ids
        except (ValueError, OverflowError, RequestError):
            return None
        return known if self.keys([known]) == [key] else None

    def _value(self, join: JoinKey, raw: bytes) -> Any:
        """A join key's value; ValueError or OverflowError where it can't be."""
        if join.dtype.base in _TEXTUAL:
            return raw.decode() if join.dtype.base == "string" else raw
        if not (_STAMP if join.dtype.base == "timestamp" else _WHOLE).fullmatch(raw):
            msg = "no number"
            raise ValueError(msg)
        if join.dtype.base != "timestamp":
            return int(raw)
        return np.datetime64(int(Decimal(raw.decode()) * _UNIT_US[self._unit]), "us")


def _cut(key: bytes, literals: Sequence[bytes]) -> list[bytes] | None:
    """What stands between the literals, each value as short as can be; None if it is no such key."""
    first, *between, last = literals
    end = len(key) - len(last)
    if not key.startswith(first) or not key.endswith(last) or end < len(first):
        return None
    begin, values = len(first), []
    for literal in between:
        at = key.find(literal, begin, end)
        if at < 0:
            return None
        values.append(key[begin:at])
        begin = at + len(literal)
    return [*values, key[begin:end]]


def _parsed(template: str, view: View, place: str) -> tuple[list[bytes], list[int]]:
    """A template's literals, and the places of the join keys whose values stand between them."""
    names = [key.name for key in view.join_keys]
    literals = [""]
    slots: list[int] = []
    for literal, name in _pieces(template, place):
        literals[-1] += literal
        if name is None:
            continue
        if name in ("project", "view"):
            literals[-1] += view.project if name == "project" else view.base
            continue
        if name != "keys" and name not in names:
            known = ", ".join(f"{{{each}}}" for each in ("project", "view", "keys", *names))
            msg = f"{place} has {{{name}}}, which view {view.base!r} knows nothing of; it knows {known}"
            raise SpecError(msg)
        for nth, at in enumerate(range(len(names)) if name == "keys" else [names.index(name)]):
            literals[-1] += ":" if nth else ""
            if slots and not literals[-1]:
                two = f"{{{names[slots[-1]]}}} and {{{names[at]}}}"
                msg = f"{place} wants something between {two}: else 1 and 23 have the key of 12 and 3"
                raise SpecError(msg)
            slots.append(at)
            literals.append("")
    for at, name in enumerate(names):
        if at not in slots:
            msg = f"{place} wants {{{name}}} in it, a join key of view {view.base!r}: else many rows have one key"
            raise SpecError(msg)
    return [literal.encode() for literal in literals], slots


def _pieces(template: str, place: str) -> Iterator[tuple[str, str | None]]:
    """Literal and name, in turn; SpecError for what is no template."""
    try:
        pieces = list(Formatter().parse(template))
    except ValueError as error:
        msg = f"{place} can't be read: {error} (a brace that means itself is written twice)"
        raise SpecError(msg) from None
    for literal, name, form, conversion in pieces:
        if form or conversion:
            msg = f"{place} takes names only, such as {{{name}}}, got {{{name}{'!' if conversion else ':'}...}}"
            raise SpecError(msg)
        yield literal, name
