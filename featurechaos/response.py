"""The answer to one call: values by column, and where each row came from. Everything is built when touched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featurechaos.codec import Rows, column, nulls
from featurechaos.codec.inputs import is_null
from featurechaos.entities import Entities
from featurechaos.errors import RequestError
from featurechaos.locks import cached_property
from featurechaos.model import NO_TIME_US, Cause, Feature, Origin, Status, Verdict, View
from featurechaos.readings import Flags, Part, Rules
from featurechaos.stores import Ask

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where each row of one view came from.

    Attributes:
        origin, status, cause: uint8 (n,), of `Origin`, `Status`, `Cause`.
        age_s: float64 (n,), seconds between the row's event and the request; NaN where there is no row.
        event_time: int64 (n,), microseconds UTC; the smallest int64 where there is no row.
        injected: bool (n,), rows a fault touched.
    """

    origin: NDArray[np.uint8]
    status: NDArray[np.uint8]
    cause: NDArray[np.uint8]
    age_s: NDArray[np.float64]
    event_time: NDArray[np.int64]
    injected: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
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


class ViewAnswer:
    """One view's part of a response, spread over the caller's rows; `rules` are those the call was under."""

    def __init__(self, ask: Ask, part: Part, fan: Fan, wall_us: int, rules: Rules) -> None:
        self.ask, self.part, self.fan, self._wall_us, self.rules = ask, part, fan, wall_us, rules

    @property
    def view(self) -> View:
        return self.ask.view

    @cached_property
    def rows(self) -> Rows:
        """The packed rows in the caller's order; blank where the key was null."""
        fan, rows = self.fan, self.part.rows
        if fan.inverse is None:
            return rows
        if not fan.m:
            return Rows.blank(rows.layout, fan.n, Verdict.MISSING)
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
    def provenance(self) -> Provenance:
        part = self.part
        event_time = self.rows.event_time.copy()
        with np.errstate(over="ignore"):
            age_s = np.maximum(0, self._wall_us - event_time) / 1e6
        age_s[event_time == NO_TIME_US] = np.nan
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
        if part.is_fresh:
            return np.zeros(self.fan.n, bool)
        truth = self.provenance
        online = (truth.origin == Origin.PRIMARY) | (truth.origin == Origin.REPLICA)
        return np.asarray(~(((truth.status == Status.PRESENT) & online) | (truth.status == Status.NOT_FOUND)))

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
        origin = self.part.origin
        if feature.default is None or (isinstance(origin, int) and origin != Origin.DEFAULT):
            return None
        defaulted: Flags = self.provenance.origin == Origin.DEFAULT
        return defaulted if defaulted.any() else None


class Lazy(Mapping[str, Any]):
    """A mapping whose values are made on first touch and kept."""

    def __init__(self, names: Sequence[str], make: Callable[[str], Any], aliases: Mapping[str, str]) -> None:
        self._names, self._make, self._aliases = names, make, aliases
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if (made := self._made.get(name)) is None:
            full = self._aliases.get(name, name)
            made = self._made.get(full)
            if made is None:
                made = self._made[full] = self._make(full)
            self._made[name] = made
        return made

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._aliases or name in self._aliases.values()


class Response:
    """Feature values for n entity rows, in the order asked, with the truth about each.

    Attributes:
        request_id: the caller's, or 128 random bits in hex.
        elapsed_s: from entry to return of the call.
        features: the requested references, in order; `feature_names_out` the names of `to_numpy()`'s columns.
        wall_us: the wall clock when the request began; ages count from it.
    """

    def __init__(
        self,
        *,
        wanted: Sequence[Wanted],
        answers: Mapping[str, ViewAnswer],
        entities: Entities,
        keys: Sequence[tuple[str, View]],
        request_id: str,
        wall_us: int,
        aliases: Mapping[str, str],
    ) -> None:
        self._wanted, self._answers, self._entities, self._keys = wanted, answers, entities, keys
        self._aliases = aliases
        self.request_id, self.wall_us = request_id, wall_us
        self.elapsed_s = 0.0
        self._by_full = {one.full: one for one in wanted}

    def __len__(self) -> int:
        return self._entities.n

    def __repr__(self) -> str:
        degraded = int(self.degraded.sum())
        return f"Response({len(self)} rows of {', '.join(self.views)}; {degraded} degraded)"

    @property
    def features(self) -> list[str]:
        return [one.full for one in self._wanted]

    @property
    def views(self) -> tuple[str, ...]:
        """The names of the views read, in order of first mention."""
        return tuple(self._answers)

    @cached_property
    def columns(self) -> Mapping[str, NDArray[Any]]:
        """name -> (n,) or (n, dim), dtype as declared, never widened; ours to write.

        Null is NaN, NaT, 0, False or None. A feature answers to its outgoing name and to `view:feature`.
        """
        return Lazy([one.out for one in self._wanted], self._column, self._aliases)

    @cached_property
    def nulls(self) -> Mapping[str, Flags]:
        """name -> bool (n,), True where the value is null."""
        return Lazy([one.out for one in self._wanted], self._null, self._aliases)

    def provenance(self, view: str) -> Provenance:
        """Where each row of a view came from; RequestError if the call did not read it."""
        return self._answer(view).provenance

    @cached_property
    def degraded(self) -> Flags:
        """bool (n,): some view of the row is not simply what an online source says now."""
        out = np.zeros(len(self), bool)
        for answer in self._answers.values():
            if not answer.part.is_fresh:
                out |= answer.degraded
        return out

    @property
    def any_degraded(self) -> bool:
        return bool(self.degraded.any())

    @cached_property
    def injected(self) -> Flags:
        """bool (n,): some view of the row was touched by a fault."""
        out = np.zeros(len(self), bool)
        for answer in self._answers.values():
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
        for name, view in self._keys:
            out[name] = _typed_key(self._entities.column(name, view), name, view)
            if include_event_timestamps:
                out[f"{name}__ts"] = [0] * len(self)
        for one in self._wanted:
            out[one.out] = _python(self.columns[one.full], self.nulls[one.full])
            if include_event_timestamps:
                event_time = self.provenance(one.view).event_time
                seconds = np.where(event_time == NO_TIME_US, 0, event_time // 1_000_000)
                out[f"{one.out}__ts"] = seconds.tolist()
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
        for one in self._wanted:
            if not one.feature.dtype.is_fixed or one.feature.dtype.base == "timestamp":
                msg = f"to_numpy: feature {one.full!r} is {one.feature.dtype}, wanted numbers only; use .columns"
                raise RequestError(msg)
        single = all(one.feature.dtype.base == "float32" for one in self._wanted)
        out = np.empty((len(self), len(self.feature_names_out)), np.float32 if single else np.float64)
        at = 0
        for one in self._wanted:
            width = one.feature.dtype.dim or 1
            out[:, at : at + width] = self.columns[one.full].reshape(len(self), width)
            out[self.nulls[one.full], at : at + width] = np.nan
            at += width
        return out

    @cached_property
    def feature_names_out(self) -> list[str]:
        """The names of `to_numpy()`'s columns; a vector's are `name_0`, `name_1`, ..."""
        names: list[str] = []
        for one in self._wanted:
            dim = one.feature.dtype.dim
            names += [one.out] if dim is None else [f"{one.out}_{i}" for i in range(dim)]
        return names

    @property
    def answers(self) -> Mapping[str, ViewAnswer]:
        """The parts it was made from, by view; for references and counters."""
        return self._answers

    def with_parts(self, parts: Mapping[str, Part]) -> Response:
        """The same call answered with other rows, one part for each view."""
        return Response(
            wanted=self._wanted,
            answers={
                name: ViewAnswer(answer.ask, parts[name], answer.fan, self.wall_us, answer.rules)
                for name, answer in self._answers.items()
            },
            entities=self._entities,
            keys=self._keys,
            request_id=self.request_id,
            wall_us=self.wall_us,
            aliases=self._aliases,
        )

    def _answer(self, view: str) -> ViewAnswer:
        try:
            return self._answers[view]
        except KeyError:
            msg = f"this response has no view {view!r}; it read {', '.join(self.views)}"
            raise RequestError(msg) from None

    def _one(self, full: str) -> Wanted:
        try:
            return self._by_full[full]
        except KeyError:
            msg = f"this response has no feature {full!r}; it has {', '.join(self._by_full)}"
            raise KeyError(msg) from None

    def _column(self, full: str) -> NDArray[Any]:
        one = self._one(full)
        return self._answers[one.view].column(one.feature)

    def _null(self, full: str) -> Flags:
        one = self._one(full)
        return self._answers[one.view].nulls(one.feature)

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


def _python(values: NDArray[Any], absent: Flags) -> list[Any]:
    """A column as Python values, null as None."""
    if values.dtype.kind == "M":
        out = [_dated(v) for v in values.tolist()]
    elif values.dtype == object:
        return [_plain(v) for v in values.tolist()]
    else:
        out = values.tolist()
    if absent.any():
        for row in np.flatnonzero(absent).tolist():
            out[row] = None
    return out


def _plain(value: Any) -> Any:
    """One string, bytes, list or vector."""
    if isinstance(value, list) and value and isinstance(value[0], np.datetime64):
        return [_dated(one.item()) for one in value]
    return value.tolist() if isinstance(value, np.ndarray) else value


def _dated(value: Any) -> Any:
    """A date as UTC; one that Python has no datetime for stays the microseconds it is."""
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) else value


def _typed_key(values: Any, name: str, view: View) -> list[Any]:
    """A join key's column as Python values of its declared type; null as None."""
    dtype = next(key.dtype for key in view.join_keys if key.column == name)
    if isinstance(values, np.ndarray) and values.dtype.kind != "M":
        plain = values.tolist()
    else:
        plain = [_item(value) for value in values]
    if dtype.base in ("int32", "int64"):
        return [None if is_null(value) else int(value) for value in plain]
    return [None if is_null(value) else value for value in plain]


def _item(value: Any) -> Any:
    if isinstance(value, np.datetime64):
        return _dated(value.astype("M8[us]").item())
    if isinstance(value, np.generic):
        return value.item()
    return value.as_py() if hasattr(value, "as_py") else value
