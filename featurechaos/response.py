"""The answer to one call: values by column, and where each row came from. Everything is built when touched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from struct import Struct
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featurechaos.codec import Layout, Rows, Selection, column, columns, dated, has_nulls, lists, nulls
from featurechaos.codec.inputs import is_null
from featurechaos.entities import Entities
from featurechaos.errors import RequestError
from featurechaos.locks import cached_property
from featurechaos.model import NO_TIME_US, Cause, Feature, Origin, Status, Verdict, View
from featurechaos.readings import Flags, Part, Request, Rules
from featurechaos.stores import Ask

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


_TIMES = Struct("<qd")
_I8, _F8 = np.dtype(np.int64), np.dtype(np.float64)
_PRIMARY, _REPLICA, _DEFAULT = int(Origin.PRIMARY), int(Origin.REPLICA), int(Origin.DEFAULT)
_PRESENT, _NOT_FOUND = int(Status.PRESENT), int(Status.NOT_FOUND)


class Provenance(NamedTuple):
    """Where each row of one view came from.

    Attributes:
        origin, status, cause: uint8 (n,), of `Origin`, `Status`, `Cause`.
        age_s: float64 (n,), seconds between the row's event and the request; NaN where there is no row.
        event_time: int64 (n,), microseconds UTC; the smallest int64 where there is no row.
        injected: bool (n,), rows a fault touched.

    To be read: where the same is true of all rows, the arrays are shared and cannot be written to.
    """

    origin: NDArray[np.uint8]
    status: NDArray[np.uint8]
    cause: NDArray[np.uint8]
    age_s: NDArray[np.float64]
    event_time: NDArray[np.int64]
    injected: NDArray[np.bool_]


def _alike(n: int, part: Part) -> Sequence[Any]:
    """Origin, status, cause and injected of n rows of which the same is true."""
    facts: Any = (part.origin, part.status, part.cause, part.injected)
    return _few_alike(n, *facts) if n <= _FEW else _made_alike(n, *facts)


def _made_alike(n: int, *facts: Any) -> Sequence[Any]:
    block = np.array(facts, np.uint8).repeat(n).reshape(4, n)
    block.setflags(write=False)
    return (*block[:3], block[3].view(np.bool_))


_FEW = 1024
_few_alike = lru_cache(maxsize=256)(_made_alike)
"""Made once: some kilobytes in all, and nobody's to write."""


@dataclass(slots=True, eq=False)
class Fan:
    """How the distinct keys that were read spread over the caller's rows.

    inverse: intp (n,), row -> key, `m` for a row with a null key; None when they are one to one.
    """

    n: int
    m: int
    inverse: NDArray[np.intp] | None = None
    nulls: Flags | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """One requested feature: its full reference, the name it goes out under, and where it is."""

    view: str
    feature: Feature
    out: str

    @property
    def full(self) -> str:
        return f"{self.view}:{self.feature.name}"


class Wants:
    """The features of one call; made once for each list of them.

    Attributes:
        features: in the order asked.
        outs: the names they go out under.
        by_name: both names of each -> it.
        keys: join key column -> the first view that wants it.
        defaulting: the views of which some feature has a default.
    """

    def __init__(self, features: Sequence[Wanted], keys: Mapping[str, View]) -> None:
        self.features, self.keys = tuple(features), keys
        self.outs = [one.out for one in features]
        self.by_name = {one.full: one for one in features} | {one.out: one for one in features}
        self.defaulting = frozenset(one.view for one in features if one.feature.default is not None)
        self.together: dict[str, list[str]] = {}
        self._selections: dict[str, Selection] = {}

    def sisters(self, one: Wanted, layout: Layout) -> list[str]:
        """The names that go out of one feature's run, where those are all of its scalars in its order; else none."""
        if (found := self.together.get(one.out)) is None:
            run = layout.spots[one.feature.name].run
            spots = [spot for spot in layout.spots.values() if spot.run is run]
            scalars = [spot.feature.name for spot in sorted(spots, key=lambda spot: spot.at)]
            wanted = {each.feature.name: each.out for each in self.features if each.view == one.view}
            found = self.together[one.out] = [wanted[name] for name in scalars] if wanted.keys() >= {*scalars} else []
        return found

    def selection(self, view: str, layout: Layout) -> Selection:
        """Those of one view that have a fixed width."""
        if (found := self._selections.get(view)) is None:
            wanted = {one.feature.name: one.out for one in self.features if one.view == view}
            found = self._selections[view] = Selection.of(layout, wanted)
        return found


class ViewAnswer:
    """One view's part of a response, spread over the caller's rows; `rules` are those the call was under."""

    def __init__(self, ask: Ask, part: Part, fan: Fan, wall_us: int, rules: Rules) -> None:
        self.ask, self.part, self.fan, self._wall_us, self.rules = ask, part, fan, wall_us, rules
        if fan.inverse is None:
            self.rows = part.rows

    @property
    def view(self) -> View:
        return self.ask.view

    @cached_property
    def rows(self) -> Rows:
        """The packed rows in the caller's order; blank where the key was null."""
        fan, rows = self.fan, self.part.rows
        if not fan.m:
            return Rows.blank(rows.layout, fan.n, Verdict.MISSING)
        assert fan.inverse is not None  # else `rows` is set already
        spread_rows = rows.take(np.minimum(fan.inverse, fan.m - 1))
        if fan.nulls is not None:
            at = np.flatnonzero(fan.nulls)
            spread_rows.verdict = spread_rows.verdicts
            spread_rows.put(at, Rows.blank(rows.layout, len(at), Verdict.MISSING), np.arange(len(at)))
        return spread_rows

    def spread(self, value: int | bool | NDArray[Any], null: int | bool, dtype: Any) -> NDArray[Any]:
        """One fact of the keys as an array over the caller's rows; `null` where the key was null."""
        fan = self.fan
        if not isinstance(value, np.ndarray):
            out = np.full(fan.n, value, dtype)
        elif fan.inverse is None:
            return value.copy()
        elif not fan.m:
            return np.full(fan.n, null, dtype)
        else:
            out = value[np.minimum(fan.inverse, fan.m - 1)]
        if fan.nulls is not None:
            out[fan.nulls] = null
        return out

    @cached_property
    def is_plain(self) -> bool:
        """Fresh rows of one source, one for each of the caller's: the same is true of all."""
        return self.part.is_uniform and self.part.is_fresh and self.fan.inverse is None

    @cached_property
    def provenance(self) -> Provenance:
        part: Any = self.part
        rows, n = self.rows, self.fan.n
        is_plain, is_dated = self.is_plain, self.rules.limit_us is not None
        if is_plain and is_dated and n == 1 and rows.oldest is not None:
            times = bytearray(_TIMES.pack(rows.oldest, max(0, self._wall_us - rows.oldest) / 1e6))
            event_time, age_s = np.ndarray(1, _I8, times), np.ndarray(1, _F8, times, 8)
            origin, status, cause, injected = _few_alike(1, part.origin, part.status, part.cause, part.injected)
            return tuple.__new__(Provenance, (origin, status, cause, age_s, event_time, injected))
        event_time = rows.event_time.copy()
        age_us = self._wall_us - event_time
        age_s = np.maximum(age_us, 0, out=age_us) / 1e6
        if not (is_plain and is_dated):  # else every age was found within a limit
            age_s[event_time == NO_TIME_US] = np.nan
        if is_plain:
            origin, status, cause, injected = _alike(n, part)
            return Provenance(origin, status, cause, age_s, event_time, injected)
        return Provenance(
            origin=self.spread(part.origin, Origin.NONE, np.uint8),
            status=self.spread(part.status, Status.NOT_FOUND, np.uint8),
            cause=self.spread(part.cause, Cause.KEY_NULL, np.uint8),
            age_s=age_s,
            event_time=event_time,
            injected=self.spread(part.injected, False, bool),
        )

    @cached_property
    def degraded(self) -> Flags:
        part = self.part
        if part.is_healthy:
            return np.zeros(self.fan.n, bool)
        if self.is_plain:
            return np.ones(self.fan.n, bool)
        truth = self.provenance
        online = (truth.origin == _PRIMARY) | (truth.origin == _REPLICA)
        return np.asarray(~(((truth.status == _PRESENT) & online) | (truth.status == _NOT_FOUND)))

    @property
    def may_default(self) -> bool:
        """Whether a row may have come from the defaults."""
        origin = self.part.origin
        return not isinstance(origin, int) or origin == Origin.DEFAULT

    def column(self, feature: Feature) -> NDArray[Any]:
        values = column(self.rows, feature.name)
        if (defaulted := self._defaulted(feature)) is not None:
            for row in np.flatnonzero(defaulted):  # one by one: a list is one cell of an object column, and its own
                values[row] = list(feature.default) if feature.dtype.is_list else feature.default
        return values

    def nulls(self, feature: Feature) -> Flags:
        absent = nulls(self.rows, feature.name)
        if (defaulted := self._defaulted(feature)) is not None:
            absent[defaulted] = False
        return absent

    def _defaulted(self, feature: Feature) -> Flags | None:
        if feature.default is None or not self.may_default:
            return None
        defaulted: Flags = self.provenance.origin == _DEFAULT
        return defaulted if defaulted.any() else None


class Lazy(dict[str, Any]):
    """A mapping whose values are made on first touch and kept.

    A dict, so that a value touched again costs no call; what it shows is the names asked for, made or not. It knows
    the answers and not their response: the two would be a cycle, left to the garbage collector.
    """

    __slots__ = ("_answers", "_wants")

    def __init__(self, wants: Wants, answers: Mapping[str, ViewAnswer]) -> None:
        self._wants, self._answers = wants, answers

    def _make(self, one: Wanted) -> None:
        raise NotImplementedError

    def __missing__(self, name: str) -> Any:
        one = self._wants.by_name.get(name)
        if one is None:
            msg = f"this response has no feature {name!r}; it has {', '.join(self._wants.by_name)}"
            raise KeyError(msg)
        if not dict.__contains__(self, one.out):
            self._make(one)
        if name == one.out:
            return dict.__getitem__(self, name)
        value = self[name] = dict.__getitem__(self, one.out)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._wants.outs)

    def __len__(self) -> int:
        return len(self._wants.outs)

    def __contains__(self, name: object) -> bool:
        return name in self._wants.by_name

    def copy(self) -> dict[str, Any]:
        """Every value by its name, made now, in a plain dict."""
        return dict(self.items())

    def __or__(self, other: Mapping[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        return {**self.copy(), **other}

    def __ror__(self, other: Mapping[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        return {**other, **self.copy()}

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (self.copy(),)

    keys, values, items, get = Mapping.keys, Mapping.values, Mapping.items, Mapping.get  # type: ignore[assignment]
    __eq__, __ne__, __repr__ = Mapping.__eq__, Mapping.__ne__, object.__repr__
    __hash__ = None


class _Columns(Lazy):
    """One feature's values by the name it goes out under; with its neighbours, where that costs no more."""

    __slots__ = ()

    def __missing__(self, name: str) -> Any:
        one = self._wants.by_name.get(name)
        if one is not None and one.out == name:
            answer = self._answers[one.view]
            sisters = self._wants.together.get(name)
            if sisters is None:
                sisters = self._wants.sisters(one, answer.rows.layout)
            if sisters and answer.is_plain:
                self.update(zip(sisters, columns(answer.rows, one.feature.name)))  # noqa: B905 - its test costs 0.4 us
                return dict.__getitem__(self, name)
        return super().__missing__(name)

    def _make(self, one: Wanted) -> None:
        self[one.out] = self._answers[one.view].column(one.feature)


class _Nulls(Lazy):
    """Which of one feature's values are null, by the name it goes out under."""

    __slots__ = ()

    def _make(self, one: Wanted) -> None:
        self[one.out] = self._answers[one.view].nulls(one.feature)


class Response:
    """Feature values for n entity rows, in the order asked, with the truth about each.

    Attributes:
        request: what was asked; `request_id` is the caller's, or 128 random bits in hex, `wall_us` the wall clock
            when it began, from which ages count.
        elapsed_s: from entry to return of the call.
        features: the requested references, in order; `feature_names_out` the names of `to_numpy()`'s columns.
        columns: name -> (n,) or (n, dim), dtype as declared, never widened; ours to write. Null is NaN, NaT, 0, False
            or None. A feature answers to its outgoing name and to `view:feature`.
        answers: the parts it was made from, by view; for references and counters.
        is_plain: every row is fresh and from the source it is first asked of, one for each of the caller's.
    """

    def __init__(
        self,
        wants: Wants,
        answers: Mapping[str, ViewAnswer],
        entities: Entities,
        request: Request,
        *,
        is_plain: bool = False,
    ) -> None:
        self._wants, self.answers, self._entities = wants, answers, entities
        self.request, self.is_plain = request, is_plain
        self.elapsed_s = 0.0
        self.columns: Mapping[str, NDArray[Any]] = _Columns(wants, answers)

    def __len__(self) -> int:
        return self._entities.n

    def __repr__(self) -> str:
        degraded = int(self.degraded.sum())
        return f"Response({len(self)} rows of {', '.join(self.views)}; {degraded} degraded)"

    @property
    def request_id(self) -> str:
        return self.request.id

    @property
    def wall_us(self) -> int:
        return self.request.wall_us

    @property
    def features(self) -> list[str]:
        return [one.full for one in self._wants.features]

    @property
    def views(self) -> tuple[str, ...]:
        """The names of the views read, in order of first mention."""
        return tuple(self.answers)

    @cached_property
    def nulls(self) -> Mapping[str, Flags]:
        """name -> bool (n,), True where the value is null; names as those of `columns`."""
        return _Nulls(self._wants, self.answers)

    def provenance(self, view: str) -> Provenance:
        """Where each row of a view came from; RequestError if the call did not read it."""
        answer = self.answers.get(view)
        if answer is None:
            msg = f"this response has no view {view!r}; it read {', '.join(self.views)}"
            raise RequestError(msg)
        return answer.provenance

    @cached_property
    def degraded(self) -> Flags:
        """bool (n,): some view of the row is not simply what an online source says now."""
        out = np.zeros(len(self), bool)
        for answer in self.answers.values():
            if not answer.part.is_healthy:
                out |= answer.degraded
        return out

    @property
    def any_degraded(self) -> bool:
        return not self.is_plain and bool(self.degraded.any())

    @cached_property
    def injected(self) -> Flags:
        """bool (n,): some view of the row was touched by a fault."""
        out = np.zeros(len(self), bool)
        for answer in self.answers.values():
            if answer.part.injected is not False:
                out |= answer.provenance.injected
        return out

    @property
    def entity(self) -> Mapping[str, Any]:
        """The caller's entity rows by column."""
        return self._entities.everything()

    def tags(self, row: int) -> dict[str, Any]:
        """One row's truth as flat fields, for a training or prediction log."""
        flat: dict[str, Any] = {
            "fc_degraded": bool(self.degraded[row]),
            "fc_injected": bool(self.injected[row]),
        }
        for view in self.views:
            truth = self.provenance(view)
            flat[f"fc_origin_{view}"] = Origin(int(truth.origin[row])).name
            flat[f"fc_age_s_{view}"] = float(truth.age_s[row])
        return flat

    def to_dict(self, include_event_timestamps: bool = False, include_provenance: bool = False) -> dict[str, list[Any]]:
        """Feast's shape: join keys, then features in requested order, as Python values; null is None.

        With `include_event_timestamps`, after each column `<column>__ts`, integer seconds, 0 where there is none.
        With `include_provenance`, the columns of `tags` besides.
        """
        out: dict[str, list[Any]] = {}
        for name, view in self._wants.keys.items():
            out[name] = _typed_key(self._entities.column(name, view), name, view)
            if include_event_timestamps:
                out[f"{name}__ts"] = [0] * len(self)
        values = self._lists()
        if len(values) < len(self._wants.features):
            self._add_columns(values)
        if include_event_timestamps:
            seconds = {view: self._seconds(view) for view in self.views}
            for one in self._wants.features:
                out[one.out], out[f"{one.out}__ts"] = values[one.out], seconds[one.view].copy()
        else:
            out.update({name: values[name] for name in self._wants.outs})
        if include_provenance:
            out.update(self._provenance_columns())
        return out

    def to_df(self, include_event_timestamps: bool = False, include_provenance: bool = False) -> pd.DataFrame:
        """The same as a pandas DataFrame; an int column with nulls becomes float64, as in Feast."""
        import pandas as pd

        columns = self.to_dict(include_event_timestamps, include_provenance)
        return pd.DataFrame({name: pd.Series(values) for name, values in columns.items()})

    def to_arrow(self, include_event_timestamps: bool = False, include_provenance: bool = False) -> pa.Table:
        """The same as a pyarrow Table."""
        import pyarrow as pa

        return pa.table(self.to_dict(include_event_timestamps, include_provenance))

    def to_numpy(self) -> NDArray[np.floating[Any]]:
        """(n, width): float32 if every feature is float32, else float64; null is NaN; vectors spread over columns.

        Raises RequestError for string, bytes, timestamp and list features, naming the first.
        """
        for one in self._wants.features:
            if not one.feature.dtype.is_fixed or one.feature.dtype.base == "timestamp":
                msg = f"to_numpy: feature {one.full!r} is {one.feature.dtype}, wanted numbers only; use .columns"
                raise RequestError(msg)
        single = all(one.feature.dtype.base == "float32" for one in self._wants.features)
        out = np.empty((len(self), len(self.feature_names_out)), np.float32 if single else np.float64)
        at = 0
        for one in self._wants.features:
            width = one.feature.dtype.dim or 1
            out[:, at : at + width] = self.columns[one.full].reshape(len(self), width)
            out[self.nulls[one.full], at : at + width] = np.nan
            at += width
        return out

    @cached_property
    def feature_names_out(self) -> list[str]:
        """The names of `to_numpy()`'s columns; a vector's are `name_0`, `name_1`, ..."""
        names: list[str] = []
        for one in self._wants.features:
            dim = one.feature.dtype.dim
            names += [one.out] if dim is None else [f"{one.out}_{i}" for i in range(dim)]
        return names

    def with_parts(self, parts: Mapping[str, Part]) -> Response:
        """The same call answered with other rows, one part for each view."""
        answers = {
            name: ViewAnswer(answer.ask, parts[name], answer.fan, self.wall_us, answer.rules)
            for name, answer in self.answers.items()
        }
        return Response(self._wants, answers, self._entities, self.request)

    def _lists(self) -> dict[str, list[Any]]:
        """Features by the names they go out under, straight from rows of which nobody has a column yet."""
        made: dict[str, list[Any]] = {}
        if dict.__len__(self.columns) or "nulls" in self.__dict__:  # type: ignore[arg-type] # as made so far
            return made
        for view, answer in self.answers.items():
            if not answer.rows.ready and not (view in self._wants.defaulting and answer.may_default):
                made.update(lists(answer.rows, self._wants.selection(view, answer.rows.layout)))
        return made

    def _add_columns(self, made: dict[str, list[Any]]) -> None:
        """Add the other features, as they are in the columns."""
        every = () if "nulls" in self.__dict__ else self.answers.items()
        no_nulls = {
            view
            for view, answer in every
            if None not in answer.rows.ready and not has_nulls(answer.rows.words, answer.rows.layout)
        }
        for one in self._wants.features:
            if one.out not in made:
                absent = None if one.view in no_nulls else self.nulls[one.out]
                made[one.out] = _python(self.columns[one.out], absent)

    def _seconds(self, view: str) -> list[int]:
        """Each row's event time, whole seconds; 0 where there is none."""
        event_time = self.provenance(view).event_time
        seconds: list[int] = np.where(event_time == NO_TIME_US, 0, event_time // 1_000_000).tolist()
        return seconds

    def _provenance_columns(self) -> dict[str, list[Any]]:
        flat: dict[str, list[Any]] = {
            "fc_degraded": self.degraded.tolist(),
            "fc_injected": self.injected.tolist(),
        }
        for view in self.views:
            truth = self.provenance(view)
            flat[f"fc_origin_{view}"] = [Origin(code).name for code in truth.origin.tolist()]
            flat[f"fc_age_s_{view}"] = truth.age_s.tolist()
        return flat


def _python(values: NDArray[Any], absent: Flags | None) -> list[Any]:
    """A column as Python values, null as None."""
    if values.dtype.kind == "M":
        out = [dated(value) for value in values.tolist()]
    elif values.dtype == object:
        return [_plain(value) for value in values.tolist()]
    else:
        out = values.tolist()
    if absent is not None and absent.any():
        for row in np.flatnonzero(absent).tolist():
            out[row] = None
    return out


def _plain(value: Any) -> Any:
    """One string, bytes, list or vector."""
    if isinstance(value, list) and value and isinstance(value[0], np.datetime64):
        return [dated(one.item()) for one in value]
    return value.tolist() if isinstance(value, np.ndarray) else value


def _typed_key(values: Any, name: str, view: View) -> list[Any]:
    """A join key's column as Python values of its declared type; null as None."""
    dtype = next(key.dtype for key in view.join_keys if key.column == name)
    is_whole = dtype.base in ("int32", "int64")
    if type(values) is list and set(map(type, values)) == {int if is_whole else str}:
        return values.copy()
    if isinstance(values, np.ndarray) and values.dtype.kind != "M":
        plain = values.tolist()
        if type(values) is np.ndarray and values.dtype.kind in "iu" and is_whole:
            return list(plain)
    else:
        plain = [_item(value) for value in values]
    if is_whole:
        return [None if is_null(value) else int(value) for value in plain]
    return [None if is_null(value) else value for value in plain]


def _item(value: Any) -> Any:
    if isinstance(value, np.datetime64):
        return dated(value.astype("M8[us]").item())
    if isinstance(value, np.generic):
        return value.item()
    return value.as_py() if hasattr(value, "as_py") else value
