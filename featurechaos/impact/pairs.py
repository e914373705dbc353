"""Counters of pairs by who is to blame: values that add up over threads, processes and hosts.

Number of blocks: at most causes x origins x views for each model, and views come from the config.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache, reduce
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from featurechaos.errors import RequestError
from featurechaos.impact.attribution import Blame, Group
from featurechaos.impact.counters import Block
from featurechaos.impact.kind import PROBABILITY, Kind
from featurechaos.model import Cause, Origin

_K = TypeVar("_K")


class PairKey(NamedTuple):
    """What pairs are counted under."""

    model: str
    view: str
    cause: Cause
    origin: Origin


@dataclass(frozen=True, slots=True)
class Scored:
    """n rows scored twice: `served` and `reference` float (n,), their decisions bool or int (n,)."""

    served: NDArray[Any]
    reference: NDArray[Any]
    decided_served: NDArray[Any]
    decided_reference: NDArray[Any]

    def block(self, kind: Kind, rows: NDArray[np.intp] | None) -> Block:
        if rows is None:
            return Block.of(self.served, self.reference, self.decided_served, self.decided_reference, kind=kind)
        return Block.of(
            self.served[rows],
            self.reference[rows],
            self.decided_served[rows],
            self.decided_reference[rows],
            kind=kind,
        )


@dataclass(frozen=True, slots=True)
class Pairs:
    """Everything counted: an immutable value that adds, and subtracts an earlier self.

    Attributes:
        total: each pair once.
        keyed: by model, view, cause, origin; a pair is in one key for each view to blame.
        origins, causes: a pair is once in each origin and each cause it was touched by.
        predictions: rows scored, paired or not.
        sampled: rows chosen for pairing; each becomes a pair or one of the next three, or still waits.
        unpaired: no clean features could be had for the row.
        dropped: the queue was full, or closed.
        failed: scoring, deciding or counting it raised, or a score was not of its kind.
    """

    total: Block = field(default_factory=Block.empty)
    keyed: Mapping[PairKey, Block] = field(default_factory=dict)
    origins: Mapping[Origin, Block] = field(default_factory=dict)
    causes: Mapping[Cause, Block] = field(default_factory=dict)
    predictions: int = 0
    sampled: int = 0
    unpaired: int = 0
    dropped: int = 0
    failed: int = 0

    @classmethod
    def of(cls, scored: Scored, groups: Iterable[Group], *, model: str, kind: Kind = PROBABILITY) -> Pairs:
        """Count the pairs of one response; RequestError as `Block.of`."""
        parts = [_of_group(scored.block(kind, group.rows), group.blames, model) for group in groups]
        return reduce(Pairs.__add__, parts) if parts else cls(Block.empty(kind))

    def __add__(self, other: Pairs) -> Pairs:
        return Pairs(
            self.total + other.total,
            _merged(self.keyed, other.keyed),
            _merged(self.origins, other.origins),
            _merged(self.causes, other.causes),
            self.predictions + other.predictions,
            self.sampled + other.sampled,
            self.unpaired + other.unpaired,
            self.dropped + other.dropped,
            self.failed + other.failed,
        )

    def __sub__(self, earlier: Pairs) -> Pairs:
        """What was counted since `earlier`, a former state of these counters; RequestError if it is none."""
        return Pairs(
            self.total - earlier.total,
            _since(self.keyed, earlier.keyed),
            _since(self.origins, earlier.origins),
            _since(self.causes, earlier.causes),
            self.predictions - earlier.predictions,
            self.sampled - earlier.sampled,
            self.unpaired - earlier.unpaired,
            self.dropped - earlier.dropped,
            self.failed - earlier.failed,
        )

    @property
    def views(self) -> dict[str, Block]:
        """By view, each pair once in each view to blame."""
        return _grouped(self.keyed, lambda key: key.view)

    def to_dict(self) -> dict[str, Any]:
        """The counters as JSON values; `from_dict` gives equal ones back."""
        keyed = [
            {
                "model": key.model,
                "view": key.view,
                "cause": key.cause.name,
                "origin": key.origin.name,
                **block.to_dict(),
            }
            for key, block in sorted(self.keyed.items())
        ]
        return {
            "total": self.total.to_dict(),
            "keyed": keyed,
            "origins": {origin.name: block.to_dict() for origin, block in sorted(self.origins.items())},
            "causes": {cause.name: block.to_dict() for cause, block in sorted(self.causes.items())},
            "predictions": self.predictions,
            "sampled": self.sampled,
            "unpaired": self.unpaired,
            "dropped": self.dropped,
            "failed": self.failed,
        }

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Pairs:
        """Read what `to_dict` wrote; RequestError on anything else."""
        try:
            keyed = {
                PairKey(one["model"], one["view"], Cause[one["cause"]], Origin[one["origin"]]): Block.from_dict(one)
                for one in told["keyed"]
            }
            return cls(
                Block.from_dict(told["total"]),
                keyed,
                {Origin[name]: Block.from_dict(one) for name, one in told["origins"].items()},
                {Cause[name]: Block.from_dict(one) for name, one in told["causes"].items()},
                *(int(told[name]) for name in ("predictions", "sampled", "unpaired", "dropped", "failed")),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            msg = f"pairs want the mapping their to_dict() gave, got one that fails with {error!r}"
            raise RequestError(msg) from error


@dataclass(slots=True)
class Tally:
    """Rows by what became of them; see `Pairs`."""

    predictions: int = 0
    sampled: int = 0
    unpaired: int = 0
    dropped: int = 0
    failed: int = 0

    def add(self, more: Tally | Pairs) -> None:
        self.predictions += more.predictions
        self.sampled += more.sampled
        self.unpaired += more.unpaired
        self.dropped += more.dropped
        self.failed += more.failed


class Ledger:
    """The one place pairs are added up, in place; safe to share between threads.

    Nearly all responses are served one way throughout. Their pairs are added up once, under their one key, and come
    into the total, the origins and the causes when somebody looks.
    """

    __slots__ = ("_alike", "_causes", "_keyed", "_kind", "_lock", "_origins", "_tally", "_total")

    def __init__(self, kind: Kind = PROBABILITY) -> None:
        self._lock = threading.Lock()
        self._kind = kind
        self._total = _Running(kind)
        self._alike: dict[PairKey, _Running] = {}
        self._keyed: dict[PairKey, _Running] = {}
        self._origins: dict[Origin, _Running] = {}
        self._causes: dict[Cause, _Running] = {}
        self._tally = Tally()

    def add(self, more: Pairs) -> None:
        with self._lock:
            self._tally.add(more)
            if len(more.keyed) == 1 and more.total in more.keyed.values():
                self._add_to(self._alike, more.keyed)
            else:
                self._total.add(more.total)
                self._add_to(self._keyed, more.keyed)
                self._add_to(self._origins, more.origins)
                self._add_to(self._causes, more.causes)

    def _add_to(self, ours: dict[_K, _Running], theirs: Mapping[_K, Block]) -> None:
        for key, block in theirs.items():
            if (running := ours.get(key)) is None:
                running = ours[key] = _Running(self._kind)
            running.add(block)

    def count(
        self, *, predictions: int = 0, sampled: int = 0, unpaired: int = 0, dropped: int = 0, failed: int = 0
    ) -> None:
        """Count rows only: this one runs on the request path, so it touches no array."""
        with self._lock:
            self._tally.add(Tally(predictions, sampled, unpaired, dropped, failed))

    def snapshot(self) -> Pairs:
        """Everything so far, as a value that no longer changes."""
        with self._lock:
            alike = [(key, running.block()) for key, running in self._alike.items()]
            mixed = Pairs(
                self._total.block(),
                {key: running.block() for key, running in self._keyed.items()},
                {key: running.block() for key, running in self._origins.items()},
                {key: running.block() for key, running in self._causes.items()},
                **asdict(self._tally),
            )
        spread = (Pairs(block, {key: block}, {key.origin: block}, {key.cause: block}) for key, block in alike)
        return reduce(Pairs.__add__, spread, mixed)


class _Running:
    """A block that is added to in place: a third of the cost of making a new one each time."""

    __slots__ = ("_counts", "_kind", "_most")

    def __init__(self, kind: Kind) -> None:
        self._kind, self._counts, self._most = kind, Block.empty(kind).counts.copy(), 0

    def add(self, block: Block) -> None:
        np.add(self._counts, block.counts, self._counts)
        self._most = max(self._most, block.most)

    def block(self) -> Block:
        return Block.holding(self._counts.copy(), most=self._most, kind=self._kind)


def _of_group(block: Block, blames: tuple[Blame, ...], model: str) -> Pairs:
    keys, origins, causes = _names_of(blames, model)
    return Pairs(block, dict.fromkeys(keys, block), dict.fromkeys(origins, block), dict.fromkeys(causes, block))


@lru_cache(maxsize=1024)
def _names_of(
    blames: tuple[Blame, ...], model: str
) -> tuple[tuple[PairKey, ...], tuple[Origin, ...], tuple[Cause, ...]]:
    """What a group is counted under; the same few groups come again and again."""
    keys = tuple(PairKey(model, *blame) for blame in blames)
    return keys, tuple(blame.origin for blame in blames), tuple(blame.cause for blame in blames)


def _merged(ours: Mapping[_K, Block], theirs: Mapping[_K, Block]) -> dict[_K, Block]:
    merged = dict(ours)
    for key, block in theirs.items():
        merged[key] = merged[key] + block if key in merged else block
    return merged


def _since(ours: Mapping[_K, Block], earlier: Mapping[_K, Block]) -> dict[_K, Block]:
    """What is new, without the keys that have nothing new."""
    if missing := earlier.keys() - ours.keys():
        msg = f"pairs subtract an earlier state of themselves, got one that has also counted {missing}"
        raise RequestError(msg)
    fresh = {key: block - earlier[key] if key in earlier else block for key, block in ours.items()}
    return {key: block for key, block in fresh.items() if block.pairs}


def _grouped(keyed: Mapping[PairKey, Block], name_of: Callable[[PairKey], _K]) -> dict[_K, Block]:
    grouped: dict[_K, Block] = {}
    for key, block in sorted(keyed.items()):
        grouped = _merged(grouped, {name_of(key): block})
    return grouped
