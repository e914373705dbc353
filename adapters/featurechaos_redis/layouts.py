"""Layouts of rows that other people wrote: a layout knows the keys, the command and what the replies mean.

Rows are answered as `Columns`. `Stored` is what holds for one view of one source, made from the config once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from featurechaos.codec import Layout
from featurechaos.errors import SpecError
from featurechaos.model import NO_TIME_US, DType, Feature, Verdict, View
from featurechaos.stores import Columns
from featurechaos_redis.cells import Cells, Column
from featurechaos_redis.errors import BadReply, ErrorReply
from featurechaos_redis.keys import DEFAULT_KEY, KeyForm
from featurechaos_redis.spec import RedisSpec
from featurechaos_redis.times import Unit

_TIME = DType.parse("timestamp")
_FRESH, _MISSING, _CORRUPT = (np.uint8(each) for each in (Verdict.FRESH, Verdict.MISSING, Verdict.CORRUPT))

Look = Callable[[], None]
"""Called between columns and between rows: raises once there is no time left."""


class Foreign(Protocol):
    """A layout that others write, and we read: one command and one reply a row."""

    def commands(self, stored: Stored, keys: Sequence[bytes]) -> bytes:
        """What reads some keys of one view, a command each."""

    def begins(self, stored: Stored) -> bytes:
        """How the reply to such a command begins unless it is an error; empty if that is not known."""

    def nothing(self, stored: Stored) -> Any:
        """The reply for a row that is not there."""

    def columns(self, stored: Stored, replies: Sequence[Any], look: Look) -> Columns:
        """What the replies say. A row that says nothing sound is CORRUPT; an error that is no row's is raised."""


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """How the rows of one view lie in a source: their keys, and the name each feature has there.

    `time_field` holds the event time; None where no row has one. `alike` are the places of the features of each dtype.
    """

    view: View
    key: KeyForm
    features: tuple[Feature, ...]
    names: tuple[str, ...]
    time_field: str | None
    unit: Unit
    alike: tuple[tuple[DType, tuple[int, ...]], ...]

    @classmethod
    def of(cls, spec: RedisSpec, view: View, features: Sequence[Feature]) -> Stored:
        """SpecError if a source's key template or names do not fit the view."""
        own = spec.views.get(view.base)
        names = dict(own.fields) if own else {}
        unknown = [name for name in names if name not in view.feature]
        if unknown:
            known = ", ".join(view.feature)
            msg = f"views.{view.base}.fields has {unknown[0]!r}, which is no feature of that view; it has {known}"
            raise SpecError(msg)
        template, place = spec.key or DEFAULT_KEY, "key"
        if own and own.key is not None:
            template, place = own.key, f"views.{view.base}.key"
        unit = own.time_unit if own and own.time_unit is not None else spec.time_unit
        return cls(
            view=view,
            key=KeyForm(template, view, unit, place=place),
            features=tuple(features),
            names=tuple(names.get(feature.name, feature.name) for feature in features),
            time_field=time_field(spec, view.base),
            unit=unit,
            alike=tuple(
                (dtype, tuple(at for at, feature in enumerate(features) if feature.dtype == dtype))
                for dtype in dict.fromkeys(feature.dtype for feature in features)
            ),
        )


class Views:
    """What holds for each view of a source, made when it is first asked for. A config has a handful of them."""

    def __init__(self, spec: RedisSpec) -> None:
        self._spec = spec
        self._known: dict[int, Stored] = {}

    def of(self, view: View, layout: Layout) -> Stored:
        stored = self._known.get(layout.hash)
        if stored is None:
            stored = self._known[layout.hash] = Stored.of(self._spec, view, layout.features)
        return stored


def time_field(spec: RedisSpec, base: str) -> str | None:
    own = spec.views.get(base)
    return own.event_time_field if own and "event_time_field" in own.model_fields_set else spec.event_time_field


def check(spec: RedisSpec, views: Sequence[View]) -> None:
    """SpecError if a source of these views can't be what its config says."""
    unknown = sorted(set(spec.views) - {view.base for view in views})
    if unknown:
        msg = f"views has {unknown[0]!r}, which is no view read from here; they are {', '.join(_bases(views))}"
        raise SpecError(msg)
    for view in views:
        Stored.of(spec, view, view.features)
        limit = "ttl_s" if view.ttl_s is not None else "max_age_s" if view.max_age_s is not None else None
        if limit and time_field(spec, view.base) is None:
            msg = (
                f"event_time_field is null, so no row has an age, and view {view.base!r} has a {limit}: "
                "every row of it would be too old"
            )
            raise SpecError(msg)


def _bases(views: Sequence[View]) -> list[str]:
    return list(dict.fromkeys(view.base for view in views))


class Gathered:
    """One view's rows as they are read: which are missing or corrupt, and the columns so far."""

    def __init__(self, stored: Stored, n: int) -> None:
        self._stored = stored
        self._values: dict[str, NDArray[Any]] = {}
        self._nulls: dict[str, NDArray[np.bool_]] = {}
        self._event_time = np.full(n, NO_TIME_US, np.int64)
        self.verdict = np.full(n, _FRESH, np.uint8)

    def spoil(self, at: int) -> None:
        self.verdict[at] = _CORRUPT

    def miss(self, at: int) -> None:
        self.verdict[at] = _MISSING

    def read(self, cells: Sequence[Sequence[Any]], kind: Cells, look: Look) -> Columns:
        """Columns of the features in turn, then of the event time if there is one."""
        stored = self._stored
        for dtype, places in stored.alike:
            look()
            if not self._read_at_once(dtype, places, cells, kind):
                for at in places:
                    look()
                    self._take(stored.features[at].name, kind.column(dtype, cells[at], stored.unit))
        if stored.time_field is not None:
            times = kind.column(_TIME, cells[-1], stored.unit)
            self._event_time = np.where(times.nulls, NO_TIME_US, times.values.view(np.int64))
            self._mark(times)
        return Columns(self._values, self._nulls, self._event_time, self.verdict)

    def _read_at_once(self, dtype: DType, places: Sequence[int], cells: Sequence[Sequence[Any]], kind: Cells) -> bool:
        """Read columns of one dtype as one; whether all of their cells were plain."""
        if len(places) == 1 or not dtype.is_fixed or dtype.dim is not None:
            return False
        whole = kind.at_once(dtype, list(chain.from_iterable(cells[at] for at in places)), self._stored.unit)
        if whole is None:
            return False
        shape = len(places), len(self.verdict)
        parts = zip(whole.values.reshape(shape), whole.nulls.reshape(shape), whole.bad.reshape(shape), strict=True)
        for at, (values, nulls, bad) in zip(places, parts, strict=True):
            self._take(self._stored.features[at].name, Column(values, nulls, bad))
        return True

    def _take(self, name: str, column: Column) -> None:
        self._values[name] = column.values
        if column.nulls.any():
            self._nulls[name] = column.nulls
        self._mark(column)

    def _mark(self, column: Column) -> None:
        if column.bad.any():
            self.verdict[column.bad & (self.verdict == _FRESH)] = _CORRUPT


def is_of_row(reply: Any) -> bool:
    """Whether a reply is an error about its row alone: the key holds something of another type. Raises others."""
    if not isinstance(reply, Exception):
        return False
    if isinstance(reply, ErrorReply) and reply.code == "WRONGTYPE":
        return True
    raise reply


def bad_reply(wanted: str) -> BadReply:
    return BadReply(f"{wanted}, got another reply")
